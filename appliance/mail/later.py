"""The look-up idiom: what is at hand is answered at once, else there is something to await.

Contract: `answer: T | Awaitable[T]`. Who has an answer at hand makes no task and no coroutine; who gets something to
await awaits it once. Hot paths look at the answer themselves, everybody else says `then`.
"""

from collections.abc import Awaitable, Callable, Iterator
from typing import TypeGuard, TypeVar

T = TypeVar("T")
R = TypeVar("R")


def waits(answer: T | Awaitable[T]) -> TypeGuard[Awaitable[T]]:
    """Whether this must be awaited."""
    return hasattr(answer, "__await__")


def then(answer: T | Awaitable[T], go_on: Callable[[T], R | Awaitable[R]]) -> R | Awaitable[R]:
    """What `go_on` makes of the answer: at once if both are."""
    if waits(answer):
        return later(answer, go_on)
    return go_on(answer)  # type: ignore[arg-type]


async def later(answer: Awaitable[T], go_on: Callable[[T], R | Awaitable[R]]) -> R:
    """What `go_on` makes of an answer that is not there yet."""
    return await answered(go_on(await answer))


async def answered(answer: T | Awaitable[T]) -> T:
    """The answer, now or later."""
    return await answer if waits(answer) else answer  # type: ignore[return-value]


def any_of(answers: Iterator[bool | Awaitable[bool]]) -> bool | Awaitable[bool]:
    """Whether one of them is true: each is asked only if those before it were not."""
    for answer in answers:
        if answer is True:
            return True
        if answer is not False:
            return _any_later(answer, answers)
    return False


async def _any_later(answer: bool | Awaitable[bool], rest: Iterator[bool | Awaitable[bool]]) -> bool:
    if await answered(answer):
        return True
    for further in rest:
        if await answered(further):
            return True
    return False
