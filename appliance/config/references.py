"""Which other files the wiring and the policies name, and where they name them.

Contract: works on whatever could be parsed, so that read() and build() agree about the same octets, also when these are
full of mistakes. Paths in the wiring begin in its folder; paths in policies in the policies folder, then the shipped one.
"""

import re
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any, NamedTuple

from appliance import tables
from appliance.config import addresses, positions, where
from appliance.config.model import BY_SENDER
from appliance.config.syntax import Parsed, parse
from appliance.engine.policy import compile_policies

_FOLDER = re.compile(rb"""^[ \t]*policies[ \t]*=[ \t]*["']([^"'\r\n]+)["']""", re.MULTILINE)
#: The folder below the state folder in which lists of recipients are kept that are fetched.
LISTS = "recipients"
#: Parts of a policy file that hold prose, where "regexp: ..." is no table.
_PROSE = frozenset({"reply", "reason", "owner", "comment"})


class Reference(NamedTuple):
    """One file that is named: `spec` as written, the paths it may have (the first that can be read counts), and where it
    is written: a policy's name ("" = the wiring) and the TOML path. `secret`: must be readable, is not kept (keys, and
    what proxymap opens itself). `final`: its values are what is asked for there, not keys of another table."""

    spec: str
    candidates: tuple[str, ...]
    policy: str
    path: positions.Path
    secret: bool = False
    final: bool = True

    @property
    def is_table(self) -> bool:
        return bool(tables.path_of(self.spec) or tables.proxied_path(self.spec))

    def found(self, files: Mapping[str, bytes], missing: Mapping[str, str]) -> str:
        """The path in force; the first candidate if none could be read."""
        there = (path for path in self.candidates if (path not in missing if self.secret else path in files))
        return next(there, self.candidates[0])


def absolute(path: str, folder: str) -> str:
    """`path` as seen from `folder`, without `.` and `..` where that needs no look at the disk."""
    return str(Path(folder) / path)


class Layout:
    """The wiring file as far as it can be read: enough to find the other files."""

    def __init__(self, main: str, folder: str, shipped: str, text: bytes) -> None:
        self.folder = folder
        self.shipped = shipped
        self.parsed: Parsed = parse(main, text)
        self.values: dict[str, Any] = self.parsed.values or {}
        self.policies_folder = self._policies_folder(main, text)

    def _policies_folder(self, main: str, text: bytes) -> str:
        written: Any = self.section("gateway").get("policies")
        if not main and not written:
            return self.shipped
        if not written and not self.values and (found := _FOLDER.search(text)):
            written = found[1].decode(errors="replace")
        return absolute(written if isinstance(written, str) and written else "policies", self.folder)

    def section(self, name: str) -> dict[str, Any]:
        found = self.values.get(name)
        return found if isinstance(found, dict) else {}

    @property
    def wants_rules(self) -> bool:
        """Whether a scanner looks by YARA rules."""
        entries = self.section("scanners").values()
        return any(isinstance(entry, dict) and entry.get("kind") == "yara" for entry in entries)

    def references(self, policies: Mapping[str, bytes]) -> list[Reference]:
        """Everything that the wiring and the policy files (name to text) name, in a fixed order."""
        parsed = {name: parse(name, text).values for name, text in policies.items()}
        return [*self.wiring(), *self.of_policies({name: found for name, found in parsed.items() if found})]

    def wiring(self) -> Iterator[Reference]:
        relay = self.section("relay")
        for path, text in [
            *texts(relay.get("domains"), ("relay", "domains")),
            *(found for key in ("routes", *BY_SENDER) for found in texts(relay.get(key), ("relay", key))),
            *((("addresses", *at), text) for at, text in addresses.specs(self.section("addresses"))),
        ]:
            final = set(tables.answering(text))
            for leaf in tables.leaves(text):
                for found in self._table(leaf, (self.folder,), "", path):
                    yield found._replace(final=leaf in final)
        for section, key in (("dns", "zone"), ("relay", "tls_ca")):
            file = self.section(section).get(key)
            if isinstance(file, str) and file:
                yield Reference(file, (absolute(file, self.folder),), "", (section, key))
        yield from self._certificates()
        for section, key in (("scanners", "password_file"), ("recipients", "password_file"), ("recipients", "tls_ca")):
            for name, entry in self.section(section).items():
                file = entry.get(key) if isinstance(entry, dict) else None
                if isinstance(file, str) and file:
                    yield Reference(file, (absolute(file, self.folder),), "", (section, name, key), True)

    def _certificates(self) -> Iterator[Reference]:
        listeners = self.values.get("listen")
        for index, listener in enumerate(listeners if isinstance(listeners, list) else ()):
            files = listener.get("tls") if isinstance(listener, dict) else None
            for key in ("certificate", "key"):
                name = files.get(key) if isinstance(files, dict) else None
                if isinstance(name, str) and name:
                    yield Reference(name, (absolute(name, self.folder),), "", ("listen", index, "tls", key), True)

    def synced_list(self, name: str) -> str:
        """Where the list of [recipients.`name`] is kept."""
        found = self.section("gateway").get("state_dir")
        state = found if isinstance(found, str) and found else where.DEFAULT
        return absolute(f"{state}/{LISTS}/{name}", self.folder)

    def _table(self, leaf: str, homes: tuple[str, ...], policy: str, path: positions.Path) -> Iterator[Reference]:
        """The file of a table that has one, as seen from the folders in which its path may begin."""
        kept, opened = tables.path_of(leaf), tables.proxied_path(leaf)
        if name := tables.synced_name(leaf):
            yield Reference(leaf, (self.synced_list(name),), policy, path)
        elif name := kept or (opened and opened + tables.suffix_of(leaf)):
            candidates = tuple(dict.fromkeys(absolute(name, home) for home in homes))
            yield Reference(leaf, candidates, policy, path, secret=not kept)

    def of_policies(self, parsed: Mapping[str, dict[str, Any]]) -> Iterator[Reference]:
        """Tables that policies name, also by a default that no file states."""
        written: dict[str, tuple[str, positions.Path]] = {}
        for file in sorted(parsed):
            for path, text in texts(parsed[file], ()):
                if not _PROSE.intersection(path):
                    written.setdefault(text, (file, path))
        homes = (self.policies_folder, self.shipped) if self.shipped else (self.policies_folder,)
        named = {text for text in written if tables.path_of(text)}
        for spec in sorted({*named, *compile_policies(parsed)[0].tables}):
            file, path = written.get(spec, ("", ()))
            for leaf in tables.leaves(spec):
                yield from self._table(leaf, homes, file or self._owner(spec, parsed), path)

    def _owner(self, spec: str, parsed: Mapping[str, dict[str, Any]]) -> str:
        """The policy file whose built-in value names `spec`."""
        for name, check in compile_policies(parsed)[0].checks.items():
            if spec in (text for _, text in texts(check.knobs.model_dump(), ())):
                return f"{name}.toml"
        return "stages.toml"


def texts(value: Any, path: positions.Path) -> Iterator[tuple[positions.Path, str]]:
    """All strings in a TOML value with their paths."""
    if isinstance(value, str):
        yield path, value
    elif isinstance(value, dict):
        for key, inner in value.items():
            yield from texts(inner, (*path, key))
    elif isinstance(value, list | tuple):
        for index, inner in enumerate(value):
            yield from texts(inner, (*path, index))
