"""Hands prepared messages to a server, each over a connection of its own, as Postfix's smtp client does: EHLO, then MAIL,
RCPT and DATA in one segment, then the content and QUIT. One process, one epoll loop: cheap for both sides."""

import select
import socket
import time
from collections import Counter
from collections.abc import Sequence
from typing import NamedTuple


class Letter(NamedTuple):
    """`content` without dots stuffed."""

    sender: str
    recipient: str
    content: bytes


class _Session:
    """One message on its way: `steps` are (what is sent, how many replies it takes, how the last of them begins)."""

    __slots__ = ("_heard", "_left", "_steps", "_wanted", "sock", "trouble")

    def __init__(self, port: int, source: str, steps: Sequence[tuple[bytes, int, bytes]]) -> None:
        self.sock = socket.socket()
        self.sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        if source:
            self.sock.bind((source, 0))
        self.sock.connect(("127.0.0.1", port))
        self.sock.setblocking(False)
        self._steps, self._left, self._wanted = iter(steps), 1, b"220"
        self._heard, self.trouble = b"", ""

    def readable(self) -> bool:
        """False at the end."""
        try:
            octets = self.sock.recv(65536)
        except BlockingIOError:
            return True
        except OSError as error:
            self.trouble = str(error)
            return False
        if not octets:
            self.trouble = "closed early"
            return False
        self._heard += octets
        *whole, self._heard = self._heard.split(b"\r\n")
        final = [line for line in whole if line[3:4] != b"-"]
        self._left -= len(final)
        for line in final:
            if line[:1] in b"45":
                self.trouble = self.trouble or line.decode(errors="replace")
        if self._left > 0:
            return True
        if not final[-1].startswith(self._wanted):
            self.trouble = self.trouble or final[-1].decode(errors="replace")
            return False
        step = next(self._steps, None)
        if step is None:
            return False
        octets, self._left, self._wanted = step
        self.sock.send(octets)
        return True


def steps(letter: Letter, helo: str) -> list[tuple[bytes, int, bytes]]:
    envelope = f"MAIL FROM:<{letter.sender}>\r\nRCPT TO:<{letter.recipient}>\r\nDATA\r\n".encode()
    content = letter.content.replace(b"\r\n.", b"\r\n..")
    return [(b"EHLO %b\r\n" % helo.encode(), 1, b"250"), (envelope, 3, b"354"), (content + b".\r\nQUIT\r\n", 2, b"221")]


def replay(
    port: int, letters: Sequence[Letter], helo: str, source: str = "", sessions: int = 20
) -> tuple[float, Counter[str]]:
    """(seconds, what went wrong: reply -> how often)."""
    waiting = iter([steps(letter, helo) for letter in letters])
    troubles: Counter[str] = Counter()
    poll = select.epoll()
    running: dict[int, _Session] = {}
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
            session = running[fd]
            if not session.readable():
                if session.trouble:
                    troubles[session.trouble] += 1
                del running[fd]
                poll.unregister(fd)
                session.sock.close()
                begin()
    return time.monotonic() - began, troubles
