"""Reading the files: at a cold start and for a reload, with what is said when they are wrong.

Contract: a cold start with broken files uses the last good ones of the same wiring file and says so loudly; without any,
ColdError carries every mistake.
"""

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import msgspec

from appliance.config import blob as blobs
from appliance.config import lastgood, where
from appliance.config import snapshot as config
from appliance.config.blob import Blob
from appliance.config.model import Wiring
from appliance.config.snapshot import ConfigError, Snapshot
from appliance.daemons.master import zones

#: Keys that bind sockets, fork processes or choose users: changing them takes a restart.
_FIXED = (
    ("gateway", "state_dir"),
    ("gateway", "drop"),
    ("logging", "target"),
    ("logging", "facility"),
    ("logging", "metrics"),
    ("limits", "smtpd"),
    ("limits", "scand"),
)
_FIXED_LISTEN = ("name", "protocol", "role", "address", "workers")
_FIXED_FRONT = ("address", "workers")


class ColdError(Exception):
    """The gateway cannot start; the text lists all that is wrong."""


class Start(msgspec.Struct, frozen=True):
    """What the gateway starts with; `problems` are said loudly and stand in status."""

    snapshot: Snapshot
    problems: tuple[str, ...] = ()


def read(path: str | None) -> tuple[Blob | None, str]:
    """All files in force, or why they cannot be read."""
    try:
        return blobs.read(path), ""
    except OSError as error:
        return None, f"{path}: {error.strerror or error}"


def build(blob: Blob, previous: Snapshot | None = None) -> tuple[Snapshot | None, str]:
    """The compiled files, or all their mistakes."""
    try:
        snapshot = config.build(blob, previous)
    except ConfigError as error:
        return None, str(error)
    wrong = zones.complaints(snapshot)
    return (None, "\n".join(map(str, wrong))) if wrong else (snapshot, "")


def start(path: str | None) -> Start:
    """What to start with. Raises ColdError."""
    blob, problem = read(path)
    if blob is not None:
        snapshot, problem = build(blob)
        if snapshot is not None:
            return Start(snapshot)
    kept = _last_good(path)
    if kept is None:
        raise ColdError(problem)
    loud = (
        f"THE FILES ON DISK ARE BROKEN; the gateway runs with the last good ones (hash {kept.hash}). "
        "Correct these and run `postgate reload`:"
    )
    return Start(kept, (loud, *problem.splitlines()))


def _last_good(path: str | None) -> Snapshot | None:
    if path is None:
        return None
    blob = lastgood.load(where.state_dir(path))
    if blob is None or blob.main != str(Path(path).absolute()):
        return None
    return build(blob)[0]


def restart_keys(old: Wiring, new: Wiring) -> list[str]:
    """The keys that differ and take effect at the next start only."""
    return list(_differing(old, new))


def _differing(old: Wiring, new: Wiring) -> Iterator[str]:
    for section, key in _FIXED:
        if _value(old, section, key) != _value(new, section, key):
            yield f"{section}.{key}"
    before, after = ({listen.name: listen for listen in wiring.listen} for wiring in (old, new))
    if list(before) != list(after):
        yield "listen (their names or number)"
    for name in before.keys() & after.keys():
        for key in _FIXED_LISTEN:
            if getattr(before[name], key) != getattr(after[name], key):
                yield f"listen.{name}.{key}"
    yield from _differing_fronts(old, new)


def _differing_fronts(old: Wiring, new: Wiring) -> Iterator[str]:
    before, after = ({(service, front.name): front for service, front in wiring.fronts()} for wiring in (old, new))
    if list(before) != list(after):
        yield "the fronts (their names or number)"
    for service, name in before.keys() & after.keys():
        for key in _FIXED_FRONT:
            if getattr(before[service, name], key) != getattr(after[service, name], key):
                yield f"{service}.{name}.{key}"


def _value(wiring: Wiring, section: str, key: str) -> Any:
    return getattr(getattr(wiring, section), key)
