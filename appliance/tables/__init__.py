"""Lookup tables by the names and rules of Postfix: `type:name` in, (value, "file:line") out.

`open_table(spec, read)`: texthash, aliases, synced, inline, static (fixed strings: full and partial keys), cidr, regexp,
pcre (patterns: full keys only), postgrey_clients, postgrey_recipients (white lists, full keys only) are in memory; cidr,
regexp and pcre also take their rules inline: `pcre:{ {/re/ result}, {/re/ result} }`. hash, btree, lmdb, cdb, sqlite,
pgsql, mysql, ldap, redis, socketmap and tcp are asked by proxymap (tables/remote.py, tables/proxied/). pipemap and
unionmap are made of others. docs/tables.md.
What failure means for the mail: flaws are found when a table is opened, and keep it out of force; a look-up answers or
raises Unavailable (a pattern that takes too long, a server that is away).
"""

from collections.abc import Awaitable, Callable, Iterator, Mapping
from typing import Protocol

from appliance.mail.ports import Hit
from appliance.tables import cidr, compound, fixed, kinds, pattern, postgrey, sendmail
from appliance.tables.kinds import (
    KINDS,
    answering,
    complaint,
    is_cf,
    leaves,
    path_of,
    proxied_path,
    suffix_of,
    synced_name,
    takes_apart,
    with_paths,
)
from appliance.tables.remote import Remote
from appliance.tables.text import Flaw, Source, TableError, braced, items

__all__ = [
    "KINDS",
    "Flaw",
    "Opened",
    "Remote",
    "TableError",
    "answering",
    "complaint",
    "is_cf",
    "leaves",
    "open_table",
    "path_of",
    "proxied_path",
    "remotes",
    "suffix_of",
    "synced_name",
    "takes_apart",
    "with_paths",
]


class Opened(Protocol):
    """What open_table gives: a mail.ports.Table that can also be looked through."""

    pattern: bool
    at_once: bool
    source: Source

    def get(self, key: str) -> Hit | Awaitable[Hit | None] | None: ...

    def entries(self) -> Iterator[tuple[str, str, int]]:
        """(key, value, line) of everything in it, as far as that is known here; `key` is "" for patterns."""


def open_table(
    spec: str,
    read: Callable[[str], bytes],
    *,
    substitution: bool = True,
    opened: Mapping[str, Opened] | None = None,
) -> Opened:
    """The table `spec` with its flaws in `.source.flaws`; a flawed line is left out. `read` gives a file's octets (its
    OSError passes through). `substitution` False forbids `$1` in results (routes). `opened`: members of compounds that
    are open already. Raises TableError for a bad spec."""
    if problem := complaint(spec):
        raise TableError(problem)
    kind, name = kinds.split(spec)
    if kind in kinds.COMPOUND:
        known = opened or {}
        tables = [
            known.get(part) or open_table(part, read, substitution=substitution, opened=opened)
            for part in kinds.members(spec)
        ]
        made = (compound.Pipe if kind == "pipemap" else compound.Union)(tables, Source(""))
        for table in tables:
            made.source.adopt(table.source.flaws)
        return made
    path = path_of(spec)
    source = Source(path)
    if kind in kinds.PROXIED:
        return Remote(f"{kind}:{name}", kind in kinds.PATTERN, source)
    if kind in kinds.RULES:
        lines = source.lines(read(path)) if path else _inline_rules(kind, name)
        return _rules(kind, lines, source, substitution)
    if kind in kinds.IN_PLACE:
        return _in_place(kind, name, source)
    if kind in kinds.SENDMAIL:
        return sendmail.READERS[kind](read(path), source)
    if kind == kinds.SYNCED:
        return fixed.synced(read(path), source)
    if kind == "aliases":
        return fixed.aliases(read(path), source)
    if kind == "texthash":
        return fixed.texthash(read(path), source)
    return (postgrey.clients if kind == "postgrey_clients" else postgrey.recipients)(read(path), source)


def remotes(table: Opened | compound.Member) -> Iterator[Remote]:
    """The tables behind proxymap that a look-up in this one may ask."""
    if isinstance(table, Remote):
        yield table
    elif isinstance(table, compound.Pipe | compound.Union):
        for member in table.tables:
            yield from remotes(member)


def _in_place(kind: str, name: str, source: Source) -> Opened:
    if kind == "inline":
        return fixed.inline(name, source)
    if kind == "randmap":
        return compound.randmap(name, source)
    return fixed.static(name, source) if kind == "static" else compound.Fail(name, source)


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
