"""An inner server that keeps all it accepts: aiosmtpd in a thread of its own loop."""

import asyncio
import threading
from collections import Counter
from typing import Any

from aiosmtpd.smtp import SMTP, Envelope, Session

from tests.peers.loops import ended
from tests.peers.ports import free_port


class Kept:
    """One accepted message."""

    __slots__ = ("content", "options", "recipients", "sender")

    def __init__(self, sender: str, recipients: list[str], content: bytes, options: list[str]) -> None:
        self.sender, self.recipients, self.content, self.options = sender, recipients, content, options


class Inner:
    """Accepts mail on a loopback port; `refuse` maps a recipient to the reply it gets at RCPT; `data_reply` (if set)
    answers the end of data instead of 250."""

    def __init__(self, port: int | None = None) -> None:
        self.port = port or free_port()
        self.messages: list[Kept] = []
        self.refuse: dict[str, str] = {}
        self.known: set[str] | None = None
        self.data_reply = ""
        self.sessions = 0
        self._changed = threading.Condition()
        self._loop = asyncio.new_event_loop()
        self._thread = threading.Thread(target=self._serve, daemon=True)
        self._ready = threading.Event()
        self._server: Any = None

    def start(self) -> "Inner":
        self._thread.start()
        assert self._ready.wait(10)
        return self

    def _serve(self) -> None:
        asyncio.set_event_loop(self._loop)
        self._server = self._loop.run_until_complete(
            self._loop.create_server(self._protocol, "127.0.0.1", self.port, backlog=500)
        )
        self._ready.set()
        self._loop.run_forever()

    def _protocol(self) -> SMTP:
        self.sessions += 1
        return SMTP(
            self, hostname="inner.example.net", data_size_limit=200_000_000, enable_SMTPUTF8=True, loop=self._loop
        )

    async def handle_RCPT(
        self, _server: Any, _session: Session, envelope: Envelope, address: str, options: list[str]
    ) -> str:
        if address in self.refuse:
            return self.refuse[address]
        if self.known is not None and address not in self.known:
            return "550 5.1.1 no such user here"
        envelope.rcpt_tos.append(address)
        envelope.rcpt_options.extend(options)
        return "250 2.1.5 Ok"

    async def handle_DATA(self, _server: Any, _session: Session, envelope: Envelope) -> str:
        if self.data_reply:
            return self.data_reply
        content = envelope.original_content or b""
        with self._changed:
            self.messages.append(
                Kept(
                    "" if envelope.mail_from in (None, "<>") else str(envelope.mail_from),
                    list(envelope.rcpt_tos),
                    content,
                    list(envelope.mail_options),
                )
            )
            self._changed.notify_all()
        return "250 2.0.0 Ok: kept"

    def wait(self, count: int, seconds: float = 20.0) -> list[Kept]:
        """Wait until `count` messages have come; all that came."""
        with self._changed:
            if not self._changed.wait_for(lambda: len(self.messages) >= count, seconds):
                raise TimeoutError(f"{len(self.messages)} of {count} messages came within {seconds:g} s")
            return list(self.messages)

    def recipients(self) -> Counter[str]:
        with self._changed:
            return Counter(r for message in self.messages for r in message.recipients)

    def stop(self) -> None:
        ended(self._loop, self._thread, self._server.close)
