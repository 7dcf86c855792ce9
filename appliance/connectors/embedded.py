"""A scanner that is no peer: scand looks at the message, in the child that takes it apart.

Contract: as scanner.Scanner. The job is the one that `attachments` asks for, so that a message is taken apart once.
What failure means for the mail: scand away, its child killed, rules not in force: kind `error`.
"""

from typing import Any

from appliance.connectors import yara
from appliance.connectors.dialects import Inside
from appliance.connectors.scanner import NOBODY, REST, Scanner, Settings
from appliance.mail.context import Context
from appliance.mail.ports import Content, Unavailable
from appliance.mail.scan import ScanResult


class Embedded(Scanner):
    """One `[scanners.NAME]` of kind yara."""

    def __init__(self, settings: Settings, *, rest: float = REST, inside: Inside = NOBODY) -> None:
        super().__init__(settings, rest=rest, inside=inside)
        self._inspector = inside.inspector
        self._options: yara.Options = settings.options or yara.Options()

    async def _scan(self, content: Content, ctx: Context) -> ScanResult:
        if self.limit and content.size > self.limit:
            why = f"{content.size} octets, the scanner takes {self.limit}"
            return ScanResult(kind="oversize", scanner=self.name, why=why)
        return await self.trial(content, ctx.transaction)

    async def trial(self, content: Content, transaction: str) -> ScanResult:
        """Whatever the breaker says: scand has none."""
        if self._inspector is None:
            return self._trouble("scand is not asked by this process")
        try:
            inspection = await self._inspector.inspect(content, self._options.limits)
            found = yara.result(inspection.report, self.name, self._options.any)
        except Unavailable as error:
            return self._trouble(str(error))
        return self._heard(found)

    async def trial_part(self, octets: bytes) -> ScanResult:
        """Parts are seen with the message."""
        return ScanResult(kind="skipped", scanner=self.name)

    async def learn_versions(self) -> None:
        """scand has the rules of the configuration in force."""

    def facts(self) -> dict[str, Any]:
        """For status."""
        return self.condition.facts()
