"""Tables that a .cf file asks before it asks its own server: those in its `domain`.

Contract: every type but lists that are fetched. Types in memory follow their file as the .cf file is followed; others
are open as long as the table that names them, each with its own slots and deadline, within the deadline of the look-up
that asks. A .cf file that stands here may name further ones, but none that is being opened: so nothing waits for itself.
A table that cannot be opened is a mistake with the place that names it. What failure means for the mail: the look-up
fails, and its reason says which table, named where; never "not listed".
"""

from collections.abc import Iterator
from typing import NamedTuple

from appliance.mail.later import answered
from appliance.mail.ports import Hit, Unavailable
from appliance.tables import (
    Opened,
    Remote,
    TableError,
    complaint,
    leaves,
    open_table,
    path_of,
    proxied_path,
    remotes,
    synced_name,
)
from appliance.tables.proxied.base import Asked, Bad, Step
from appliance.tables.proxied.cf import Settings
from appliance.tables.proxied.keeper import Keeper


class Nested(NamedTuple):
    """One table, and the file and line that name it."""

    spec: str
    place: str
    table: Opened

    async def has(self, key: str, step: Step) -> bool:
        """Whether it has `key`. Raises Unavailable; meanwhile the step says who is asked."""
        before, step.text = step.text, f"asking {self.spec}, which {self.place} names in domain"
        try:
            found = await answered(self.table.get(key))
        except Unavailable as error:
            raise Unavailable(f"{self.place}: domain: {error}") from None
        step.text = before
        return found is not None


class Nest:
    """Those of one .cf file. Give it up with close()."""

    def __init__(self, settings: Settings) -> None:
        self._settings = settings
        self._keeper = Keeper(settings.opens or _refused, quiet=True, rests=False)
        settings.further.append(self._keeper.unrest)

    def open(self, spec: str, path: str, line: int) -> Nested | None:
        """The table that stands there; mistakes are noted (None: it is no table at all)."""
        try:
            if problem := next(self._against(spec), ""):
                raise TableError(problem)
            table = open_table(spec, self._settings.read)
        except TableError as why:
            self._settings.wrong_at(path, line, f'domain: "{spec}": {why}')
            return None
        except OSError as why:
            self._settings.wrong_at(path, line, f'domain: "{spec}": {why.strerror or why}')
            return None
        for flaw in table.source.flaws:
            if flaw.fatal:
                where = (flaw.path, flaw.line) if flaw.path else (path, line)
                self._settings.wrong_at(*where, f"domain: {flaw.text}")
        for remote in remotes(table):
            remote.line = self
            for problem in self._keeper.also([remote.spec]):
                self._settings.wrong_at(path, line, f'domain: "{spec}": {problem}')
        return Nested(spec, f"{path}:{line}", table)

    def _against(self, spec: str) -> Iterator[str]:
        """Why this is not asked, as far as its name says."""
        if problem := complaint(spec):
            yield problem
        for leaf in leaves(spec):
            if synced_name(leaf):
                yield "a list that is fetched cannot be asked here"
            if not (path_of(leaf) or proxied_path(leaf) or "/").startswith("/"):
                yield "write the whole path, from / on"

    async def ask(self, table: Remote, key: str) -> Hit | None:
        """As remote.Line.ask."""
        return await self._keeper.hit(table.spec, key)

    def close(self) -> None:
        self._keeper.close()


def _refused(spec: str) -> Asked:
    raise Bad(f"{spec} is not asked here")
