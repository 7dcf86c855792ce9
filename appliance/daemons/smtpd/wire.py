"""One connection as octets: lines out of a buffer, content past it, the replies of a batch in one write.

Contract: a line ends with CRLF, whatever the packets were (threats B4); content goes in chunks to whoever receives it.
What must be awaited is awaited in the connection's one task, while what arrives is kept, bounded, and then not read any
more; nothing is cancelled when the client goes away, so a commit always ends. Deadlines are attributes (see Watch).
What failure means for the mail: an error below is handed to `on_error`, the connection lives on.
"""

import asyncio
import math
from collections.abc import Awaitable, Callable
from typing import Any, Protocol, cast

#: What must be awaited before the next command may run; None: nothing.
Step = Awaitable[None] | None

#: Octets that are kept while a command is being awaited; then the client is not read.
AHEAD = 65536
#: Octets after which others come first: the transport would read on for as long as there is something to read.
TURN = 262144
#: Octets of replies that the client has not taken; then no more commands are run.
UNREAD = 65536
#: Seconds that a client has to read our last words before the connection is cut.
LINGER = 2.0


class Receiver(Protocol):
    """Takes content. `feed` gives what stands behind its end, None as long as there is none."""

    def feed(self, data: bytes) -> bytes | None: ...


class Wire(asyncio.Protocol):
    """The byte side of a session; `on_...` is what the session says to it."""

    def __init__(self, loop: asyncio.AbstractEventLoop) -> None:
        self.loop = loop
        self.transport: asyncio.Transport | None = None
        self.deadline = math.inf
        #: Octets stand behind the line that is being run.
        self.more = False
        self.receiving: Receiver | None = None
        #: A step is being awaited.
        self.busy = True
        #: No more input is looked at; the connection ends when what we said is out.
        self.closing = self.lost = False
        #: TLS is on (its end of stream is both ways).
        self.secured = False
        #: The client does not take what we write.
        self.choked = False
        self.out: list[bytes] = []
        self.task: asyncio.Task[None] | None = None
        #: What came and was not looked at yet.
        self.ahead = b""
        self._arrival: asyncio.Future[None] | None = None
        self._turn = 0
        self._paused = self._eof = self._skipping = False

    # ------------------------------------------------------------------ what the session answers

    def on_line(self, line: bytes) -> Step:
        """One line with its CRLF."""
        raise RuntimeError

    def on_bare(self, line: bytes) -> None:
        """One line that ends with a bare LF."""

    def on_part(self, part: bytes) -> bool:
        """A line that is not complete; True: too long or of no use, skip it."""
        return False

    def on_received(self, receiver: Receiver) -> Step:
        """All content is there."""
        raise RuntimeError

    def on_progress(self) -> Step:
        """Some content came; what must be awaited before more is taken."""
        return None

    def on_error(self, error: Exception) -> None:
        """A step failed; it is our mistake."""

    def on_idle(self) -> None:
        """All is answered: the client's turn."""

    def on_choked(self) -> None:
        """The client does not read."""

    def on_end(self) -> None:
        """The connection is gone; called once."""

    # ------------------------------------------------------------------ transport

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self.transport = cast(asyncio.Transport, transport)  # uvloop's is none by descent
        self.transport.set_write_buffer_limits(UNREAD)

    def data_received(self, data: bytes) -> None:
        if self.closing:
            return
        self.ahead = self.ahead + data if self.ahead else data
        if self._arrival is not None:
            self._arrived()
        self._turn += len(data)
        if not self.busy and not self.choked:
            self.pump()
        elif len(self.ahead) > AHEAD:
            self._pause_reading()
        if self._turn >= TURN:
            self._turn = 0
            self._pause_reading()
            self.loop.call_soon(self._next_turn)

    def _next_turn(self) -> None:
        if not self.closing and (len(self.ahead) <= AHEAD or not (self.busy or self.choked)):
            self._resume_reading()

    def _pause_reading(self) -> None:
        if not self._paused and not self.closing and self.transport is not None:
            self._paused = True
            self.transport.pause_reading()

    def eof_received(self) -> bool:
        """The client will say nothing more; it may still wait for an answer (a half-close behind the dot)."""
        self._eof = True
        self._arrived()
        if not self.busy and not self.choked:
            self._close()
        return not self.secured

    def connection_lost(self, exc: Exception | None) -> None:
        if not self.lost:
            self.lost = self.closing = True
            self.ahead, self.deadline = b"", math.inf
            self.out.clear()
            self._arrived()
            self.on_end()

    async def arrival(self) -> None:
        """Wait until more is there; a client that says nothing more is cut off."""
        if self._eof or self.lost:
            self.cut()
            return
        self._arrival = self.loop.create_future()
        await self._arrival

    def _arrived(self) -> None:
        arrival, self._arrival = self._arrival, None
        if arrival is not None and not arrival.done():
            arrival.set_result(None)

    def pause_writing(self) -> None:
        self.choked = True
        self.on_choked()

    def resume_writing(self) -> None:
        self.choked = False
        if not self.closing:
            self.on_idle()
            if not self.busy:
                self.pump()

    # ------------------------------------------------------------------ the buffer

    def pump(self) -> None:
        """Run what the buffer holds."""
        if (step := self._advance()) is not None:
            self.run(step)
        elif self._eof:
            self._close()
        else:
            self._resume_reading()

    def run(self, step: Awaitable[None]) -> None:
        """Await `step` in the session's task."""
        self.busy, self.deadline = True, math.inf
        self.task = self.loop.create_task(self.drive(step))

    async def drive(self, step: Step) -> None:
        """Await `step`, go on with the buffer, until nothing must be awaited. Meanwhile no deadline is the client's."""
        while step is not None:
            self.deadline = math.inf
            try:
                await step
            except asyncio.CancelledError:  # of what was waited for, unless it is ours
                if cast("asyncio.Task[None]", asyncio.current_task()).cancelling():
                    raise
                self.on_error(RuntimeError("what was waited for was given up"))
            except Exception as error:
                self.on_error(error)
            step = self._advance()
        self.busy, self.task = False, None
        self._resume_reading()
        if self._eof and not self.choked:
            self._close()

    def _resume_reading(self) -> None:
        if self._paused and self.transport is not None and not self.lost:
            self._paused = False
            self.transport.resume_reading()

    def _advance(self) -> Step:
        """Lines and content in order; what must be awaited first, or None: all is done and the replies are written."""
        data, self.ahead, pos = self.ahead, b"", 0
        step: Step = None
        while step is None and not self.closing and not self.choked:
            if self.receiving is not None:
                try:
                    rest = self.receiving.feed(data[pos:] if pos else data)
                except Exception as error:  # where the content would end is not known any more
                    self.on_error(error)
                    self.hang_up()
                    break
                data, pos = rest or b"", 0
                if rest is None:
                    step = self.on_progress()
                    break
                receiver, self.receiving = self.receiving, None
                step = self._guarded(self.on_received, receiver)
                continue
            end = data.find(b"\n", pos) + 1
            if not end:
                data, pos = self._part(data[pos:] if pos else data), 0
                break
            line = data[pos:end] if pos or end < len(data) else data
            pos = end
            self.more = end < len(data)
            step = self._line(line)
        self.ahead = b"" if self.closing else data[pos:]
        if step is None:
            self.flush()
        return step

    def _part(self, part: bytes) -> bytes:
        """The octet that is kept of a skipped line may be the CR of its end."""
        if part and not self._skipping:
            self._skipping = self.on_part(part)
        return part[-1:] if self._skipping else part

    def _line(self, line: bytes) -> Step:
        if not line.endswith(b"\r\n"):
            self.on_bare(line)
        elif self._skipping:
            self._skipping = False
        else:
            return self._guarded(self.on_line, line)
        return None

    def _guarded(self, function: Callable[[Any], Step], argument: Any) -> Step:
        try:
            return function(argument)
        except Exception as error:
            self.on_error(error)
            return None

    @property
    def waiting(self) -> bool:
        """Has the client sent what was not looked at?"""
        return self.more or bool(self.ahead)

    # ------------------------------------------------------------------ out

    def flush(self) -> None:
        """Write the replies of this batch, all at once."""
        answered = bool(self.out) or self.deadline == math.inf
        if self.out and self.transport is not None and not self.lost:
            self.transport.write(self.out[0] if len(self.out) == 1 else b"".join(self.out))
            self.out.clear()
        if answered and not self.closing and not self.choked and self.receiving is None:
            self.on_idle()

    def hang_up(self, linger: bool = True) -> None:
        """Say what stands in `out`, then end the connection. `linger`: read on for a moment, so that our last words
        are not lost to a reset by what the client still sends."""
        self.closing = True
        if self.lost or self.transport is None:
            return
        self.flush()
        if linger and not self._eof and self.transport.can_write_eof():
            self._resume_reading()
            self.deadline = self.loop.time() + LINGER
            try:
                self.transport.write_eof()
            except OSError:  # it is gone; the loop has not told us yet
                self.cut()
        else:
            self._close()

    def _close(self) -> None:
        self.closing = True
        if self.transport is not None:
            self.transport.close()
            self.deadline = self.loop.time() + LINGER

    def cut(self) -> None:
        """End the connection at once."""
        self.closing = True
        self.deadline = math.inf
        if self.transport is not None:
            self.transport.abort()
