"""The folder of the queue: made at the first start, and locked for one process.

Contract: who holds the lock owns everything below; it is free when that process is gone, however it ended.
What failure means for the mail: nothing is taken or sent; SpoolLocked says that another instance runs.
"""

import fcntl
import os
from pathlib import Path

from appliance.queue import disk
from appliance.queue.errors import SpoolLocked, from_oserror

FOLDERS = ("intake", "deferred", "hold", "quarantine", "corrupt")


def own(root: Path) -> int:
    """Make `root` and its folders, durably, and take the lock: the descriptor that holds it. Raises SpoolLocked or
    SpoolError."""
    try:
        root.mkdir(mode=0o700, parents=True, exist_ok=True)
        lock = os.open(root / "lock", os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError as error:
            os.close(lock)
            raise SpoolLocked(f"another instance uses the spool {root}: stop it first") from error
        for folder in FOLDERS:
            (root / folder).mkdir(mode=0o700, exist_ok=True)
        disk.sync_folder(root)
    except OSError as error:
        raise from_oserror(error) from error
    return lock
