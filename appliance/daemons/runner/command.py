"""One run of a program over one content: started restricted, watched, ended with all that it started.

Contract: `run` gives exit code (negative: the signal that killed it) and the first MAX_OUTPUT octets of what it wrote. It
ends when the program does; cancelled or late, the whole process group is killed first. What failure means for the mail:
OSError and TimeoutError are "not scanned".
"""

import asyncio
import contextlib
import os
import signal
import sys
from collections.abc import Sequence
from pathlib import Path

import msgspec

from appliance.daemons.runner import launch, strays

MAX_OUTPUT = 65536
#: Octets that a program may write into one file: unpacked members of an archive.
MAX_FILE = 2 << 30
#: Seconds behind the program's end for its output to end.
GRACE = 2.0
_LAUNCH = launch.__file__


class Limits(msgspec.Struct, frozen=True):
    """Seconds of clock and CPU; octets of memory, 0 = any; octets of a file; processes beyond those of our user."""

    seconds: float
    memory: int = 0
    file: int = MAX_FILE
    processes: int = 200


async def run(argv: Sequence[str], folder: Path, stdin: int, limits: Limits, stdout: int = -1) -> tuple[int, bytes]:
    """`folder`: where it works and may write; `stdin`: its standard input; `stdout`: where that goes, if it is no output
    to look at. Raises TimeoutError, OSError."""
    home, output = os.fsencode(folder), _Output()
    strays.RUNS.folders.add(home)
    try:
        process = await _started(argv, folder, (stdin, stdout, output.end), limits)
        output.begin()
        strays.RUNS.pids.add(process.pid)
        try:
            return await _watched(process, limits.seconds), await output.whole()
        finally:
            strays.RUNS.pids.discard(process.pid)
    finally:
        output.close()
        strays.RUNS.folders.discard(home)
        await strays.sweep()


async def _started(
    argv: Sequence[str], folder: Path, streams: tuple[int, int, int], limits: Limits
) -> asyncio.subprocess.Process:
    bounds = (os.getpid(), int(limits.seconds) + 1, limits.memory, limits.file, limits.processes)
    stdin, stdout, told = streams
    strays.RUNS.starting += 1
    try:
        return await asyncio.create_subprocess_exec(
            sys.executable, "-I", "-S", _LAUNCH, *map(str, bounds), "--", *argv,
            stdin=stdin, stdout=stdout if stdout >= 0 else told, stderr=told,
            cwd=folder, env=environment(folder), start_new_session=True,
        )  # fmt: skip
    finally:
        strays.RUNS.starting -= 1


async def _watched(process: asyncio.subprocess.Process, seconds: float) -> int:
    """Its exit code; it does not run any more then, nor does its group."""
    try:
        async with asyncio.timeout(seconds):
            return await process.wait()
    finally:
        _kill(process.pid)
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(GRACE):
                await process.wait()


def environment(folder: Path) -> dict[str, str]:
    """All that a program knows of us."""
    path = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"
    return {"PATH": path, "LANG": "C.UTF-8", "HOME": str(folder), "TMPDIR": str(folder)}


def _kill(pid: int) -> None:
    """The program and all that it left running in its session's group."""
    with contextlib.suppress(ProcessLookupError, PermissionError):
        os.killpg(pid, signal.SIGKILL)


class _Output:
    """A pipe, read as it fills: the first MAX_OUTPUT octets are kept, the rest is dropped, so that nobody waits for room
    in it. It ends with the last process that has it, which may be long behind the program. `end`: where it is written.
    """

    def __init__(self) -> None:
        self._loop = asyncio.get_running_loop()
        self._fd, self.end = os.pipe2(os.O_CLOEXEC)
        os.set_blocking(self._fd, False)
        self._kept = b""
        self._ended = asyncio.Event()

    def begin(self) -> None:
        """It is the program's now."""
        self._close_end()
        self._loop.add_reader(self._fd, self._read)

    def _read(self) -> None:
        try:
            data = os.read(self._fd, 65536)
        except BlockingIOError:
            return
        self._kept += data[: MAX_OUTPUT - len(self._kept)]
        if not data:
            self._loop.remove_reader(self._fd)
            self._ended.set()

    async def whole(self) -> bytes:
        """What there is when it ended, or has not within GRACE."""
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(GRACE):
                await self._ended.wait()
        return self._kept

    def _close_end(self) -> None:
        if self.end >= 0:
            os.close(self.end)
            self.end = -1

    def close(self) -> None:
        self._close_end()
        self._loop.remove_reader(self._fd)
        os.close(self._fd)
