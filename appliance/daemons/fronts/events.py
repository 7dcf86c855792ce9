"""The journal's event of a message that a front has answered.

Contract: nothing here raises or waits. What failure means for the mail: none; the journal may lose events.
"""

from collections.abc import Iterable
from typing import Any

import msgspec

from appliance.engine.pipeline import Combined, Group
from appliance.mail.context import Context
from appliance.mail.replies import on_one_line
from appliance.mail.verdict import Verdict
from appliance.observe import events

_encode = msgspec.json.Encoder().encode


def written(verdicts: Iterable[Verdict]) -> bytes:
    """Verdicts as events and the queue have them: JSON. What cannot be written is named; it costs no mail."""
    verdicts = list(verdicts)
    try:
        return _encode([plain(verdict) for verdict in verdicts])
    except (TypeError, ValueError):  # UnicodeEncodeError is a ValueError
        return b"[" + b",".join(map(_bare, verdicts)) + b"]"


def _bare(verdict: Verdict) -> bytes:
    told = {"check": verdict.check, "outcome": verdict.outcome, "stage": verdict.stage}
    try:
        return _encode(plain(verdict))
    except (TypeError, ValueError) as error:
        return _encode(told | {"reason": f"cannot be written: {type(error).__name__}"})


def emit(
    ctx: Context,
    combined: Combined,
    message_id: str,
    reply: str,
    size: int,
    result: str,
    verdicts: bytes = b"",
    **more: Any,
) -> None:
    """One message: what was known, what was found, what was answered. `verdicts`: all of them, if they were written
    already. `more`: what only this front knows of it."""
    deciding = combined.deciding
    if not verdicts:
        found = {id(verdict): verdict for group in combined.groups for verdict in group.decision.verdicts}
        verdicts = written((*ctx.trail, *found.values()))
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
            "reply": on_one_line(reply),
            "deciding": plain(deciding) if deciding else None,
            "kept": [_kept(group) for group in combined.store if group.decision.keep != "deliver"],
            "verdicts": msgspec.Raw(verdicts),
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
    """A verdict as events and the queue have it."""
    told: dict[str, Any] = {
        "check": verdict.check,
        "outcome": verdict.outcome,
        "stage": verdict.stage,
        "reason": verdict.reason,
    }
    if verdict.score:
        told["score"] = verdict.score
    if verdict.recipient:
        told["recipient"] = verdict.recipient
    if verdict.evidence:
        told["evidence"] = verdict.evidence
    return told
