"""One `[filters.NAME]` of the wiring file: a content filter, and what does not fit together in it.

Contract: pure but for a look whether a program is there. A filter is a place (`next_hop`) or a program (`command`); keys
of the other kind are mistakes, as they would mean nothing.
"""

import os
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Annotated, Literal

from pydantic import AfterValidator, BaseModel, BeforeValidator, ConfigDict, Field, Strict

from appliance.checks.knobs import Duration
from appliance.config.fields import Flag, Span, Whole, Words, checked, lone, optional_name
from appliance.config.values import parse_next_hop
from appliance.mail import piping

#: The next hop of a filter that sends to the recipient's own domain.
OWN_DOMAIN = "smtp:"
_OF_COMMAND = ("flags", "eol", "null_sender", "size_limit", "output", "recipients", "memory", "processes")
#: For a command that says nothing else: seconds (command_time_limit), runs at once.
_SECONDS, _AT_ONCE = 1000.0, 10


def _flags(text: str) -> str:
    if unknown := sorted(set(text) - set(piping.FLAGS)):
        raise ValueError(f'flags "{"".join(unknown)}" are none of {piping.FLAGS}')
    return text


def _place(text: str) -> object:
    return text == OWN_DOMAIN or parse_next_hop(text)


class FilterEntry(BaseModel):
    """A content filter that has a name: where it is, several in order of trial, or its program. `concurrency` and
    `timeout` 0: those of the queue, and of its deliveries; of commands; before the queue Postfix's (config.filters).
    `ehlo`, `total_timeout`: before it. `delivers`: nothing comes back from it."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    next_hop: Annotated[tuple[Annotated[str, checked(_place)], ...], BeforeValidator(lone)] = ()
    delivers: Flag = False
    concurrency: Annotated[int, Strict(), Field(ge=0, le=1000)] = 0
    timeout: Duration = 0.0
    total_timeout: Span = 300.0
    ehlo: Annotated[str, AfterValidator(optional_name)] = ""
    command: Words = ()
    flags: Annotated[str, AfterValidator(_flags)] = ""
    eol: Literal["\n", "\r\n"] = "\n"
    null_sender: Annotated[str, Field(pattern=r"^[!-~]{0,100}$")] = "MAILER-DAEMON"
    size_limit: Whole = 0
    output: Literal["log", "message"] = "log"
    recipients: Annotated[int, Strict(), Field(ge=1, le=100)] = 50
    memory: Whole = 0
    processes: Annotated[int, Strict(), Field(ge=1)] = 100

    @property
    def ends(self) -> bool:
        """Is what it takes delivered? Else it is handed back. (Flag X says that of a command, as in pipe(8).)"""
        return self.delivers or self.to_own_domain or "X" in self.flags

    @property
    def to_own_domain(self) -> bool:
        """Does it send to the servers of the recipient's own domain, where a table says nothing else?"""
        return OWN_DOMAIN in self.next_hop

    @property
    def seconds(self) -> float:
        """What one run of its command may take."""
        return self.timeout or _SECONDS

    @property
    def at_once(self) -> int:
        """Runs of its command at the same time."""
        return self.concurrency or _AT_ONCE

    @property
    def single(self) -> bool:
        """Does each recipient get a run of its own?"""
        return self.recipients == 1 or bool(set("DO") & set(self.flags))

    @property
    def by_domain(self) -> bool:
        """Does the command name the nexthop, which is the recipients' domain where nothing else is said?"""
        return "nexthop" in piping.macros(self.command)

    def piped(self, delimiter: str) -> piping.Command:
        """Its command, ready for messages."""
        return piping.Command(self.command, self.flags, self.null_sender, delimiter)


def complaints(filters: Mapping[str, FilterEntry]) -> Iterator[tuple[tuple[str | int, ...], str, bool]]:
    """(path in the file, what is wrong with it, whether it must not be put in force)."""
    for name, entry in filters.items():
        path = ("filters", name)
        if entry.to_own_domain and len(entry.next_hop) > 1:
            yield (*path, "next_hop"), f'"{OWN_DOMAIN}" stands alone: no next hop is tried before or behind it', True
        if entry.command and entry.next_hop:
            yield (*path, "command"), f"[filters.{name}] has next_hop and command: a filter is one of both", True
        for key in _OF_COMMAND if not entry.command else ():
            if getattr(entry, key) != FilterEntry.model_fields[key].default:
                yield (*path, key), f"{key} is of filters with a command", True
        for index, text in piping.complaints(entry.command):
            yield (*path, "command", index), text, True
        if entry.command:
            yield from (((*path, "command", 0), text, fatal) for text, fatal in _program(entry.command[0]))
            if entry.output == "message" and entry.ends:
                key, what = ("flags", "flag X is") if "X" in entry.flags else ("delivers", "delivers = true is")
                told = f'{what} for a program that delivers, output "message" for one that does not'
                yield (*path, key), told, True


def _program(program: str) -> Iterator[tuple[str, bool]]:
    if not program.startswith("/"):
        yield f'"{program}": write the whole path of the program', True
    elif why := _not_run(program):
        yield f'"{program}" {why}: mail for this filter would wait', False


def _not_run(program: str) -> str:
    """Why it cannot be run, as far as this process may see it."""
    if Path(program).is_dir():
        return "is a folder, no program"
    if os.access(program, os.X_OK):
        return ""
    if os.access(program, os.F_OK):
        return "may not be run (chmod 755)"
    words = ", ".join(f'"{word}"' for word in program.split())
    return "is not there" + (f" (command is a list: [{words}])" if " " in program else "")
