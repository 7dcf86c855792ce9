"""The demo inbox: aiosmtpd speaks LMTP on its rendezvous and keeps each mail as a file of a Maildir (STATE/inbox).

Contract: it is an inner server like any other; delivery finds it as the next hop `lmtp:unix:STATE/run/inbox.sock`, which
stands in where no next hop is configured. A mail is in `new/`, synced, before its recipients get their 250.
"""

import asyncio
import itertools
import os
import socket
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from aiosmtpd.lmtp import LMTP
from aiosmtpd.smtp import Envelope, Session

from appliance.config.snapshot import Snapshot
from appliance.daemons.skeleton import Birth
from appliance.observe import maillog, oplog

log = oplog.get("inbox")


class Maildir:
    """The aiosmtpd handler."""

    def __init__(self, folder: Path) -> None:
        self._folder, self._numbers = folder, itertools.count(1)
        self.taken = 0
        for name in ("tmp", "new", "cur"):
            (folder / name).mkdir(mode=0o700, parents=True, exist_ok=True)

    async def handle_DATA(self, _server: LMTP, _session: Session, envelope: Envelope) -> str:
        """LMTP wants one reply for each recipient (RFC 2033 4.2)."""
        content = envelope.content
        assert isinstance(content, bytes)
        head = f"Return-Path: <{envelope.mail_from or ''}>\r\n" + "".join(
            f"Delivered-To: {recipient}\r\n" for recipient in envelope.rcpt_tos
        )
        try:
            name = await asyncio.to_thread(self.keep, head.encode("utf-8", "surrogateescape") + content)
        except OSError as error:
            log.error("the inbox cannot keep a mail", reason=error.strerror)
            reply = "452 4.3.1 The inbox cannot keep it now"
        else:
            self.taken += 1
            maillog.log(f"kept in the demo inbox: {name}")
            reply = f"250 2.0.0 Kept as {name}"
        return "\r\n".join([reply] * len(envelope.rcpt_tos))

    def keep(self, octets: bytes) -> str:
        """Write one mail; its name. Raises OSError."""
        name = f"{time.time():.6f}.P{os.getpid()}Q{next(self._numbers)}.{socket.gethostname()}"
        draft = self._folder / "tmp" / name
        with open(draft, "xb") as file:
            file.write(octets)
            file.flush()
            os.fsync(file.fileno())
        draft.rename(self._folder / "new" / name)
        fd = os.open(self._folder / "new", os.O_RDONLY | os.O_DIRECTORY)
        try:
            os.fsync(fd)
        finally:
            os.close(fd)
        return name


class Inbox:
    """The daemon (skeleton.Daemon)."""

    def __init__(self, birth: Birth) -> None:
        self._birth = birth
        self._maildir = Maildir(birth.state_dir / "inbox")
        self._servers: list[asyncio.Server] = []

    async def start(self) -> None:
        loop = asyncio.get_running_loop()
        for sock in self._birth.listening["unix:inbox"]:
            self._servers.append(await loop.create_unix_server(self._session, sock=sock))

    def _session(self) -> LMTP:
        return LMTP(self._maildir, hostname="inbox", ident="demo inbox", data_size_limit=None, enable_SMTPUTF8=True)

    def prepare(self, snapshot: Snapshot) -> None:
        """It has no settings."""

    def commit(self, snapshot: Snapshot) -> None:
        """It has no settings."""

    def certificates(self, certificates: Mapping[str, tuple[bytes, bytes]]) -> None:
        """It speaks no TLS."""

    async def drain(self, grace: float) -> None:
        """Delivery, its only client, is gone already."""
        for server in self._servers:
            server.close()

    def health(self) -> dict[str, Any]:
        return {"kept": self._maildir.taken, "folder": str(self._birth.state_dir / "inbox"), "degraded": []}


def create(birth: Birth) -> Inbox:
    return Inbox(birth)
