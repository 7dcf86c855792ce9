"""Tables that need a file opened by path, a network or a password: what proxymap (and `postgate table`) opens.

`open_proxied(spec)` gives an Asked for an absolute spec. A library that is missing (an extra that was not installed) or a
.cf file with mistakes is found when the table is opened: Bad says what, with file and line.
"""

from appliance.tables import kinds
from appliance.tables.proxied.base import Asked, Bad, Step
from appliance.tables.proxied.files import FileTable
from appliance.tables.text import TableError

__all__ = ["Asked", "Bad", "Step", "open_proxied"]


def open_proxied(spec: str) -> Asked:
    """The table, not yet connected. Raises Bad, and TableError for what is no such table."""
    if problem := kinds.complaint(spec):
        raise TableError(problem)
    kind, name = kinds.split(spec)
    if kind in kinds.COMPILED:
        return FileTable(kind, name + kinds.suffix_of(spec))
    raise TableError(f"{kind}: is not asked through proxymap")
