"""YARA rules as a scanner: what scand found by them while it took the message apart.

Contract: a rule's meta `kind` decides: infected (also without any), suspicious, or clean (told in evidence only). A
message in which nothing was found as far as a limit let it be taken apart is unscannable. What failure means for the
mail: a message that was not taken apart, or while the rules were not in force, is kind `error`.
"""

from collections.abc import Hashable

import msgspec

from appliance.connectors.conversation import Progress, Server
from appliance.connectors.source import Source
from appliance.mail.context import Context
from appliance.mail.inspection import Report
from appliance.mail.ports import Unavailable
from appliance.mail.scan import ScanKind, ScanResult
from appliance.protocol.mime import LIMITS, Limits

KIND = "yara"
_TOLD = 20


class Options(msgspec.Struct, frozen=True):
    """`limits` of taking apart; `any`: the configuration has rules at all."""

    limits: Limits = LIMITS
    any: bool = True


class Yara:
    """connectors.dialects.Dialect, as far as there is one: nothing is sent (embedded.Embedded asks scand)."""

    limit = 0
    takes_parts = False

    def __init__(self, name: str) -> None:
        self._name = name

    def key(self, source: Source, ctx: Context) -> Hashable:
        """The content alone."""
        return source.digest

    async def ask(self, server: Server, source: Source, ctx: Context, progress: Progress) -> ScanResult:
        """Nobody is asked so."""
        raise Unavailable(f"{self._name} is asked with the whole content only")

    def close(self) -> None:
        """Nothing is kept."""


def result(report: Report, name: str, expected: bool) -> ScanResult:
    """What a report says; `expected`: there are rules. Raises Unavailable."""
    if expected and not report.rules:
        raise Unavailable("scand: the YARA rules are not in force")
    told = [hit for hit in report.hits if hit.kind != "clean"]
    kinds = {hit.kind for hit in told}
    nothing: ScanKind = "unscannable" if report.over else "clean"
    kind: ScanKind = "infected" if "infected" in kinds else "suspicious" if kinds else nothing
    counted = [hit for hit in told if hit.kind == kind]
    rules = [f"{hit.rule} {hit.path[:200]} {hit.kind}" for hit in report.hits[:_TOLD]]
    where = dict.fromkeys(f"{hit.rule} in part {hit.path!r}"[:300] for hit in counted)
    over = f"over the limit of {report.over}: not all was looked at" if kind == "unscannable" else ""
    return ScanResult(
        kind=kind,
        scanner=name,
        names=tuple(dict.fromkeys(hit.rule for hit in counted)),
        why=over or ", ".join(list(where)[:_TOLD]),
        evidence={"rules": rules} if rules else {},
    )
