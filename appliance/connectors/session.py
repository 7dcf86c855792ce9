"""One SMTP or LMTP connection to a next hop: the client machine on a socket, with TLS and a deadline for each phase.

Contract: `connect` gives a session that is ready for a message, or raises ConnectFailed; `send` gives one result a
recipient and never raises for what the server does. One message at a time. Deadlines follow the phase (Appendix A of
the protocol reference), not single reads: a server that dribbles octets gets no more time. After any oddity the
connection is thrown away. What failure means for the mail: no clear answer is "deferred"; after the last octet of
content it is `unknown` (the server may have the message), and it is tried again all the same.
"""

import asyncio
import ssl
from collections.abc import Iterator
from typing import cast

from appliance.connectors.target import ConnectFailed, Target, Timeouts
from appliance.net import tls
from appliance.protocol.smtp.client import ClientMachine
from appliance.protocol.smtp.outgoing import (
    Closed,
    Event,
    Finished,
    Outgoing,
    Ready,
    SendContent,
    StartTls,
    TlsRefused,
    Write,
)

_WRITE_BUFFER = 512 * 1024
#: Content handed to the transport in one turn of the loop.
_PUMP = 1024 * 1024


class SmtpSession(asyncio.Protocol):
    """A connection. `uses` counts the messages; `alive` is False when it can take no more; `idle_since` is loop time."""

    def __init__(
        self, target: Target, hostname: str, timeouts: Timeouts, *, chunking: bool = True, pipelining: bool = True
    ) -> None:
        self.target, self.timeouts = target, timeouts
        self.machine = ClientMachine(hostname, lmtp=target.lmtp, chunking=chunking, pipelining=pipelining)
        self.uses = 0
        self.idle_since = 0.0
        self.alive = True
        self.cipher = ""
        #: Why the content could not be read, if that ended the session.
        self.content_error: Exception | None = None
        self.transport: asyncio.Transport | None = None
        self._loop = asyncio.get_running_loop()
        self._waiter: asyncio.Future[Event] | None = None
        self._early: list[Event] = []
        self._source: Iterator[bytes] | None = None
        self._paused = self._pumping = False
        self._deadline = 0.0
        self._timer: asyncio.TimerHandle | None = None

    # ------------------------------------------------------------------ asyncio.Protocol

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self.transport = cast("asyncio.Transport", transport)  # uvloop's transports do not inherit from asyncio's
        self.transport.set_write_buffer_limits(high=_WRITE_BUFFER)
        self._extend()

    def data_received(self, data: bytes) -> None:
        events = self.machine.receive(data)
        if events:
            self._extend()
            self._act(events)

    def eof_received(self) -> bool:
        return False

    def connection_lost(self, exc: Exception | None) -> None:
        self.alive = False
        self._act(self.machine.eof(f"lost connection with {self.target.peer}"))
        self._stop()

    def pause_writing(self) -> None:
        self._paused = True

    def resume_writing(self) -> None:
        self._paused = False
        self._extend()
        if self._source is not None:
            self._pump()

    # ------------------------------------------------------------------ events

    def _act(self, events: list[Event]) -> None:
        for event in events:
            if type(event) is Write:
                if self.transport is not None:
                    self.transport.write(event.data)
            elif type(event) is SendContent:
                self._pump()
            elif type(event) is Closed:
                self.alive = False
                self._tell(event)
                self._stop()
                if self.transport is not None:
                    self.transport.abort()  # what is not written yet, nobody wants
            else:
                self._tell(event)

    def _tell(self, event: Event) -> None:
        """Wake who waits; the first event counts (Finished comes before Closed)."""
        if self._waiter is not None and not self._waiter.done():
            self._waiter.set_result(event)
        else:
            self._early.append(event)

    async def _next(self) -> Event:
        if self._early:
            return self._early.pop(0)
        self._waiter = self._loop.create_future()
        try:
            return await self._waiter
        finally:
            self._waiter = None

    # ------------------------------------------------------------------ deadlines

    def _extend(self) -> None:
        """A step was made: the phase that begins now has its own time. One timer, moved lazily."""
        self._deadline = self._loop.time() + self.timeouts.of(self.machine.waiting_for)
        if self._timer is None:
            self._timer = self._loop.call_at(self._deadline, self._on_timer)
        elif self._timer.when() > self._deadline:
            self._timer.cancel()
            self._timer = self._loop.call_at(self._deadline, self._on_timer)

    def _on_timer(self) -> None:
        self._timer = None
        if self._loop.time() < self._deadline - 0.001:
            self._timer = self._loop.call_at(self._deadline, self._on_timer)
        elif self.machine.waiting_for != "idle":
            self._act(self.machine.eof(f"conversation with {self.target.peer} timed out"))

    def _stop(self) -> None:
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None
        self._source = None

    # ------------------------------------------------------------------ content

    def _pump(self) -> None:
        """Hand over content as fast as the server takes it, at most _PUMP octets a turn of the loop."""
        if self._pumping or self._source is None or self.transport is None:
            return
        sent = 0
        while self.machine.wants_content and not self._paused:
            if sent >= _PUMP:
                self._pumping = True
                self._loop.call_soon(self._pump_on)
                return
            sent += self._step(self._source, self.transport)
        if not self.machine.wants_content:
            self._source = None

    def _pump_on(self) -> None:
        self._pumping = False
        self._pump()

    def _step(self, source: Iterator[bytes], transport: asyncio.Transport) -> int:
        """One piece, or the end. Content that cannot be read ends the connection without the last dot."""
        try:
            chunk = next(source, None)
        except Exception as error:
            self.alive, self.content_error = False, error
            self._act(self.machine.eof(f"content cannot be read: {error}"))
            transport.abort()
            return 0
        if chunk is None:
            transport.write(self.machine.end())
            self._extend()
            return 0
        transport.write(self.machine.content(chunk))
        return len(chunk)

    # ------------------------------------------------------------------ what a driver calls

    async def handshake(self, level: tls.Level, context: ssl.SSLContext | None) -> None:
        """Greeting, EHLO, and TLS as `level` demands. Raises ConnectFailed."""
        while True:
            event = await self._next()
            if isinstance(event, Ready):
                if self._early and isinstance(self._early[-1], Closed):  # what came with it ended the session
                    continue
                if self.machine.tls or level == "none" or context is None:
                    return
                if "STARTTLS" in event.features:
                    self._act(self.machine.starttls())
                    self._extend()
                    continue
            elif isinstance(event, StartTls) and context is not None:
                await self._start_tls(context)
                continue
            elif isinstance(event, Closed):
                raise ConnectFailed(self._why(event), "4.4.2", reply=event.reply.text if event.reply else "")
            # Not offered, or offered and refused: the clear is good enough for "may" alone.
            if level == "may":
                return
            why = event.reply.text if isinstance(event, TlsRefused) else "TLS is required, but was not offered"
            raise ConnectFailed(f"{why} by host {self.target.peer}", "4.7.4", tls=True)

    def _why(self, event: Closed) -> str:
        if event.reply is not None:
            refused = "refused to talk to me: " if event.text == event.reply.text else ""  # a 421
            return f"host {self.target.peer} {refused}{event.text}"
        return event.text if self.target.peer in event.text else f"host {self.target.peer}: {event.text}"

    async def _start_tls(self, context: ssl.SSLContext) -> None:
        assert self.transport is not None
        plain = self.transport
        try:
            upgraded = await self._loop.start_tls(
                plain, self, context, server_hostname=self.target.host, ssl_handshake_timeout=self.timeouts.tls
            )
        except (OSError, ValueError) as error:  # ValueError: a host name that TLS cannot ask for
            plain.abort()
            raise ConnectFailed(f"Cannot start TLS: {tls.reason(error)}", "4.7.5", tls=True) from error
        if upgraded is None:
            raise ConnectFailed("Cannot start TLS: handshake failure", "4.7.5", tls=True)
        self.transport = upgraded
        upgraded.set_write_buffer_limits(high=_WRITE_BUFFER)
        suite = upgraded.get_extra_info("cipher")
        self.cipher = f"{suite[1]} {suite[0]}" if suite else ""
        self._act(self.machine.tls_started())
        self._extend()

    async def send(self, message: Outgoing, content: bytes | Iterator[bytes], *, probe: bool = False) -> Finished:
        """Hand `message` over: `content` whole, or in pieces. Raises ValueError for an envelope that cannot be sent."""
        whole = content if isinstance(content, bytes) else None
        self._source = None if isinstance(content, bytes) else content
        self._early.clear()
        events = self.machine.begin(message, whole, probe=probe)
        self.uses += 1
        self._extend()
        self._act(events)
        event = await self._next()
        while not isinstance(event, Finished):
            event = await self._next()
        self.alive = self.alive and event.reusable
        self.idle_since = self._loop.time()
        return event

    @property
    def dsn(self) -> bool:
        """Does the server send notices itself?"""
        return "DSN" in self.machine.features

    def quit(self) -> None:
        """Say goodbye and close; nobody waits for the answer."""
        if self.alive and self.machine.state == "ready":
            self._act(self.machine.quit())
        self.close()

    def close(self) -> None:
        """Close at once what is not written yet excepted; safe to call twice."""
        self.alive = False
        self._stop()
        if self.transport is not None:
            self.transport.close()

    def abort(self) -> None:
        """Give up at once: what is not written yet, nobody gets."""
        self.alive = False
        self._stop()
        if self.transport is not None:
            self.transport.abort()
