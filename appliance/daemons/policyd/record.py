"""What the policy server writes down: mail log lines, counts, one event a request.

Contract: nothing here raises or waits. A plain pass is one small event and no line. What failure means for the mail:
none; log and journal may lose, mail does not.
"""

from collections.abc import Iterable, Sequence
from typing import TYPE_CHECKING

import msgspec

from appliance.daemons.fronts import events as message_events
from appliance.daemons.policyd import saying, texts
from appliance.mail.verdict import Decision, Verdict
from appliance.observe import events, lines, maillog, metrics, oplog

if TYPE_CHECKING:
    from appliance.daemons.policyd.messages import Message
    from appliance.daemons.policyd.question import Question

log = oplog.get("policyd")
_counts = texts.requests.counts
_open = metrics.gauge("postgate_policyd_connections", "Open connections of policy clients.")
_unreadable = metrics.counter("postgate_policyd_unreadable_total", "Connections that were no policy client's.")
_late = metrics.counter("postgate_policyd_deadlines_total", "Requests that the default answered, for want of time.")
_errors = metrics.counter("postgate_policyd_internal_errors_total", "Requests that the default answered, by our fault.")
_PASSED = ("RCPT", "DUNNO")
_encode = msgspec.json.Encoder().encode
_REFUSE = ("REJECT", "DEFER")


def connections(count: int) -> None:
    """So many are open."""
    _open.set(count)


def answered(question: "Question", action: str, decision: Decision, verdicts: Sequence[Verdict]) -> None:
    """A request has its answer."""
    saying.settle()
    verb = action.partition(" ")[0]
    state = question.state
    _counts[state, texts.counted_as(action)] += 1
    if action == "DUNNO" and not decision.notes:
        try:
            event = plain_event(question)
        except ValueError:
            events.unwritten()
        else:
            events.emit_line(_event(question.now, question.id, event))
        return
    _tell(question, action, verb, decision)
    told = {"time": question.now, "id": question.id, "action": action}
    told |= {"deciding": texts.deciding(decision.deciding, verdicts)}
    told |= {"verdicts": [message_events.plain(verdict) for verdict in verdicts]}
    events.emit(texts.event(question, question.attributes, **told))


def plain_event(question: "Question") -> str:
    """What the event of a plain pass says behind its id. Raises ValueError for text that is none."""
    text = question.attributes.get("recipient", "")
    return f',"state":"{question.state}","client":"{question.who.address}","recipient":{_json(text)},"action":"DUNNO"}}'


def _json(text: str) -> str:
    return _encode(text).decode()


def _event(now: float, ident: str, rest: str) -> bytes:
    return f'{{"event":"policy","time":{now!r},"id":"{ident}"{rest}\n'.encode()


def again(outcomes: list[int], ident: str, now: float, event: str) -> None:
    """A plain pass at RCPT is told again: `outcomes` is the cell of its verdicts, `event` is its plain_event."""
    saying.settle()
    _counts[_PASSED] += 1
    outcomes[0] += 1
    events.emit_line(_event(now, ident, event))


def _tell(question: "Question", action: str, verb: str, decision: Decision) -> None:
    """The log line in Postfix's wording, and why."""
    refused = verb.isdecimal() or verb.startswith(_REFUSE)
    name, address = question.who.name, question.who.address
    word = "reject" if refused else verb.lower()
    text = texts.judged(word, question.attributes, name, address, action, question.state)
    if action != "DUNNO":
        maillog.log(text)
    if refused and decision.deciding is not None:
        maillog.log(texts.why(question.id, decision))
    for note in decision.notes:
        maillog.log(f"{question.id}: {note}; {question.state} from {lines.peer(name, address)}")


def unreadable(peer: str, why: str) -> None:
    """Somebody speaks something else."""
    saying.settle()
    _unreadable.inc()
    maillog.capped("policy protocol error", f"policy client {peer} is hung up on: {why}")


def odd(peer: str, why: str, action: str) -> None:
    """A request that lacks what is needed to judge."""
    saying.settle()
    _counts["?", action] += 1
    maillog.capped("odd policy request", f"policy client {peer}: {why}: {action}")


def late(peer: str, state: str, seconds: float, action: str, mail: str) -> None:
    """No answer in time. `mail`: what it was about."""
    saying.settle()
    _late.inc()
    text = f"policy client {peer}: {state}: no answer within {seconds:g} s: {action}; {mail}"
    maillog.capped("late policy answer", text)


def internal(peer: str, state: str, error: BaseException, action: str, mail: str = "") -> None:
    """Our own mistake: the trace is here and nowhere else. `mail`: what it was about."""
    saying.settle()
    _errors.inc()
    log.error("internal error", client=peer, state=state, answered=action, mail=mail, exc_info=error)


def unsaid(messages: Iterable["Message"]) -> None:
    """Actions for which no request came."""
    for message in messages:
        if message.pending:
            lost(message.id, message.pending)


def lost(ident: str, actions: Iterable[str]) -> None:
    """Actions on a message that nobody can fetch any more."""
    saying.settle()
    if said := "; ".join(actions):
        maillog.capped("unsaid actions", f"{ident}: no request came to say: {said}")
