"""The state folder: made with its owners, locked against a second instance.

Contract: one instance a state folder (threats Q10): `lock` raises StateError with what to do. The lock's descriptor is
inherited by the children, so that no second gateway starts while an old delivery process still lives.
"""

import fcntl
import os
import time
from pathlib import Path

from appliance.daemons.master.separation import Separation

#: Folder: (service that owns it, mode where users are separated).
FOLDERS = {
    "spool": "delivery",
    "stores": "stated",
    "journal": "journal",
    "inbox": "inbox",
    "milter": "milterd",
    "scans": "runner",
    "recipients": "syncd",
}


class StateError(Exception):
    """The state folder cannot be used; the text says why and what to do."""


def make(state_dir: Path, separation: Separation) -> None:
    """Make what is missing and set owners and modes. The group passes through the folder, each service owns its own."""
    try:
        _folder(state_dir, 0o750, 0, separation.gid)
        _folder(state_dir / "run", 0o750, 0, separation.gid)
        for name, service in FOLDERS.items():
            owner = separation.identities.get(service)
            _folder(state_dir / name, 0o700, owner.uid if owner else 0, separation.gid)
    except OSError as error:
        raise StateError(
            f"cannot make the state folder {error.filename or state_dir}: {error.strerror}; "
            "make it by hand, or name another one in [gateway] state_dir"
        ) from error


def _folder(path: Path, mode: int, uid: int, gid: int | None) -> None:
    """Without separation: ours, for us alone. A service's folder becomes ours then: what root writes into it meanwhile
    goes to the service with the folder when separation is on again."""
    fresh = not path.exists()
    path.mkdir(parents=True, exist_ok=True)
    now = path.stat()
    if gid is None:
        if fresh:
            path.chmod(mode & 0o700)
        elif os.geteuid() == 0 != now.st_uid:
            os.chown(path, 0, -1)
        return
    if (now.st_uid, now.st_gid) != (uid, gid):
        _give(path, uid, gid)
    path.chmod(mode)


def _give(path: Path, uid: int, gid: int) -> None:
    """A service's folder goes over with what is in it (separation was switched on later); links are not followed."""
    os.chown(path, uid, gid)
    inside = path.rglob("*") if path.name in FOLDERS else ()
    for item in inside:
        os.chown(item, uid, gid, follow_symlinks=False)


def lock(state_dir: Path, patience: float = 3.0) -> int:
    """Take the lock; its descriptor (keep it open). A predecessor that is just dying is waited for."""
    path = state_dir / "lock"
    fd = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC | os.O_NOFOLLOW, 0o640)
    deadline = time.monotonic() + patience
    while True:
        try:
            fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
            break
        except BlockingIOError:
            if time.monotonic() > deadline:
                owner = os.pread(fd, 32, 0).decode("ascii", "replace").strip() or "unknown"
                os.close(fd)
                raise StateError(
                    f"{state_dir}: another gateway runs on this state folder already (master process {owner}); "
                    "stop it with `postgate stop`, or name another [gateway] state_dir"
                ) from None
            time.sleep(0.05)
    os.ftruncate(fd, 0)
    os.pwrite(fd, f"{os.getpid()}\n".encode(), 0)
    return fd
