"""What programs leave running: processes that went into sessions of their own, where no signal to the group reaches them.

Contract: a process that starts nothing else adopts the orphans of its programs (`adopt`); `sweep` ends those that belong
to no run that is under way, and all that they started. A run is known by its folder, which stands in the environment of
its processes. What failure means for the mail: none; what cannot be ended is told, and tried again behind the next run.
"""

import asyncio
import contextlib
import ctypes
import os
import signal
from collections.abc import Iterator
from pathlib import Path

from appliance.observe import oplog

log = oplog.get("runner")
_SUBREAPER = 36
#: Rounds of one sweep (each reaches the children of those that the one before ended), seconds between them.
_ROUNDS, _PAUSE = 200, 0.005


class Runs:
    """Programs that run: their folders, and their processes' ids where they are known yet."""

    def __init__(self) -> None:
        self.folders: set[bytes] = set()
        self.pids: set[int] = set()
        #: Starts under way: a child whose id nobody knows yet may be one of ours.
        self.starting = 0
        #: Are all children of this process programs, or what they left?
        self.adopting = False


RUNS = Runs()


def adopt() -> None:
    """Orphans of what this process starts become its children (Linux)."""
    RUNS.adopting = True
    with contextlib.suppress(OSError, AttributeError):
        ctypes.CDLL(None, use_errno=True).prctl(_SUBREAPER, 1, 0, 0, 0)


async def sweep() -> None:
    """End what belongs to nobody."""
    if not RUNS.adopting:
        return
    ended = 0
    for _ in range(_ROUNDS):
        strays = [] if RUNS.starting else [pid for pid in _children() if pid not in RUNS.pids and not _runs(pid)]
        if not strays and not RUNS.starting:
            break
        ended += sum(_end(pid) for pid in strays)
        await asyncio.sleep(_PAUSE)
    else:
        log.error("processes that a program left cannot be ended, this is tried again", pids=str(_children())[:200])
    if ended:
        log.warning("processes that a program left running were ended", count=ended)


def end_leftovers(root: Path) -> int:
    """End what an earlier life of the runner left: processes of our user whose folder was below `root`; how many."""
    mark, found = b"HOME=" + os.fsencode(root) + b"/", 0
    for entry in os.scandir("/proc"):
        if entry.name.isdecimal() and mark in _environ(int(entry.name)):
            with contextlib.suppress(ProcessLookupError, PermissionError):
                os.kill(int(entry.name), signal.SIGKILL)
                found += 1
    return found


def _end(pid: int) -> bool:
    """Kill it, and collect what is left; True if it was running."""
    state = _status(pid)
    with contextlib.suppress(ProcessLookupError, PermissionError):
        os.kill(pid, signal.SIGKILL)
    with contextlib.suppress(ChildProcessError):
        os.waitpid(pid, os.WNOHANG)
    return state not in ("", "Z")


def _children() -> list[int]:
    return list(_listed())


def _listed() -> Iterator[int]:
    for task in os.scandir("/proc/self/task"):
        with contextlib.suppress(OSError):
            yield from map(int, Path(task.path, "children").read_text().split())


def _runs(pid: int) -> bool:
    """Does it belong to a run that is under way?"""
    environ = _environ(pid)
    return any(b"HOME=" + folder in environ for folder in RUNS.folders)


def _environ(pid: int) -> bytes:
    try:
        return Path(f"/proc/{pid}/environ").read_bytes()
    except OSError:
        return b""


def _status(pid: int) -> str:
    """The letter of its state, "" if it is gone."""
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(") ")[2][:1]
    except OSError:
        return ""
