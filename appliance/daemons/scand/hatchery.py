"""The dispatcher's side of the nursery: starts it, again if it dies, and runs one job in it at a time per slot.

Contract: `run` calls back exactly once for each job, with a Report or with why there is none. What failure means for
the mail: a nursery that dies fails the jobs under way, and is there again a moment later.
"""

import asyncio
import contextlib
import os
import signal
import socket
import subprocess
import sys
from collections.abc import Callable, Mapping, Sequence

import msgspec

from appliance.mail.inspection import Job, Report, decode_report
from appliance.observe import oplog
from appliance.protocol.mime import LIMITS

log = oplog.get("scand")
#: Without the collector while it loads: there is no garbage yet.
_MAIN = "import gc; gc.disable(); from appliance.daemons.scand.nursery import main; main()"
#: Octets of a report.
_MOST = 8 << 20
_PACKET = 4096
_HINT = "they become machine code: under systemd set MemoryDenyWriteExecute=no in a drop-in"
#: The number of a packet with rules (nursery.RULES).
_RULES = 0
#: Seconds before a nursery that died is started again, and behind a child's time until we stop to wait for its end.
AGAIN, BEHIND = 0.5, 3.0

Done = Callable[[Report | None, str], None]
_encode = msgspec.msgpack.Encoder().encode
_decode_end = msgspec.msgpack.Decoder(tuple[int, int, bool]).decode
_decode_trial = msgspec.msgpack.Decoder(tuple[str, ...]).decode


class _Reading:
    """One child: its pipe, what came out of it, and who waits."""

    def __init__(self, pipe: int, done: Done) -> None:
        self.pipe, self.done = pipe, done
        self.data = b""
        self.timer: asyncio.TimerHandle | None = None


class Hatchery:
    """Use it on its loop: start(), then run(). `on_ready` is called whenever the nursery begins to serve."""

    def __init__(self, on_ready: Callable[[], None]) -> None:
        self._on_ready = on_ready
        self._loop = asyncio.get_running_loop()
        self._sock: socket.socket | None = None
        self._process: subprocess.Popen[bytes] | None = None
        self._readings: dict[int, _Reading] = {}
        self._numbers = 0
        self._ended = False
        self.ready = asyncio.Event()
        #: What a child cannot do ("network", "files", "processes"), as it was tried.
        self.refused: tuple[str, ...] = ()
        self.restarts = 0
        self._rules = b""
        #: Whether the nursery has the YARA rules that it was given.
        self.rules_in_force = True

    @property
    def running(self) -> int:
        return len(self._readings)

    def start(self) -> None:
        """Start the nursery; `ready` is set when it serves. Raises OSError."""
        ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        ours.setblocking(False)
        argv = [sys.executable, "-P", "-c", _MAIN, str(theirs.fileno()), str(os.getpid())]
        keep = {name: value for name, value in os.environ.items() if name in ("PYTHONPATH", "PATH", "LANG", "LC_ALL")}
        with theirs:
            try:
                self._process = subprocess.Popen(  # noqa: S603 - our own interpreter and module
                    argv, stdin=subprocess.DEVNULL, pass_fds=(theirs.fileno(),), env=keep
                )
            except OSError:
                ours.close()
                raise
        self._sock = ours
        self._loop.add_reader(ours.fileno(), self._readable)

    def rules(self, files: Mapping[str, bytes]) -> None:
        """YARA rules for all jobs from now on; a nursery that is started again gets them, too."""
        encoded = _encode(dict(files))
        if encoded != self._rules:
            self._rules = encoded
            if self.ready.is_set():
                self._send_rules()

    def _send_rules(self) -> None:
        assert self._sock is not None
        fd = os.memfd_create("rules", os.MFD_CLOEXEC)
        try:
            view = memoryview(self._rules)
            while view:
                view = view[os.write(fd, view) :]
            packet = (_RULES, 0, len(self._rules), 0.0, LIMITS, 0)
            socket.send_fds(self._sock, [_encode(packet)], [fd])
        except OSError as error:
            self.rules_in_force = False
            log.error("the reading process takes no rules", why=error.strerror)
        finally:
            os.close(fd)

    def run(self, job: Job, fds: Sequence[int], seconds: float, done: Done) -> None:
        """Have `job` read from the descriptors (they stay the caller's): content, and memory if there is room."""
        if self._sock is None:
            done(None, "the reading process is not there")
            return
        self._numbers += 1
        number, packet = self._numbers, (self._numbers, job.offset, job.size, seconds, job.limits, job.room)
        pipe, end = os.pipe2(os.O_CLOEXEC | os.O_NONBLOCK)
        os.set_blocking(end, True)
        try:
            socket.send_fds(self._sock, [_encode(packet)], [end, *fds])
        except OSError as error:
            os.close(pipe)
            done(None, f"the reading process takes no job: {error.strerror}")
            return
        finally:
            os.close(end)
        reading = self._readings[number] = _Reading(pipe, done)
        reading.timer = self._loop.call_later(seconds + BEHIND, self._end, number, "it does not end")
        self._loop.add_reader(pipe, self._collect, reading)

    def _collect(self, reading: _Reading) -> None:
        """What the child wrote so far."""
        with contextlib.suppress(BlockingIOError):
            while data := os.read(reading.pipe, 65536):
                reading.data += data[: _MOST + 1 - len(reading.data)]
            self._loop.remove_reader(reading.pipe)

    def _readable(self) -> None:
        assert self._sock is not None
        try:
            packet = self._sock.recv(_PACKET)
        except BlockingIOError:
            return
        except OSError:
            packet = b""
        if not packet:
            self._died()
        elif not self.ready.is_set():
            self.refused = _decode_trial(packet)
            if self._rules:
                self._send_rules()
            self.ready.set()
            self._on_ready()
        else:
            number, status, late = _decode_end(packet)
            if number == _RULES:
                self.rules_in_force = status == 0
                if status:
                    log.error("the YARA rules are not in force: the reading process cannot compile them", hint=_HINT)
                return
            self._end(number, "it took too long" if late else _words(status))

    def _end(self, number: int, why: str) -> None:
        """The child is gone: what it wrote counts only if it ended well."""
        reading = self._readings.pop(number, None)
        if reading is None:
            return
        if reading.timer is not None:
            reading.timer.cancel()
        self._collect(reading)
        self._loop.remove_reader(reading.pipe)
        os.close(reading.pipe)
        report: Report | None = None
        if not why:
            try:
                report = decode_report(reading.data)
            except msgspec.DecodeError as error:
                why = f"it answered rubbish: {error}"
        reading.done(report, f"reading the message failed: {why}" if report is None else "")

    def _died(self) -> None:
        self._close()
        for number in list(self._readings):
            self._end(number, "the reading process died")
        if not self._ended:
            self.restarts += 1
            log.error("the nursery died, starting it again", restarts=self.restarts)
            self._loop.call_later(AGAIN, self._again)

    def _again(self) -> None:
        if self._ended:
            return
        try:
            self.start()
        except OSError as error:
            log.error("cannot start the nursery", why=error.strerror)
            self._loop.call_later(AGAIN, self._again)

    def _close(self) -> None:
        self.ready.clear()
        sock, self._sock = self._sock, None
        if sock is not None:
            self._loop.remove_reader(sock.fileno())
            sock.close()
        child, self._process = self._process, None
        if child is not None:
            child.kill()
            child.wait()

    def stop(self) -> None:
        """End the nursery and all children; jobs under way fail."""
        self._ended = True
        self._died()


def _words(status: int) -> str:
    """How a child ended, "" if well."""
    return "" if status == 0 else f"killed by {signal.Signals(-status).name}" if status < 0 else f"status {status}"
