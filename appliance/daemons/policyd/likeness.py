"""Requests at RCPT that differ in their recipient only: judged without being read and prepared again.

Contract: a Likeness is made of the first such request about a message, where all that was found before the recipient's
turn holds for a while (Verdict.until), and the checks of the recipient can be bound (engine/bound.py). It answers what
Question would, and leaves behind what Question would: the message with its trail, counts, log lines and event. It asks
nobody and answers None where it does not hold. A deferral, the usual answer to a stranger, has its texts ready; all else
is concluded by a Question. What failure means for the mail: none; what is not alike is judged as any request.
"""

from bisect import bisect
from typing import TYPE_CHECKING

import msgspec

from appliance.daemons.policyd import answers, record
from appliance.daemons.policyd.cutting import Cut, Lead
from appliance.daemons.policyd.facts import Facts
from appliance.daemons.policyd.messages import Message, Session
from appliance.daemons.policyd.question import Question
from appliance.daemons.policyd.rules import Door, Rules, address_of
from appliance.daemons.policyd.texts import Texts
from appliance.engine.asking import counted
from appliance.engine.bound import Bound, bind
from appliance.mail.identity import Identity
from appliance.mail.promise import Promise
from appliance.mail.verdict import ALWAYS, Decision, Verdict

if TYPE_CHECKING:
    from appliance.daemons.policyd.front import Front

#: What was asked, and found.
Known = tuple[frozenset[str], tuple[Verdict, ...]]


class Likeness:
    """See the module's head. No exception begins or ends between `since` and `ends` (wall clock); `until`: monotonic."""

    __slots__ = (
        "before",
        "bound",
        "ends",
        "facts",
        "found",
        "helo",
        "identity",
        "lead",
        "of_message",
        "of_session",
        "rules",
        "since",
        "texts",
        "until",
        "utf8",
    )

    lead: "Lead[Likeness]"
    facts: Facts
    helo: str
    rules: Rules
    bound: Bound
    before: Known
    found: tuple[Verdict, ...]
    of_session: Known
    of_message: Known
    identity: Identity | None
    texts: Texts
    until: float
    since: float
    ends: float

    def ask(self, front: "Front", door: Door, one: Cut, session: Session | None) -> tuple[Session, Promise[str]] | None:
        """Judge the request `one`: its session, and the action to come. None: not like this."""
        address, client, now = address_of(one.recipient), self.facts.who.address, front.clock()
        if address is None or address.utf8 or self.rules is not front.rules or front.monotonic() >= self.until:
            return None
        if not self.since <= now < self.ends or front.messages.knows(one.instance, client):
            return None
        if session is None or session.key != (client, one.port, self.helo):
            session = Session((client, one.port, self.helo))
        if session.trail != self.before[1] or session.asked != self.before[0] or not one.port.isdecimal():
            return None
        asked = self.bound.ask(address, now, front.ids)
        if asked is None:
            return None
        ident, promise = asked
        if self.found:
            counted(self.found)
        session.asked, session.trail = self.of_session
        message = Message(ident, self.rules, session, now)
        message.asked, message.trail = self.of_message
        message.identity = self.identity
        record.unsaid(front.messages.keep(one.instance, client, message))

        def answer(decision: Decision) -> str:
            if decision.verb != "defer" or decision.notes or decision.deciding is None:
                return self._conclude(front, door, one, session, message, decision)
            refused = answers.refusal(decision)
            message.remember(one.recipient, refused)
            message.trail += decision.verdicts
            message.identity = decision.identity or message.identity
            record.deferred(self.texts, message, one, refused, decision, self.found)
            return refused

        return session, promise.map(answer)

    def _conclude(
        self,
        front: "Front",
        door: Door,
        one: Cut,
        session: Session,
        message: Message,
        decision: Decision,
    ) -> str:
        """As any request, from here on."""
        question = Question(front, door, self.lead.attributes(one), session, self.facts)
        question.now, question.before, question.cut = message.touched, self.before, one
        question.found = self.found
        return question.conclude_rcpt(decision)


def learn(lead: Lead[Likeness], question: Question, decision: Decision) -> None:
    """A request of this lead has been answered. What cannot be learnt is tried less and less often."""
    lead.tried += 1
    if lead.tried & (lead.tried - 1) == 0 or lead.likeness is not None:
        lead.likeness = _learnt(lead, question, decision)


def _learnt(lead: Lead[Likeness], question: Question, decision: Decision) -> Likeness | None:
    """What can be learnt of a request that has been answered; None: nothing."""
    message, session, rules = question.message, question.session, question.rules
    count, before = len(decision.verdicts), question.before
    found = question.found[: len(question.found) - count]
    until = min((verdict.until for verdict in found), default=ALWAYS)
    if before is None or not rules.steady or until <= question.front.monotonic() or question.recipient is None:
        return None
    if question.recipient.utf8 or rules is not question.front.rules or message.trail[-count:] != decision.verdicts:
        return None
    made = Likeness()
    made.of_session = session.asked, session.trail
    made.of_message = message.asked, message.trail[:-count]
    if made.of_session[1] + made.of_message[1] != before[1] + found:
        return None  # somebody else asked about this session meanwhile
    ctx = question.context("rcpt")
    ctx = msgspec.structs.replace(ctx, trail=made.of_session[1] + made.of_message[1], recipients=())
    bound = bind(rules.engine, ctx)
    if bound is None:
        return None
    made.lead, made.facts, made.helo = lead, question.facts, ctx.helo
    made.rules, made.bound, made.before, made.identity = rules, bound, before, ctx.identity
    made.texts, made.until, made.found = Texts(question), until, found
    place = bisect(rules.ends, question.now)
    made.since = rules.ends[place - 1] if place else -ALWAYS
    made.ends = rules.ends[place] if place < len(rules.ends) else ALWAYS
    return made
