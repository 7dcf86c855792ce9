"""The log line and the event of a deferral at RCPT, ready but for what differs from request to request.

Contract: what comes out is what `record` writes of the same answer, letter by letter; what is ready is made by the same
code from a request with marks in the places of what differs. What failure means for the mail: none.
"""

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

from appliance.daemons.fronts import events as message_events
from appliance.mail.verdict import Verdict
from appliance.observe import lines

if TYPE_CHECKING:
    from appliance.daemons.policyd.cutting import Cut
    from appliance.daemons.policyd.question import Question

#: What differs; no text that a client sends or an operator writes has these in it.
_QUEUE_ID, _ACTION, _RECIPIENT = "\0queue id\0", "\0action\0", "\0recipient\0"


def judged(word: str, attributes: Mapping[str, str], name: str, address: str, action: str, state: str) -> str:
    """The log line of an answer."""
    return lines.judged(
        word,
        state,
        name,
        address,
        action,
        queue_id=attributes.get("queue_id", "") or lines.NOQUEUE,
        sender=attributes.get("sender"),
        recipient=attributes.get("recipient"),
        protocol=attributes.get("protocol_name", ""),
        helo=attributes.get("helo_name", ""),
    )


def event(question: "Question", attributes: Mapping[str, str], **told: Any) -> dict[str, Any]:
    """What the journal hears of an answer. `told`: time, id, action, deciding, verdicts."""
    return {
        "event": "policy",
        "time": told["time"],
        "id": told["id"],
        "listener": question.door.name,
        "state": question.state,
        "queue_id": attributes.get("queue_id", ""),
        "client": {"address": question.who.address, "name": question.who.name},
        "helo": attributes.get("helo_name", ""),
        "sender": attributes.get("sender", ""),
        "recipient": attributes.get("recipient", ""),
        "action": told["action"],
        "deciding": told["deciding"],
        "verdicts": told["verdicts"],
    }


class Texts:
    """Made of one request, for all that are like it. Raises ValueError where they cannot be made ready."""

    __slots__ = ("_event", "_line")

    def __init__(self, question: "Question") -> None:
        marked = question.attributes | {"queue_id": _QUEUE_ID, "recipient": _RECIPIENT}
        who = question.who
        line = judged("reject", marked, who.name, who.address, _ACTION, question.state)
        self._line = _cut(line, _QUEUE_ID, _ACTION, _RECIPIENT)
        self._event = event(question, question.attributes, time=0.0, id="", action="", deciding=None, verdicts=[])

    def line(self, queue_id: str, action: str, recipient: str) -> str:
        """The log line."""
        head, before_action, before_recipient, tail = self._line
        return f"{head}{queue_id or lines.NOQUEUE}{before_action}{action}{before_recipient}{recipient}{tail}"

    def event(
        self,
        now: float,
        ident: str,
        one: "Cut",
        action: str,
        decided: Verdict | None,
        found: Sequence[Verdict],
    ) -> dict[str, Any]:
        """The event."""
        told = self._event.copy()  # its keys keep their order
        told["time"], told["id"], told["queue_id"], told["recipient"] = now, ident, one.queue_id, one.recipient
        told["action"], told["deciding"] = action, deciding(decided, found)
        told["verdicts"] = [message_events.plain(verdict) for verdict in found]
        return told


def deciding(verdict: Verdict | None, verdicts: Sequence[Verdict]) -> dict[str, Any] | None:
    """The verdict that decided; its evidence stands among all verdicts, where it is one of this request."""
    if verdict is None:
        return None
    for one in reversed(verdicts):
        if one is verdict:
            break
    else:
        return message_events.plain(verdict)
    told = {"check": verdict.check, "outcome": verdict.outcome, "stage": verdict.stage, "reason": verdict.reason}
    return told | {"recipient": verdict.recipient} if verdict.recipient else told


def _cut(text: str, *marks: str) -> tuple[str, ...]:
    """What stands between the marks. Raises ValueError if they do not stand there once each, in order."""
    parts = []
    for mark in marks:
        before, found, text = text.partition(mark)
        if not found or mark in text:
            raise ValueError(f"{mark!r} does not stand there once")
        parts.append(before)
    return (*parts, text)
