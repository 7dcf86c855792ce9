"""All configured scanners of one process, with their checkups.

Contract: a scanner outlives reloads as long as its settings stay, with its health, its breaker and what runs; who still
holds an older one may use it to the end. What failure means for the mail: see scanner.Scanner; nothing here stops mail.
"""

import asyncio
import weakref
from collections.abc import Iterable, Mapping
from typing import Any

from appliance.connectors import yara
from appliance.connectors.checkup import Checkup
from appliance.connectors.dialects import Inside
from appliance.connectors.embedded import Embedded
from appliance.connectors.scanner import NOBODY, Scanner, Settings
from appliance.observe import trouble


class Scanners:
    """`tests`: this process makes the EICAR self-tests (one of all workers does). `inside`: whom some kinds need."""

    def __init__(self, *, tests: bool, inside: Inside = NOBODY) -> None:
        self._tests, self._inside = tests, inside
        self._made: weakref.WeakValueDictionary[Settings, Scanner] = weakref.WeakValueDictionary()
        self._checkups: dict[str, Checkup] = {}
        self._changed = asyncio.Event()
        self._task: asyncio.Task[None] | None = None

    def find(self, settings: Iterable[Settings]) -> Mapping[str, Scanner]:
        """The scanners for these settings; those that are new are nobody's business yet but the caller's."""
        found: dict[str, Scanner] = {}
        for entry in settings:
            scanner = self._made.get(entry)
            if scanner is None:
                scanner = self._made[entry] = self._make(entry)
            found[entry.name] = scanner
        return found

    def _make(self, settings: Settings) -> Scanner:
        kind = Embedded if settings.kind == yara.KIND else Scanner
        return kind(settings, inside=self._inside)

    def follow(self, settings: Iterable[Settings], wanted: int) -> Mapping[str, Scanner]:
        """The scanners for these settings are those in force: looked after, and told of in status. `wanted`: octets of
        the largest message that we take, 0 = any."""
        found = self.find(settings)
        checkups = {name: self._checkup(name, scanner, wanted) for name, scanner in found.items()}
        if checkups != self._checkups:
            for name in self._checkups.keys() - checkups.keys():
                self._checkups[name].scanner.condition.show(in_force=False)
            for checkup in checkups.values():
                checkup.scanner.condition.show()
            self._checkups = checkups
            self._changed.set()
        return found

    def _checkup(self, name: str, scanner: Scanner, wanted: int) -> Checkup:
        old = self._checkups.get(name)
        if old is not None and old.scanner is scanner and old.wanted == wanted:
            return old
        return Checkup(scanner, wanted, eicar=self._tests)

    def start(self) -> None:
        """Begin with the checkups."""
        self._task = asyncio.get_running_loop().create_task(self._watch())

    async def _watch(self) -> None:
        clock = asyncio.get_running_loop().time
        while True:
            self._changed.clear()
            now = clock()
            due = [checkup for checkup in self._checkups.values() if checkup.wait(now) <= 0]
            await asyncio.gather(*(checkup.run() for checkup in due))
            await asyncio.gather(*(checkup.scanner.learn_versions() for checkup in self._checkups.values()))
            pause = min((checkup.wait(clock()) for checkup in self._checkups.values()), default=None)
            try:
                async with asyncio.timeout(pause if pause is None else max(1.0, min(pause, 60.0))):
                    await self._changed.wait()
            except TimeoutError:
                continue

    def facts(self) -> dict[str, dict[str, Any]]:
        """For status, by name."""
        return {
            f"scanner {name} ({checkup.scanner.kind})": checkup.scanner.facts()
            | ({"self-test": checkup.tested} if checkup.tested else {})
            for name, checkup in self._checkups.items()
        }

    @property
    def degraded(self) -> list[trouble.Said]:
        """What is wrong."""
        return [one for checkup in self._checkups.values() for one in checkup.scanner.condition.degraded()]

    def close(self) -> None:
        if self._task is not None:
            self._task.cancel()
        for scanner in list(self._made.values()):
            scanner.close()
