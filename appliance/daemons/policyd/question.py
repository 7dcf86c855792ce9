"""One request: translated to Contexts, judged stage by stage, the Decision translated back.

Contract: the stages of a request are those up to the SMTP command in progress that nobody has asked about this client
and this message yet. `answer` gives the action at once where nothing has to wait. What is asked twice about a recipient
is judged once. What failure means for the mail: exceptions are the connection's (its default answer).
"""

from collections.abc import Awaitable, Callable
from typing import TYPE_CHECKING

from appliance.daemons.policyd import answers, record
from appliance.daemons.policyd.cutting import Cut
from appliance.daemons.policyd.facts import Facts, client_of, login_of, number, tls_of
from appliance.daemons.policyd.messages import Message, Session
from appliance.daemons.policyd.rules import Door, address_of
from appliance.daemons.policyd.states import EARLY, OF_CLIENT, ONCE, RECALLING, STAGES
from appliance.engine.pipeline import combine
from appliance.mail.context import Context, Recipient, Stage
from appliance.mail.promise import Promise
from appliance.mail.verdict import ACCEPT, Decision, Verdict
from appliance.protocol.policy import REQUEST, Attributes
from appliance.protocol.smtp.address import Address
from appliance.protocol.smtp.command import BAD_ADDRESS

if TYPE_CHECKING:
    from appliance.daemons.policyd.front import Front


class Odd(Exception):
    """A request that cannot be judged; the text says why, for the log. `action`: what is answered."""

    action = answers.DUNNO


class Unreadable(Odd):
    """An address is there and cannot be read: it is refused as the other fronts refuse it. The client's own reading of it
    (`%`, `!`) may lead to anybody."""

    def __init__(self, text: str, verb: str) -> None:
        super().__init__(text)
        self.action = BAD_ADDRESS[verb]


class Question:
    """One request."""

    __slots__ = (
        "attributes",
        "before",
        "client",
        "cut",
        "door",
        "facts",
        "found",
        "front",
        "id",
        "learn",
        "message",
        "now",
        "recipient",
        "role",
        "rules",
        "sender",
        "session",
        "state",
        "who",
    )

    def __init__(
        self, front: "Front", door: Door, attributes: Attributes, session: Session | None, facts: Facts | None = None
    ) -> None:
        self.attributes, self.state, self.door = attributes, attributes.get("protocol_state", ""), door
        if facts is None:
            facts = _facts(door, attributes)
        self.facts = facts
        self.who, self.sender, self.role, tls, _ = facts
        self.recipient: Address | None = None
        if self.state == "RCPT":
            recipient = attributes.get("recipient", "")
            if not recipient:
                raise Odd("no recipient")
            self.recipient = address_of(recipient, door.origin)
            if self.recipient is None:
                raise Unreadable(f"recipient={recipient[:100]!r} is no address", "RCPT")
        get = attributes.get
        self.client = client_of(self.who, get("client_port", ""), tls, get("server_address", ""), get("server_port", ""))
        self.front, self.now = front, front.clock()
        #: What the answer may be remembered by.
        self.cut: Cut | None = None
        #: Told of the answer to the first request about a message.
        self.learn: Callable[[Question, Decision], None] | None = None
        self.found: tuple[Verdict, ...] = ()
        #: What was known of the session, where this is the first request about its message.
        self.before: tuple[frozenset[str], tuple[Verdict, ...]] | None = None
        self._remembered(front, session)

    def _remembered(self, front: "Front", session: Session | None) -> None:
        """What is known of this client and this message."""
        get = self.attributes.get
        key = (self.who.address, get("client_port", ""), get("helo_name", ""))
        instance = get("instance", "")
        message = front.messages.find(instance, key[0], self.now) if instance else None
        if message is not None:
            self.message, self.session, self.rules, self.id = message, message.session, message.rules, message.id
            return
        if session is None or session.key != key or not key[1].isdecimal():
            session = Session(key)
        self.before = session.asked, session.trail
        self.rules, self.session, self.id = front.rules, session, next(front.ids)
        self.message = Message(self.id, self.rules, session, self.now)
        if instance:
            record.unsaid(front.messages.keep(instance, key[0], self.message))

    # ------------------------------------------------------------------ judging

    def answer(self) -> str | Awaitable[str]:
        """The action."""
        if self.state == "RCPT" and (said := self.message.answers.get(self.attributes["recipient"])) is not None:
            return self._again(said)
        asked = self.session.asked | self.message.asked
        standing = self.rules.standing[self.role]
        stages = [stage for stage in STAGES[self.state] if stage in standing and stage not in asked]
        if self.state in RECALLING and not self.message.judged and STAGES[self.state][-1] not in stages:
            stages.append(STAGES[self.state][-1])
        return self._ask(stages, ACCEPT)

    def _again(self, said: str) -> str:
        """A recipient that is asked about a second time: what was refused is refused, else what is still to be said."""
        action = said or self.message.next() or answers.DUNNO
        record.answered(self, action, ACCEPT, ())
        return action

    def _ask(self, stages: list[Stage], decision: Decision) -> str | Awaitable[str]:
        for index, stage in enumerate(stages):
            answer = self._judge(stage)
            if not isinstance(answer, Decision):
                if isinstance(answer, Promise) and index == len(stages) - 1:
                    return answer.map(lambda found, stage=stage: self._conclude(self._heard(stage, found)))  # type: ignore[misc]
                return self._wait(stage, answer, stages[index + 1 :])
            decision = self._heard(stage, answer)
            if decision.verb != "accept":
                break
            self._goes_on(stage, decision, stages[index + 1 :])
        return self._conclude(decision)

    async def _wait(self, stage: Stage, answer: Awaitable[Decision], stages: list[Stage]) -> str:
        decision = self._heard(stage, await answer)
        if decision.verb == "accept" and stages:
            self._goes_on(stage, decision, stages)
            rest = self._ask(stages, decision)
            return rest if isinstance(rest, str) else await rest
        return self._conclude(decision)

    def _goes_on(self, stage: Stage, decision: Decision, behind: list[Stage]) -> None:
        """What is found at DATA is not found again behind it, where nobody was asked about at RCPT."""
        if stage == "data" and behind:
            self._want(decision)
            self.message.want(answers.notices(decision))

    def _judge(self, stage: Stage) -> Decision | Awaitable[Decision]:
        ctx = self.context(stage)
        if stage != "message" or not ctx.recipients:
            engine = self.rules.early if self.state in EARLY else self.rules.engine
            if stage == STAGES[self.state][-1] and self.state in RECALLING and not self.message.judged:
                only = self.attributes.get("recipient", "")  # Postfix names it here where it is the only one
                return engine.ask(ctx, recall=True, only=address_of(only, self.door.origin) if only else None)
            return engine.ask(ctx)
        groups = self.rules.engine.message(ctx)
        if isinstance(groups, list):
            return _joined(groups)
        return _later(groups)

    def context(self, stage: Stage) -> Context:
        """What the engine is asked."""
        get, message = self.attributes.get, self.message
        return Context(
            stage=stage,
            role=self.role,
            listener=self.door.name,
            transaction=self.id,
            client=self.client,
            helo=get("helo_name", ""),
            esmtp=get("protocol_name", "") != "SMTP",
            sender=self.sender,
            smtputf8=bool((self.sender and self.sender.utf8) or (self.recipient and self.recipient.utf8)),
            declared_size=number(get("size", "")),
            recipient=Recipient(address=self.recipient) if stage == "rcpt" and self.recipient else None,
            recipients=message.recipients,
            now=self.now,
            trail=self.session.trail + message.trail,
            identity=message.identity,
            login=self.facts.login,
        )

    def _heard(self, stage: Stage, decision: Decision) -> Decision:
        """Keep what was found."""
        self.found += decision.verdicts
        if stage == STAGES[self.state][-1] and self.state in RECALLING:
            self.message.recalled = True
        if stage in OF_CLIENT:
            self.session.asked |= {stage}
            self.session.trail += decision.verdicts
            return decision
        message = self.message
        if stage in ONCE:
            message.asked |= {stage}
        message.trail += decision.verdicts
        message.identity = decision.identity or message.identity
        return decision

    # ------------------------------------------------------------------ the answer

    def conclude_rcpt(self, decision: Decision) -> str:
        """The action, where RCPT was judged elsewhere."""
        return self._conclude(self._heard("rcpt", decision))

    def _conclude(self, decision: Decision) -> str:
        refused = answers.refusal(decision)
        message = self.message
        if self.state not in answers.ON_MESSAGE:
            action = refused or answers.DUNNO
        else:
            action = refused or self._effects(decision)
            if self.state == "RCPT" and self.recipient is not None:
                message.remember(self.attributes["recipient"], refused)
                if not refused or refused.startswith("DISCARD"):
                    message.add(Recipient(address=self.recipient))
        record.answered(self, action, decision, self.found)
        if self.cut is not None and action is answers.DUNNO and not decision.notes:
            self.door.memory.keep(self.front, self.cut, self)
        if self.learn is not None and decision.verdicts:
            self.learn(self, decision)
        return action

    def _effects(self, decision: Decision) -> str:
        """One action; the others are kept for the next request."""
        message = self.message
        self._want(decision)
        if self.state == "RCPT" and decision.if_reject:
            return answers.deferred(decision.if_reject)
        if self.state == "END-OF-MESSAGE":
            record.lost(message.id, message.drop_fields())
        action = message.next()
        if not self.attributes.get("instance"):  # nobody can ask about it again
            record.unsaid((message,))
        return action or next(iter(answers.notices(decision)), answers.DUNNO)

    def _want(self, decision: Decision) -> None:
        message, inbound = self.message, self.role == "inbound"
        results = [text for verdict in (*self.session.trail, *message.trail) for text in verdict.authres]
        if decision.marks or decision.edits or results or decision.keep != "deliver" or _has_more(decision):
            message.want(answers.effects(decision, self.rules.site, inbound, results if inbound else ()))


def _facts(door: Door, attributes: Attributes) -> Facts:
    """What is said of client and sender. Raises Odd."""
    get = attributes.get
    state, sender = get("protocol_state", ""), None
    if get("request") != REQUEST or state not in STAGES:
        raise Odd(_problem(attributes))
    who = door.who(get("client_address", ""), get("client_name", ""), get("reverse_client_name", ""))
    if who is None:
        raise Odd(f"client_address={get('client_address', '')[:100]!r} is no address")
    if state not in EARLY or state == "MAIL":
        if (text := get("sender")) is None:
            raise Odd("no sender")
        sender = address_of(text, door.origin)
        if sender is None:
            raise Unreadable(f"sender={text[:100]!r} is no address", "MAIL")
    login = login_of(attributes)
    ours = login is not None and door.front.authenticated == "outbound"
    return Facts(who, sender, "outbound" if ours else who.role, tls_of(attributes), login)


def _has_more(decision: Decision) -> bool:
    return bool(decision.redirect or decision.filter or decision.bcc)


def _joined(groups: list) -> Decision:  # type: ignore[type-arg]
    """One decision for all recipients: Postfix has one answer to the end of a message. Where some refuse and others
    accept, the message is held for the operator."""
    combined = combine(groups)
    alike = next((group.decision for group in groups if group.decision.verb == combined.verb), ACCEPT)
    kept = next((group.decision for group in combined.store if group.decision.keep != "deliver"), None)
    if combined.verb == "accept" and kept is not None:
        return kept
    return alike


async def _later(groups: Awaitable[list]) -> Decision:  # type: ignore[type-arg]
    return _joined(await groups)


def _problem(attributes: Attributes) -> str:
    """Why such a request is not judged."""
    if (kind := attributes.get("request")) != REQUEST:
        return f"request={kind!r:.60} is not answered here" if kind else "no request="
    state = attributes.get("protocol_state")
    return f"protocol_state={state!r:.60} is not known" if state else "no protocol_state"
