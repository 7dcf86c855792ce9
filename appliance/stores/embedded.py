"""The embedded database of `stated`: apsw with its bundled SQLite, WAL, one writer thread, full sync at each batch.

Contract: `read` and `walk` are for the event loop's thread (point reads and short pages on a connection of their own);
`write`, `checkpoint` and `check` block and are for the one writer thread. A file that is damaged is set aside as
`NAME.damaged-TIME` and replaced by an empty one; a file that cannot be opened or written (disk full, rights) leaves the
daemon deciding from RAM, and each later write tries again. Never opened with the standard library's sqlite3.
What failure means for the mail: none. Strangers may have to wait once more; `trouble` says so in status.
"""

import contextlib
import time
from collections.abc import Iterable, Iterator, Mapping
from itertools import chain, islice
from pathlib import Path
from typing import Any

import apsw
import msgspec

from appliance.stores.shelf import Row

DAMAGE = (apsw.CorruptError, apsw.NotADBError)
_SCHEMA = (
    """CREATE TABLE IF NOT EXISTS {0} (key TEXT PRIMARY KEY, value BLOB NOT NULL, expires REAL NOT NULL) WITHOUT ROWID"""
)
#: Rows of one statement. Each statement lets the loop's thread go on and must wait for it behind: so few of them.
TOGETHER = 100
#: Seconds behind each: thousands of rows at once would keep a processor from those who answer.
BREATH = 0.0005
_ROW = "(?, ?, ?)"
_TOGETHER = ", ".join([_ROW] * TOGETHER)


class Damaged(Exception):
    """The database file is not a sound database; the text says what was found."""


class Database:
    """See the module's head."""

    def __init__(self, path: Path, tables: Iterable[str]) -> None:
        self.path = path
        self.tables = (*tables, "meta")
        #: What is wrong, in words for status; "" = nothing.
        self.trouble = ""
        #: What was set aside since start, in words for status.
        self.lost = ""
        self.damaged = False
        self.breath = BREATH
        self._reader: apsw.Connection | None = None
        self._writer: apsw.Connection | None = None

    def open(self) -> None:
        """Open or create the file; a damaged one is set aside. Never raises: `trouble` tells."""
        try:
            self._open()
        except DAMAGE as error:
            self.set_aside(str(error))
        except (apsw.Error, OSError) as error:
            self._failed(error)

    def _open(self) -> None:
        self.path.parent.mkdir(parents=True, exist_ok=True)
        with contextlib.ExitStack() as failed:
            failed.callback(self.close)
            self._writer = self._connect()
            with _transaction(self._writer):  # one sync for all, where a disk is slow
                for table in self.tables:
                    self._writer.execute(_SCHEMA.format(table))
            reader = self._connect()
            failed.callback(_shut, reader)
            for table in self.tables:
                reader.execute(f"SELECT key, value, expires FROM {table} LIMIT 1").fetchall()  # noqa: S608
            self._reader = reader  # the loop's from now on: this may be the writer's thread
            failed.pop_all()
        self.trouble, self.damaged = "", False

    def _connect(self) -> apsw.Connection:
        connection = apsw.Connection(str(self.path))
        connection.set_busy_timeout(2000)
        for pragma in ("journal_mode=WAL", "synchronous=FULL", "wal_autocheckpoint=0", "journal_size_limit=8388608"):
            connection.execute(f"PRAGMA {pragma}").fetchall()
        return connection

    def set_aside(self, why: str) -> bool:
        """Put the damaged files out of the way and start empty; whether they are. Never raises: `trouble` tells, and the
        next write finds the damage again."""
        self.close()
        stamp = time.strftime("%Y%m%dT%H%M%S")
        aside = self.path.with_name(f"{self.path.name}.damaged-{stamp}")
        try:
            for suffix in ("-wal", "-shm", ""):  # the last one decides: before that it is the old one still
                with contextlib.suppress(FileNotFoundError):
                    self.path.with_name(self.path.name + suffix).rename(f"{aside}{suffix}")
        except OSError as error:
            self._failed(error)
            return False
        self.lost = f"database {self.path} was damaged ({why}): set aside as {aside.name}, state began empty"
        try:
            self._open()
        except (apsw.Error, OSError) as error:
            self._failed(error)
        return True

    def _failed(self, error: Exception) -> None:
        self.damaged = isinstance(error, DAMAGE)
        self.trouble = f"database {self.path} cannot be used ({type(error).__name__}: {error}): deciding from memory"

    def read(self, table: str, key: str) -> bytes | None:
        """One record as stored, or None (also while the database is away)."""
        if self._reader is None:
            return None
        try:
            found: list[Any] = self._reader.execute(
                f"SELECT value FROM {table} WHERE key = ?",  # noqa: S608
                (key,),
            ).fetchall()
        except apsw.Error as error:
            self._failed(error)
            return None
        return bytes(found[0][0]) if found else None

    def walk(self, table: str, after: str, count: int) -> list[tuple[str, bytes, float]]:
        """The next `count` rows behind the key `after`, in key order; [] at the end or while the database is away."""
        if self._reader is None:
            return []
        sql = f"SELECT key, value, expires FROM {table} WHERE key > ? ORDER BY key LIMIT ?"  # noqa: S608
        try:
            page: list[Any] = self._reader.execute(sql, (after, count)).fetchall()
            return page
        except apsw.Error as error:
            self._failed(error)
            return []

    @property
    def is_open(self) -> bool:
        return self._reader is not None

    def write(self, batch: Mapping[str, Iterable[Row]], meta: bytes) -> None:
        """One transaction of changes, synced. Raises Damaged (set it aside) or OSError (try later)."""
        try:
            if self._writer is None:
                self._open()
            assert self._writer is not None
            with _transaction(self._writer):
                for table, changes in batch.items():
                    self._change(self._writer, table, changes)
                self._writer.execute("REPLACE INTO meta VALUES ('clock', ?, 0)", (meta,))
        except DAMAGE as error:
            raise Damaged(str(error)) from error
        except (apsw.Error, OSError) as error:
            self._failed(error)
            raise OSError(self.trouble) from error
        self.trouble = ""

    def _change(self, writer: apsw.Connection, table: str, changes: Iterable[Row]) -> None:
        gone: list[tuple[str]] = []

        def kept() -> Iterator[Row]:
            for row in changes:
                if row[1] is None:
                    gone.append((row[0],))
                else:
                    yield row

        put, rows = f"REPLACE INTO {table} VALUES ", kept()  # noqa: S608
        while len(some := list(islice(rows, TOGETHER))) == TOGETHER:
            writer.execute(put + _TOGETHER, tuple(chain.from_iterable(some)))
            time.sleep(self.breath)
        if some:
            writer.executemany(put + _ROW, some)
        if gone:
            writer.executemany(f"DELETE FROM {table} WHERE key = ?", gone)  # noqa: S608

    def checkpoint(self) -> None:
        """Move the WAL into the database; what cannot be moved now is moved later."""
        if self._writer is not None:
            with contextlib.suppress(apsw.Error):
                self._writer.wal_checkpoint(mode=apsw.SQLITE_CHECKPOINT_PASSIVE)

    def check(self) -> str:
        """Look through the whole file (blocking, on a connection of its own): "" if it is sound, else what is wrong."""
        try:
            connection = apsw.Connection(str(self.path), flags=apsw.SQLITE_OPEN_READONLY)
            try:
                found = connection.execute("PRAGMA quick_check(1)").fetchall()
            finally:
                connection.close()
        except DAMAGE as error:
            return str(error)
        except apsw.Error:
            return ""  # away, not damaged: the writer reports that
        return "" if found == [("ok",)] else str(found[0][0])

    def meta(self) -> bytes | None:
        """The saved clock."""
        return self.read("meta", "clock")

    def count(self, table: str) -> int:
        """Rows of a table (a full scan: for tests and operators, not for the loop of a busy daemon)."""
        assert self._reader is not None
        found: list[Any] = self._reader.execute(f"SELECT count(*) FROM {table}").fetchall()  # noqa: S608
        return int(found[0][0])

    def close(self) -> None:
        for connection in (self._reader, self._writer):
            if connection is not None:
                _shut(connection)
        self._reader = self._writer = None


@contextlib.contextmanager
def _transaction(connection: apsw.Connection) -> Iterator[None]:
    """All or nothing. As statements: `with connection` keeps all threads of the process until the disk has synced."""
    connection.execute("BEGIN")
    try:
        yield
        connection.execute("COMMIT")
    except BaseException:
        with contextlib.suppress(apsw.Error):  # some errors have rolled it back already
            connection.execute("ROLLBACK")
        raise


def _shut(connection: apsw.Connection) -> None:
    with contextlib.suppress(apsw.Error):
        connection.close()


def packed(value: object) -> bytes:
    """`value` as it is stored."""
    return msgspec.msgpack.encode(value)
