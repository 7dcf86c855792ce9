"""An after-queue content filter as FILTER_README draws it: takes mail by SMTP, changes it, hands it back by SMTP.

It answers the end of data with what the listener behind it said, so that the gateway hears of the message's fate.
"""

import asyncio
import smtplib
import threading
from concurrent.futures import ThreadPoolExecutor
from typing import Any

from aiosmtpd.lmtp import LMTP
from aiosmtpd.smtp import SMTP

from tests.peers.loops import ended
from tests.peers.ports import free_port

_WORDS = "NAME ADDR PORT PROTO HELO IDENT SOURCE"
MARK = b"X-Filtered: yes\r\n"


class _Forwarded:
    async def smtp_XFORWARD(self: Any, arg: str) -> None:
        self.event_handler.told.update(dict(word.split("=", 1) for word in arg.split()))
        await self.push(self.event_handler.forwarded)


class _Server(_Forwarded, SMTP):
    """By SMTP."""


class _Lmtp(_Forwarded, LMTP):
    """By LMTP."""


class ContentFilter:
    """Give `back`, the port of a listener of role reinject. `answer`: what is said behind the content instead; `knows`:
    does it offer XFORWARD and pass it on? `forwarded`: what it answers to that."""

    server: type[SMTP] = _Server
    forwarded = "250 2.0.0 Ok"

    def __init__(self, back: int, port: int | None = None, answer: str = "", knows: bool = True) -> None:
        self.back, self.port, self.answer, self.knows = back, port or free_port(), answer, knows
        self.told: dict[str, str] = {}
        self.seen: list[Any] = []
        #: Messages that it had at once.
        self.most = self._busy = 0
        self._loop = asyncio.new_event_loop()
        self._thread = threading.Thread(target=self._serve, daemon=True)
        self._ready = threading.Event()
        self._server: Any = None

    def start(self) -> "ContentFilter":
        self._thread.start()
        assert self._ready.wait(10)
        return self

    def _serve(self) -> None:
        asyncio.set_event_loop(self._loop)
        self._loop.set_default_executor(ThreadPoolExecutor(50))
        made = self._loop.create_server(
            lambda: self.server(self, hostname="filter.example.net", loop=self._loop), "127.0.0.1", self.port
        )
        self._server = self._loop.run_until_complete(made)
        self._ready.set()
        self._loop.run_forever()

    async def handle_EHLO(self, _server: Any, session: Any, _envelope: Any, name: str, lines: list[str]) -> list[str]:
        session.host_name = name
        return [*lines[:-1], *([f"250-XFORWARD {_WORDS}"] if self.knows else []), lines[-1]]

    async def handle_DATA(self, _server: Any, _session: Any, envelope: Any) -> str:
        self.seen.append(envelope)
        self._busy += 1
        self.most = max(self.most, self._busy)
        try:
            return self.answer or await asyncio.to_thread(self._hand_back, envelope)
        finally:
            self._busy -= 1

    def _hand_back(self, envelope: Any) -> str:
        with smtplib.SMTP("127.0.0.1", self.back, local_hostname="filter.example.net", timeout=20) as smtp:
            smtp.ehlo()
            if self.knows and "xforward" in smtp.esmtp_features:
                smtp.docmd("XFORWARD", " ".join(f"{name}={value}" for name, value in self.told.items()))
            smtp.mail(envelope.mail_from or "")
            for one in envelope.rcpt_tos:
                smtp.rcpt(one)
            code, text = smtp.data(MARK + envelope.original_content)
        return f"{code} {text.decode()}"

    def stop(self) -> None:
        ended(self._loop, self._thread, self._server.close)


class LmtpFilter(ContentFilter):
    """It takes mail by LMTP: an answer for each recipient; `refuse` gets none of it."""

    server = _Lmtp

    def __init__(self, back: int, refuse: str = "") -> None:
        super().__init__(back)
        self.refuse = refuse

    async def handle_DATA(self, _server: Any, _session: Any, envelope: Any) -> str:
        self.seen.append(envelope)
        everybody = list(envelope.rcpt_tos)
        envelope.rcpt_tos = [one for one in everybody if one != self.refuse]
        said = await asyncio.to_thread(self._hand_back, envelope)
        return "\r\n".join("550 5.7.1 not this one" if one == self.refuse else said for one in everybody)
