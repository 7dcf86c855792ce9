"""Passwords of scanners and of sources of recipients: read by the master (who may be root), given as octets to the
processes that speak to these, and to no other; read again when their files change.

Contract: they are in no value that every process gets, in no last good configuration, and in no text. A file that
cannot be read leaves the old password in force. What failure means for the mail: a scanner without its password
refuses; its mail is "not scanned". A list of recipients grows old.
"""

import contextlib
import os
from collections.abc import Callable
from pathlib import Path

from appliance.config.model import Wiring
from appliance.observe import oplog

log = oplog.get("master")
#: Whose they are: what the words of a process's certificates begin with.
PREFIXES = {"scanner": "secret:", "recipients": "recipients:"}
Whose = tuple[str, str]
Stamp = tuple[int, int, int]


class Secrets:
    """All by whose they are: ("scanner", its name). `on_change()` when what is in force changed."""

    def __init__(self, wiring: Wiring, on_change: Callable[[], None]) -> None:
        self._on_change = on_change
        self._files: dict[Whose, str] = {}
        self._stamps: dict[Whose, Stamp | None] = {}
        self._held: dict[Whose, bytes] = {}
        self.problems: dict[Whose, str] = {}
        self.replace(wiring)

    def replace(self, wiring: Wiring) -> None:
        """Other files may be named now; the next look reads them."""
        named = {("scanner", name): entry.password_file for name, entry in wiring.scanners.items()}
        named |= {("recipients", name): entry.password_file for name, entry in wiring.recipients.items()}
        named = {whose: path for whose, path in named.items() if path}
        for name in self._files.keys() - named.keys():
            self._held.pop(name, None)
            self.problems.pop(name, None)
        self._stamps = {name: self._stamps.get(name) for name in named if self._files.get(name) == named[name]}
        self._files = named

    def pairs(self) -> dict[str, dict[str, tuple[bytes, bytes]]]:
        """What is in force, by kind, in the shape of certificates."""
        found: dict[str, dict[str, tuple[bytes, bytes]]] = {kind: {} for kind in PREFIXES}
        for (kind, name), octets in self._held.items():
            found[kind][f"{PREFIXES[kind]}{name}"] = octets, b""
        return found

    def look(self) -> None:
        """Read what changed since the last look, and what could not be read then; each second."""
        before = dict(self._held)
        for name, path in self._files.items():
            stamp = _stamp(path)
            if stamp != self._stamps.get(name) or name not in self._held or name in self.problems:
                self._stamps[name] = stamp
                self._read(name, path)
        if self._held != before:
            self._on_change()

    def _read(self, name: Whose, path: str) -> None:
        words = " ".join(name)
        try:
            octets = Path(path).read_bytes()
        except OSError as error:
            before = self.problems.get(name)
            self.problems[name] = f"{words}: the password in {path} cannot be read: {error.strerror}"
            if self.problems[name] != before:
                log.error("a password cannot be read", of=words, file=path, why=error.strerror)
            return
        self.problems.pop(name, None)
        self._held[name] = octets.split(b"\n", 1)[0].rstrip(b"\r")
        with contextlib.suppress(OSError):  # it is being replaced: the next look finds it changed
            if Path(path).stat().st_mode & 0o007:
                log.warning("password file is open to every user of this machine", of=words, file=path)

    def degraded(self) -> list[str]:
        """What an operator should know now."""
        return list(self.problems.values())


def _stamp(path: str) -> Stamp | None:
    try:
        found = os.stat(path)  # noqa: PTH116 - each second for each file
    except OSError:
        return None
    return found.st_mtime_ns, found.st_size, found.st_ino
