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

from appliance.daemons.runner import launch

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
    bounds = (os.getpid(), int(limits.seconds) + 1, limits.memory, limits.file, limits.processes)
    to_file = stdout >= 0
    process = await asyncio.create_subprocess_exec(
        sys.executable, "-I", "-S", _LAUNCH, *map(str, bounds), "--", *argv,
        stdin=stdin, stdout=stdout if to_file else asyncio.subprocess.PIPE,
        stderr=asyncio.subprocess.PIPE if to_file else asyncio.subprocess.STDOUT,
        cwd=folder, env=environment(folder), start_new_session=True,
    )  # fmt: skip
    stream = process.stderr if to_file else process.stdout
    assert stream
    reading = asyncio.get_running_loop().create_task(_output(stream))
    try:
        async with asyncio.timeout(limits.seconds):
            code = await process.wait()
        _kill(process.pid)
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(GRACE):
                await asyncio.shield(reading)
        return code, bytes(reading.result() if reading.done() else b"")
    finally:
        _kill(process.pid)
        reading.cancel()
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


async def _output(stream: asyncio.StreamReader) -> bytes:
    """The first MAX_OUTPUT octets; the rest is read and dropped, so that nobody waits for room in a pipe."""
    kept = b""
    while data := await stream.read(65536):
        kept += data[: MAX_OUTPUT - len(kept)]
    return kept
