"""Framed messages with descriptors over a unix stream socket: how our processes talk to each other.

Contract: a frame is `u32 length, u8 descriptors, payload` (big-endian); the payload is one msgpack value. The channel is
non-blocking and owns its socket; frames arrive whole and in order, each with its own descriptors, or with fewer where
this process is out of them. Closed descriptors are the sender's duty only after `send` returned (it duplicates what it
cannot send at once). What failure means for the mail: a broken channel is a
dead peer process; who waits for an answer gets ConnectionError and answers the client 451, nothing was promised.
"""

import array
import asyncio
import contextlib
import os
import socket
import struct
from collections import deque
from collections.abc import Callable, Iterable
from itertools import chain
from typing import Any

import msgspec

_HEAD = struct.Struct(">IB")
#: A frame that is larger is a broken peer (a message body that rides inline is at most 64 KB).
MAX_FRAME = 64 * 1024 * 1024
MAX_FDS = 16
_encode = msgspec.msgpack.Encoder().encode

#: The payload (msgpack; the receiver decodes it with its own typed decoder) and the descriptors that came with it.
Frame = tuple[bytes, list[int]]


#: Octets of control messages for MAX_FDS descriptors.
_ROOM = socket.CMSG_LEN(MAX_FDS * array.array("i").itemsize)


def _descriptors(ancillary: Iterable[tuple[int, int, bytes]]) -> list[int]:
    """The descriptors that came with what was read."""
    found = array.array("i")
    for level, kind, data in ancillary:
        if level == socket.SOL_SOCKET and kind == socket.SCM_RIGHTS:
            found.frombytes(data[: len(data) - len(data) % found.itemsize])
    return list(found)


def _copies(fds: Iterable[int]) -> tuple[int, ...]:
    """Raises OSError, and leaves none behind then."""
    made: list[int] = []
    try:
        for fd in fds:
            made.append(os.dup(fd))
    except OSError:
        for fd in made:
            os.close(fd)
        raise
    return tuple(made)


class Channel:
    """One end. Drive it by `on_readable()` and `on_writable()`, or let `attach()` do so on an asyncio loop. `takes_fds`
    False: descriptors that come are closed by the kernel, and reading costs less."""

    def __init__(self, sock: socket.socket, *, takes_fds: bool = True) -> None:
        sock.setblocking(False)
        self.sock = sock
        self._takes_fds = takes_fds
        self._in = bytearray()
        # One entry for each frame that brought some: the kernel ends a read behind the octets that descriptors came with.
        self._in_fds: deque[list[int]] = deque()
        self._out: deque[tuple[memoryview, tuple[int, ...]]] = deque()
        self.closed = False
        self._loop: asyncio.AbstractEventLoop | None = None
        self._writing = False
        self._on_closed: Callable[[], None] | None = None

    def fileno(self) -> int:
        return self.sock.fileno()

    def takes_no_more_fds(self) -> None:
        """From the next frame on."""
        self._takes_fds = False

    @property
    def backlog(self) -> int:
        """Octets that the peer has not taken yet."""
        return sum(len(view) for view, _ in self._out)

    @property
    def wants_write(self) -> bool:
        return bool(self._out) and not self.closed

    def send(self, value: Any, fds: tuple[int, ...] = ()) -> None:
        """Queue one message (any msgpack value or msgspec Struct) and send what the socket takes now.

        Raises ConnectionError if the channel is closed. `fds` stay the caller's; they are duplicated if they must wait:
        OSError where no descriptor is left for that, and the message is not sent.
        """
        payload = _encode(value)
        self.send_raw(payload, fds)

    def send_many(self, values: Iterable[Any]) -> None:
        """As `send` for several messages without descriptors: one system call takes them all."""
        if self.closed:
            raise ConnectionError("channel is closed")
        parts: list[bytes] = []
        for value in values:
            payload = _encode(value)
            parts += (_HEAD.pack(len(payload), 0), payload)
        self._queue(memoryview(b"".join(parts)), ())

    def send_raw(self, payload: bytes, fds: tuple[int, ...] = ()) -> None:
        """As `send`, for a payload that is msgpack already."""
        if self.closed:
            raise ConnectionError("channel is closed")
        data = _HEAD.pack(len(payload), len(fds)) + payload
        sent = 0
        if not self._out and not fds:  # the usual case: it goes at once
            try:
                sent = self.sock.send(data)
            except (BlockingIOError, InterruptedError):
                pass
            except OSError:
                self.close()
                return
            if sent == len(data):
                return
        self._queue(memoryview(data)[sent:], fds)

    def _queue(self, data: memoryview, fds: tuple[int, ...]) -> None:
        if not self._out:
            data, fds = self._push(data, fds)
        if data:
            self._out.append((data, _copies(fds)))
            self._watch_writable()

    def _push(self, data: memoryview, fds: tuple[int, ...]) -> tuple[memoryview, tuple[int, ...]]:
        """Send now as much as goes; what is left, with the descriptors that have not gone yet."""
        try:
            if fds:
                anc = [(socket.SOL_SOCKET, socket.SCM_RIGHTS, array.array("i", fds))]
                sent = self.sock.sendmsg([data], anc)
            else:
                sent = self.sock.send(data)
        except (BlockingIOError, InterruptedError):
            return data, fds
        except OSError:
            self.close()
            return data[:0], ()
        return data[sent:], ()

    def on_writable(self) -> None:
        """Send what waits."""
        while self._out and not self.closed:
            data, fds = self._out.popleft()
            rest, left = self._push(data, fds)
            if not left:
                for fd in fds:
                    os.close(fd)
            if rest:
                self._out.appendleft((rest, left))
                return
        self._unwatch_writable()

    def on_readable(self) -> list[Frame]:
        """All frames that are complete; closes the channel at end of stream or on a broken frame."""
        ancillary: list[tuple[int, int, bytes]] = []
        flags = 0
        try:
            if self._takes_fds:
                data, ancillary, flags, _addr = self.sock.recvmsg(1 << 18, _ROOM)
            else:
                data = self.sock.recv(1 << 16)
        except (BlockingIOError, InterruptedError):
            return []
        except OSError:
            self.close()
            return []
        if ancillary or flags & socket.MSG_CTRUNC:  # cut: we are out of descriptors, the frame comes with fewer
            self._in_fds.append(_descriptors(ancillary))
        elif not self._in and len(data) >= 5:  # the usual case: one whole frame
            length, count = _HEAD.unpack_from(data)
            if length == len(data) - 5 and not count:
                return [(data[5:], [])]
        self._in += data
        frames = list(self._frames())
        if not data:
            self.close()
        return frames

    def _frames(self) -> list[Frame]:
        frames: list[Frame] = []
        start, size = 0, len(self._in)
        while size - start >= 5:
            length, count = _HEAD.unpack_from(self._in, start)
            if length > MAX_FRAME or count > MAX_FDS:
                self.close()
                break
            if size - start < 5 + length:
                break
            fds = self._in_fds.popleft() if count and self._in_fds else []
            with memoryview(self._in) as view:
                frames.append((bytes(view[start + 5 : start + 5 + length]), fds))
            start += 5 + length
        if start:
            del self._in[:start]
        return frames

    def attach(
        self,
        loop: asyncio.AbstractEventLoop,
        on_frame: Callable[[bytes, list[int]], None],
        on_closed: Callable[[], None] | None = None,
    ) -> None:
        """Read on `loop`: `on_frame(payload, fds)` for each message (it owns the fds), `on_closed()` once at the end."""
        self._loop, self._on_closed = loop, on_closed

        def readable() -> None:
            for payload, fds in self.on_readable():
                on_frame(payload, fds)

        loop.add_reader(self.sock.fileno(), readable)
        if self._out:
            self._watch_writable()

    def _watch_writable(self) -> None:
        if self._loop is not None and not self._writing and not self.closed:
            self._writing = True
            self._loop.add_writer(self.sock.fileno(), self.on_writable)

    def _unwatch_writable(self) -> None:
        if self._loop is not None and self._writing:
            self._writing = False
            self._loop.remove_writer(self.sock.fileno())

    def close(self) -> None:
        """Close the socket and every descriptor that still waits; safe to call twice."""
        if self.closed:
            return
        self.closed = True
        if self._loop is not None:
            self._loop.remove_reader(self.sock.fileno())
            self._unwatch_writable()
        self.sock.close()
        for _, fds in self._out:
            for fd in fds:
                os.close(fd)
        for fd in chain.from_iterable(self._in_fds):
            os.close(fd)
        self._out.clear()
        self._in_fds.clear()
        if self._on_closed is not None:
            callback, self._on_closed = self._on_closed, None
            if self._loop is not None:
                self._loop.call_soon(callback)


def connect(path: str, *, takes_fds: bool = True) -> Channel:
    """A channel to the unix socket `path`. Raises OSError if nobody listens."""
    sock = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
    try:
        sock.connect(path)
    except OSError:
        with contextlib.suppress(OSError):
            sock.close()
        raise
    return Channel(sock, takes_fds=takes_fds)


def pair() -> tuple[Channel, Channel]:
    """Two connected channels (master keeps one, the child gets the other)."""
    left, right = socket.socketpair(socket.AF_UNIX, socket.SOCK_STREAM)
    return Channel(left), Channel(right)
