"""One question at RCPT, made ready to be asked again about other recipients.

Contract: `bind` gives a Bound where no check of the stage tells recipients apart by an exception, each can be bound, and
nothing that was found earlier does anything. What it answers about an address is what Engine.ask answers for the same
Context with that recipient, moment and transaction. It answers None, and has asked nobody outside, where the engine must
look itself: somebody objects at once, or one of the checks cannot say. What failure means for the mail: as in the engine.
"""

import asyncio
from collections.abc import Awaitable, Iterator
from typing import cast

import msgspec

from appliance.checks.knobs import Bind
from appliance.engine.asking import Slot, counted, gone, waited
from appliance.engine.deadlines import expire, since
from appliance.engine.hearing import EARLY
from appliance.engine.judge import PUT_OFF, Judgement
from appliance.engine.pipeline import Engine
from appliance.mail.context import Context, Recipient
from appliance.mail.promise import Promise
from appliance.mail.replies import as_class, finish
from appliance.mail.verdict import Action, Decision, Verdict
from appliance.protocol.smtp.address import Address

_replace = msgspec.structs.replace


def _future() -> asyncio.Future[None]:
    return asyncio.get_running_loop().create_future()


class Bound:
    """The checks of the stage with all but the recipient filled in."""

    __slots__ = ("_at_once", "_ctx", "_deadline", "_deferrals", "_last", "_rulings", "_slot", "_soft_bounce")

    def __init__(self, engine: Engine, ctx: Context, slots: list[Slot], asks: list[Bind]) -> None:
        self._ctx, self._soft_bounce, self._deadline = ctx, engine.soft_bounce, engine.policies.plan.deadline
        self._slot, self._last, self._rulings = slots[-1], asks[-1], slots[-1].policy.rulings
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
        self._at_once = tuple(zip(asks, quiet, strict=True))[:-1]

    def ask(self, address: Address, now: float, ids: Iterator[str]) -> tuple[str, Promise[Decision]] | None:
        """Judge RCPT for `address`: the transaction, which is the next of `ids`, and its decision. `now`: wall clock."""
        found = []
        try:
            for ask, quiet in self._at_once:
                verdict = ask(address, now)
                if type(verdict) is not Verdict or verdict.outcome not in quiet or verdict.edits:
                    return None
                found.append(_replace(verdict, stage="rcpt", recipient=address.text))
            answer = self._last(address, now)
        except Exception:  # the engine meets it again, and says so
            return None
        if answer is None or isinstance(answer, Verdict):
            return None
        transaction = next(ids)
        return transaction, self._promised(_promise(answer), found, address, transaction, now)

    def _promised(
        self, promise: Promise[Verdict], found: list[Verdict], address: Address, transaction: str, now: float
    ) -> Promise[Decision]:
        then = expire(self._deadline, promise)

        def failed(error: BaseException) -> Verdict:
            ctx = _replace(self._ctx, recipient=Recipient(address=address), transaction=transaction, now=now)
            return gone(self._slot, error, ctx, self._deadline)

        def judge(verdict: Verdict) -> Decision:
            waited(self._slot, since(then))
            verdict = _replace(verdict, stage="rcpt", recipient=address.text)
            found.append(verdict)
            counted(found)
            refusal = self._deferrals.get(verdict.outcome)
            if refusal is None or verdict.reply or verdict.edits:
                judgement = Judgement()
                judgement.add(verdict, self._rulings[verdict.outcome])
                return judgement.decision(tuple(found), transaction, self._soft_bounce)
            reply = finish(refusal, transaction, self._soft_bounce)
            action, verdicts = Action.DEFER_IF_PERMIT, tuple(found)
            return Decision(verb="defer", reply=reply, deciding=verdict, action=action, verdicts=verdicts)

        return promise.map(self._declared).rescue(failed).map(judge)

    def _declared(self, answer: object) -> Verdict:
        """Raises TypeError for an answer that the check has not declared, or that only the engine can hear."""
        own = type(answer) is Verdict and answer.check == self._slot.check.name and answer.outcome in self._rulings
        if isinstance(answer, Verdict) and own and not answer.more and not answer.shared:
            return answer
        raise TypeError(f"{self._slot.check.name} answered {answer!r}"[:300])


def _promise(answer: Awaitable[Verdict]) -> Promise[Verdict]:
    """The same answer as a promise."""
    if isinstance(answer, Promise):
        return answer
    out: Promise[Verdict] = Promise(_future)
    task = asyncio.ensure_future(answer)
    out.on_cancel = task.cancel

    def done(task: asyncio.Future[Verdict]) -> None:
        try:
            out.set_result(task.result())
        except (Exception, asyncio.CancelledError) as error:
            out.set_exception(error)

    task.add_done_callback(done)
    return out


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
    asks = [slot.check.bind(ctx, slot.policy.knobs, engine.ports) for slot in slots if slot.check.bind]
    if None in asks:
        return None
    return Bound(engine, ctx, slots, cast("list[Bind]", asks))
