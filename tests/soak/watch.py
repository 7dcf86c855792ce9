"""What the gateway's processes hold, looked at from outside."""

import os
import re
from collections import Counter
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path
from typing import Any, NamedTuple

from appliance.queue import granted

PAGE = os.sysconf("SC_PAGE_SIZE")


#: Read only.
NO_NAMES: Counter[str] = Counter()


class Held(NamedTuple):
    """Of one process: open descriptors, tasks of its loop, sockets in use, megabytes of memory. Files of the intake
    that delivery makes ahead of time are not counted, as many as it may: their number goes up and down by half."""

    descriptors: int
    tasks: int
    sockets: int
    memory: float
    names: Counter[str] = NO_NAMES


def held(status: Any, master: int) -> dict[str, Held]:
    """By worker, and of the master; those between two lives are left out."""
    processes = {worker["worker"]: (worker["pid"], worker["health"].get("tasks", 0)) for worker in status["workers"]}
    found = {}
    for name, (pid, tasks) in {"master": (master, 0), **processes}.items():
        try:
            links = list(_links(pid))
            memory = int(Path(f"/proc/{pid}/statm").read_text().split()[1]) * PAGE / 1e6
        except OSError:
            continue
        sockets = sum(link.startswith("socket:") for link in links)
        names = Counter(re.sub(r"\d+", "N", link) for link in links)
        found[name] = Held(len(links) - _ahead(name, links), tasks, sockets, memory, names)
    return found


def _ahead(name: str, links: list[str]) -> int:
    """How many of its descriptors are files at hand for the workers."""
    if not name.startswith("delivery."):
        return 0
    return min(sum("/spool/intake/" in link for link in links), sum(granted.POOL.values()))


def _links(pid: int) -> Iterator[str]:
    """What its descriptors are; those that are closed meanwhile are none."""
    for name in os.listdir(f"/proc/{pid}/fd"):
        with suppress(FileNotFoundError):
            yield os.readlink(f"/proc/{pid}/fd/{name}")


class Room(NamedTuple):
    """How much more than before counts as a leak."""

    descriptors: int = 12
    tasks: int = 6
    sockets: int = 12
    memory: float = 40.0
    share: float = 1.3


ROOM = Room()


def grown(before: dict[str, Held], after: dict[str, Held], room: Room = ROOM) -> dict[str, str]:
    """Who holds more than he did, in words."""
    found = {}
    for name, was in before.items():
        now = after.get(name)
        if now is None:
            found[name] = "is gone"
            continue
        more = [
            f"{what} {old} -> {new}"
            for what, old, new, allowed in zip(Held._fields[:3], was[:3], now[:3], room[:3], strict=True)
            if new > old + allowed
        ]
        if now.memory > was.memory * room.share + room.memory:
            more.append(f"memory {was.memory:.0f} -> {now.memory:.0f} MB")
        if now.descriptors > was.descriptors + room.descriptors:
            more.append(f"these: {dict((now.names - was.names).most_common(3))}")
        if more:
            found[name] = ", ".join(more)
    return found
