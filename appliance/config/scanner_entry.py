"""One `[scanners.NAME]` of the wiring file, and what does not fit together in it.

Contract: pure; sees the entry as written. Every kind uses some of the keys: one that another kind has is a mistake, as it
would mean nothing.
"""

from collections.abc import Iterator, Mapping
from typing import Annotated, Literal

from pydantic import AfterValidator, BaseModel, ConfigDict, Field, Strict

from appliance.checks.knobs import Duration
from appliance.config.fields import Peers, Span, Whole, Words, checked
from appliance.mail.programs import PROGRAMS, Meaning
from appliance.tables.pattern import expression as expression

Pattern = Annotated[str, checked(expression, empty=True)]

#: Keys that not every kind has, and the kinds that have them.
_OF_KINDS: dict[str, frozenset[str]] = {
    "address": frozenset({"clamd", "spamd", "rspamd", "icap", "amavis"}),
    "password_file": frozenset({"rspamd"}),
    "user": frozenset({"rspamd"}),
    "service": frozenset({"icap"}),
    "method": frozenset({"icap"}),
    "command": frozenset({"command"}),
    "exit_codes": frozenset({"command"}),
    "pattern": frozenset({"command"}),
    "memory": frozenset({"command"}),
    "folder": frozenset({"amavis"}),
}
_NEEDED = ("address", "command", "folder")


def codes(value: dict[str, Meaning]) -> dict[str, Meaning]:
    """Each key a number from 0 to 255."""
    for code in value:
        if not code.isdecimal() or int(code) > 255 or str(int(code)) != code:
            raise ValueError(f'"{code}" is no exit code: write a number from 0 to 255 in quotes')
    return value


class ScannerEntry(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True)

    kind: Literal["clamd", "spamd", "rspamd", "icap", "command", "amavis", "yara"]
    address: Peers = ()
    timeout: Span = 60.0
    concurrency: Annotated[int, Strict(), Field(ge=1, le=1000)] = 10
    size_limit: Whole = 0
    remember: Duration = 300.0
    password_file: str = ""
    user: Annotated[str, Field(pattern=r"^[!-~]{0,100}$")] = ""
    service: Annotated[str, Field(pattern=r"^[!-~]{1,200}$")] = "avscan"
    method: Literal["respmod", "reqmod"] = "respmod"
    command: Words = ()
    exit_codes: Annotated[dict[str, Meaning], AfterValidator(codes)] = {}
    pattern: Pattern = ""
    memory: Whole = 0
    folder: str = ""

    @property
    def by_runner(self) -> bool:
        """Whether the process that starts programs and makes files has to do with it."""
        return self.kind in ("command", "amavis")


def complaints(scanners: Mapping[str, ScannerEntry]) -> Iterator[tuple[tuple[str, ...], str]]:
    """(path below the file, what is wrong with it)."""
    for name, entry in scanners.items():
        for key, kinds in _OF_KINDS.items():
            default = ScannerEntry.model_fields[key].default
            if entry.kind not in kinds and getattr(entry, key) != default:
                yield ("scanners", name, key), f"{key} is of kind {' or '.join(sorted(kinds))}, not of {entry.kind}"
            elif key in _NEEDED and entry.kind in kinds and not getattr(entry, key):
                yield ("scanners", name, "kind"), f'a scanner of kind {entry.kind} needs "{key}"'
        if entry.command:
            yield from _command(name, entry)
        if entry.folder and not entry.folder.startswith("/"):
            yield ("scanners", name, "folder"), f'"{entry.folder}": write the whole path of the folder'


def _command(name: str, entry: ScannerEntry) -> Iterator[tuple[tuple[str, ...], str]]:
    program = entry.command[0]
    if not program.startswith("/"):
        yield ("scanners", name, "command"), f'"{program}": write the whole path of the program'
    if not entry.exit_codes and program.rpartition("/")[2] not in PROGRAMS:
        known = ", ".join(sorted(PROGRAMS))
        text = f'what the exit codes of "{program}" mean is not known: write exit_codes (known programs: {known})'
        yield ("scanners", name, "command"), text
