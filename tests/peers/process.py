"""A program started by a test: in a process group of its own, ended with it, its output kept in a file."""

import contextlib
import os
import signal
import subprocess
from collections.abc import Mapping, Sequence
from pathlib import Path


def reachable(folder: Path) -> None:
    """Let other users walk through the parents of a test's folder (pytest makes them 0700)."""
    for parent in folder.parents:
        mode = parent.stat().st_mode
        if not mode & 0o001:
            parent.chmod(mode & 0o7777 | 0o011)


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
