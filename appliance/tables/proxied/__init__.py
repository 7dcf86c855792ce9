"""Tables that need a file opened by path, a network or a password: what proxymap (and `postgate table`) opens.

`open_proxied(spec)` gives an Asked for an absolute spec. A library that is missing (an extra that was not installed) or a
.cf file with mistakes is found when the table is opened: Bad says what, with file and line.
"""

import importlib

from appliance.tables import kinds
from appliance.tables.proxied.base import Asked, Bad, Opener, Step
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


def open_proxied(spec: str) -> Asked:
    """The table, not yet connected, with those that it asks first. Raises Bad, and TableError for what is no such
    table."""
    return _opened(spec, _opened)


def _opened(spec: str, opens: Opener | None = None) -> Asked:
    """`opens`: how the tables are opened that a .cf file names; None: it may not name any."""
    if problem := kinds.complaint(spec):
        raise TableError(problem)
    kind, name = kinds.split(spec)
    if kind in kinds.COMPILED:
        return FileTable(kind, name + kinds.suffix_of(spec))
    if kind not in _OPENERS:
        raise TableError(f"{kind}: is not asked through proxymap")
    module, maker = _OPENERS[kind]
    make = getattr(importlib.import_module(f"{__name__}.{module}"), maker)
    table: Asked = make(name, opens) if kind in kinds.CF else make(name)
    return table
