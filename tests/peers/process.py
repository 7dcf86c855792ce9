"""A program started by a test: in a process group of its own, ended with it, its output kept in a file."""

import contextlib
import os
import signal
import subprocess
import time
from collections.abc import Mapping, Sequence
from pathlib import Path


def reachable(folder: Path) -> None:
    """Let other users walk through the parents of a test's folder (pytest makes them 0700)."""
    for parent in folder.parents:
        mode = parent.stat().st_mode
        if not mode & 0o001:
            parent.chmod(mode & 0o7777 | 0o011)


def stand_still(*pids: int) -> None:
    """SIGSTOP, and they stand: a thread of a busy machine runs on for a while behind the signal, and might answer."""
    for pid in pids:
        with contextlib.suppress(ProcessLookupError):
            os.kill(pid, signal.SIGSTOP)
    until = time.monotonic() + 10
    while not all(map(_stands, pids)):
        assert time.monotonic() < until, f"{pids} do not stand still"
        time.sleep(0.001)


def _stands(pid: int) -> bool:
    """All its threads; who is dead stands as well."""
    with contextlib.suppress(FileNotFoundError, ProcessLookupError):
        for task in Path(f"/proc/{pid}/task").iterdir():
            if (task / "stat").read_text().rpartition(")")[2].split()[0] not in "TtZX":
                return False
    return True


class Process:
    """One running program. `log` is the file that takes its stdout and stderr."""

    def __init__(self, argv: Sequence[str], log: Path, env: Mapping[str, str] | None = None, **more: object) -> None:
        self.argv, self.log = list(argv), log
        self._sink = log.open("ab")
        self.popen = subprocess.Popen(  # type: ignore[call-overload]
            self.argv,
            stdin=subprocess.DEVNULL,
            stdout=self._sink,
            stderr=subprocess.STDOUT,
            env={**os.environ, **(env or {})},
            start_new_session=True,
            **more,
        )

    @property
    def pid(self) -> int:
        return self.popen.pid

    def output(self) -> str:
        return self.log.read_text(errors="replace")

    def running(self) -> bool:
        return self.popen.poll() is None

    def signal(self, number: int) -> None:
        with contextlib.suppress(ProcessLookupError):
            self.popen.send_signal(number)

    def signal_group(self, number: int) -> None:
        with contextlib.suppress(ProcessLookupError, PermissionError):
            os.killpg(self.pid, number)

    def stop(self, seconds: float = 15.0) -> int:
        """SIGTERM, then SIGKILL to the whole group; the exit status."""
        self.signal(signal.SIGTERM)
        try:
            return self.popen.wait(seconds)
        except subprocess.TimeoutExpired:
            self.signal_group(signal.SIGKILL)
            return self.popen.wait(5)
        finally:
            self.signal_group(signal.SIGKILL)
            self._sink.close()
