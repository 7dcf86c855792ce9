"""What an aggregate report (RFC 9990) needs of one message, as plain values for the journal.

Contract: pure. `asked` is what the author's domain wants done with this message, `outcome` what the check found; what was
done stands beside it in the message's event (`result`, `deciding`, `kept`). Results are words of RFC 8601.
"""

from collections.abc import Mapping
from typing import Any

from appliance.mail.auth import DkimReport, DmarcReport, SpfReport
from appliance.mail.context import Context


def facts(
    ctx: Context,
    client: str,
    spf: SpfReport,
    dkim: DkimReport,
    report: DmarcReport,
    discovery: str,
    outcome: str,
    override: tuple[str, str] = ("", ""),
) -> dict[str, Any]:
    """`client`: the address that SPF was asked for; `override`: its type (RFC 9990) and comment."""
    published: Mapping[str, Any] = report.facts.get("published", {})
    return {
        "source_ip": client or ctx.client.address,
        "helo": ctx.helo,
        "envelope_from": ctx.sender.domain if ctx.sender else "",
        "envelope_to": sorted({recipient.address.domain for recipient in ctx.recipients}),
        "header_from": report.domain,
        "published": {**published, "discovery": discovery} if published else {},
        "result": report.result,
        "asked": report.policy or "none",
        "outcome": outcome,
        "aligned": {"spf": _word(report.spf_aligned), "dkim": _word(report.dkim_aligned)},
        "spf": {"domain": spf.domain, "scope": spf.scope, "result": spf.result},
        "dkim": [
            {"domain": item.domain, "selector": item.selector, "result": item.result, "human_result": item.reason}
            for item in dkim.signatures
        ],
        "overrides": _overrides(report, override),
    }


def _word(aligned: bool) -> str:
    return "pass" if aligned else "fail"


def _overrides(report: DmarcReport, override: tuple[str, str]) -> list[dict[str, str]]:
    """Why less was done than the published policy says."""
    found = [{"type": "policy_test_mode", "comment": "t=y"}] if report.testing and report.result == "fail" else []
    if override[0]:
        found.append({"type": override[0], "comment": override[1]})
    return found
