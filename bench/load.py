"""Postfix's own load tools as processes: smtp-source sends, smtp-sink takes and counts."""

import re
import shutil
import subprocess
import threading
import time
from pathlib import Path

from tests.peers.ports import free_port, greets, wait_for
from tests.peers.process import Process

SOURCE = "/usr/sbin/smtp-source"
SINK = "/usr/sbin/smtp-sink"


def available() -> bool:
    return shutil.which(SOURCE) is not None


class Sink:
    """smtp-sink with its running counters read, so that "delivered" is seen at the receiving end."""

    def __init__(self) -> None:
        self.port = free_port()
        self.messages = 0
        self._changed = threading.Condition()
        self._popen = subprocess.Popen(
            ["stdbuf", "-o0", SINK, "-u", "nobody", "-c", f"127.0.0.1:{self.port}", "1000"],
            stdout=subprocess.PIPE,
            stderr=subprocess.DEVNULL,
        )
        threading.Thread(target=self._read, daemon=True).start()
        wait_for(lambda: greets(self.port), 10, "smtp-sink")

    def _read(self) -> None:
        assert self._popen.stdout
        text = b""
        while data := self._popen.stdout.read1(65536):  # type: ignore[attr-defined]
            text = (text + data)[-200:]
            if found := re.findall(rb"mesg=(\d+)", text):
                with self._changed:
                    self.messages = int(found[-1])
                    self._changed.notify_all()

    def wait(self, count: int, seconds: float) -> None:
        with self._changed:
            if not self._changed.wait_for(lambda: self.messages >= count, seconds):
                raise TimeoutError(f"smtp-sink has {self.messages} of {count} messages after {seconds:g} s")

    def stop(self) -> None:
        self._popen.terminate()
        self._popen.wait(10)


def send(port: int, count: int, size: int, sessions: int = 20, keep: bool = False) -> float:
    """Seconds that smtp-source needs to hand over `count` messages of `size` octets, each with its own Message-Id;
    `keep` sends them over kept connections instead of a new one for each."""
    argv = [SOURCE, "-s", str(sessions), "-m", str(count), "-l", str(size)]
    argv += ["-f", "sender@example.org", "-t", "user@example.com", "-M", "source.example.org"]
    argv += ["-d"] if keep else []
    began = time.monotonic()
    source = subprocess.Popen([*argv, f"127.0.0.1:{port}"])
    bound = threading.Timer(600, source.kill)
    bound.start()
    status = source.wait()  # without a timeout: that would poll in steps of 50 ms
    seconds = time.monotonic() - began
    bound.cancel()
    if status:
        raise RuntimeError(f"smtp-source ended with {status}")
    return seconds


class AiosmtpdDiscard:
    """Stock aiosmtpd with its Sink handler: the peer of intake alone."""

    def __init__(self, root: Path) -> None:
        import sys

        self.port = free_port()
        argv = [sys.executable, "-m", "aiosmtpd", "-n", "-c", "aiosmtpd.handlers.Sink", "-l", f"127.0.0.1:{self.port}"]
        self.process = Process(argv, root / "aiosmtpd.log")
        wait_for(lambda: greets(self.port), 20, "aiosmtpd")

    def stop(self) -> None:
        self.process.stop()
