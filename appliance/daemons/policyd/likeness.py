"""Requests at RCPT that differ in their recipient only: judged without being read and prepared again.

Contract: a Likeness is made of the first such request about a message, where all that was found before the recipient's
turn holds for a while (Verdict.until), and the checks of the recipient can be bound (engine/bound.py). It answers what
Question would, and leaves behind what Question would: the message with its trail, counts, log lines and event. It asks
nobody and answers None where it does not hold. A stranger is put off by a form (texts.py), which is made once for each
domain of recipients; all else is concluded by a Question. What failure means for the mail: none; what is not alike is
judged as any request.
"""

import re
from bisect import bisect
from functools import partial
from typing import TYPE_CHECKING, NamedTuple

import msgspec

from appliance.daemons.policyd import record, saying
from appliance.daemons.policyd.cutting import Cut, Lead
from appliance.daemons.policyd.facts import Facts
from appliance.daemons.policyd.messages import Message, Session
from appliance.daemons.policyd.question import Question
from appliance.daemons.policyd.rules import Door, Rules, address_of
from appliance.daemons.policyd.texts import Form, form_takes, make
from appliance.engine.asking import counted
from appliance.engine.bound import Asked, Bound, bind
from appliance.mail.greylisting import GreylistAnswer
from appliance.mail.identity import Identity
from appliance.mail.promise import Promise
from appliance.mail.verdict import ALWAYS, Decision, Verdict
from appliance.protocol.smtp.address import Address

if TYPE_CHECKING:
    from appliance.daemons.policyd.front import Front

#: What was asked, and found.
Known = tuple[frozenset[str], tuple[Verdict, ...]]
#: Domains of recipients with a form (some 5 KB each), or without a chance of one; strangers put off before there is one.
DOMAINS, BEFORE = 4, 3
_new = tuple.__new__


class _Base(NamedTuple):
    """What messages that begin alike have in common."""

    rules: Rules
    bound: Bound
    of_message: Known
    identity: Identity | None

    def begun(self, ident: str, session: Session, now: float) -> Message:
        """Such a message."""
        message = Message(ident, self.rules, session, now)
        message.asked, message.trail = self.of_message
        message.identity = self.identity
        return message

    def put_off(self, message: Message, address: Address, now: float, answer: GreylistAnswer, action: str) -> None:
        """It began so with a stranger to the greylist: what was found is made where somebody asks."""
        message.answers[address.text] = action
        message.late = partial(_verdicts, self.bound, address, message.id, now, answer)


class Likeness:
    """See the module's head. No exception begins or ends between `since` and `ends` (wall clock); `until`: monotonic."""

    __slots__ = (
        "base",
        "before",
        "client",
        "ends",
        "facts",
        "forms",
        "found",
        "helo",
        "of_session",
        "plain",
        "since",
        "stays",
        "strangers",
        "until",
    )

    facts: Facts
    client: str
    helo: str
    base: _Base
    before: Known
    found: tuple[Verdict, ...]
    of_session: Known
    #: What is known of the session is not changed.
    stays: bool
    #: A local part that needs no closer look.
    plain: re.Pattern[str]
    forms: dict[str, Form | None]
    #: So many were put off without a form.
    strangers: int
    until: float
    since: float
    ends: float

    def ask(
        self, front: "Front", door: Door, lead: "Lead[Likeness]", one: Cut, session: Session | None
    ) -> tuple[Session, bytes | str | Promise[str]] | None:
        """Judge the request `one` of `lead`: its session, and the octets of the answer, or the action. None: not so."""
        now, port, key = front.clock(), one.port, (one.instance, self.client)
        if self.base.rules is not front.rules or front.monotonic() >= self.until or not self.since <= now < self.ends:
            return None
        if session is None or session.key != (self.client, port, self.helo):
            session = Session((self.client, port, self.helo))
        messages = front.messages
        if not (session.stands(self.before) and port.isdecimal()) or key in messages.known:
            return None
        local, _, domain = one.recipient.rpartition("@")
        form = self.forms.get(domain) if self.plain.fullmatch(local) is not None and form_takes(one.queue_id) else None
        if form is None or not form.of_first:
            return self._asks_on(front, door, lead, one, session, now)
        address = _new(Address, (local, domain, one.recipient, False))
        if not self.base.bound.first(address):
            return self._asks_on(front, door, lead, one, session, now)
        if not self.stays:
            session.asked, session.trail = self.of_session
        ident = next(front.ids)
        action = form.action(ident)
        saying.later(form, one, ident, now, now)
        messages.known[key] = _PutOff(self.base, session, address, ident, now, action)
        if len(messages.known) > messages.most:
            record.unsaid(messages.shrink())
        return session, form.octets(action)

    def _asks_on(
        self, front: "Front", door: Door, lead: "Lead[Likeness]", one: Cut, session: Session, now: float
    ) -> tuple[Session, str | Promise[str]] | None:
        """What is no stranger at sight, with a form."""
        local, _, domain = one.recipient.rpartition("@")
        plain = self.plain.fullmatch(local) is not None
        if plain and domain in self.forms:
            address: Address | None = _new(Address, (local, domain, one.recipient, False))
        else:
            address = address_of(one.recipient, door.origin)
        if address is None or address.utf8:
            return None
        plain = plain and address.text == one.recipient
        form = self.forms.get(domain) if plain and form_takes(one.queue_id) else None
        bound = self.base.bound
        answer = bound.step(address, now) if form is not None else None
        if answer is None:
            form, answer = None, bound.ask(address, now, plain)
        if answer is None:
            return None
        return session, self._goes_on(_Turn(front, door, lead, one, session, address, now), form, answer)

    def _goes_on(self, turn: "_Turn", form: Form | None, answer: Asked | Promise[Asked]) -> str | Promise[str]:
        """What is no stranger with a form at once. Apart: its closures would cost those."""
        front, door, lead, one, session, address, now = turn
        session.asked, session.trail = self.of_session
        message = self.base.begun(next(front.ids), session, now)
        record.unsaid(front.messages.keep(one.instance, self.client, message))

        def heard(said: Asked) -> str:
            if form is not None and type(said) is GreylistAnswer and form.fits(said):
                action = form.action(message.id)
                saying.later(form, one, message.id, now, said.first)
                self.base.put_off(message, address, now, said, action)
                return action
            question = Question(front, door, lead.attributes(one), session, self.facts)
            question.now, question.before, question.cut = message.touched, self.before, one
            return self._conclude(question, address, said)

        if not isinstance(answer, Promise):
            return heard(answer)
        then = front.monotonic()

        def waited(said: Asked) -> Asked:
            self.base.bound.waited(front.monotonic() - then)
            return said

        return answer.map(waited).map(heard)

    def holds(self, question: Question) -> bool:
        """Whether what it was made of still stands."""
        front = question.front
        in_time = self.since <= question.now < self.ends and front.monotonic() < self.until
        return self.base.rules is front.rules and self.before == question.before and in_time

    def _conclude(self, question: Question, address: Address, answer: Asked) -> str:
        """As any request, from here on."""
        decision = self.base.bound.decide(address, question.id, question.now, answer)
        counted(self.found)
        counted(decision.verdicts)
        question.found = self.found
        if type(answer) is GreylistAnswer and answer.state == "new" and address.domain not in self.forms:
            self._form(question, address, answer)
        return question.conclude_rcpt(decision)

    def _form(self, question: Question, address: Address, answer: GreylistAnswer) -> None:
        """Such an answer has no form yet."""
        self.strangers += 1
        if self.strangers > BEFORE and self.plain.fullmatch(address.local):
            if len(self.forms) >= DOMAINS:
                self.forms.clear()
            bound = self.base.bound
            made = self.forms[address.domain] = make(question, bound.decide, self.found, answer)
            if made is not None:
                made.of_first = made.fits(bound.first_answer(question.now))


class _Turn(NamedTuple):
    """A request that is being judged."""

    front: "Front"
    door: Door
    lead: Lead[Likeness]
    one: Cut
    session: Session
    address: Address
    now: float


class _PutOff(msgspec.Struct, gc=False):
    """A message whose first recipient was put off by a form (messages.Brief). No cycle goes through it."""

    base: _Base
    session: Session
    recipient: Address
    id: str
    touched: float
    action: str

    def whole(self) -> Message:
        """With what was found, which is made where somebody asks."""
        message = self.base.begun(self.id, self.session, self.touched)
        answer = self.base.bound.first_answer(self.touched)
        self.base.put_off(message, self.recipient, self.touched, answer, self.action)
        return message


def _verdicts(bound: Bound, address: Address, ident: str, now: float, answer: Asked) -> tuple[Verdict, ...]:
    return bound.decide(address, ident, now, answer).verdicts


def learn(lead: Lead[Likeness], question: Question, decision: Decision) -> None:
    """A request of this lead has been answered. What cannot be learnt is tried less and less often."""
    if lead.likeness is not None and lead.likeness.holds(question):
        return  # it was this recipient only that is otherwise
    lead.tried += 1
    if lead.tried & (lead.tried - 1) == 0 or lead.likeness is not None:
        lead.likeness = _learnt(question, decision)


def _learnt(question: Question, decision: Decision) -> Likeness | None:
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
    of_message = message.asked, message.trail[:-count]
    if made.of_session[1] + of_message[1] != before[1] + found:
        return None  # somebody else asked about this session meanwhile
    ctx = question.context("rcpt")
    ctx = msgspec.structs.replace(ctx, trail=made.of_session[1] + of_message[1], recipients=())
    bound = bind(rules.engine, ctx)
    if bound is None:
        return None
    made.facts, made.client, made.helo = question.facts, question.facts.who.address, ctx.helo
    made.stays = made.of_session == before
    made.before, made.base = before, _Base(rules, bound, of_message, ctx.identity)
    made.until, made.found, made.forms = until, found, {}
    made.strangers = 0
    letters = re.escape("".join(letter for letter in "._=-" if letter not in rules.site.recipient_delimiter))
    made.plain = re.compile(rf"(?=.{{1,64}}\Z)[a-z0-9]+(?:[{letters}][a-z0-9]+)*" if letters else "[a-z0-9]{1,64}")
    place = bisect(rules.ends, question.now)
    made.since = rules.ends[place - 1] if place else -ALWAYS
    made.ends = rules.ends[place] if place < len(rules.ends) else ALWAYS
    return made
