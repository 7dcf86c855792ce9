"""sqlite tables (sqlite_table(5)): a query of a database file of this machine, asked in a thread.

Contract: the file is opened read-only. The first column of each row is a value. A look-up that computes for long
is interrupted at its deadline. Each table has one thread, which alone touches the open database. What failure means
for the mail: a file that is locked, damaged or not there puts off.
"""

import stat
import time
from pathlib import Path

import apsw

from appliance.mail.ports import Unavailable
from appliance.tables.proxied.base import Opener, Step
from appliance.tables.proxied.cf import Settings
from appliance.tables.proxied.template import LEGACY, Form, legacy_query, sound
from appliance.tables.proxied.threads import Threads

Stamp = tuple[int, int]


class SqliteTable:
    """One .cf file."""

    remembered = False
    deadline = 10.0
    #: For what `domain` asks before; the file itself has one thread.
    slots = 16

    def __init__(self, path: str, opens: Opener | None = None) -> None:
        self._settings = Settings(path, ("dbpath", *LEGACY), opens=opens)
        self._file = self._settings.needed("dbpath")
        self._form = Form(self._settings, ("query", legacy_query(self._settings)))
        self._settings.done()
        self._threads = Threads("sqlite", 1)
        self._database: apsw.Connection | None = None
        self._stamp: Stamp | None = None

    async def get(self, key: str, step: Step) -> str | None:
        if not sound(key) or not await self._form.admits(key, step):
            return None
        parts = self._form.parts(key)
        if parts is None:
            return None
        query = self._form.queries["query"].fill(parts, _quoted)
        try:
            values = await self._threads.run(self._values, query, step)
        except (apsw.Error, OSError) as error:
            raise Unavailable(f"{self._file}: {error}") from None
        return self._form.joined(key, values)

    def _values(self, query: str, step: Step) -> list[str]:
        """The first column of every row; a few more rows than are allowed are enough to see that there are too many."""
        step.text = f"asking {self._file}"
        database, end = self._opened(), time.monotonic() + self.deadline - 1.0
        database.set_progress_handler(lambda: time.monotonic() > end, 10_000)
        try:
            found: list[str] = []
            for row in database.execute(query):
                found += [str(value) for value in row[:1] if value is not None]
                if self._form.limit and len(found) > 10 * self._form.limit + 100:
                    break
            return found
        except apsw.Error:
            self._forget()
            raise

    def _opened(self) -> apsw.Connection:
        seen = Path(self._file).stat()
        stamp = seen.st_ino, seen.st_dev
        if self._database is None or stamp != self._stamp:
            self._forget()
            if not stat.S_ISREG(seen.st_mode):  # opening a pipe waits for whoever writes it
                raise OSError("is not a regular file")
            self._database = apsw.Connection(self._file, flags=apsw.SQLITE_OPEN_READONLY)
            self._database.set_busy_timeout(2000)
            self._stamp = stamp
        return self._database

    def _forget(self) -> None:
        if self._database is not None:
            self._database.close()
            self._database = None

    def sample(self) -> str | None:
        return self._form.sample()

    def changed(self) -> bool:
        return self._settings.changed()

    def close(self) -> None:
        self._form.close()
        self._threads.close(self._forget)


def _quoted(text: str) -> str:
    """As sqlite3_snprintf("%q") does."""
    return text.replace("\0", "").replace("'", "''")
