"""The slim process that forks a child for every message, and sees to it that each one ends.

Contract: started by exec with one end of a SEQPACKET socket pair as its only descriptor besides stdio; dies with its
parent. A packet in is (number, offset, size, seconds, limits, room) with descriptors: where the report goes (msgpack),
content, and memory of `room` octets if there is room; number 0 brings YARA rules instead. For every packet a packet
out: (number, exit status, killed for its time or not). It decodes no content, and believes its children nothing. What
failure means for the mail: see the package.
"""

import gc
import mmap
import os
import select
import signal
import socket
import sys
import time
from typing import Any, NamedTuple, NoReturn

import msgspec
import setproctitle

from appliance.daemons import process
from appliance.daemons.scand import confine, reader, yara
from appliance.protocol import mime

_PACKET = 4096
encode = msgspec.msgpack.Encoder().encode
Packet = tuple[int, int, int, float, mime.Limits, int]
decode = msgspec.msgpack.Decoder(Packet).decode
#: A packet with this number brings YARA rules: file name to octets, in the descriptor.
RULES = 0
decode_rules = msgspec.msgpack.Decoder(dict[str, bytes]).decode


class Child(NamedTuple):
    """One child: the job's number, and until when it may live (monotonic)."""

    number: int
    until: float


class Nursery:
    """Serves one socket until its other end is closed."""

    def __init__(self, sock: socket.socket) -> None:
        self._sock = sock
        self._children: dict[int, Child] = {}
        self._late: set[int] = set()
        self._wake, self._woken = os.pipe2(os.O_CLOEXEC | os.O_NONBLOCK)

    def run(self) -> None:
        """Returns when nobody wants anything any more."""
        signal.signal(signal.SIGCHLD, lambda *_: None)
        signal.set_wakeup_fd(self._woken, warn_on_full_buffer=False)
        poll = select.poll()
        poll.register(self._sock, select.POLLIN)
        poll.register(self._wake, select.POLLIN)
        while True:
            ready = dict(poll.poll(self._pause()))
            if self._wake in ready:
                os.read(self._wake, _PACKET)
            self._reap()
            self._kill()
            if self._sock.fileno() in ready and not self._take():
                return

    def _pause(self) -> float | None:
        """Milliseconds until the next child's time is up."""
        if not self._children:
            return None
        return max(0.0, min(child.until for child in self._children.values()) - time.monotonic()) * 1000 + 1

    def _take(self) -> bool:
        """One packet; False at the end of the stream."""
        try:
            packet, fds, _, _ = socket.recv_fds(self._sock, _PACKET, 4)
        except ConnectionResetError:  # the dispatcher was killed with something of ours unread
            return False
        if not packet:
            return False
        job = decode(packet)
        if job[0] == RULES:
            self._load(fds[0], job[2])
            return True
        parent = os.getpid()
        pid = os.fork()
        if pid == 0:
            _read(self._sock, fds, job, parent)
        for fd in fds:
            os.close(fd)
        self._children[pid] = Child(job[0], time.monotonic() + job[3])
        return True

    def _load(self, fd: int, size: int) -> None:
        """YARA rules that count for children from now on."""
        status = 0
        try:
            yara.load(decode_rules(os.pread(fd, size, 0)))
        except Exception:  # whatever it is: rules that are not in force are said to be so
            status = 1
        finally:
            os.close(fd)
        gc.freeze()
        self._sock.send(encode((RULES, status, False)))

    def _reap(self) -> None:
        while self._children:
            pid, status = os.waitpid(-1, os.WNOHANG)
            if pid == 0:
                return
            child = self._children.pop(pid)
            report = child.number, os.waitstatus_to_exitcode(status), pid in self._late
            self._late.discard(pid)
            self._sock.send(encode(report))

    def _kill(self) -> None:
        now = time.monotonic()
        for pid, child in self._children.items():
            if child.until <= now and pid not in self._late:
                self._late.add(pid)
                os.kill(pid, signal.SIGKILL)
        for pid in self._late & self._children.keys():
            self._children[pid] = self._children[pid]._replace(until=now + 1.0)


def _read(sock: socket.socket, fds: list[int], job: Packet, parent: int) -> NoReturn:
    """The whole life of a child."""
    status = 1
    _, offset, size, seconds, limits, room = job
    try:
        signal.set_wakeup_fd(-1)
        signal.signal(signal.SIGCHLD, signal.SIG_DFL)
        sock.close()
        data: Any = mmap.mmap(fds[1], offset + size, mmap.MAP_PRIVATE, mmap.PROT_READ) if size else b""
        kept = mmap.mmap(fds[2], room) if room else None
        process.seal(parent)
        reader.arm(seconds)
        confine.child(offset + size + room, seconds)
        answer = memoryview(encode(reader.read(data, offset if size else 0, limits, kept, seconds)))
        while answer:
            answer = answer[os.write(fds[0], answer) :]
        status = 0
    finally:
        os._exit(status)


def main() -> None:
    """argv: descriptor, the parent's process id."""
    process.seal(int(sys.argv[2]))
    setproctitle.setproctitle("postgate: scand.nursery")
    sock = socket.socket(fileno=int(sys.argv[1]))
    reader.warm()
    confine.nursery()
    gc.freeze()
    gc.enable()
    sock.send(encode(confine.trial()))
    Nursery(sock).run()
