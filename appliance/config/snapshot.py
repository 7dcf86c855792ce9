"""One hashed blob of all files in force, and the values built from it. The master reads the files; every other process
builds its Snapshot from the blob's octets, so no process but the master opens a configuration or policy path.

Contract: build() raises ConfigError with every mistake at once; a wrong file never replaces a running Snapshot.
"""

from collections.abc import Mapping
from typing import NamedTuple

import msgspec

from appliance.config.model import Wiring
from appliance.engine.policy import PolicySet
from appliance.mail.ports import Table


class Mistake(NamedTuple):
    """One mistake: `file:line:column: text`. `fatal` False = a warning (an exception past its end, a dead knob)."""

    file: str
    line: int
    column: int
    text: str
    fatal: bool = True

    def __str__(self) -> str:
        return f"{self.file}:{self.line}:{self.column}: {self.text}"


class ConfigError(Exception):
    """The files do not make a working gateway; `mistakes` lists all that was found."""

    def __init__(self, mistakes: list[Mistake]) -> None:
        super().__init__("\n".join(map(str, mistakes)))
        self.mistakes = mistakes


class Blob(msgspec.Struct, frozen=True):
    """All files in force by absolute path. `main` is the wiring file ("" = the embedded default of `postgate run`).
    `stamps` maps table files to (mtime_ns, size, inode), so that the master sees which changed."""

    main: str
    files: dict[str, bytes]
    hash: str


class Snapshot(msgspec.Struct, frozen=True, kw_only=True):
    """What is in force: the wiring, the compiled policies, the lookup tables by the spec operators wrote."""

    blob: Blob
    wiring: Wiring
    policies: PolicySet
    tables: Mapping[str, Table]
    warnings: tuple[Mistake, ...] = ()

    @property
    def hash(self) -> str:
        return self.blob.hash
