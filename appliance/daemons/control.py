"""What the master and its children say to each other over the control channel (net.channel, msgpack).

Contract: the master asks, children answer with the same `id`; a child that does not answer in time is not waited for.
A broken control channel ends the child: no process of ours runs without its master.
"""

import os
from typing import Any

import msgspec


class Born(msgspec.Struct, frozen=True, tag="born", kw_only=True):
    """master -> exec'd child, first frame. Descriptors: the memfd of its Terms, then one for each of `listening` (names
    may repeat), then the mail log if `log` says so."""

    service: str
    index: int
    listening: tuple[str, ...]
    rendezvous: dict[str, str]
    state_dir: str
    log: bool


class Ready(msgspec.Struct, frozen=True, tag="ready"):
    """child -> master: `start()` is done, it serves."""


class Prepare(msgspec.Struct, frozen=True, tag="prepare"):
    """master -> child, one descriptor with it (the memfd of the blob, or of the Terms for who is exec'd): can this be put
    in force?"""

    id: int


class Prepared(msgspec.Struct, frozen=True, tag="prepared"):
    """child -> master: yes if `refusal` is empty."""

    id: int
    refusal: str = ""


class Commit(msgspec.Struct, frozen=True, tag="commit"):
    """master -> child: put what was prepared as `id` in force."""

    id: int


class Abort(msgspec.Struct, frozen=True, tag="abort"):
    """master -> child: forget what was prepared as `id`."""

    id: int


class Certificates(msgspec.Struct, frozen=True, tag="certificates"):
    """master -> child: (certificate chain PEM, key PEM) by listener name."""

    pairs: dict[str, tuple[bytes, bytes]]


class LogFd(msgspec.Struct, frozen=True, tag="logfd"):
    """master -> child, one descriptor with it: write the mail log there from now on."""


class Ask(msgspec.Struct, frozen=True, tag="ask"):
    """master -> child: what is your health, what are your metrics?"""

    id: int
    metrics: bool = False


class Answer(msgspec.Struct, frozen=True, tag="answer"):
    """child -> master: `health` is `Daemon.health()` with the skeleton's own facts; `metrics` an exposition."""

    id: int
    health: dict[str, Any] = {}
    metrics: bytes = b""


class Drain(msgspec.Struct, frozen=True, tag="drain"):
    """master -> child: accept nothing more, finish within `grace` seconds, end."""

    grace: float


Order = Born | Prepare | Commit | Abort | Certificates | LogFd | Ask | Drain
Report = Ready | Prepared | Answer
decode_order = msgspec.msgpack.Decoder(Order).decode
decode_report = msgspec.msgpack.Decoder(Report).decode


def to_fd(value: msgspec.Struct) -> int:
    """`value` in a memory file, so that one copy serves all processes whatever its size. The caller closes it."""
    data = memoryview(msgspec.msgpack.encode(value))
    fd = os.memfd_create("postgate-blob", os.MFD_CLOEXEC)
    try:
        while data:
            data = data[os.write(fd, data) :]
    except OSError:
        os.close(fd)
        raise
    return fd


def octets(fd: int) -> bytes:
    """What is in a memory file; closes `fd`."""
    try:
        parts, at = [], 0
        while part := os.pread(fd, 1 << 24, at):
            parts.append(part)
            at += len(part)
    finally:
        os.close(fd)
    return b"".join(parts)
