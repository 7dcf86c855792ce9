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
from appliance.observe import lines, metrics
from appliance.observe.text import CAP
from appliance.protocol.policy import encode_answer
from appliance.protocol.smtp.address import Address

if TYPE_CHECKING:
    from appliance.daemons.policyd.cutting import Cut
    from appliance.daemons.policyd.facts import Who
    from appliance.daemons.policyd.question import Question

requests = metrics.tally("postgate_policyd_requests_total", "Policy requests by state and answer.", ("state", "action"))
answered_so = requests.bundle
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
        self._pick = itemgetter(*places) if len(places) > 1 else itemgetter(slice(*_span(places)))

    def fill(self, values: tuple[str, ...]) -> str:
        """The text with these values, in the order of the marks."""
        pieces = self._pieces.copy()
        pieces[1::2] = self._pick(values)
        return "".join(pieces)


def _span(places: Sequence[int]) -> tuple[int, int]:
    """Of one place, or none: itemgetter gives a tuple for two and more only."""
    return (places[0], places[0] + 1) if places else (0, 0)


class Form:
    """Of the first attempt of a triplet, for one domain of recipients. `counts`: the cell of what was found, by check and
    outcome; `counted`: the cell of state and answer; `fit`: the log lines are sure to be printable and short enough as
    they are. Raises ValueError for texts that are not two log lines, and an action that names more than the id."""

    __slots__ = ("_action", "_event", "_like", "_lines", "_plain", "counted", "counts", "fit", "of_first")

    def __init__(
        self,
        texts: tuple[str, str, str],
        marks: Sequence[str],
        domain: str,
        like: GreylistAnswer,
        cells: tuple[list[int], list[int]],
    ) -> None:
        action, ident, other = texts[0], marks[1], "x" * _LONGEST
        if any(mark in action for mark in marks if mark != ident):
            raise ValueError("an action that names more than the id")
        #: What stands around the id.
        self._action = action.split(ident)
        self._plain = action.isprintable() and action == action.strip() != ""
        self._lines, self._event = _Blanks(texts[1], marks), _Blanks(texts[2], marks)
        self._like = like
        self.counts, self.counted = cells
        #: It fits the first attempt of whoever the greylist knows at sight for a stranger.
        self.of_first = False
        longest = self._lines.fill((f"{other}@{domain}", other, other, other, other, other, "")).split("\n")
        if len(longest) != 3:  # nothing stands behind the second
            raise ValueError("a line feed in a log line")
        self.fit = all(line.isprintable() and len(line) <= CAP for line in longest)

    def fits(self, answer: GreylistAnswer) -> bool:
        """Whether it was made for such an answer."""
        like = self._like
        return answer.state == like.state and answer.key == like.key and _rest(answer) == _rest(like)

    def action(self, ident: str) -> str:
        """What is answered."""
        return ident.join(self._action)

    def octets(self, action: str) -> bytes:
        """How that goes to the client."""
        return f"action={action}\n\n".encode() if self._plain else encode_answer(action)

    def said(self, one: "Cut", ident: str, now: float, first: float, start: str = "") -> tuple[str, str]:
        """Both log lines with `start` before each, and the event. `first`: the moment of the first attempt."""
        queue_id = one.queue_id
        queue, told = (queue_id, _json(queue_id)) if queue_id else (lines.NOQUEUE, '""')
        values = one.recipient, ident, _json(now), _json(in_millis(first)), told, queue, start
        return self._lines.fill(values), self._event.fill(values)


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
        cells = found_together(counts), answered_so([(question.state, counted_as(whole[0]))])
        form = Form(whole, marks, address.domain, answer, cells)
        ident, now, cut = question.id, question.now, question.cut
        real = _whole(question, question.attributes, ident, now, decide(address, ident, now, answer), before)
        if cut is None or (form.action(ident), *form.said(cut, ident, now, answer.first)) != real:
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
