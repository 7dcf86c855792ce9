"""The journal on disk: one JSON event a line, in files named by the time of their first event.

Contract: appending is a write to the end of the newest file, no sync: a crash of the machine loses at most what the
kernel had not written, a crash of the process nothing. A line that was cut by a crash is skipped by readers. Old files go
by age and by total size. What failure means for the mail: nothing.
"""

import os
import time
from collections.abc import Iterator
from pathlib import Path

#: Octets of one file before the next begins.
FILE_SIZE = 64 * 1024 * 1024


class JournalFiles:
    """Appends to `folder`; keeps `size` octets and `age` seconds."""

    def __init__(self, folder: Path, age: float, size: int) -> None:
        self._folder, self.age, self.size = folder, age, size
        self._fd = -1
        self._octets = 0
        #: The last line was cut, and could not be closed off yet.
        self._cut = False
        folder.mkdir(mode=0o700, parents=True, exist_ok=True)

    def append(self, lines: bytes) -> None:
        """`lines` end with a line feed. Raises OSError; a line that could be written in part only is closed off."""
        if self._fd < 0 or self._octets > FILE_SIZE:
            self._next()
        if self._cut:
            os.write(self._fd, b"\n")
            self._cut = False
        written = os.write(self._fd, lines)
        self._octets += written
        if written != len(lines):
            self._cut = True
            raise OSError(28, "no space left for the journal")

    def _next(self) -> None:
        self.close()
        stamp = time.strftime("%Y%m%dT%H%M%S", time.gmtime())
        number = 0
        while (path := self._folder / f"{stamp}-{number}.jsonl").exists():
            number += 1
        self._fd = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_APPEND | os.O_CLOEXEC, 0o640)
        self._octets, self._cut = 0, False

    def expire(self, now: float) -> list[Path]:
        """Delete what is too old or too much, never the newest file; what went."""
        gone = []
        paths = files(self._folder)
        total = sum(path.stat().st_size for path in paths)
        for path in paths[:-1]:
            facts = path.stat()
            if total <= self.size and now - facts.st_mtime <= self.age:
                continue
            path.unlink()
            total -= facts.st_size
            gone.append(path)
        return gone

    def close(self) -> None:
        if self._fd >= 0:
            os.close(self._fd)
            self._fd = -1


def files(folder: Path) -> list[Path]:
    """The journal's files, oldest first."""
    return sorted(folder.glob("*.jsonl"), key=lambda path: (path.name.partition("-")[0], len(path.name), path.name))


def search(folder: Path, text: str) -> Iterator[bytes]:
    """Whole lines in which `text` stands (a queue id, an address), newest file first."""
    needle = text.encode()
    for path in reversed(files(folder)):
        with open(path, "rb") as file:
            yield from (line for line in file if needle in line and line.endswith(b"\n"))
