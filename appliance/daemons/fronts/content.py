"""mail.ports.Content of a message that a front has in RAM, or in a temporary file of its own.

Contract: nothing changes what is in a Content. What failure means for the mail: OSError of a file is the reader's: who
asked gets no answer, and what was not looked at is not clean.
"""

import fcntl
import os
import tempfile
from collections.abc import Iterator

#: Octets of a message that stay in RAM.
RAM = 65536
#: Octets of header that are kept at hand for checks, unless the wiring says otherwise (mail.ports.Content).
HEADER = 524288
_EMPTY_LINE = b"\r\n\r\n"


class RamContent:
    """A message in RAM."""

    def __init__(self, octets: bytes, limit: int = HEADER) -> None:
        self.octets = octets
        end = octets.find(_EMPTY_LINE)
        end = len(octets) if end < 0 else end + 4
        self.header_complete = end <= limit
        #: Cut once: every check looks at it.
        self.header = octets[: min(end, limit)]

    @property
    def size(self) -> int:
        return len(self.octets)

    def chunks(self, size: int = 65536) -> Iterator[bytes]:
        for start in range(0, len(self.octets), size):
            yield self.octets[start : start + size]

    def open_fd(self) -> int:
        """A sealed memory file: who gets it can neither change nor grow it."""
        fd = os.memfd_create("message", os.MFD_CLOEXEC | os.MFD_ALLOW_SEALING)
        try:
            with open(fd, "wb", closefd=False) as file:
                file.write(self.octets)
            fcntl.fcntl(fd, fcntl.F_ADD_SEALS, fcntl.F_SEAL_WRITE | fcntl.F_SEAL_GROW | fcntl.F_SEAL_SHRINK)
            os.lseek(fd, 0, os.SEEK_SET)
        except OSError:
            os.close(fd)
            raise
        return fd


class TempContent:
    """A message in a file without a name, which is gone with `close` (or with the process)."""

    def __init__(self, folder: str) -> None:
        self._file = tempfile.TemporaryFile(dir=folder, buffering=0)  # noqa: SIM115 - `close` closes it
        self.size = 0
        self.header = b""
        self.header_complete = False

    def write(self, octets: bytes) -> None:
        """The next octets. Raises OSError: then nothing of it may be used."""
        view = memoryview(octets)
        while view:
            written = self._file.write(view)
            self.size += written
            view = view[written:]

    def head(self, header: bytes, limit: int = HEADER) -> None:
        """The header block with its empty line is known."""
        self.header, self.header_complete = header[:limit], len(header) <= limit

    def chunks(self, size: int = 65536) -> Iterator[bytes]:
        for start in range(0, self.size, size):
            yield os.pread(self._file.fileno(), min(size, self.size - start), start)

    def open_fd(self) -> int:
        """A description of its own, read-only and at the first octet: who gets it may move in it as it likes."""
        return os.open(f"/proc/self/fd/{self._file.fileno()}", os.O_RDONLY | os.O_CLOEXEC)

    def close(self) -> None:
        self._file.close()
