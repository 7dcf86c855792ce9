"""A directory that gives a page and is cut off, or loses the thread, in the middle of the next: the old list stays."""

import socket
import threading
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from appliance.tables.known import Origin, keep
from appliance.tables.known.keep import Order, known

FIRST, SECOND = ([f"{name}{number}@example.com" for number in range(60)] for name in "ab")
PAGED = "1.2.840.113556.1.4.319"


def ber(tag: int, *parts: bytes) -> bytes:
    body = b"".join(parts)
    size = len(body)
    return bytes((tag, size) if size < 128 else (tag, 0x82, size >> 8, size & 255)) + body


def text(value: str | bytes) -> bytes:
    return ber(4, value.encode() if isinstance(value, str) else value)


def message(number: int, *parts: bytes) -> bytes:
    return ber(0x30, ber(2, number.to_bytes(number.bit_length() // 8 + 1, "big")), *parts)


def entries(number: int, addresses: list[str]) -> bytes:
    made = (ber(0x30, ber(0x30, text("mail"), ber(0x31, text(address)))) for address in addresses)
    return b"".join(message(number, ber(0x64, text("cn=x"), attributes)) for attributes in made)


def done(number: int, code: int, cookie: bytes | None) -> bytes:
    value = None if cookie is None else text(ber(0x30, ber(2, b"\0"), text(cookie)))
    controls = b"" if value is None else ber(0xA0, ber(0x30, text(PAGED), value))
    return message(number, ber(0x65, ber(10, bytes([code])), text(""), text("")), controls)


def asked(line: socket.socket) -> int:
    """The number of the next message; the client counts over all its connections."""
    head = line.recv(2, socket.MSG_WAITALL)
    size = head[1]
    if size & 0x80:
        size = int.from_bytes(line.recv(size & 0x7F, socket.MSG_WAITALL), "big")
    body = line.recv(size, socket.MSG_WAITALL)
    return int.from_bytes(body[2 : 2 + body[1]], "big")


Page = Callable[[int], bytes]
#: What comes in the place of the second page, and then the end of the connection.
CUT: dict[str, tuple[Page, str]] = {
    "nothing": (lambda _: b"", "terminated by server"),
    "half": (lambda number: (entries(number, SECOND) + done(number, 0, b""))[:1500], "terminated by server"),
    "no end": (lambda number: entries(number, SECOND), "terminated by server"),
    "busy": (lambda number: entries(number, SECOND[:5]) + done(number, 51, None), "busy"),
    "too many": (lambda number: entries(number, SECOND[:5]) + done(number, 4, b""), "sizeLimitExceeded"),
    "the first one again": (lambda number: entries(number - 1, FIRST) + done(number - 1, 0, b"more"), "messageId"),
    "no word of more": (lambda number: entries(number, SECOND[:5]) + done(number, 0, None), "is not said"),
}


@pytest.fixture
def directory() -> Iterator[Callable[[Page], int]]:
    """Serves one connection; its port."""
    servers: list[socket.socket] = []

    def serve(second: Page) -> int:
        server = socket.create_server(("127.0.0.1", 0))
        servers.append(server)
        threading.Thread(target=talk, args=(server, second), daemon=True).start()
        port: int = server.getsockname()[1]
        return port

    def talk(server: socket.socket, second: Page) -> None:
        line = server.accept()[0]
        with line:
            line.sendall(message(asked(line), ber(0x61, ber(10, b"\0"), text(""), text(""))))
            number = asked(line)
            line.sendall(entries(number, FIRST) + done(number, 0, b"more"))
            line.sendall(second(asked(line)))

    yield serve
    for server in servers:
        server.close()


def synced(folder: Path, port: int) -> keep.Outcome:
    source = f"ldap://127.0.0.1:{port}"
    origin = Origin(kind="ldap", source=(source,), base=("dc=x",), bind_dn="cn=reader")
    return keep.sync(Order(name="x", folder=str(folder), origin=origin, secret="p", domains=("example.com",), force=True))


@pytest.mark.parametrize("fault", CUT)
def test_a_page_that_is_cut(tmp_path: Path, directory: Callable[[Page], int], fault: str) -> None:
    keep.written(tmp_path / "x", ["old@example.com"], "from a test", "sync")
    second, why = CUT[fault]
    outcome = synced(tmp_path, directory(second))
    assert why in outcome.problem and known(tmp_path / "x") == {"old@example.com"}


def test_two_whole_pages(tmp_path: Path, directory: Callable[[Page], int]) -> None:
    port = directory(lambda number: entries(number, SECOND) + done(number, 0, b""))
    assert not synced(tmp_path, port).problem and known(tmp_path / "x") == {*FIRST, *SECOND}
