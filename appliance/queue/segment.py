"""A granted file that takes many small messages: written in batches, each synced as one.

Contract: `write_synced` returns when everything is on disk, or takes back what it wrote and raises OSError. What failure
means for the mail: the file is given up at its last good end; what stands behind it is never delivered.
"""

import contextlib
import errno
import os

from appliance.queue.entry import salt_of

SEGMENT_OCTETS = 16 * 1024 * 1024
SEGMENT_ENTRIES = 5000


class Segment:
    def __init__(self, name: str, fd: int) -> None:
        self.name, self.fd, self.salt = name, fd, salt_of(name)
        self.end = self.entries = 0

    @property
    def full(self) -> bool:
        return self.end >= SEGMENT_OCTETS or self.entries >= SEGMENT_ENTRIES


def write_synced(fd: int, buffers: list[bytes], offset: int) -> None:
    """Write all buffers at `offset` and sync; on an error take back what was written, then raise OSError."""
    try:
        written = os.pwritev(fd, buffers, offset)
        if written != sum(map(len, buffers)):
            raise OSError(errno.ENOSPC, "short write")
        os.fdatasync(fd)
    except OSError:
        take_back(fd, offset)
        raise


def take_back(fd: int, end: int) -> None:
    """Make unreadable what stands behind `end`: cut it off, or where the disk refuses that, overwrite it
    with zeros (the scan of an unannounced file drops a tail of zeros)."""
    try:
        os.ftruncate(fd, end)
    except OSError:
        with contextlib.suppress(OSError):
            os.pwrite(fd, bytes(os.fstat(fd).st_size - end), end)
