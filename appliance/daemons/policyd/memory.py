"""Whole answers that are remembered: who asks the same of another message a moment later is told the same.

Contract: only a plain pass (DUNNO, nothing to note, nothing left to say) to the first request about a message, at RCPT,
is remembered, and only as long as each verdict behind it says it holds (Verdict.until), at most KEPT seconds, under the
same policies and tables, while no exception ends, for a session of which as much is known. "The same" are all octets of
the request but the client's port, the queue id and the instance. What is told again is counted, written down and
remembered of its message as if it had been judged. What failure means for the mail: none; what is not remembered is
judged.
"""

from bisect import bisect
from typing import TYPE_CHECKING

import msgspec

from appliance.daemons.policyd import record
from appliance.daemons.policyd.cutting import Cut, said_once
from appliance.daemons.policyd.messages import Message, Session
from appliance.engine.asking import found_together
from appliance.mail.context import Recipient
from appliance.mail.identity import Identity
from appliance.mail.verdict import ALWAYS, Verdict

if TYPE_CHECKING:
    from appliance.daemons.policyd.front import Front
    from appliance.daemons.policyd.question import Question
    from appliance.daemons.policyd.rules import Rules

#: Seconds for which an answer is told again at most, and how many a front remembers.
KEPT, MOST = 5.0, 4096

Trail = tuple[Verdict, ...]


class Kept:
    """One answer. `since` and `ends` (wall clock): between them no exception begins or ends; `before`: what was known of
    the session; `asked` and `trail` of session and message: what is known after it; `outcomes`: its verdicts' cell."""

    __slots__ = (
        "address",
        "before",
        "ends",
        "event",
        "helo",
        "identity",
        "of_message",
        "of_session",
        "outcomes",
        "recipient",
        "rules",
        "since",
        "until",
        "written",
    )

    address: str
    helo: str
    recipient: Recipient
    written: str
    rules: "Rules"
    before: tuple[frozenset[str], Trail]
    of_session: tuple[frozenset[str], Trail]
    of_message: tuple[frozenset[str], Trail]
    identity: Identity | None
    until: float
    since: float
    ends: float
    outcomes: list[int]
    event: str


class Memory:
    """The answers of one front under one set of rules."""

    def __init__(self) -> None:
        #: By what was asked, and whether anything was known of the session.
        self._kept: dict[tuple[bytes, str, bool], Kept] = {}

    def __len__(self) -> int:
        return len(self._kept)

    def again(self, front: "Front", one: Cut, session: Session | None) -> Session | None:
        """The session, if the answer to `one` is DUNNO as it was before, and all is done that belongs to it."""
        known = session is not None and session.key[1] == one.port and bool(session.trail)
        kept = self._kept.get((one.rest, one.recipient, known))
        if kept is None or kept.rules is not front.rules or front.monotonic() >= kept.until:
            return None
        now, instance, messages = front.clock(), one.instance, front.messages
        if not kept.since <= now < kept.ends or (instance, kept.address) in messages.known:
            return None
        if session is None or session.key != (kept.address, one.port, kept.helo):
            session = Session((kept.address, one.port, kept.helo))
        if not session.stands(kept.before) or not one.port.isdecimal():
            return None
        session.asked, session.trail = kept.of_session
        message = Message(next(front.ids), kept.rules, session, now)
        message.asked, message.trail = kept.of_message
        message.identity, message.recipients = kept.identity, (kept.recipient,)
        message.answers[kept.written] = ""
        record.unsaid(messages.keep(instance, kept.address, message))
        record.again(kept.outcomes, message.id, now, kept.event)
        return session

    def keep(self, front: "Front", one: Cut, question: "Question") -> None:
        """The question was answered by a plain DUNNO; remember that, if it holds for a while."""
        message, session, recipient, rules = question.message, question.session, question.recipient, question.rules
        until = min((verdict.until for verdict in question.found), default=ALWAYS)
        now, attributes = front.monotonic(), question.attributes
        if until <= now or rules is not front.rules or not rules.steady or message.pending is not None:
            return
        alone = len(message.recipients) == 1 and message.answers == {attributes["recipient"]: ""}
        trail = question.before[1] if question.before else None
        if trail is None or recipient is None or not alone or not said_once(one, attributes):
            return
        if len(session.trail) + len(message.trail) != len(trail) + len(question.found):
            return  # somebody else asked about this session meanwhile
        kept = Kept()
        try:
            kept.event = record.plain_event(question)
        except (ValueError, msgspec.MsgspecError):
            return
        kept.address, kept.helo = question.who.address, attributes.get("helo_name", "")
        kept.recipient, kept.written = message.recipients[0], attributes["recipient"]
        kept.rules, kept.before = rules, question.before  # type: ignore[assignment]
        kept.of_session, kept.of_message = (session.asked, session.trail), (message.asked, message.trail)
        kept.identity, kept.until = message.identity, min(until, now + KEPT)
        place = bisect(rules.ends, question.now)
        kept.since = rules.ends[place - 1] if place else -ALWAYS
        kept.ends = rules.ends[place] if place < len(rules.ends) else ALWAYS
        kept.outcomes = found_together((verdict.check, verdict.outcome) for verdict in question.found)
        if len(self._kept) >= MOST:
            self._kept.clear()
        self._kept[one.rest, one.recipient, bool(trail)] = kept
