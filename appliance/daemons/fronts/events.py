"""The journal's event of a message that a front has answered.

Contract: nothing here raises or waits. What failure means for the mail: none; the journal may lose events.
"""

from typing import Any

from appliance.engine.pipeline import Combined, Group
from appliance.mail.context import Context
from appliance.mail.verdict import Verdict
from appliance.observe import events


def emit(ctx: Context, combined: Combined, message_id: str, reply: str, size: int, result: str, **more: Any) -> None:
    """One message: what was known, what was found, what was answered. `more`: what only this front knows of it."""
    deciding = combined.deciding
    found = {id(verdict): verdict for group in combined.groups for verdict in group.decision.verdicts}
    events.emit(
        {
            "event": "message",
            "time": ctx.now,
            "id": ctx.transaction,
            "listener": ctx.listener,
            "client": {"address": ctx.client.address, "name": ctx.client.name, "proof": ctx.client.proof},
            "helo": ctx.helo,
            "sender": ctx.sender.text if ctx.sender else "",
            "recipients": [recipient.address.text for recipient in ctx.recipients],
            "size": size,
            "message_id": message_id,
            "signs": sorted(ctx.signs),
            "result": result,
            "reply": reply,
            "deciding": plain(deciding) if deciding else None,
            "kept": [_kept(group) for group in combined.store if group.decision.keep != "deliver"],
            "verdicts": [plain(verdict) for verdict in (*ctx.trail, *found.values())],
            **more,
        }
    )


def why(verdict: Verdict) -> str:
    """A verdict as the log names it."""
    return f"{verdict.check}:{verdict.outcome} {verdict.reason}".rstrip()


def _kept(group: Group) -> dict[str, Any]:
    """A copy that is not delivered: for whom (places in `recipients`), where it is, why."""
    return {"for": group.recipients, "keep": group.decision.keep, "reason": group.decision.keep_reason}


def plain(verdict: Verdict) -> dict[str, Any]:
    """A verdict as events have it."""
    told: dict[str, Any] = {
        "check": verdict.check,
        "outcome": verdict.outcome,
        "stage": verdict.stage,
        "reason": verdict.reason,
    }
    if verdict.evidence:
        told["evidence"] = verdict.evidence
    return told
