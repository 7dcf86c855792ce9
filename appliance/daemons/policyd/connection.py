"""One connection of a policy client: octets in, requests through questions, answers out in their order.

Contract: what is answered at once costs no task, and the answers of one TURN go out in one write; behind it others are
served. While one request waits, those behind it wait too (a Postfix never sends two), at most BACKLOG of them before
nothing more is read. Each request is answered within the deadline, by the front's default if need be. Octets that are no
request cost this connection alone, with one log line. What failure means for the mail: an error of ours is the default
answer.
"""

import asyncio
import math
import time
from collections import deque
from collections.abc import Awaitable, Coroutine
from functools import partial
from typing import TYPE_CHECKING, Any, cast

from appliance.daemons.policyd import record, texts
from appliance.daemons.policyd.answers import DUNNO
from appliance.daemons.policyd.cutting import Cut, Knife, Lead
from appliance.daemons.policyd.likeness import Likeness, learn
from appliance.daemons.policyd.messages import Session
from appliance.daemons.policyd.question import Odd, Question
from appliance.mail.promise import Promise
from appliance.protocol.policy import Attributes, PolicyError, RequestReader, encode_answer

if TYPE_CHECKING:
    from appliance.daemons.policyd.front import Front
    from appliance.daemons.policyd.rules import Door

#: Requests that wait behind one that is being judged.
BACKLOG = 64
#: Seconds that the requests of one connection may keep the loop; then others have their turn.
TURN = 0.005
#: Seconds for a client that is hung up on to take its answers.
LINGER = 2.0
_DUNNO = encode_answer(DUNNO)
#: What the default says while the answer is not known, and behind an error of ours.
DEFAULTS = {"defer": "DEFER_IF_PERMIT 4.3.0 Service unavailable, please try again later", "dunno": DUNNO}


class Connection(asyncio.Protocol):
    """Made by the front for each client."""

    def __init__(self, front: "Front", door: "Door", peer: str) -> None:
        self.front, self.door, self.peer = front, door, f"{peer} at {door.name}"
        self.transport: asyncio.Transport | None = None
        self.last = front.loop.time()
        #: Since when the answer to `_state` is waited for (0: nobody waits).
        self.since = 0.0
        self._state = ""
        #: What is waited for: a request, or one that is like those before it.
        self._waiting: Question | tuple[Lead[Likeness], Cut] | None = None
        #: When the connection is cut, if it is there yet.
        self._until = math.inf
        self._reader, self._knife = RequestReader(), Knife()
        self._backlog: deque[Attributes] = deque()
        self._session: Session | None = None
        self._task: asyncio.Task[None] | Promise[str] | None = None
        self._wrong = ""
        self._ended = self._paused = self._choked = False
        self._turn: asyncio.Handle | None = None

    # ------------------------------------------------------------------ transport

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self.transport = cast(asyncio.Transport, transport)
        self.front.entered(self)

    def connection_lost(self, exc: Exception | None) -> None:
        self.transport = None
        if self._task is not None:
            self._task.cancel()
        if self._turn is not None:
            self._turn.cancel()
        self._backlog.clear()
        self.front.left(self)

    def eof_received(self) -> bool:
        """A client that has asked and closed its side still gets its answer."""
        self._ended = True
        self.front.outbox.flush()
        if self._reader.midway and not self._wrong:
            record.unreadable(self.peer, "it closed in the middle of a request")
        return self._task is not None or self._turn is not None

    def pause_writing(self) -> None:
        self._choked = True
        self._read(False)

    def resume_writing(self) -> None:
        self._choked = False
        if len(self._backlog) <= BACKLOG:
            self._read(True)

    def _read(self, on: bool) -> None:
        if self.transport is None or self.transport.is_closing() or on != self._paused:
            return
        self._paused = not on
        (self.transport.resume_reading if on else self.transport.pause_reading)()

    def data_received(self, data: bytes) -> None:
        if self._wrong or self.transport is None:
            return
        front, door = self.front, self.door
        self.last = front.loop.time()
        alone = self._task is None and self._turn is None and not (self._reader.midway or self._backlog or front.draining)
        one = self._knife.cut(data) if alone else None
        if one is not None:
            if (session := door.memory.again(front, one, self._session)) is not None:
                self._session = session
                front.outbox.put(self.transport, _DUNNO)
                return
            if (alike := door.leads.known.get(one.rest)) is not None:
                self._alike(self.transport, one, alike)
                return
        try:
            self._reader.feed(data, found := [])  # type: ignore[var-annotated]
        except PolicyError as error:
            self._wrong = str(error)
        self._backlog.extend(found)
        if self._task is None and self._turn is None:
            self._go_on(one)
        elif len(self._backlog) > BACKLOG:
            self._read(False)

    def _alike(self, transport: asyncio.Transport, one: Cut, lead: Lead[Likeness]) -> None:
        """All of the request but its recipient was read before."""
        if (like := lead.likeness) is not None:
            try:
                asked = like.ask(self.front, self.door, lead, one, self._session)
            except Exception as error:
                record.internal(self.peer, "RCPT", error, self.default)
                self._write(self.default)
                return
            if asked is not None:
                self._session, action = asked
                if isinstance(action, bytes):
                    self.front.outbox.put(transport, action)
                    return
                if isinstance(action, str):
                    self._write(action)
                    return
                self.since, self._state, self._task = self.last, "RCPT", action
                self._waiting = lead, one
                action.when_done(self._promised)
                return
        self._backlog.append(lead.attributes(one))
        self._go_on(one, lead)

    # ------------------------------------------------------------------ requests

    @property
    def busy(self) -> bool:
        """An answer is waited for, or a request has begun."""
        return self._task is not None or self._turn is not None or self._reader.midway

    def _go_on(self, one: Cut | None = None, lead: Lead[Likeness] | None = None) -> None:
        """Answer what can be answered; at the end, or behind what cannot be read, hang up. `one`: the only request."""
        out: list[bytes] = []
        backlog, until, self._turn = self._backlog, time.monotonic() + TURN, None
        while backlog:
            answer = self._answer(backlog.popleft(), one, lead)
            if answer is None:
                break
            out.append(answer)
            if backlog and time.monotonic() > until:
                self._turn = self.front.loop.call_soon(self._go_on)
                break
        transport = self.transport
        if transport is None:
            return
        if out:
            self.front.outbox.put(transport, out[0] if len(out) == 1 else b"".join(out))
        if self._task is None and self._turn is None:
            if self._wrong:
                record.unreadable(self.peer, self._wrong)
                self.close()
            elif self._ended or self.front.draining:
                self.close()
            elif self._paused and not self._choked:
                self._read(True)

    def _answer(self, attributes: Attributes, one: Cut | None, lead: Lead[Likeness] | None) -> bytes | None:
        """The octets, or None while they are waited for."""
        try:
            question = Question(self.front, self.door, attributes, self._session, lead.facts if lead else None)
            if lead is not None:
                question.learn = partial(learn, lead)
            elif one is not None:
                self.door.leads.learn(one, attributes, question.facts)
            self._session, question.cut = question.session, one
            action = question.answer()
            if isinstance(action, Promise) and action.done():
                action = action.result()
        except Odd as error:
            record.odd(self.peer, str(error), error.action)
            return encode_answer(error.action)
        except Exception as error:
            record.internal(self.peer, attributes.get("protocol_state", ""), error, self.default)
            return encode_answer(self.default)
        if isinstance(action, str):
            return _DUNNO if action is DUNNO else encode_answer(action)
        self.since, self._state, self._waiting = self.front.loop.time(), question.state, question
        if isinstance(action, Promise):
            self._task = action
            action.when_done(self._promised)
        else:
            self._task = self.front.loop.create_task(self._later(action))
        return None

    def _promised(self, answer: Promise[str]) -> None:
        try:
            text = answer.result()
        except Exception as error:
            text = self.default
            record.internal(self.peer, self._state, error, text, self._about()[1])
        self._said(text)

    async def _later(self, action: Awaitable[str]) -> None:
        try:
            text = await cast("Coroutine[Any, Any, str]", action)
        except Exception as error:
            text = self.default
            record.internal(self.peer, self._state, error, text, self._about()[1])
        if (
            self._task is asyncio.current_task()
        ):  # else the default was said, and this is no answer to what was asked since
            self._said(text)

    def _said(self, text: str) -> None:
        """The answer that was waited for."""
        self._task, self.since, self._waiting = None, 0.0, None
        if self.transport is not None:
            self._write(text)
            self._go_on()

    def _write(self, text: str) -> None:
        assert self.transport is not None
        self.front.outbox.put(self.transport, _DUNNO if text is DUNNO else encode_answer(text))

    @property
    def default(self) -> str:
        """What is said where nothing can be said."""
        return DEFAULTS[self.door.front.default]

    # ------------------------------------------------------------------ time

    def look(self, now: float) -> None:
        """Is the answer overdue, or the client silent for too long, or still there?"""
        front = self.door.front
        if now >= self._until:
            if self.transport is not None:
                self.transport.abort()
        elif self.since and now - self.since >= front.deadline and self._task is not None:
            self._task.cancel()
            ident, mail = self._about()
            record.late(self.peer, self._state, front.deadline, self.default, mail)
            self.front.was_late(ident)
            self._said(self.default)
        elif not self.since and now - self.last >= front.idle:
            self.close()

    def _about(self) -> tuple[str, str]:
        """The id of what is waited for, and the mail that it is about, for the log."""
        waiting = self._waiting
        if isinstance(waiting, Question):
            return waiting.id, texts.about(waiting.id, waiting.who, waiting.attributes)
        if waiting is None:
            return "", ""
        lead, one = waiting
        message = self.front.messages.find(one.instance, lead.facts.who.address, self.front.clock())
        ident = message.id if message is not None else ""
        return ident, texts.about(ident, lead.facts.who, lead.attributes(one))

    def close(self) -> None:
        """Hang up; what is written already has LINGER seconds to go out."""
        if self.transport is not None:
            self.front.outbox.flush()
            self.transport.close()
            self._until = min(self._until, self.front.loop.time() + LINGER)
