"""How far a message is read, and the word for what is over a limit.

Contract: a limit is looked at before anything deeper is read. What failure means for the mail: content over a limit is
"too complex", neither good nor bad.
"""

from mmap import mmap
from typing import NamedTuple

Octets = bytes | mmap


class Limits(NamedTuple):
    """Octets and fields are those of one header block; the archive limits are those of a whole message: levels, names
    of members, unpacked octets, and how many times larger than the message what is unpacked may be."""

    depth: int = 50
    parts: int = 2000
    header: int = 524288
    fields: int = 10000
    parameters: int = 200
    archive_depth: int = 5
    archive_names: int = 5000
    archive_bytes: int = 256 * 1024 * 1024
    archive_ratio: int = 200


LIMITS = Limits()


class Over(Exception):
    """A limit is passed; its name."""
