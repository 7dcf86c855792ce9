"""Tables that need a file opened by path, a network or a password: what proxymap (and `postgate table`) opens.

`open_proxied(spec)` gives an Asked for an absolute spec. A library that is missing (an extra that was not installed) or a
.cf file with mistakes is found when the table is opened: Bad says what, with file and line.
"""

import importlib
import os
from functools import partial

from appliance.tables import kinds
from appliance.tables.proxied.base import Asked, Bad, Step
from appliance.tables.proxied.files import FileTable
from appliance.tables.text import TableError

__all__ = ["Asked", "Bad", "Step", "open_proxied"]

#: type -> (module, what makes a table of a name). Loaded when the first table of a type is opened: most need a library.
_OPENERS = {
    "sqlite": ("sqlite", "SqliteTable"),
    "pgsql": ("pgsql", "PgsqlTable"),
    "mysql": ("mysql", "MysqlTable"),
    "ldap": ("ldap", "LdapTable"),
    "redis": ("redis", "RedisTable"),
    "socketmap": ("servers", "socket_table"),
    "tcp": ("servers", "tcp"),
}

#: .cf files that name each other, one in the `domain` of the one before.
DEEPEST = 8


def open_proxied(spec: str) -> Asked:
    """The table, not yet connected, with those that it asks first. Raises Bad, and TableError for what is no such
    table."""
    return _opened((), spec)


def _opened(within: tuple[str, ...], spec: str) -> Asked:
    """`within`: the .cf files that are being opened, each named by the one before it; none comes twice."""
    if problem := kinds.complaint(spec):
        raise TableError(problem)
    kind, name = kinds.split(spec)
    if kind in kinds.COMPILED:
        return FileTable(kind, name + kinds.suffix_of(spec))
    if kind not in _OPENERS:
        raise TableError(f"{kind}: is not asked through proxymap")
    module, maker = _OPENERS[kind]
    make = getattr(importlib.import_module(f"{__name__}.{module}"), maker)
    if kind not in kinds.CF:
        made: Asked = make(name)
        return made
    file = os.path.realpath(name)
    if file in within:
        raise Bad("the file names itself")
    if len(within) > DEEPEST:
        raise Bad(f"files name each other more than {DEEPEST} deep")
    table: Asked = make(name, partial(_opened, (*within, file)))
    return table
