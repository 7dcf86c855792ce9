"""One question at RCPT, made ready to be asked again about other recipients.

Contract: `bind` gives a Bound where no check of the stage tells recipients apart by an exception, each can be bound, and
nothing that was found earlier does anything. Who asks it (`ask`, or `step`) gets the last check's answer (at once where
it is at hand), and from `decide` with it what Engine.ask answers for the same Context with that recipient, moment and
transaction. It answers None, and has asked nobody outside, where the engine must look itself: somebody objects at once,
or one of the checks cannot say. What was found is not counted. What failure means for the mail: as in the engine.
"""

from collections.abc import Awaitable
from typing import Any

import msgspec

from appliance.engine.asking import Slot, gone, timer
from appliance.engine.deadlines import expire
from appliance.engine.hearing import EARLY
from appliance.engine.judge import PUT_OFF, Judgement
from appliance.engine.pipeline import Engine, follow, future
from appliance.mail.binding import Bind, StepBind
from appliance.mail.context import Context, Recipient
from appliance.mail.greylisting import GreylistAnswer
from appliance.mail.ports import Unavailable
from appliance.mail.promise import Promise
from appliance.mail.replies import as_class, finish
from appliance.mail.verdict import Action, Decision, Verdict
from appliance.protocol.smtp.address import Address

#: What the last check answers: its verdict, the store's answer to its step, or what went wrong.
Asked = Verdict | GreylistAnswer | BaseException
_AT_HAND = (Verdict, GreylistAnswer)
_replace = msgspec.structs.replace


class Bound:
    """The checks of the stage with all but the recipient filled in."""

    __slots__ = (
        "_at_once",
        "_ctx",
        "_deadline",
        "_deferrals",
        "_last",
        "_rulings",
        "_slot",
        "_soft_bounce",
        "_step",
        "_usual",
        "waited",
    )

    def __init__(self, engine: Engine, ctx: Context, slots: list[Slot], binds: list[Bind]) -> None:
        self._ctx, self._soft_bounce, self._deadline = ctx, engine.soft_bounce, engine.policies.plan.deadline
        self._slot, self._last, self._rulings = slots[-1], binds[-1], slots[-1].policy.rulings
        #: Told in how many seconds the last check's answer came.
        self.waited = timer(self._slot.check.name).observe
        self._step = binds[-1] if isinstance(binds[-1], StepBind) else None
        #: What a Judgement says of outcomes that plainly put off.
        self._deferrals = {
            word: as_class(ruling.reply or PUT_OFF, False)
            for word, ruling in self._rulings.items()
            if ruling.action is Action.DEFER_IF_PERMIT and ruling.mode == "enforce"
        }
        quiet = [
            frozenset(word for word, ruling in slot.policy.rulings.items() if ruling.action is Action.DUNNO)
            for slot in slots
        ]
        self._usual = tuple(bind.usual for bind in binds)
        self._at_once = tuple(zip(binds, quiet, strict=True))[:-1]

    def ask(self, address: Address, now: float, plain: bool) -> Asked | Promise[Asked] | None:
        """The last check's answer about `address`, for `decide`. `now`: wall clock; `plain`: see Bind.usual."""
        try:
            if self._found(address, now) is None:
                return None
            if plain and self._step is not None and self._step.usual(address):
                return self._within(self._step.step(address, now))
            return self._within(self._last.ask(address, now))
        except Exception:  # the engine meets it again, and says so
            return None

    def step(self, address: Address, now: float) -> Asked | Promise[Asked] | None:
        """As `ask`, for a plain address of a domain of which others were asked about. None: it is not like most there."""
        try:
            for usual in self._usual:
                if not usual(address):
                    return None
            return self._within(self._step.step(address, now)) if self._step is not None else None
        except Exception:
            return None

    def first(self, address: Address) -> bool:
        """As `step`: whether that would answer at once that a stranger comes for the first time (`first_answer`). Then it
        is taken."""
        step = self._step
        try:
            for usual in self._usual:
                if not usual(address):
                    return False
            return step is not None and step.first(address)
        except Exception:
            return False

    def first_answer(self, now: float) -> GreylistAnswer:
        """What `first` is answered at that moment (wall clock)."""
        assert self._step is not None
        return self._step.first_answer(now)

    def _within(self, answer: Verdict | GreylistAnswer | Awaitable[Any] | None) -> Asked | Promise[Asked] | None:
        """An answer to come has a deadline, and what goes wrong is an answer, too."""
        if answer is None or isinstance(answer, _AT_HAND):
            return answer
        promise: Promise[Any] = answer if isinstance(answer, Promise) else follow(Promise(future), answer)
        expire(self._deadline, promise)
        return promise.rescue(_failed)

    def decide(self, address: Address, transaction: str, now: float, answer: Asked) -> Decision:
        """What is decided if the last check answers that. Raises LookupError where `ask` answers None at once."""
        found = self._found(address, now)
        if found is None:
            raise LookupError(f"{address.text} is not like others of its domain")
        verdict = self._declared(answer, address, transaction, now)
        found.append(_replace(verdict, stage="rcpt", recipient=address.text))
        verdict, verdicts = found[-1], tuple(found)
        refusal = self._deferrals.get(verdict.outcome)
        if refusal is None or verdict.reply or verdict.edits:
            judgement = Judgement()
            judgement.add(verdict, self._rulings[verdict.outcome])
            return judgement.decision(verdicts, transaction, self._soft_bounce)
        reply = finish(refusal, transaction, self._soft_bounce)
        action = Action.DEFER_IF_PERMIT
        return Decision(verb="defer", reply=reply, deciding=verdict, action=action, verdicts=verdicts)

    def _found(self, address: Address, now: float) -> list[Verdict] | None:
        """What all checks but the last say; None where one of them objects, or cannot say."""
        found = []
        for bind, quiet in self._at_once:
            verdict = bind.ask(address, now)
            if type(verdict) is not Verdict or verdict.outcome not in quiet or verdict.edits:
                return None
            found.append(_replace(verdict, stage="rcpt", recipient=address.text))
        return found

    def _declared(self, answer: Asked, address: Address, transaction: str, now: float) -> Verdict:
        """The answer as a verdict that the check has declared, or the temperror that it comes to."""
        if type(answer) is GreylistAnswer and self._step is not None:
            try:
                answer = self._step.heard(address, now, answer)
            except Exception as error:
                answer = error
        if type(answer) is Verdict and answer.outcome in self._rulings and not (answer.more or answer.shared):
            return answer
        if not isinstance(answer, BaseException):
            answer = TypeError(f"{self._slot.check.name} answered {answer!r}"[:300])
        ctx = _replace(self._ctx, recipient=Recipient(address=address), transaction=transaction, now=now)
        return gone(self._slot, answer, ctx, self._deadline)


def _failed(error: BaseException) -> BaseException:
    return error


def bind(engine: Engine, ctx: Context) -> Bound | None:
    """Make the question of `ctx` (at RCPT) ready; see above."""
    slots = [slot for step in engine.steps(ctx.role, "rcpt") for slot in step]
    policies = engine.policies.checks
    for verdict in ctx.trail:
        policy = policies.get(verdict.check)
        if verdict.stage not in EARLY or policy is None or not policy.is_quiet(verdict):
            return None
    if not slots or any(slot.policy.exceptions or slot.check.bind is None for slot in slots):
        return None
    try:
        binds = [slot.check.bind(ctx, slot.policy.knobs, engine.ports) for slot in slots if slot.check.bind]
    except Unavailable:  # a table: the engine meets it again, and says so
        return None
    made = [bind for bind in binds if bind is not None]
    return Bound(engine, ctx, slots, made) if len(made) == len(slots) else None
