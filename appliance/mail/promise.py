"""An answer to come that needs neither a task nor a coroutine: who wants it says what is to be done with it.

Contract: a Promise is kept once (`set_result`, `set_exception`), or cancelled by who wanted it: then nothing is called
any more. `map` puts a step between (on the same object: the type changes), `when_done` is called once, with the promise,
and must not raise. Whoever knows nothing of all this awaits it, once; `future` makes what is waited for then. What
failure means for the mail: none; an exception goes to who waits.
"""

from collections.abc import Callable, Generator, Iterable
from typing import Any, Generic, TypeVar

T = TypeVar("T")
R = TypeVar("R")


_NONE: list[Callable[[Any], Any]] = []


class Promise(Generic[T]):
    """See the module's head."""

    __slots__ = ("_done", "_error", "_first", "_future", "_rescue", "_steps", "_then", "_value", "on_cancel")

    def __init__(self, future: Callable[[], Any]) -> None:
        self._future, self._done = future, False
        self._steps: list[Callable[[Any], Any]] = []
        #: What makes an answer of an exception, and the steps before it.
        self._rescue: Callable[[BaseException], Any] | None = None
        self._first: list[Callable[[Any], Any]] = self._steps
        self._then: Callable[[Promise[T]], None] | None = None
        self._error: BaseException | None = None
        self._value: Any = None
        #: What this one waits for itself, to be given up with it.
        self.on_cancel: Callable[[], object] | None = None

    def done(self) -> bool:
        """It is kept, or nobody wants it any more."""
        return self._done

    def map(self, step: Callable[[T], R]) -> "Promise[R]":
        """This promise as one of what `step` makes of the answer, which may be there already."""
        if not self._done:
            self._steps.append(step)
        elif self._error is None:
            self._go(self._value, (step,))
        return self  # type: ignore[return-value]

    def _answer(self, value: Any) -> None:
        """All steps."""
        rescue = self._rescue
        if rescue is not None:
            try:
                for step in self._first:
                    value = step(value)
            except Exception as error:
                self._go(error, (rescue, *self._steps))
                return
        self._go(value, self._steps)

    def _go(self, value: Any, steps: Iterable[Callable[[Any], Any]]) -> None:
        try:
            for step in steps:
                value = step(value)
        except Exception as error:
            self._error = error
        self._value = value

    def rescue(self, step: "Callable[[BaseException], T]") -> "Promise[T]":
        """What `step` makes of an exception up to here is the answer; steps behind it never hear of one. Once."""
        if not self._done:
            self._first, self._steps, self._rescue = self._steps, [], step
        elif self._error is not None:
            error, self._error = self._error, None
            self._go(error, (step,))
        return self

    def when_done(self, call: "Callable[[Promise[T]], None]") -> None:
        """Call once it is kept: at once if it is."""
        if self._done:
            call(self)
        else:
            self._then = call

    def set_result(self, value: Any) -> None:
        """The answer is there."""
        if self._done:
            return
        self._answer(value)
        self._keep()

    def set_exception(self, error: BaseException) -> None:
        """There will be no answer."""
        if self._done:
            return
        if self._rescue is not None:
            self._go(error, (self._rescue, *self._steps))
        else:
            self._error = error
        self._keep()

    def _keep(self) -> None:
        self._done = True
        call, self._then = self._then, None
        # Steps know what waits with them, often this promise: no cycle is left for the collector.
        self._steps = self._first = _NONE
        self._rescue = self.on_cancel = None
        if call is not None:
            call(self)

    def cancel(self) -> None:
        """Nobody wants it any more."""
        self._done, self._then = True, None
        self._error = self._error or LookupError("nobody wanted the answer")
        self._steps = self._first = _NONE
        call, self.on_cancel, self._rescue = self.on_cancel, None, None
        if call is not None:
            call()

    def result(self) -> T:
        """The answer, or its exception is raised."""
        if self._error is not None:
            raise self._error
        return self._value  # type: ignore[no-any-return]

    def __await__(self) -> Generator[Any, None, T]:
        if not self._done:
            future = self._future()
            self.when_done(lambda _: None if future.done() else future.set_result(None))
            try:
                yield from future
            except BaseException:  # cancelled
                self.cancel()
                raise
        return self.result()
