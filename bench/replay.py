"""Hands prepared messages to a server, each over a connection of its own, as Postfix's smtp client does: EHLO, then MAIL,
RCPT and DATA in one segment, then the content and QUIT. One process, one epoll loop, hardly any work for a reply: what it
takes of the machine it takes from both sides."""

import gc
import re
import select
import socket
import time
from collections import Counter
from collections.abc import Sequence
from typing import NamedTuple

_REFUSAL = re.compile(rb"^[45][^\r\n]*", re.MULTILINE)


class Letter(NamedTuple):
    """`content` without dots stuffed."""

    sender: str
    recipient: str
    content: bytes


class _Step(NamedTuple):
    """What is sent, and what the replies to it contain when they are all there and good."""

    octets: bytes
    good: bytes


class _Session:
    """One message on its way."""

    __slots__ = ("heard", "place", "sock", "steps")

    def __init__(self, port: int, source: str, steps: Sequence[_Step]) -> None:
        self.sock = socket.socket()
        if source:
            self.sock.bind((source, 0))
        self.sock.connect(("127.0.0.1", port))
        self.steps, self.place, self.heard = steps, 0, b"\r\n"

    def goes_on(self) -> str | None:
        """After octets have come: "" to wait for more, what went wrong, or None at the good end."""
        try:
            octets = self.sock.recv(8192)
        except OSError as error:
            return str(error)
        self.heard += octets
        if self.steps[self.place].good not in self.heard:
            refusal = _REFUSAL.search(self.heard)
            return refusal[0].decode(errors="replace") if refusal else "" if octets else "closed early"
        self.place += 1
        if self.place == len(self.steps):
            return None if self.heard.startswith(b"\r\n250 ") else self.heard.decode(errors="replace").strip()
        self.heard = b"\r\n"
        self.sock.send(self.steps[self.place].octets)
        return ""


def steps(letter: Letter, helo: str) -> list[_Step]:
    envelope = f"MAIL FROM:<{letter.sender}>\r\nRCPT TO:<{letter.recipient}>\r\nDATA\r\n".encode()
    content = letter.content.replace(b"\r\n.", b"\r\n..")
    return [
        _Step(b"", b"\r\n220 "),
        _Step(b"EHLO %b\r\n" % helo.encode(), b"\r\n250 "),
        _Step(envelope, b"\r\n354 "),
        _Step(content + b".\r\nQUIT\r\n", b"\r\n221 "),
    ]


def replay(
    port: int, letters: Sequence[Letter], helo: str, source: str = "", sessions: int = 20
) -> tuple[float, Counter[str]]:
    """(seconds, what went wrong: reply -> how often)."""
    waiting = iter([steps(letter, helo) for letter in letters])
    troubles: Counter[str] = Counter()
    poll = select.epoll()
    running: dict[int, _Session] = {}
    gc.disable()
    began = time.monotonic()

    def begin() -> None:
        if (todo := next(waiting, None)) is not None:
            session = _Session(port, source, todo)
            running[session.sock.fileno()] = session
            poll.register(session.sock.fileno(), select.EPOLLIN)

    for _ in range(sessions):
        begin()
    while running:
        events = poll.poll(60)
        if not events:
            raise TimeoutError(f"{len(running)} sessions hang")
        for fd, _ in events:
            trouble = running[fd].goes_on()
            if trouble == "":
                continue
            if trouble:
                troubles[trouble] += 1
            running.pop(fd).sock.close()  # which takes it out of the poll, too
            begin()
    seconds = time.monotonic() - began
    gc.enable()
    return seconds, troubles
