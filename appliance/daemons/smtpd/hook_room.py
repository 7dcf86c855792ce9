"""Where an operator's handler runs: threads with event loops of their own; what blocks there holds nobody up here.

Contract: `Rooms.call` gives what the function returned (awaited, if it is a coroutine), raises what it raised, or Late.
One thread serves all calls in turn, as aiosmtpd's loop does; a call that finds it blocked for PATIENCE is offered to
another one, up to MOST. What failure means for the mail: Late is 451; the call is cancelled, if it can be.
"""

import asyncio
import contextlib
import inspect
import threading
from collections.abc import Callable
from typing import Any

#: Threads of one handler in one worker; seconds in which a thread must take a call.
MOST, PATIENCE = 8, 0.25


class Late(Exception):
    """It did not return within its time."""


class Rooms:
    """Of one handler. Threads begin with the first call."""

    def __init__(self, name: str) -> None:
        self._name = name
        self._rooms: list[_Room] = []

    async def call(self, function: Callable[..., Any], arguments: tuple[object, ...], seconds: float) -> Any:
        """Run it in a thread. Raises what it raises, and Late."""
        call = _Call(function, arguments, asyncio.get_running_loop())
        deadline = asyncio.timeout(seconds)
        try:
            async with deadline:
                return await self._served(call)
        except TimeoutError:
            if not deadline.expired():
                raise
            raise Late(f"it did not return within {seconds:g} s") from None
        finally:
            call.give_up()

    async def _served(self, call: "_Call") -> Any:
        for number in range(MOST):
            if number == len(self._rooms):
                self._rooms.append(_Room(f"{self._name}.{number}"))
            room = self._rooms[number]
            room.loop.call_soon_threadsafe(call.begin, room)
            await asyncio.wait((call.taken,), timeout=PATIENCE)
            if call.taken.done():
                self._rooms.remove(room)  # the one that has time is asked first
                self._rooms.insert(0, room)
                break
        return await call.result


class _Room:
    """A thread with a loop."""

    def __init__(self, name: str) -> None:
        self.loop = asyncio.new_event_loop()
        threading.Thread(target=self._run, name=name, daemon=True).start()

    def _run(self) -> None:
        asyncio.set_event_loop(self.loop)
        while True:  # SystemExit and the like, out of a callback, end the loop and not the thread
            with contextlib.suppress(BaseException):
                self.loop.run_forever()


class _Call:
    """One call; the first room that begins it has it."""

    def __init__(
        self, function: Callable[..., Any], arguments: tuple[object, ...], home: asyncio.AbstractEventLoop
    ) -> None:
        self._function, self._arguments, self._home = function, arguments, home
        self.taken: asyncio.Future[None] = home.create_future()
        self.result: asyncio.Future[Any] = home.create_future()
        self._lock = threading.Lock()
        self._over = False
        self._room: _Room | None = None
        self._task: asyncio.Task[None] | None = None

    def begin(self, room: _Room) -> None:
        """In the room's thread."""
        with self._lock:
            if self._over or self._room is not None:
                return
            self._room = room
        self._tell(self.taken, None, None)
        self._task = room.loop.create_task(self._run())

    async def _run(self) -> None:
        try:
            result = self._function(*self._arguments)
            if inspect.isawaitable(result):
                result = await result
        except asyncio.CancelledError:
            self._tell(self.result, None, RuntimeError("it was cancelled"))
        except Exception as error:
            self._tell(self.result, None, error)
        except BaseException as error:  # it asked the process to end
            self._tell(self.result, None, RuntimeError(f"{type(error).__name__}: {error}"))
        else:
            self._tell(self.result, result, None)

    def _tell(self, future: "asyncio.Future[Any]", result: Any, error: Exception | None) -> None:
        def settle() -> None:
            if not future.done():
                if error is not None:
                    future.set_exception(error)
                else:
                    future.set_result(result)

        try:
            self._home.call_soon_threadsafe(settle)
        except RuntimeError:  # the worker has ended
            return

    def give_up(self) -> None:
        """Nobody waits any more."""
        with self._lock:
            self._over, room = True, self._room
        if room is not None and (self.result.cancelled() or not self.result.done()):
            room.loop.call_soon_threadsafe(self._cancel)
        self.result.cancel()

    def _cancel(self) -> None:
        if self._task is not None:
            self._task.cancel()
