"""Postfix's own .cf files (mysql_table(5), pgsql_table(5), sqlite_table(5), ldap_table(5)), read as they are.

Contract: main.cf syntax: `name = value`, `#` comments, lines that begin with a blank continue the one before. A name of
Postfix that is not supported here may stand with the values that change no answer (its default); with another, and so
one that nobody knows, it is an error with its line: better than a table that answers something else. Raises Bad with
every mistake. Passwords stay in this process.
"""

import difflib
import os
import stat
import time
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import NamedTuple

from appliance.tables.proxied.base import Bad, Opener
from appliance.tables.text import BLANKS, Source

Stamp = tuple[int, int, int]
#: What every type has.
COMMON = ("domain", "result_format", "expansion_limit")


class Only(NamedTuple):
    """A name of Postfix that is not supported here: the values that change nothing (none named: all), in lower case, and
    what is to be done about others."""

    values: tuple[str, ...] = ()
    instead: str = ""


#: What has no meaning in Postfix either, or not for what is answered.
NO_MATTER = Only()
NOT = ("", "no", "false", "0")
#: Mistakes that are told; seconds for which a file was not written to when it counts as whole.
MOST, STILL = 50, 1.0


class Settings:
    """One file. `known`: the names that are read; `only`: those that are not. `opens`: how tables are opened that it
    names; None: it may not name any."""

    def __init__(
        self, path: str, known: Iterable[str], only: dict[str, Only] | None = None, opens: Opener | None = None
    ) -> None:
        self.path, self.opens = path, opens
        self._known, self._only = (*COMMON, *known), only or {}
        self._values: dict[str, tuple[int, str]] = {}
        self._wrong: list[tuple[str, int, str]] = []
        self._stamps: dict[str, Stamp] = {}
        self._missed: list[str] = []
        #: Whether tables that it names are being written.
        self.further: list[Callable[[], bool]] = []
        try:
            data = self.read(path)
        except OSError as error:
            raise Bad(f"{path}: {error.strerror or error}", unrest=self.unrest) from None
        source = Source(path)
        for number, line in source.lines(data):
            self._line(number, line)
        self._wrong += [(path, flaw.line, flaw.text) for flaw in source.flaws if flaw.fatal]
        self.done()

    def _line(self, number: int, line: str) -> None:
        name, equals, value = line.partition("=")
        name, value = name.strip(BLANKS), value.strip(BLANKS)
        if not equals or not name:
            self._wrong.append((self.path, number, f'"{line[:60]}" is not name = value'))
        elif (only := self._only.get(name)) is not None:
            if only.values and value.lower() not in only.values:
                self._wrong.append((self.path, number, f"{name} = {value} is not supported here: {only.instead}"))
        elif name not in self._known:
            near = difflib.get_close_matches(name, self._known, 1)
            hint = f" (did you mean {near[0]}?)" if near else ""
            self._wrong.append((self.path, number, f"{name} is not known{hint}"))
        else:
            self._values[name] = number, value  # the last one counts, as in Postfix

    def read(self, path: str) -> bytes:
        """A file that these settings are made of, too: `changed` looks at it from now on. Raises OSError."""
        try:
            self._stamps[path], data = _read(path)
        except FileNotFoundError:
            self._missed.append(path)
            raise
        return data

    def line(self, name: str) -> int:
        """Where `name` stands, 1 where it does not."""
        return self._values[name][0] if name in self._values else 1

    def wrong(self, name: str, text: str) -> None:
        """Note a mistake in the value of `name`."""
        self.wrong_at(self.path, self.line(name), f"{name}: {text}")

    def wrong_at(self, path: str, line: int, text: str) -> None:
        """Note a mistake that may stand in another file. Raises Bad for so many that another file than this was
        meant."""
        self._wrong.append((path, line, text))
        if len(self._wrong) >= MOST:
            self._wrong.append((path, line, "there may be more mistakes behind this one"))
            self.done()

    def done(self) -> None:
        """Raises Bad if there is any mistake so far."""
        if self._wrong:
            raise Bad("", tuple(self._wrong), self.unrest)

    def __contains__(self, name: str) -> bool:
        return name in self._values

    def text(self, name: str, default: str = "") -> str:
        return self._values[name][1] if name in self._values else default

    def needed(self, name: str) -> str:
        """Raises Bad (by done) where it is missing."""
        if not self.text(name):
            self.wrong(name, "is missing")
        return self.text(name)

    def number(self, name: str, default: int, least: int = 0) -> int:
        text = self.text(name, str(default)).removesuffix("s")
        if not text.isdecimal() or int(text) < least:
            self.wrong(name, f'"{text}" is no number from {least}')
            return default
        return int(text)

    def flag(self, name: str, default: bool) -> bool:
        text = self.text(name, "yes" if default else "no").lower()
        if text not in ("yes", "no", "true", "false"):
            self.wrong(name, f'"{text}" is neither yes nor no')
        return text in ("yes", "true")

    def words(self, name: str, default: str = "") -> tuple[str, ...]:
        """Separated by commas or blanks."""
        return tuple(self.text(name, default).replace(",", " ").split())

    def one_of(self, name: str, default: str, choices: Iterable[str]) -> str:
        text, allowed = self.text(name, default), tuple(choices)
        if text.lower() not in allowed:
            self.wrong(name, f'"{text}" is none of {", ".join(allowed)}')
        return text.lower()

    def changed(self) -> bool:
        """Whether one of the files that were read is another one than then, and all of these are whole, as far as one can
        see: whoever writes one where it stands empties it first, and without its first words or its last it says
        something else. They are read together, so one that is being written keeps the others waiting."""
        found = self._others()
        return bool(found) and all(map(_still, found))

    def _others(self) -> list[Stamp]:
        return [new for path, stamp in self._stamps.items() if (new := _stamp(path)) is not None and new != stamp]

    def unrest(self) -> bool:
        """Whether one of the files, also of those that were not there and of tables that it names, is being written."""
        missed = [new for path in self._missed if (new := _stamp(path)) is not None]
        return not all(map(_still, self._others() + missed)) or any(unrest() for unrest in self.further)


def _stamp(path: str) -> Stamp | None:
    try:
        seen = Path(path).stat()
    except OSError:
        return None  # it goes on as it was
    return seen.st_mtime_ns, seen.st_size, seen.st_ino


def _still(stamp: Stamp) -> bool:
    return not 0 <= time.time() - stamp[0] / 1e9 < STILL


def _read(path: str) -> tuple[Stamp, bytes]:
    fd = os.open(path, os.O_RDONLY | os.O_CLOEXEC | os.O_NONBLOCK)
    with os.fdopen(fd, "rb") as file:
        seen = os.fstat(fd)
        if not stat.S_ISREG(seen.st_mode):
            raise OSError(0, "is not a regular file")
        return (seen.st_mtime_ns, seen.st_size, seen.st_ino), file.read()
