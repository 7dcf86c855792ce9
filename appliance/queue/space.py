"""How much room the spool has, and the reserve below which no new mail is taken (threats Q5)."""

import os
from typing import NamedTuple

#: Inodes that must be free beyond what is in use: every deferred message needs two.
INODE_RESERVE = 256


class Space(NamedTuple):
    """Free octets and free inodes for us; `inodes` is None where the file system does not count them."""

    octets: int
    inodes: int | None

    def enough(self, size_limit: int) -> bool:
        """True if a reserve of 1.5 x `size_limit` (octets) and some inodes are free: else MAIL is answered 452 4.3.1."""
        return self.octets * 2 >= size_limit * 3 and (self.inodes is None or self.inodes >= INODE_RESERVE)


def space(place: int | str | os.PathLike[str]) -> Space:
    """The room on the file system of a descriptor or path. Raises OSError."""
    stat = os.fstatvfs(place) if isinstance(place, int) else os.statvfs(place)
    return Space(stat.f_bavail * stat.f_frsize, stat.f_favail if stat.f_files else None)
