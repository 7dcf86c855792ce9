"""Content filters that are commands, as delivery drives them: their settings, their places, the way to the runner.

Contract: one Programs a process; a reload changes the settings of the next session. What failure means for the mail: a
filter that is configured no more keeps its mail waiting.
"""

import asyncio
from pathlib import Path

from appliance.config.model import Wiring
from appliance.config.values import NextHop
from appliance.connectors.pipe import PipeSession, Settings
from appliance.connectors.runner import Runner


class Programs:
    """`path`: the runner's socket; `folder`: where files without a name may be made."""

    def __init__(self, path: str, folder: Path) -> None:
        self._runner, self._folder = Runner(path), str(folder)
        self._settings: dict[str, Settings] = {}
        self._places: dict[str, tuple[int, asyncio.Semaphore]] = {}

    def follow(self, wiring: Wiring) -> None:
        """A snapshot is in force."""
        self._settings = {}
        for name, entry in wiring.filters.items():
            if not entry.command:
                continue
            self._settings[name] = Settings(
                name=name,
                program=entry.command[0],
                seconds=entry.seconds,
                eol=entry.eol.encode(),
                flags=entry.flags,
                null_sender=entry.null_sender,
                size_limit=entry.size_limit,
                edits=entry.output == "message",
                final=entry.ends,
                folder=self._folder,
            )
            if name not in self._places or self._places[name][0] != entry.at_once:
                self._places[name] = entry.at_once, asyncio.Semaphore(entry.at_once)

    def open(self, hop: NextHop) -> PipeSession:
        """A session for one message. Raises KeyError for a filter that is configured no more."""
        return PipeSession(self._settings[hop.host], self._runner, hop.path, self._places[hop.host][1])

    def close(self) -> None:
        self._runner.close()
