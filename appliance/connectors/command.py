"""A program as a scanner: run over the content by the runner, its exit code and output understood there.

Contract: only the kinds of mail.programs count. What failure means for the mail: a program that fails, takes too long, or
says what nobody knows is kind `error`.
"""

from collections.abc import Hashable
from typing import cast

from appliance.connectors.conversation import NoAnswer, Progress, Server
from appliance.connectors.runner import Runner
from appliance.connectors.source import Source
from appliance.mail.context import Context
from appliance.mail.programs import MEANINGS
from appliance.mail.scan import ScanKind, ScanResult
from appliance.protocol.errors import ProtocolError

KIND = "command"


class Command:
    """connectors.dialects.Dialect."""

    limit = 0
    takes_parts = True

    def __init__(self, name: str, runner: Runner) -> None:
        self._name, self._runner = name, runner

    def key(self, source: Source, ctx: Context) -> Hashable:
        """The content alone."""
        return source.mail, source.digest

    async def ask(self, server: Server, source: Source, ctx: Context, progress: Progress) -> ScanResult:
        """Raises NoAnswer, ProtocolError, Unavailable."""
        progress.server, progress.phase = server, "waiting for the program"
        found = await self._runner.run(self._name, source)
        if found.kind == "error":
            raise NoAnswer(found.why)
        if found.kind not in MEANINGS:
            raise ProtocolError(f"the runner answered {found.kind!r}")
        return ScanResult(kind=cast(ScanKind, found.kind), scanner=self._name, names=found.names, why=found.why)

    def close(self) -> None:
        """Nothing is kept."""
