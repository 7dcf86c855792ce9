"""Synchronous library code that asks asynchronous ports, without threads: the library runs in a greenlet, and where it
needs an answer it hands what must be awaited to the coroutine that drives it.

Contract: `run(call)` gives the result at once if `call` never had to wait, else something to await. Inside `call` (at any
depth) `wait(awaitable)` gives the awaited value or raises what it raised. Any number of calls may be under way. Who gives
up waiting unwinds the library: it gets no further answers. Such code has no context variables of the task that began it.
"""

from collections.abc import Awaitable, Callable, Generator
from typing import Any, TypeVar

from greenlet import getcurrent, greenlet

_T = TypeVar("_T")
#: How often library code may swallow its end before it is left to the garbage collector.
_PATIENCE = 10


def run(call: Callable[[], _T]) -> _T | Awaitable[_T]:
    """The result of `call()`, or what to await for it. Raises what `call` raises."""
    worker = greenlet(call)
    first = worker.switch()
    return first if worker.dead else _drive(worker, first)


def wait(awaitable: Awaitable[_T]) -> _T:
    """To be called below `run` only: the value of `awaitable`."""
    parent = getcurrent().parent
    if parent is None:
        raise RuntimeError("bridge.wait outside bridge.run")
    value: _T = parent.switch(awaitable)
    return value


class Turn:
    """To be waited for where long work lets others have their turn; it costs one pass of the loop."""

    def __await__(self) -> Generator[None, None, None]:
        yield


async def _drive(worker: Any, wanted: Any) -> Any:
    while True:
        try:
            answer = await wanted
        except Exception as error:
            wanted = worker.throw(error)
        except BaseException as end:  # cancelled: no more answers
            _unwind(worker, end)
            raise
        else:
            wanted = worker.switch(answer)
        if worker.dead:
            return wanted


def _unwind(worker: Any, end: BaseException) -> None:
    for _ in range(_PATIENCE):
        if worker.dead:
            return
        wanted = worker.throw(end)  # raises `end` here where the library lets it through
        if not worker.dead and (close := getattr(wanted, "close", None)) is not None:
            close()
