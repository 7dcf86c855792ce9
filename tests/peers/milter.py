"""A small milter client, as an MTA speaks to a filter: one connection a message, every step that the filter asked for."""

import socket
import struct
from pathlib import Path
from typing import NamedTuple

#: Steps that a filter may decline ("do not send me this"), and replies that it may save, in its answer to the offer.
DECLINE = {b"C": 0x1, b"H": 0x2, b"M": 0x4, b"R": 0x8, b"B": 0x10, b"L": 0x20, b"N": 0x40, b"T": 0x200}
SILENT = {b"L": 0x80, b"C": 0x1000, b"H": 0x2000, b"M": 0x4000, b"R": 0x8000, b"T": 0x10000, b"N": 0x40000, b"B": 0x80000}
MACROS = {
    b"C": b"j\0mx.example.com\0{daemon_name}\0mx.example.com\0",
    b"M": b"i\0004F00\0{mail_addr}\0%s\0",
    b"E": b"i\0004F00\0",
}


class Answer(NamedTuple):
    """The filter's last word (b"c" continue, b"a" accept, b"r", b"t", b"y" with text) and the fields it wants added."""

    verb: bytes
    text: bytes
    fields: list[tuple[str, str]]


class MilterClient:
    def __init__(self, path: Path, seconds: float = 10) -> None:
        self._sock = socket.socket(socket.AF_UNIX)
        self._sock.settimeout(seconds)
        self._sock.connect(str(path))
        self._stream = self._sock.makefile("rb")
        self._send(b"O", struct.pack(">III", 6, 0x1FF, 0x1FFFFF))
        verb, data = self._receive()
        assert verb == b"O", verb
        self._wishes = struct.unpack(">III", data[:12])[2]

    def _send(self, verb: bytes, data: bytes = b"") -> None:
        self._sock.sendall(struct.pack(">I", len(data) + 1) + verb + data)

    def _receive(self) -> tuple[bytes, bytes]:
        head = self._stream.read(4)
        if len(head) < 4:
            raise ConnectionError("the filter hung up")
        data = self._stream.read(struct.unpack(">I", head)[0])
        return data[:1], data[1:]

    def _step(self, verb: bytes, data: bytes = b"") -> tuple[bytes, bytes]:
        if self._wishes & DECLINE.get(verb, 0):
            return b"c", b""
        self._send(verb, data)
        return (b"c", b"") if self._wishes & SILENT.get(verb, 0) else self._receive()

    def message(self, address: str, helo: str, sender: str, content: bytes) -> Answer:
        """One message from connect to end of message."""
        family = b"6" if ":" in address else b"4"
        where = b"[%b]\0" % address.encode() + family + struct.pack(">H", 40000) + address.encode() + b"\0"
        steps = [(b"C", where), (b"H", helo.encode() + b"\0"), (b"M", b"<%b>\0" % sender.encode())]
        steps += [(b"R", b"<user@example.com>\0"), (b"T", b"")]
        header, _, body = content.partition(b"\r\n\r\n")
        for field in _fields(header + b"\r\n"):
            name, _, value = field.partition(b":")
            steps.append(
                (
                    b"L",
                    name
                    + b"\0"
                    + (value if self._wishes & 0x100000 else value.removeprefix(b" ")).replace(b"\r\n", b"\n")
                    + b"\0",
                )
            )
        steps.append((b"N", b""))
        steps += [(b"B", body[n : n + 65535]) for n in range(0, len(body), 65535)]
        for verb, data in steps:
            if verb in MACROS:
                self._send(b"D", verb + MACROS[verb].replace(b"%s", sender.encode()))
            answer, text = self._step(verb, data)
            if answer not in (b"c", b"s"):
                return Answer(answer, text, [])
        return self._end()

    def _end(self) -> Answer:
        self._send(b"D", b"E" + MACROS[b"E"])
        self._send(b"E")
        added: list[tuple[str, str]] = []
        while True:
            verb, data = self._receive()
            if verb in (b"h", b"i"):
                name, value = (data[4:] if verb == b"i" else data).decode(errors="replace").split("\0")[:2]
                added.append((name, value))
            elif verb not in b"mp+-2be":
                return Answer(verb, data, added)

    def close(self) -> None:
        self._send(b"Q")
        self._stream.close()
        self._sock.close()


def _fields(header: bytes) -> list[bytes]:
    """The fields as they stand, folds kept, without their last line end."""
    found: list[bytes] = []
    for line in header.split(b"\r\n")[:-1]:
        if line[:1] in (b" ", b"\t") and found:
            found[-1] += b"\r\n" + line
        else:
            found.append(line)
    return found
