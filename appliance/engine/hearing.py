"""One stage of one transaction: who is judged, what was found so far, and what may still be asked.

Contract: no IO. Every verdict is heard in list order by every party; a party that is decided hears no more, and when all
are decided nothing more is asked.
"""

from collections.abc import Iterable, Sequence
from typing import NamedTuple

import msgspec

from appliance.checks import Asked
from appliance.engine.asking import Slot, call, stamp, verdict_of
from appliance.engine.exceptions import PER_RECIPIENT
from appliance.engine.judge import Group, Judgement
from appliance.engine.marks import mark_edits, strip_forged
from appliance.engine.rules import CheckPolicy, PolicySet
from appliance.mail import authres
from appliance.mail.context import Context
from appliance.mail.identity import Identity
from appliance.mail.ports import Ports
from appliance.mail.verdict import Action, Verdict
from appliance.protocol.smtp.address import Address

EARLY = frozenset({"connect", "helo", "mail"})
#: A question on its way: the check, and its answer or what must be awaited for it.
Asking = tuple[Slot, Asked]


class Party(NamedTuple):
    """Those who share one judgement: the asker (before message), or like recipients by index (at message)."""

    judgement: Judgement
    recipient: Address | None = None
    members: tuple[int, ...] = ()


class Hearing:
    """`delayed`: verdicts are only gathered (they are judged at RCPT), but for a disconnect."""

    __slots__ = ("_past", "_told_of", "ctx", "delayed", "found", "identity", "parties", "policies", "ports")

    def __init__(self, policies: PolicySet, ports: Ports, ctx: Context, parties: Sequence[Party], delayed: bool) -> None:
        self.policies, self.ports, self.ctx = policies, ports, ctx
        self.parties, self.delayed = parties, delayed
        self.found: list[Verdict] = []
        self.identity: Identity | None = None
        self._past, self._told_of = ctx.trail, 0

    @property
    def over(self) -> bool:
        """Nothing that is still to be asked can change anything."""
        for party in self.parties:  # noqa: SIM110 - a generator costs more than all else here
            if party.judgement.decided is None:
                return False
        return True

    def ask(self, step: Sequence[Slot]) -> list[Asking]:
        """Ask one step. If every answer came at once it is heard already and the list is empty."""
        if len(self.found) != self._told_of:
            self._bring_up_to_date()
        if len(step) == 1 and not step[0].policy.exceptions:
            if len(self.parties) == 1 and not self.delayed:
                return self._ask_for_one(step[0], self.parties[0].judgement)
            return self._ask_one(step[0])
        asked: list[Asking] = []
        waits = False
        for slot in step:
            told = self._told(slot)
            if told is None:
                continue
            answer = call(slot, self.ctx, told, self.ports)
            if slot.policy.exceptions:
                others = self._others(slot, told)
                for other in others:
                    asked.append((slot._replace(knobs=other.knobs), call(slot, self.ctx, other, self.ports)))
                if others:
                    slot = slot._replace(knobs=told.knobs)
            asked.append((slot, answer))
        for _, answer in asked:
            waits = waits or type(answer) is not Verdict
        if waits:
            return asked
        for slot, answer in asked:
            self._hear(slot, stamp(slot, self.ctx, answer))
        return []

    def _ask_for_one(self, slot: Slot, judgement: Judgement) -> list[Asking]:
        """As _ask_one where one judgement hears it: nearly every question is this one."""
        policy, ctx = slot.policy, self.ctx
        if policy.mode == "off" or not judgement.wants(policy.name, ctx.stage):
            return []
        verdict = verdict_of(slot, ctx, self.ports)
        if type(verdict) is not Verdict:
            return [(slot, verdict)]
        if verdict.more:
            self._hear(slot, verdict)
            return []
        self.found.append(verdict)
        if verdict.identity is not None:
            self.identity = verdict.identity
        ruling = policy.rulings[verdict.outcome]
        if ruling.action is not Action.DUNNO or verdict.edits:
            judgement.add(verdict, ruling)
        return []

    def _ask_one(self, slot: Slot) -> list[Asking]:
        """The usual step: one check, the same for everybody."""
        policy, ctx = slot.policy, self.ctx
        if policy.mode == "off" or not (self.delayed or self._wanted(policy.name)):
            return []
        verdict = verdict_of(slot, ctx, self.ports)
        if type(verdict) is not Verdict:
            return [(slot, verdict)]
        self._hear(slot, verdict)
        return []

    def _wanted(self, name: str) -> bool:
        """Whether the verdict of this check can still matter to anybody."""
        for party in self.parties:  # noqa: SIM110 - as above
            if party.judgement.wants(name, self.ctx.stage):
                return True
        return False

    def within(self, asked: Sequence[Asking]) -> float:
        """Seconds that this step may take."""
        plan, stage = self.policies.plan, self.ctx.stage
        usual = plan.message_deadline if stage == "message" else plan.deadline
        own = [slot.check.patience(slot.knobs or slot.policy.knobs, stage) for slot, _ in asked if slot.check.patience]
        return usual + max(own, default=0.0)

    def _others(self, slot: Slot, told: CheckPolicy) -> list[CheckPolicy]:
        """Policies with other knobs than `told`, of those who want the verdict, too: each is asked for by itself."""
        found = [told]
        for party in self.parties:
            if self.delayed or party.judgement.wants(slot.policy.name, self.ctx.stage):
                own = slot.policy.under(self.ctx, party.recipient)
                if own.mode != "off" and all(own.knobs != other.knobs for other in found):
                    found.append(own)
        return found[1:]

    def _bring_up_to_date(self) -> None:
        """What is asked from here on knows what this stage has found so far."""
        self._told_of = len(self.found)
        identity = self.identity or self.ctx.identity
        self.ctx = msgspec.structs.replace(self.ctx, trail=(*self._past, *self.found), identity=identity)

    def _told(self, slot: Slot) -> CheckPolicy | None:
        """The policy the check is run with, or None if nobody wants its verdict."""
        policy, ctx = slot.policy, self.ctx
        for party in self.parties:
            if self.delayed or party.judgement.wants(policy.name, ctx.stage):
                told = policy.under(ctx, party.recipient) if policy.exceptions else policy
                if told.mode != "off":
                    return told
        return None

    def hear(self, asked: Iterable[Asking], verdicts: Sequence[Verdict]) -> None:
        """Judge the answers of one step, in list order."""
        for (slot, _), verdict in zip(asked, verdicts, strict=True):
            self._hear(slot, verdict)

    def _hear(self, slot: Slot, verdict: Verdict) -> None:
        if verdict.more:
            for one in (msgspec.structs.replace(verdict, more=()), *verdict.more):
                self._hear(slot, one)
            return
        policy = slot.policy
        self.found.append(verdict)
        if verdict.identity is not None:
            self.identity = verdict.identity
        if policy.is_quiet(verdict):
            return
        for party in self.parties:
            if slot.knobs is None or slot.knobs == policy.under(self.ctx, party.recipient).knobs:
                self._judge(party, policy, verdict)

    def _judge(self, party: Party, policy: CheckPolicy, verdict: Verdict) -> None:
        told = policy.under(self.ctx, party.recipient) if policy.exceptions else policy
        ruling = told.rulings[verdict.outcome]
        if not self.delayed or (ruling.action is Action.DISCONNECT and ruling.mode == "enforce"):
            party.judgement.add(verdict, ruling)

    def recall_early(self, personal: bool = True) -> None:
        """Judge what connect, helo and mail found, now that the whole envelope is known; not where exceptions tell
        recipients apart, if nobody knows who they are (`personal` false)."""
        for verdict in self._past:
            if verdict.stage not in EARLY:
                break
            policy = self.policies.checks.get(verdict.check)
            if policy is not None and not policy.is_quiet(verdict) and (personal or not is_personal(policy)):
                for party in self.parties:
                    self._judge(party, policy, verdict)

    def groups(self, soft_bounce: bool) -> list[Group]:
        """One decision per group; edits complete: what was forged out, our results and marks in."""
        ctx, found = self.ctx, tuple(self.found)
        inside = ctx.role != "outbound"
        site = self.ports.site
        served = site.authserv_id or site.hostname
        forged = strip_forged(ctx, site)
        results = [text for verdict in (*self._past, *found) for text in verdict.authres] if ctx.role == "inbound" else ()
        top = (authres.field(served, tuple(dict.fromkeys(results))),) if results else ()
        listed = []
        for party in self.parties:
            decision = party.judgement.decision(found, ctx.transaction, soft_bounce)
            marks = mark_edits(decision.marks) if inside else ()
            if forged or marks or top:
                decision = msgspec.structs.replace(decision, edits=(*forged, *decision.edits, *marks, *top))
            listed.append(Group(party.members, decision))
        return listed


def parties(policies: PolicySet, personal: Sequence[CheckPolicy], ctx: Context) -> tuple[Party, ...]:
    """The groups of recipients that are treated alike: same exceptions, same effects of what RCPT found for them.
    `personal`: the policies whose exceptions tell recipients apart."""
    common, own = _split(policies, ctx.trail)
    if len(ctx.recipients) == 1:  # nobody to be told apart from
        address = ctx.recipients[0].address
        trail = own.get(address.text, ())
        return (Party(judge_past(policies, ctx, address, (*common, *trail) if trail else common), address, (0,)),)
    found: dict[object, tuple[Judgement, Address, list[int]]] = {}
    plain: object = None
    for index, recipient in enumerate(ctx.recipients):
        address = recipient.address
        trail = own.get(address.text, ())
        special = bool(personal or trail)
        if plain is not None and not special:
            found[plain][2].append(index)
            continue
        judgement = judge_past(policies, ctx, address, (*common, *trail) if special else common)
        key = judgement.effects(), tuple(id(policy.under(ctx, address)) for policy in personal)
        found.setdefault(key, (judgement, address, []))[2].append(index)
        if not special:
            plain = key
    return tuple(Party(judgement, address, tuple(members)) for judgement, address, members in found.values())


def is_personal(policy: CheckPolicy) -> bool:
    """Whether its exceptions tell recipients apart."""
    return any(item.facts & PER_RECIPIENT for item in policy.exceptions)


def _split(policies: PolicySet, trail: Iterable[Verdict]) -> tuple[list[Verdict], dict[str, list[Verdict]]]:
    """What was found about the whole transaction, and about each recipient, as far as it can do anything."""
    common: list[Verdict] = []
    own: dict[str, list[Verdict]] = {}
    for verdict in trail:
        policy = policies.checks.get(verdict.check)
        if policy is not None and not policy.is_quiet(verdict):
            special = verdict.stage == "rcpt" and not verdict.shared
            (own.setdefault(verdict.recipient, []) if special else common).append(verdict)
    return common, own


def judge_past(policies: PolicySet, ctx: Context, recipient: Address, trail: Iterable[Verdict]) -> Judgement:
    """What earlier stages do to the message for this recipient."""
    judgement = Judgement()
    for verdict in trail:
        ruling = policies.checks[verdict.check].under(ctx, recipient).rulings[verdict.outcome]
        judgement.add(verdict, ruling, past=True)
    return judgement
