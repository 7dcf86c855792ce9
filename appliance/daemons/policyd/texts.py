"""The log line and the event of an answer; and forms of both, where only little differs from request to request.

Contract: a Form is made of one deferral at RCPT by the code that judges and writes any: with marks in the places of what
differs, then tried on that very deferral. What it gives is what that code gives, letter by letter. What failure means for
the mail: none.
"""

import re
import secrets
from collections.abc import Callable, Mapping, Sequence
from operator import itemgetter
from typing import TYPE_CHECKING, Any

import msgspec

from appliance.daemons.fronts import events as message_events
from appliance.daemons.policyd import answers
from appliance.engine.asking import found_together
from appliance.mail.greylisting import GreylistAnswer
from appliance.mail.verdict import Decision, Verdict, in_millis
from appliance.observe import lines
from appliance.observe.text import CAP
from appliance.protocol.policy import encode_answer
from appliance.protocol.smtp.address import Address

if TYPE_CHECKING:
    from appliance.daemons.policyd.cutting import Cut
    from appliance.daemons.policyd.facts import Who
    from appliance.daemons.policyd.question import Question

_encode = msgspec.json.Encoder().encode
#: In the places of what differs. No client knows the word.
_WORD = secrets.token_hex(6)
_LOCAL, _ID, _QUEUE_ID, _START = f"a{_WORD}", f"B{_WORD}", f"C{_WORD}", f"D{_WORD}"
_NOW, _FIRST = 1111111111.625, 1222222222.375
#: Words of answers that are counted by name.
_PLAIN = ("DUNNO", "REJECT", "DEFER", "DEFER_IF_PERMIT", "DEFER_IF_REJECT", "DISCARD", "HOLD", "REDIRECT")
_KNOWN = frozenset((*_PLAIN, "FILTER", "BCC", "PREPEND", "WARN", "INFO"))
#: No local part with a form is longer, nor is an id of ours or a moment.
_LONGEST = 64


def counted_as(action: str) -> str:
    """The word of an answer for the metric."""
    verb = action.partition(" ")[0]
    return verb if verb in _KNOWN else f"{verb[:1]}xx"


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


def about(ident: str, who: "Who", attributes: Mapping[str, str]) -> str:
    """The mail that a request is about."""
    sender, recipient = attributes.get("sender", ""), attributes.get("recipient", "")
    return f"{ident} from {lines.peer(who.name, who.address)}: from=<{sender}> to=<{recipient}>"


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


def why(ident: str, decision: Decision) -> str:
    """The second log line of a refusal."""
    assert decision.deciding is not None
    return f"{ident}: {decision.verb} by {message_events.why(decision.deciding)}"


class _Blanks:
    """A text with marks in the places of what differs: what stands between them, and which value stands where."""

    __slots__ = ("_pick", "_pieces")

    def __init__(self, text: str, marks: Sequence[str]) -> None:
        #: Every second one is a blank.
        self._pieces = re.split(f"({'|'.join(map(re.escape, marks))})", text)
        places = [marks.index(mark) for mark in self._pieces[1::2]]
        self._pick = itemgetter(*places) if len(places) > 1 else lambda values: [values[place] for place in places]

    def fill(self, values: tuple[str, ...]) -> str:
        """The text with these values, in the order of the marks."""
        pieces = self._pieces.copy()
        pieces[1::2] = self._pick(values)
        return "".join(pieces)


class Form:
    """Of the first attempt of a triplet, for one domain of recipients. `counts`: the cell of what was found, by check and
    outcome; `counted`: state and answer, for the metric; `fit`: the log lines are sure to be printable and short enough
    as they are. Raises ValueError for texts that are not two log lines."""

    __slots__ = ("_action", "_event", "_like", "_lines", "_plain", "counted", "counts", "fit", "of_first")

    def __init__(
        self, texts: Sequence[_Blanks], domain: str, like: GreylistAnswer, counts: Sequence[tuple[str, str]]
    ) -> None:
        self._action, self._lines, self._event = texts
        self._like, self.counts = like, found_together(counts)
        #: It fits the first attempt of whoever the greylist knows at sight for a stranger.
        self.of_first = False
        other = "x" * _LONGEST
        longest = self._lines.fill((f"{other}@{domain}", other, other, other, other, other, "")).split("\n")
        if len(longest) != 3:  # nothing stands behind the second
            raise ValueError("a line feed in a log line")
        self.fit = all(line.isprintable() and len(line) <= CAP for line in longest)
        action = self._action.fill((other,) * 7)
        self._plain = action.isprintable() and action == action.strip() != ""
        self.counted = "RCPT", counted_as(self._action.fill(("",) * 7))

    def fits(self, answer: GreylistAnswer) -> bool:
        """Whether it was made for such an answer."""
        like = self._like
        return answer.state == like.state and answer.key == like.key and _rest(answer) == _rest(like)

    def octets(self, action: str) -> bytes:
        """How its action goes to the client."""
        return f"action={action}\n\n".encode() if self._plain else encode_answer(action)

    def fill(self, one: "Cut", ident: str, now: float, first: float, start: str = "") -> tuple[str, str, bytes]:
        """The action, both log lines with `start` before each, the event. `first`: the moment of the first attempt."""
        queue_id = one.queue_id
        queue, told = (queue_id, _json(queue_id)) if queue_id else (lines.NOQUEUE, '""')
        values = one.recipient, ident, _json(now), _json(in_millis(first)), told, queue, start
        return (
            self._action.fill(values),
            self._lines.fill(values),
            self._event.fill(values).encode(),
        )


def form_takes(queue_id: str) -> bool:
    """Whether forms can be filled for a request with this queue id: it is one, or there is none."""
    return not queue_id or (len(queue_id) <= _LONGEST and queue_id.isprintable() and queue_id != "warning")


def _rest(answer: GreylistAnswer) -> tuple[int, int, float]:
    return answer.attempts, answer.passes, answer.wait


def _json(value: str | float) -> str:
    return _encode(value).decode()


#: Judges the recipient of a request: of an address, an id, a moment, and the answer of the store.
Decide = Callable[[Address, str, float, GreylistAnswer], Decision]


def make(question: "Question", decide: Decide, before: Sequence[Verdict], answer: GreylistAnswer) -> Form | None:
    """The form of a request that was answered so; None where there cannot be one. `before`: what was found before the
    recipient's turn."""
    address = question.recipient
    if address is None or answer.state != "new":
        return None
    marked = Address(_LOCAL, address.domain, f"{_LOCAL}@{address.domain}")
    like = msgspec.structs.replace(answer, first=_FIRST)
    attributes = question.attributes | {"queue_id": _QUEUE_ID, "recipient": marked.text}
    try:
        decision = decide(marked, _ID, _NOW, like)
        if decision.verb != "defer" or decision.deciding is None or decision.notes:
            return None
        counts = [(verdict.check, verdict.outcome) for verdict in (*before, *decision.verdicts)]
        whole = _whole(question, attributes, _ID, _NOW, decision, before, _START)
        marks = marked.text, _ID, _json(_NOW), _json(_FIRST), f'"{_QUEUE_ID}"', _QUEUE_ID, _START
        form = Form([_Blanks(text, marks) for text in whole], address.domain, answer, counts)
        real = decide(address, question.id, question.now, answer)
        action, logged, event = _whole(question, question.attributes, question.id, question.now, real, before)
        cut = question.cut
        if cut is None or form.fill(cut, question.id, question.now, answer.first) != (action, logged, event.encode()):
            return None
    except (LookupError, ValueError, msgspec.MsgspecError):
        return None
    return form


def _whole(
    question: "Question",
    attributes: Mapping[str, str],
    ident: str,
    now: float,
    decision: Decision,
    before: Sequence[Verdict],
    start: str = "",
) -> tuple[str, str, str]:
    """The action, both log lines with `start` before each, the event."""
    who, found = question.who, (*before, *decision.verdicts)
    action = answers.refusal(decision)
    told: dict[str, Any] = {"time": now, "id": ident, "action": action, "deciding": deciding(decision.deciding, found)}
    told["verdicts"] = [message_events.plain(verdict) for verdict in found]
    line = judged("reject", attributes, who.name, who.address, action, question.state)
    logged = f"{start}{line}\n{start}{why(ident, decision)}\n"
    return action, logged, f"{_encode(event(question, attributes, **told)).decode()}\n"


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
