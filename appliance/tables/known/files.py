"""Recipients out of files of this machine: a CSV export, or the keys of a Postfix map.

Contract: texthash, hash, btree, lmdb, cdb are read whole; of sqlite the first column of each row of a query. A text that
changes while it is read, or within QUIET seconds of that, counts as none. What failure means for the mail: Failed, the
old list stays.
"""

import csv
import os
import time
from collections.abc import Iterable, Iterator

import apsw

from appliance.tables import kinds
from appliance.tables.known import LARGEST, At, Failed, Origin
from appliance.tables.known.texts import Entry, decoded, entries
from appliance.tables.proxied.files import every_key

#: Reading takes a moment, whoever exports a list writes a piece now and then: seconds without a change.
QUIET = 0.3


def fetch(origin: Origin, _secret: str, at: At) -> Iterator[Entry]:
    """Every address, as it is asked for. Raises Failed."""
    for source in origin.source:
        at(f"{source}: reading")
        try:
            yield from _csv(source) if origin.kind == "csv" else _map(source, origin.query)
        except (OSError, ValueError, apsw.Error, csv.Error) as error:
            raise Failed(f"{source}: {getattr(error, 'strerror', None) or error}") from None


def _csv(path: str) -> Iterable[Entry]:
    return entries(_text(path))


def _map(source: str, query: str) -> Iterable[Entry]:
    kind, _, path = source.partition(":")
    if kind == "texthash":
        return entries(_text(path, "surrogateescape"))  # comments are in any charset
    keys = _rows(path, query) if kind == "sqlite" else every_key(kind, path + kinds.COMPILED[kind])
    return (Entry(key, number) for number, key in enumerate(keys, 1))


def _text(path: str, errors: str = "strict") -> str:
    with open(os.open(path, os.O_RDONLY | os.O_CLOEXEC | os.O_NONBLOCK), "rb") as file:
        before = os.fstat(file.fileno())
        data = file.read(LARGEST + 1)
        if time.time() - before.st_mtime < QUIET:
            time.sleep(QUIET)
        after = os.fstat(file.fileno())
    if len(data) > LARGEST:
        raise ValueError(f"more than {LARGEST} octets")
    if (before.st_size, before.st_mtime_ns) != (after.st_size, after.st_mtime_ns):
        raise ValueError("is being written")
    try:
        return decoded(data, errors)
    except UnicodeDecodeError as error:
        raise ValueError(f"octet {error.start} is neither UTF-8 nor UTF-16: export it as UTF-8") from None


def _rows(path: str, query: str) -> Iterator[str]:
    database = apsw.Connection(path, flags=apsw.SQLITE_OPEN_READONLY)
    try:
        database.set_busy_timeout(5000)
        yield from (str(row[0]) for row in database.execute(query) if row[0] is not None)
    finally:
        database.close()
