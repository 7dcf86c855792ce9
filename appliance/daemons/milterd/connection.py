"""One connection of an MTA: octets in, events through the session, octets out; deadlines and progress (threats D6).

Contract: events are answered in order, for a TURN, then others are served; while they wait for their turn, for an answer
that is being found, or for an MTA that takes no answers, nothing more is read than HIGH octets. Each answer has a
deadline, behind it the front's default; the MTA hears of progress meanwhile: behind the end of a message, and at any step
from Postfix, which takes it there. Octets that are no milter protocol cost this connection alone, with one log line. What
failure means for the mail: an error of ours is a deferral; who hangs up is judged no further.
"""

import asyncio
import time
from collections.abc import Awaitable
from typing import TYPE_CHECKING, Any, cast

from appliance.daemons.fronts.strangers import language
from appliance.daemons.milterd import events, record
from appliance.daemons.milterd.outcome import ACCEPT, CANNOT, CONTINUE
from appliance.daemons.milterd.session import Session
from appliance.protocol.errors import ProtocolError
from appliance.protocol.milter import packets as p
from appliance.protocol.milter.filter import FilterMachine
from appliance.protocol.milter.packets import LETTERS, FromMta, Reply
from appliance.protocol.milter.words import Event

if TYPE_CHECKING:
    from appliance.daemons.milterd.front import Front
    from appliance.daemons.milterd.rules import Door, Rules

#: Octets of events that wait; who says more is not read from.
HIGH = 1 << 20
#: Octets that a stranger is known by.
START = 40
#: Seconds that the events of one connection may keep the loop; then others have their turn.
TURN = 0.005
#: Seconds in which an MTA that is hung up on must take something of its answers.
LINGER = 2.0


class Connection(asyncio.Protocol):
    """Made by the front for each MTA that connects."""

    def __init__(self, front: "Front", rules: "Rules", door: "Door", peer: str) -> None:
        self.front, self.name, self.peer = front, door.name, peer
        self.machine = FilterMachine()
        self.session = Session(front, rules, door, self.machine)
        self.transport: asyncio.Transport | None = None
        #: When the MTA is hung up on, if it says nothing; moved by each event.
        self.deadline = front.loop.time() + door.front.idle
        self._task: asyncio.Task[None] | None = None
        self._start = b""
        self._choked = self._paused = False
        #: Octets that an MTA that was hung up on has yet to take.
        self._left = 0
        self._turn: asyncio.Handle | None = None
        #: Telling of progress, while an answer is being found.
        self._ticking: asyncio.TimerHandle | None = None

    # ------------------------------------------------------------------ transport

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self.transport = cast(asyncio.Transport, transport)  # uvloop's are no subclass of it
        self.front.entered(self)

    def connection_lost(self, exc: Exception | None) -> None:
        self.transport = None
        if self._task is not None:
            self._task.cancel()
        if self._turn is not None:
            self._turn.cancel()
        self.session.forget()
        self.machine.hang_up()
        self.front.left(self)

    def data_received(self, data: bytes) -> None:
        if len(self._start) < START:
            self._start += data[:START]
        self.machine.push(data)
        if not self._waits:
            self._pump()
        self._flow()

    def pause_writing(self) -> None:
        self._choked = True

    def resume_writing(self) -> None:
        self._choked = False
        self._go_on()

    def _flow(self) -> None:
        """Read on, unless too much waits for its turn already."""
        full = self._waits and self.machine.unread > HIGH
        if full == self._paused or self.transport is None or self.transport.is_closing():
            return
        self._paused = full
        (self.transport.pause_reading if full else self.transport.resume_reading)()

    @property
    def _waits(self) -> bool:
        """No event is heard now."""
        return self.busy or self._choked or self._turn is not None

    @property
    def busy(self) -> bool:
        """An answer is being found."""
        return self._task is not None

    @property
    def idle(self) -> bool:
        """Between messages, with nothing half-way."""
        return not self.busy and self._turn is None and self.session.message is None

    def close(self) -> None:
        """Hang up; what is written already goes out, as long as some of it is taken each LINGER seconds."""
        if self.transport is not None and not self.transport.is_closing():
            self.transport.close()
            self._left = self.transport.get_write_buffer_size()
            self.deadline = self.front.loop.time() + LINGER

    # ------------------------------------------------------------------ events

    def _go_on(self) -> None:
        self._turn = None
        if self.busy or self._choked or self.transport is None or self.transport.is_closing():
            return
        self._pump()
        self._flow()

    def _pump(self) -> None:
        """Events, as long as they are answered at once, for a TURN."""
        out: list[bytes] = []
        until = time.monotonic() + TURN
        try:
            while not self.busy and not self._choked and (event := self.machine.next()) is not None:
                self.deadline = self.front.loop.time() + self.session.door.front.idle
                if isinstance(event, p.Quit):
                    self._write(out)
                    self.close()
                    return
                self._take(event, out)
                if self._turn is None and time.monotonic() > until:
                    self._turn = self.front.loop.call_soon(self._go_on)
                    break
        except ProtocolError as error:
            record.broken(self.peer, str(error), language(self._start))
            self._write(out)
            self.close()
            return
        self._write(out)
        if self.front.draining and self.idle:
            self.close()

    def _take(self, event: FromMta, out: list[bytes]) -> None:
        session = self.session
        if isinstance(event, p.Negotiate):
            session.renew(anew=True)
            out.append(self.machine.negotiate(session.door.want))
            self.front.agreed(session)
        elif not self.machine.wants_answer:
            events.heed(session, event)
            if isinstance(event, p.QuitNc) and session.stale:
                self.close()  # the MTA comes again, and agrees on what is needed now
        else:
            step = LETTERS[type(event)]
            self._look_for_haste(step)
            try:
                answer = events.answer(session, event)
            except Exception as error:
                answer = self._failed(step, error)
            if isinstance(answer, Reply):
                self._answer(step, answer, out)
            else:
                self._write(out)
                out.clear()
                self._task = self.front.loop.create_task(self._wait(step, answer))

    def _look_for_haste(self, step: Event) -> None:
        """Has the MTA gone on, although it was told to wait for the answer to this step?"""
        agreement = self.machine.agreement
        waits = agreement is None or step not in agreement.quiet
        self.session.rushed = (waits and self.machine.unread > 0) or (self.session.rushed and step is not Event.MAIL)

    def _answer(self, step: Event, answer: Reply, out: list[bytes]) -> None:
        """Edits, if it is the end of a message, and the answer."""
        session = self.session
        if step is Event.END_OF_MESSAGE:
            if session.asked_for:
                out.extend(self.machine.edits(session.asked_for))
                session.asked_for = []
            session.drop()
            out.append(self.machine.answer(answer))
        else:
            out.append(self.machine.answer(self._quietly(step, answer)))

    def _write(self, out: list[bytes]) -> None:
        if out and self.transport is not None:
            self.transport.write(b"".join(out))

    def _failed(self, step: Event, error: BaseException) -> Reply:
        """A mistake of ours. What does not wait for an answer leaves the message put off at its end."""
        record.internal(self.session, step.name, error)
        self.session.asked_for = []
        return self.session.refuse(step.name, CANNOT)

    def _quietly(self, step: Event, reply: Reply) -> Reply:
        """`reply`, or where the MTA expects none: later, with the first event that has one."""
        agreement = self.machine.agreement
        if reply == CONTINUE or agreement is None or step not in agreement.quiet:
            return reply
        if self.session.message is not None:
            self.session.message.answer = reply
        return CONTINUE

    # ------------------------------------------------------------------ waiting

    async def _wait(self, step: Event, answer: Awaitable[Reply]) -> None:
        """Find the answer, in time; then go on with what came meanwhile."""
        front = self.session.door.front
        seconds = front.message_deadline if step is Event.END_OF_MESSAGE else front.deadline
        self._tick(step, front.progress)
        try:
            async with asyncio.timeout(seconds):
                reply = await answer
        except TimeoutError:
            reply = self._default(step, seconds)
        except asyncio.CancelledError as error:
            if self.transport is None or cast("asyncio.Task[None]", asyncio.current_task()).cancelling():
                raise
            reply = self._failed(step, error)  # what was waited for was given up, not this
        except Exception as error:
            reply = self._failed(step, error)
        finally:
            if self._ticking is not None:
                self._ticking.cancel()
                self._ticking = None
        self._task = None
        if self.transport is None:
            return
        out: list[bytes] = []
        try:
            self._answer(step, reply, out)
        except Exception as error:  # silence would hold the MTA until its timeout
            record.internal(self.session, step.name, error)
            self.close()
            return
        self._write(out)
        self._go_on()
        if self.front.draining and self.idle:
            self.close()

    def _tick(self, step: Event, every: float) -> None:
        """Tell of progress each `every` seconds."""
        agreement = self.machine.agreement
        takes = step is Event.END_OF_MESSAGE or self.machine.macro("v").startswith("Postfix")
        if takes and agreement is not None and step not in agreement.quiet:
            self._ticking = self.front.loop.call_later(every, self._tell, every)

    def _tell(self, every: float) -> None:
        self._write([self.machine.progress()])
        self._ticking = self.front.loop.call_later(every, self._tell, every)

    def _default(self, step: Event, seconds: float) -> Reply:
        """No decision in time."""
        default = self.session.door.front.default
        record.late(self.session, step.name, seconds, default)
        self.front.was_late(self.session)
        self.session.asked_for = []
        if default == "accept":
            if step is Event.RCPT and self.session.message is not None:
                self.session.message.take()  # the MTA has it, so its message has it
            return ACCEPT if step is Event.END_OF_MESSAGE else CONTINUE
        reply = self.session.refuse(step.name, CANNOT)
        if step is Event.MAIL and self.session.message is not None:
            self.session.message.answer = reply
        return reply

    def expired(self) -> None:
        """The MTA said nothing for too long, or was hung up on and is still there."""
        if self.transport is not None and self.transport.is_closing():
            left, self._left = self._left, self.transport.get_write_buffer_size()
            if self._left < left:
                self.deadline = self.front.loop.time() + LINGER
            else:
                self.transport.abort()
        elif not self.busy:
            self.close()

    def facts(self) -> dict[str, Any]:
        return {"peer": self.peer, "place": self.machine.place, "busy": self.busy}
