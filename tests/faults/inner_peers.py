"""Inner servers that misbehave by script: slow, refusing, cutting, talking rubbish, hanging; SMTP or LMTP, with TLS or
without. Fast with any content: nothing is done by line."""

import contextlib
import re
import socket
import ssl
import threading
from collections.abc import Callable
from pathlib import Path
from typing import Any

from tests.peers.inner import Kept
from tests.peers.ports import free_port

#: Instead of a reply: close the connection; say nothing until the end of the test.
CUT, HANG = b"CUT", b"HANG"
OFFER = (b"PIPELINING", b"SIZE 100000000", b"8BITMIME", b"ENHANCEDSTATUSCODES", b"SMTPUTF8")


class Scripted:
    """`replies` maps a verb (CONNECT, EHLO, STARTTLS, MAIL, RCPT, DATA, DOT) to what it gets instead of a good answer;
    for RCPT and DOT also "RCPT user@example.com". It may be changed while the server runs."""

    def __init__(
        self,
        path: Path | None = None,
        tls: ssl.SSLContext | None = None,
        lmtp: bool = False,
        offer_tls: bool = True,
        port: int = 0,
    ) -> None:
        self.replies: dict[str, bytes] = {}
        self.messages: list[Kept] = []
        self.secured: list[bool] = []
        self.sessions = 0
        self.port = 0
        self._tls, self._lmtp, self._offer_tls = tls, lmtp, offer_tls and tls is not None
        self._over = threading.Event()
        self._lock = threading.Lock()
        if path is None:
            self.port = port or free_port()
            self._sock = socket.create_server(("127.0.0.1", self.port), backlog=100)
        else:
            self._sock = socket.socket(socket.AF_UNIX)
            self._sock.bind(str(path))
            self._sock.listen(100)

    def start(self) -> "Scripted":
        threading.Thread(target=self._accept, daemon=True).start()
        return self

    def stop(self) -> None:
        self._over.set()
        with contextlib.suppress(OSError):
            self._sock.shutdown(socket.SHUT_RDWR)
        self._sock.close()

    def recipients(self) -> list[str]:
        with self._lock:
            return [address for kept in self.messages for address in kept.recipients]

    def _accept(self) -> None:
        with contextlib.suppress(OSError):
            while True:
                sock, _ = self._sock.accept()
                self.sessions += 1
                threading.Thread(target=self._serve, args=(sock,), daemon=True).start()

    def _serve(self, sock: socket.socket) -> None:
        with contextlib.suppress(OSError, ConnectionError):
            _Talk(self, sock).run()
        with contextlib.suppress(OSError):
            sock.close()

    def keep(self, kept: Kept, secured: bool) -> None:
        with self._lock:
            self.messages.append(kept)
            self.secured.append(secured)

    def wait_over(self) -> None:
        self._over.wait()


class _Talk:
    """One connection."""

    def __init__(self, server: Scripted, sock: socket.socket) -> None:
        self.server, self.sock = server, sock
        self.buffer = b""
        self.secured = False
        self.sender = ""
        self.begun = False
        self.recipients: list[str] = []

    def say(self, verb: str, good: bytes) -> bool:
        """Answer; whether the answer was a good one."""
        verb = next((key for key in (verb, verb.split(" ")[0]) if key in self.server.replies), "")
        reply = self.server.replies.get(verb, good)
        if reply == CUT:
            raise ConnectionError
        if reply == HANG:
            self.server.wait_over()
            raise ConnectionError
        self.sock.sendall(reply if reply.endswith(b"\n") else reply + b"\r\n")
        return reply[:1] in b"23"

    def until(self, end: bytes) -> bytes:
        parts, tail = [self.buffer], self.buffer
        while end not in tail:
            octets = self.sock.recv(1 << 18)
            if not octets:
                raise ConnectionError
            parts.append(octets)
            tail = tail[-len(end) :] + octets
        found, _, self.buffer = b"".join(parts).partition(end)
        return found

    def run(self) -> None:
        self.say("CONNECT", b"220 inner.example.net ESMTP")
        commands: dict[bytes, Callable[[bytes], Any]] = {
            b"EHLO": self.ehlo,
            b"LHLO": self.ehlo,
            b"STARTTLS": self.starttls,
            b"MAIL": self.mail,
            b"RCPT": self.rcpt,
            b"DATA": self.data,
        }
        while True:
            line = self.until(b"\r\n")
            verb = line.split(b" ", 1)[0].upper()
            if verb == b"QUIT":
                self.say("QUIT", b"221 2.0.0 Bye")
                return
            commands.get(verb, self.other)(line)

    def other(self, line: bytes) -> None:
        self.say(line.split(b" ")[0].decode().upper(), b"250 2.0.0 Ok")

    def ehlo(self, _line: bytes) -> None:
        words = [b"inner.example.net", *OFFER]
        if self.server._offer_tls and not self.secured:
            words.append(b"STARTTLS")
        self.say("EHLO", b"".join(b"250%s%s\r\n" % (b" " if w is words[-1] else b"-", w) for w in words))

    def starttls(self, _line: bytes) -> None:
        if self.say("STARTTLS", b"220 2.0.0 Ready"):
            assert self.server._tls
            self.sock = self.server._tls.wrap_socket(self.sock, server_side=True)
            self.secured = True

    def mail(self, line: bytes) -> None:
        self.recipients = []
        self.sender = re.search(rb"<(.*?)>", line)[1].decode()  # type: ignore[index]
        self.begun = self.say("MAIL", b"250 2.1.0 Ok")

    def rcpt(self, line: bytes) -> None:
        address = re.search(rb"<(.*?)>", line)[1].decode()  # type: ignore[index]
        if not self.begun:
            self.sock.sendall(b"503 5.5.1 MAIL first\r\n")
        elif self.say(f"RCPT {address}", b"250 2.1.5 Ok"):
            self.recipients.append(address)

    def data(self, _line: bytes) -> None:
        if not self.recipients:
            self.sock.sendall(b"554 5.5.1 no recipients\r\n")
            return
        if not self.say("DATA", b"354 go"):
            return
        self.buffer = b"\r\n" + self.buffer
        content = (self.until(b"\r\n.\r\n") + b"\r\n").replace(b"\r\n.", b"\r\n")[2:]
        taken = list(self.recipients)
        if self.server._lmtp:
            taken = [address for address in taken if self.say(f"DOT {address}", b"250 2.0.0 Ok: kept")]
        elif not self.say("DOT", b"250 2.0.0 Ok: kept"):
            taken = []
        if taken:
            self.server.keep(Kept(self.sender, taken, content, []), self.secured)
