"""Which process runs as whom: the service users, whether dropping to them works here, what is said about it.

Contract: `[gateway] drop = "require"` raises where users are missing or cannot reach code and state; "auto" then goes
on as one user and says in one line which separations are off; "off" never drops.
"""

import grp
import os
import pwd
import sys
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Literal

import msgspec

import appliance
from appliance.daemons import process
from appliance.daemons.master.services import GROUP, Spec
from appliance.daemons.process import Identity


class SeparationError(Exception):
    """`drop = "require"` cannot be fulfilled; the text says why and what to do."""


class Separation(msgspec.Struct, frozen=True):
    """`identities` maps a service to whom it becomes (empty: nothing is separated); `gid`: the group of the sockets;
    `note`: one line on what is off, "" if all is on."""

    identities: Mapping[str, Identity]
    gid: int | None
    note: str


def plan(mode: Literal["auto", "require", "off"], specs: Iterable[Spec], state_dir: Path) -> Separation:
    """What is done here. `state_dir` may not exist yet. Raises SeparationError."""
    if mode == "off":
        return Separation({}, None, _off('[gateway] drop = "off"', ""))
    identities, why, advice = _found({spec.name: spec.user for spec in specs}, state_dir)
    if not why:
        return Separation(identities, grp.getgrnam(GROUP).gr_gid, "")
    if mode == "require":
        raise SeparationError(f'[gateway] drop = "require", but {why}; {advice}')
    return Separation({}, None, _off(why, advice))


def _off(why: str, advice: str) -> str:
    who = pwd.getpwuid(os.getuid()).pw_name if _known(os.getuid()) else str(os.getuid())
    more = f"; to switch on: {advice}" if advice else ""
    return f"separation of users is off, all processes run as {who}: {why}{more}"


def _known(uid: int) -> bool:
    try:
        pwd.getpwuid(uid)
    except KeyError:
        return False
    return True


def _found(users: Mapping[str, str], state_dir: Path) -> tuple[dict[str, Identity], str, str]:
    """(identities, why not, what to do)."""
    if os.getuid() != 0:
        return {}, "not started as root", "start as root (or by the systemd unit)"
    identities, missing = {}, []
    for service, user in users.items():
        try:
            entry, group = pwd.getpwnam(user), grp.getgrnam(GROUP)
        except KeyError:
            missing.append(user)
            continue
        identities[service] = Identity(user, entry.pw_uid, group.gr_gid)
    if missing:
        return {}, f"no such users: {', '.join(missing)}", "run once as root: postgate install-users"
    return identities, *_reach(identities.values(), state_dir)


def _reach(identities: Iterable[Identity], state_dir: Path) -> tuple[str, str]:
    for identity in identities:
        for path in needed(state_dir):
            if not reaches(identity, path):
                return f"user {identity.user} cannot reach {path}", f"let group {GROUP} pass through the folders above it"
    return "", ""


def needed(state_dir: Path) -> list[Path]:
    """Code, libraries, and what is there of the state folder's parents."""
    there = next(parent for parent in (state_dir, *state_dir.parents) if parent.exists())
    libraries = Path(msgspec.__file__)
    return [Path(appliance.__file__), libraries, Path(os.__file__), Path(sys.executable), there]


def reaches(identity: Identity, path: Path) -> bool:
    """Whether a process that became `identity` may read `path` (a folder: pass through it); tried by one."""
    pid = os.fork()
    if pid == 0:
        status = 1
        try:
            process.drop(identity)
            status = 0 if os.access(path, os.X_OK if path.is_dir() else os.R_OK) else 1
        finally:
            os._exit(status)
    return os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]) == 0
