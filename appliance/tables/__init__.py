"""Lookup tables by the names and rules of Postfix: `type:name` in, (value, "file:line") out. All in memory.

`open_table(spec, read)`: the types are texthash, inline, static (fixed strings: full and partial keys), cidr, regexp,
pcre (patterns: full keys only), postgrey_clients, postgrey_recipients (white lists, full keys only). cidr, regexp and
pcre also take their rules inline: `pcre:{ {/re/ result}, {/re/ result} }`.
What failure means for the mail: flaws are found when a table is opened, and keep it out of force; a look-up answers or (a
pattern that takes too long) raises Unavailable.
"""

import difflib
from collections.abc import Callable, Iterator
from typing import Protocol

from appliance.tables import cidr, fixed, pattern, postgrey
from appliance.tables.text import Flaw, Source, TableError, braced, items

__all__ = ["KINDS", "Flaw", "Opened", "TableError", "complaint", "open_table", "path_of"]

#: Types whose name is a file (or, for RULES, an inline list in braces).
FILES = ("texthash", "cidr", "regexp", "pcre", "postgrey_clients", "postgrey_recipients")
RULES = ("cidr", "regexp", "pcre")
KINDS = (*FILES, "inline", "static")
_COMPILED = ("hash", "btree", "lmdb", "cdb", "dbm", "sdbm")


class Opened(Protocol):
    """What open_table gives: a mail.ports.Table that can also be looked through."""

    pattern: bool
    source: Source

    def get(self, key: str) -> tuple[str, str] | None: ...

    def entries(self) -> Iterator[tuple[str, str, int]]:
        """(key, value, line) of everything in it; `key` is "" for patterns."""


def path_of(spec: str) -> str:
    """The file that `spec` names, "" if it names none."""
    kind, _, name = spec.partition(":")
    return name if kind in FILES and not name.startswith("{") else ""


def complaint(spec: str) -> str:
    """Why `spec` cannot be a table, "" if it can: what is known without reading it."""
    kind, _, name = spec.partition(":")
    if kind not in KINDS:
        return _unknown(kind)
    return "" if name else f'a table is written "type:name", for example "{kind}:/etc/postgate/table"'


def open_table(spec: str, read: Callable[[str], bytes], *, substitution: bool = True) -> Opened:
    """The table `spec` with its flaws in `.source.flaws`; a flawed line is left out. `read` gives a file's octets (its
    OSError passes through). `substitution` False forbids `$1` in results (routes). Raises TableError for a bad spec."""
    if problem := complaint(spec):
        raise TableError(problem)
    kind, _, name = spec.partition(":")
    path = path_of(spec)
    source = Source(path)
    if kind in RULES:
        lines = source.lines(read(path)) if path else _inline_rules(kind, name)
        return _rules(kind, lines, source, substitution)
    if kind in {"inline", "static"}:
        return fixed.inline(name, source) if kind == "inline" else fixed.static(name, source)
    if kind == "texthash":
        return fixed.texthash(read(path), source)
    return (postgrey.clients if kind == "postgrey_clients" else postgrey.recipients)(read(path), source)


def _rules(kind: str, lines: Iterator[tuple[int, str]], source: Source, substitution: bool) -> Opened:
    if kind == "cidr":
        return cidr.cidr(lines, source)
    reader = pattern.pcre if kind == "pcre" else pattern.regexp
    return reader(lines, source, substitution=substitution)


def _inline_rules(kind: str, name: str) -> Iterator[tuple[int, str]]:
    body = braced(name)
    parts = None if body is None else items(body)
    rules = [braced(part) for part in parts or ()]
    if parts is None or None in rules:
        raise TableError(f"rules in place are written {kind}:{{ {{pattern result}}, {{pattern result}} }}")
    return iter([(number, rule) for number, rule in enumerate(rules, 1) if rule])


def _unknown(kind: str) -> str:
    if kind in _COMPILED:
        return f'"{kind}:" tables are compiled for Postfix; name their source file as "texthash:"'
    near = difflib.get_close_matches(kind, KINDS, 1)
    hint = f" (did you mean {near[0]}:?)" if near else ""
    return f'"{kind}" is no table type{hint}; there are {", ".join(KINDS)}'
