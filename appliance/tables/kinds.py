"""The types of lookup tables, and what their names are: a file, a compiled file, a .cf file, an address, members.

Contract: pure; whatever is given, no function here raises. `proxy:` in front of a type (Postfix) changes nothing: which
tables go through proxymap follows from their type.
"""

import difflib
import re
from collections.abc import Callable, Iterator

from appliance.tables.text import Source, braced, items

#: In memory, from a text of Sendmail.
SENDMAIL = (
    "sendmail_connect",
    "sendmail_from",
    "sendmail_to",
    "sendmail_mailertable",
    "sendmail_virtusertable",
    "sendmail_genericstable",
    "sendmail_relay_domains",
    "sendmail_local_host_names",
)
#: In memory, from a file (or, for RULES, an inline list in braces).
FILES = (
    "texthash",
    "synced",
    "cidr",
    "regexp",
    "pcre",
    "aliases",
    "postgrey_clients",
    "postgrey_recipients",
    *SENDMAIL,
)
RULES = ("cidr", "regexp", "pcre")
#: In memory, from a list that this gateway fetches: `synced:NAME` of [recipients.NAME].
SYNCED = "synced"
#: In memory, from their name.
IN_PLACE = ("inline", "static", "randmap", "fail")
#: Compiled files that proxymap opens, with what Postfix appends to their name.
COMPILED = {"hash": ".db", "btree": ".db", "lmdb": ".lmdb", "cdb": ".cdb"}
#: Databases that proxymap asks as a .cf file says.
CF = ("sqlite", "pgsql", "mysql", "ldap", "redis")
#: Servers that proxymap asks, by their address.
SERVERS = ("socketmap", "tcp")
#: Made of other tables: `type:{type:name, type:name}`.
COMPOUND = ("pipemap", "unionmap")
#: Names in use that are no type of Postfix, with the type that is meant.
ALIASES = {"union": "unionmap"}
PROXIED = (*COMPILED, *CF, *SERVERS)
KINDS = (*FILES, *IN_PLACE, *PROXIED, *COMPOUND)
#: Of those behind proxymap, the ones that see full keys only.
PATTERN = SERVERS
_QUERIES = ("query", "query_filter", "search_base", "key_format")
_APART = re.compile(r"%[udUD1-9]")


def split(spec: str) -> tuple[str, str]:
    """(type, name)."""
    kind, _, name = spec.removeprefix("proxy:").partition(":")
    return ALIASES.get(kind, kind), name


def members(spec: str) -> list[str]:
    """The tables that a compound one is made of, [] for any other."""
    kind, name = split(spec)
    body = braced(name) if kind in COMPOUND else None
    return [] if body is None else items(body) or []


def leaves(spec: str) -> Iterator[str]:
    """The tables that are no compounds: `spec` itself, or what it is made of."""
    if split(spec)[0] not in COMPOUND:
        yield spec
    for member in members(spec):
        yield from leaves(member)


def answering(spec: str) -> Iterator[str]:
    """Those of the leaves whose values are values of the whole: others of a pipemap have keys of the next one."""
    kind, found = split(spec)[0], members(spec)
    if kind not in COMPOUND:
        yield spec
    for member in found[-1:] if kind == "pipemap" else found:
        yield from answering(member)


def path_of(spec: str) -> str:
    """The file whose content is the table, kept with the configuration; "" if it names none."""
    kind, name = split(spec)
    return name if kind in FILES and not name.startswith("{") else ""


def synced_name(spec: str) -> str:
    """The NAME of `synced:NAME`, "" for any other table."""
    kind, name = split(spec)
    return name if kind == SYNCED else ""


def proxied_path(spec: str) -> str:
    """The file that proxymap opens, without what is appended to the name; "" if it names none."""
    kind, name = split(spec)
    return name if kind in COMPILED or kind in CF else ""


def is_cf(spec: str) -> bool:
    """Whether its name is a .cf file."""
    return split(spec)[0] in CF


def takes_apart(data: bytes) -> bool:
    """Whether a .cf file puts parts of the key into its query (%u, %d, %1): then Postfix offers it full keys only.
    Nothing else of the file is of interest here."""
    for _, line in Source("").lines(data):
        name, _, value = line.partition("=")
        if name.strip() in _QUERIES and _APART.search(value.replace("%%", "")):
            return True
    return False


def suffix_of(spec: str) -> str:
    """What is appended to the name of a compiled file."""
    return COMPILED.get(split(spec)[0], "")


def with_paths(spec: str, change: Callable[[str], str]) -> str:
    """The same table with other paths."""
    kind, name = split(spec)
    if parts := members(spec):
        return f"{kind}:{{{', '.join(with_paths(part, change) for part in parts)}}}"
    return f"{kind}:{change(name)}" if path_of(spec) or proxied_path(spec) else spec


def complaint(spec: str) -> str:
    """Why `spec` cannot be a table, "" if it can: what is known without reading it."""
    kind, name = split(spec)
    if kind not in KINDS:
        return (
            _unknown(kind)
            if ":" in spec
            else f'"{spec}" has no type: a table is written "type:name", "texthash:{spec}" for one'
        )
    if not name:
        return f'a table is written "type:name", for example "{kind}:/etc/postgate/table"'
    if kind not in COMPOUND:
        return ""
    parts = members(spec)
    if not parts:
        return f"write {kind}:{{type:name, type:name}}"
    return next((text for part in parts if (text := complaint(part))), "")


def _unknown(kind: str) -> str:
    near = difflib.get_close_matches(kind, KINDS, 1)
    hint = f" (did you mean {near[0]}:?)" if near else ""
    return f'"{kind}" is no table type{hint}; there are {", ".join(KINDS)}'
