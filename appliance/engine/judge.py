"""Verdicts to one Decision. Pure: no IO, no clock, no order of arrival; list order is the only order.

Contract: the first reject, disconnect, discard or defer decides. defer_if_permit is remembered and holds only if nothing
later refuses (a policy service's discard does not); defer_if_reject turns a later refusal into a deferral; both together
defer at once. accept ends its own list, but for relay, recipient and antivirus. What failure means for the mail: none.
"""

from collections.abc import Iterable
from typing import Literal

import msgspec

from appliance.engine.rules import Ruling
from appliance.mail.edits import Edit
from appliance.mail.replies import Refusal, as_class, finish
from appliance.mail.verdict import Action, Decision, Verb, Verdict

#: Never skipped by an accept, only by an exception that names them.
NEVER_SKIPPED = frozenset({"relay", "recipient", "antivirus"})

Keep = Literal["deliver", "hold", "quarantine"]

_VERBS: dict[Action, Verb] = {
    Action.REJECT: "reject",
    Action.DISCONNECT: "disconnect",
    Action.DISCARD: "discard",
    Action.DEFER: "defer",
}
_REFUSED = Refusal(550, "5.7.1", "Refused by local policy")
PUT_OFF = Refusal(451, "4.7.1", "Service unavailable, please try again later")
_CLOSED = Refusal(421, "4.7.0", "Service unavailable, closing connection")


class Judgement:
    """Judges verdicts one after the other, in list order. `decided` is the action that ended it."""

    __slots__ = (
        "bcc",
        "decided",
        "deciding",
        "edits",
        "ended",
        "filter",
        "if_permit",
        "if_reject",
        "keep",
        "keep_reason",
        "keeping",
        "marks",
        "notes",
        "prepends",
        "redirect",
        "reply",
        "touched",
    )

    def __init__(self) -> None:
        self.touched = False
        self.decided: Action | None = None
        self.deciding: Verdict | None = None
        self.reply: Refusal | None = None
        self.ended: str | None = None
        self.if_permit: tuple[Verdict, Ruling] | None = None
        self.if_reject: tuple[Verdict, Ruling] | None = None
        self.keep: Keep = "deliver"
        self.keep_reason = ""
        self.keeping: Verdict | None = None
        self.marks: list[str] = []
        self.edits: list[Edit] = []
        self.prepends: list[Edit] = []
        self.bcc: list[str] = []
        self.redirect = ""
        self.filter = ""
        self.notes: list[str] = []

    def wants(self, check: str, stage: str) -> bool:
        """Whether this check's verdict can still matter."""
        return self.decided is None and (self.ended != stage or check in NEVER_SKIPPED)

    def add(self, verdict: Verdict, ruling: Ruling, past: bool = False) -> None:
        """The next verdict. `past`: it was judged at an earlier stage; only what it does to the message counts now."""
        if not self.wants(verdict.check, verdict.stage) or ruling.mode == "off":
            return
        action = ruling.action
        self.touched = True
        if ruling.mode == "monitor":
            if not past and action is not Action.DUNNO:
                self.notes.append(_note(f"monitor: would {action}", verdict))
            return
        if verdict.edits:
            self.edits += verdict.edits
        if action is Action.DUNNO:
            return
        if action is Action.ACCEPT:
            self.ended = verdict.stage
        elif action in _VERBS:
            if not past or action is Action.DISCARD:
                self._decide(action, verdict, ruling.reply)
        elif action is Action.DEFER_IF_PERMIT or action is Action.DEFER_IF_REJECT:
            if not past:
                self._remember(action, verdict, ruling)
        else:
            self._collect(action, verdict, ruling.argument or verdict.argument, past)

    def _decide(self, action: Action, verdict: Verdict, reply: Refusal | None) -> None:
        if action is Action.DISCARD and verdict.shared and self.if_permit:  # it permits, as in Postfix
            verdict, reply, action = self.if_permit[0], self.if_permit[1].reply, Action.DEFER_IF_PERMIT
        if action is Action.REJECT and self.if_reject is not None:
            verdict, ruling = self.if_reject
            action, reply = Action.DEFER_IF_REJECT, ruling.reply
        self.decided, self.deciding, self.reply = action, verdict, _own_reply(verdict) or reply

    def _remember(self, action: Action, verdict: Verdict, ruling: Ruling) -> None:
        if action is Action.DEFER_IF_PERMIT:
            self.if_permit = self.if_permit or (verdict, ruling)
        else:
            self.if_reject = self.if_reject or (verdict, ruling)
        if self.if_permit and self.if_reject:
            self._hold_off()

    def _hold_off(self) -> None:
        """The remembered deferral comes true."""
        if self.if_permit is not None:
            self._decide(Action.DEFER_IF_PERMIT, self.if_permit[0], self.if_permit[1].reply)

    def _collect(self, action: Action, verdict: Verdict, argument: str, past: bool) -> None:
        """Actions that go on."""
        if action is Action.MARK:
            mark = f"{verdict.check}:{verdict.outcome}"
            if mark not in self.marks:
                self.marks.append(mark)
        elif action is Action.WARN or action is Action.INFO:
            if not past:
                self.notes.append(_note(action, verdict))
        elif action is Action.PREPEND:
            name, _, value = argument.partition(":")
            self.prepends.append(Edit("prepend", name.strip(), value.strip()))
        elif action is Action.BCC:
            self.bcc.append(argument)
        elif action is Action.REDIRECT:
            self.redirect = argument
        elif action is Action.FILTER:
            self.filter = argument
        else:
            self._keep_back(action, verdict)

    def _keep_back(self, action: Action, verdict: Verdict) -> None:
        """hold, and quarantine, which is the stronger."""
        why = f"{verdict.check}:{verdict.outcome} {verdict.reason}".rstrip()
        keep: Keep = "quarantine" if action is Action.QUARANTINE else "hold"
        if self.keep == "deliver" or (self.keep == "hold" and keep == "quarantine"):
            self.keep, self.keep_reason, self.keeping = keep, why, verdict

    def decision(self, verdicts: tuple[Verdict, ...], transaction: str = "", soft_bounce: bool = False) -> Decision:
        """What is to be done. Refusals end with the transaction id."""
        if not self.touched:
            return Decision(verb="accept", verdicts=verdicts)
        if self.decided is None:
            self._hold_off()
        verb = self._verb()
        reply = ""
        if verb not in ("accept", "discard"):
            reply = finish(self._refusal(verb), transaction, soft_bounce)
            if verb == "reject" and soft_bounce:
                verb = "defer"
        return Decision(
            verb=verb,
            reply=reply,
            deciding=self.deciding or self.keeping,
            action=self.decided,
            keep=self.keep,
            keep_reason=self.keep_reason,
            marks=tuple(self.marks),
            edits=(*self.edits, *reversed(self.prepends)),
            redirect=self.redirect,
            bcc=tuple(self.bcc),
            filter="" if self.redirect else self.filter,  # as in Postfix, which filters nothing that it redirects
            notes=tuple(self.notes),
            verdicts=verdicts,
            if_reject=self._pending(transaction, soft_bounce) if self.if_reject and self.decided is None else "",
        )

    def _pending(self, transaction: str, soft_bounce: bool) -> str:
        """What a refusal of somebody else's would become."""
        assert self.if_reject is not None
        verdict, ruling = self.if_reject
        return finish(as_class(_own_reply(verdict) or ruling.reply or PUT_OFF, False), transaction, soft_bounce)

    def effects(self) -> tuple[object, ...]:
        """What it does to the message, for telling groups apart."""
        return (
            self.decided,
            self.keep,
            self.redirect,
            self.filter,
            tuple(self.marks),
            tuple(self.edits),
            tuple(self.prepends),
            tuple(self.bcc),
        )

    def _verb(self) -> Verb:
        if self.decided is None:
            return "accept"
        return _VERBS.get(self.decided, "defer")

    def _refusal(self, verb: Verb) -> Refusal:
        """The reply, of the class that the verb needs."""
        if verb == "disconnect":
            return self.reply or _CLOSED
        permanent = verb == "reject"
        return as_class(self.reply or (_REFUSED if permanent else PUT_OFF), permanent)


def _own_reply(verdict: Verdict) -> Refusal | None:
    """An operator's own text, from a table (the check has repaired it); None where there is none, or it is no refusal."""
    code, _, rest = verdict.reply.partition(" ")
    enhanced, _, text = rest.partition(" ")
    if len(code) != 3 or not code.isdecimal() or code[0] not in "45" or enhanced[:1] != code[0]:
        return None
    return Refusal(int(code), enhanced, text)


def _note(what: str, verdict: Verdict) -> str:
    return f"{what}: {verdict.check}:{verdict.outcome} {verdict.reason}".rstrip()


def judge(items: Iterable[tuple[Verdict, Ruling]], transaction: str = "", soft_bounce: bool = False) -> Decision:
    """The decision over verdicts in list order."""
    judgement = Judgement()
    listed = tuple(items)
    for verdict, ruling in listed:
        judgement.add(verdict, ruling)
    return judgement.decision(tuple(v for v, _ in listed), transaction, soft_bounce)


class Group(msgspec.Struct, frozen=True):
    """Recipients (by index into Context.recipients) that are judged alike, and how."""

    recipients: tuple[int, ...]
    decision: Decision


class Combined(msgspec.Struct, frozen=True):
    """One answer for all groups: what the client is told, and which groups are stored, each as an entry of its own.
    `groups` are all, as they were judged."""

    verb: Verb
    reply: str = ""
    store: tuple[Group, ...] = ()
    groups: tuple[Group, ...] = ()

    @property
    def deciding(self) -> Verdict | None:
        """The verdict that made this answer, or that keeps a copy back; None if nothing objected."""
        return self._decided[0]

    @property
    def done(self) -> str:
        """What was done because of `deciding`: the verb, or hold or quarantine."""
        return self._decided[1]

    @property
    def _decided(self) -> tuple[Verdict | None, str]:
        alike = [group for group in self.groups if group.decision.verb == self.verb]
        for group in (*alike, *self.groups):
            decision = group.decision
            if decision.deciding is not None:
                done = decision.verb if decision.verb != "accept" else decision.keep
                aside = self.verb == "accept" and done in ("reject", "disconnect")
                return decision.deciding, "quarantine" if aside else done
        return None, self.verb


def combine(groups: Iterable[Group]) -> Combined:
    """All refuse: refused. Any defers: put off, nothing stored. Mixed: accepted; the copy of those who refuse goes to
    quarantine and is never bounced; what is discarded is not stored."""
    listed = list(groups)
    for verb in ("defer", "reject"):
        hits = [g for g in listed if g.decision.verb == verb or (verb == "reject" and g.decision.verb == "disconnect")]
        if hits and (verb == "defer" or len(hits) == len(listed)):
            return Combined(hits[0].decision.verb, hits[0].decision.reply, (), tuple(listed))
    store = tuple(g if g.decision.verb == "accept" else _set_aside(g) for g in listed if g.decision.verb != "discard")
    return Combined("accept" if store else "discard", "", store, tuple(listed))


def _set_aside(group: Group) -> Group:
    decision = group.decision
    why = f"{decision.deciding.check}:{decision.deciding.outcome}" if decision.deciding else "refused"
    kept = msgspec.structs.replace(
        decision,
        verb="accept",
        reply="",
        keep="quarantine",
        keep_reason=f"{why}, accepted for other recipients",
        redirect="",
        bcc=(),
        filter="",
    )
    return Group(group.recipients, kept)
