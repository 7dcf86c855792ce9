"""The control socket STATE/run/control.sock: how the commands (and the journal's /metrics) speak to the master.

Contract: one JSON line in, one JSON line out: {"op": "status" | "health" | "metrics" | "reload" | "stop"}. Any member of
the group may ask; only root, the master's own user and people who are none of our service users may reload or stop (a
broken smtpd must not end the gateway). Rubbish costs its own connection. Out of descriptors: a pause, no spinning.
"""

import contextlib
import json
import selectors
import socket
import struct
from collections.abc import Callable, Mapping
from typing import Any

from appliance.daemons.master.loop import Loop, Timer
from appliance.observe import oplog

log = oplog.get("master")
MOST = 64
LONGEST = 65536
#: Seconds a connection may live (a reload may take its time, and that of one before it).
LIFE = 150.0
_PAUSE = 1.0

Answer = Callable[[Mapping[str, Any]], None]
#: op(request, answer): calls `answer` once, now or later.
Op = Callable[[Mapping[str, Any], Answer], None]


class ControlSocket:
    """Serves `sock` with `ops` (name -> (function, whether it changes something)); `servants`: user ids of services."""

    def __init__(
        self, loop: Loop, sock: socket.socket, ops: Mapping[str, tuple[Op, bool]], servants: frozenset[int]
    ) -> None:
        self._loop, self._sock, self._ops, self._servants = loop, sock, ops, servants
        self._open: set[_Connection] = set()
        sock.setblocking(False)
        self._listen()

    def _listen(self) -> None:
        self._loop.watch(self._sock.fileno(), selectors.EVENT_READ, self._accept)

    def _accept(self, _events: int) -> None:
        try:
            peer, _ = self._sock.accept()
        except BlockingIOError:
            return
        except OSError as error:
            log.warning("control socket cannot take a connection, pausing", reason=error.strerror)
            self._loop.watch(self._sock.fileno(), 0, self._accept)
            self._loop.after(_PAUSE, self._listen)
            return
        if len(self._open) >= MOST:
            peer.close()
            return
        self._open.add(_Connection(self._loop, peer, self._ask, self._open.discard))

    def _ask(self, line: bytes, uid: int, answer: Answer) -> None:
        try:
            request = json.loads(line)
            operation, changes = self._ops[request["op"]]
        except (ValueError, KeyError, TypeError):
            answer({"error": f"unknown request; known: {', '.join(self._ops)}"})
            return
        if changes and uid in self._servants:
            log.error("a service process asked for what it may not", op=request["op"], uid=uid)
            answer({"error": "not allowed for this user"})
            return
        operation(request, answer)

    def close_in_child(self) -> None:
        self._sock.close()
        for connection in self._open:
            connection.sock.close()


class _Connection:
    """One peer: reads a line, waits for the answer, writes it, closes."""

    def __init__(
        self,
        loop: Loop,
        sock: socket.socket,
        ask: Callable[[bytes, int, Answer], None],
        forget: Callable[["_Connection"], None],
    ) -> None:
        sock.setblocking(False)
        self.sock, self._loop, self._ask, self._forget = sock, loop, ask, forget
        self._uid = struct.unpack("3i", sock.getsockopt(socket.SOL_SOCKET, socket.SO_PEERCRED, 12))[1]
        self._in, self._out = bytearray(), memoryview(b"")
        self._asked = False
        self._timer: Timer = loop.after(LIFE, self.close)
        loop.watch(sock.fileno(), selectors.EVENT_READ, self._ready)

    def _ready(self, events: int) -> None:
        try:
            if events & selectors.EVENT_WRITE:
                self._write()
            else:
                self._read()
        except BlockingIOError:
            return
        except OSError:
            self.close()

    def _read(self) -> None:
        data = self.sock.recv(LONGEST)
        self._in += data
        line, end, _ = bytes(self._in).partition(b"\n")
        if end and not self._asked:
            self._asked = True
            self._loop.watch(self.sock.fileno(), 0, self._ready)
            self._ask(line, self._uid, self._answer)
        elif not data or len(self._in) > LONGEST:
            self.close()

    def _answer(self, answer: Mapping[str, Any]) -> None:
        if self.sock.fileno() >= 0:
            self._out = memoryview(json.dumps(answer).encode() + b"\n")
            self._loop.watch(self.sock.fileno(), selectors.EVENT_WRITE, self._ready)

    def _write(self) -> None:
        self._out = self._out[self.sock.send(self._out) :]
        if not self._out:
            self.close()

    def close(self) -> None:
        self._timer.cancel()
        self._forget(self)
        with contextlib.suppress(OSError):
            self._loop.watch(self.sock.fileno(), 0, self._ready)
            self.sock.close()
