"""Asks the checks of a stage and judges what they found: the engine that every front uses.

Contract: `ask` (connect to data) and `message` answer at once when no check has to wait; then nothing is awaited and no
task is made. Verdicts are judged in list order, whatever order they arrived in. One step (an inner list) has one
deadline. What failure means for the mail: a check that crashes, is away, or misses the deadline is `temperror`; the
others go on. The policies of an Engine never change: a reload makes a new Engine, a transaction keeps its own.
"""

import asyncio
from collections.abc import Awaitable, Callable, Mapping, Sequence
from typing import TypeVar

import msgspec

from appliance.checks import Check, catalogue
from appliance.engine.asking import Slot, kept, settle
from appliance.engine.deadlines import expire, since
from appliance.engine.hearing import EARLY, Asking, Hearing, Party, is_personal, parties
from appliance.engine.judge import Combined, Group, Judgement, combine
from appliance.engine.recall import Memory
from appliance.engine.rules import CheckPolicy, PolicySet
from appliance.engine.talks import TalkingHearing, Talks
from appliance.mail.context import STAGES, Context, Role, Stage
from appliance.mail.later import waits
from appliance.mail.ports import Ports
from appliance.mail.promise import Promise
from appliance.mail.verdict import Action, Decision, Verdict
from appliance.protocol import quota
from appliance.protocol.smtp.address import Address

__all__ = ["Combined", "Engine", "Group", "combine"]

T = TypeVar("T")
Steps = tuple[tuple[Slot, ...], ...]


class Engine:
    """One set of policies over one set of ports.

    `delay_reject`: what connect, helo and mail found is judged at RCPT (a disconnect acts at once). `soft_bounce`: every
    refusal for good becomes a deferral. `questions`: DNS questions of one stage at most. `checks`: the installed ones
    unless a test brings its own. `clock`: that of Verdict.until; without it nothing is told again.
    """

    def __init__(
        self,
        policies: PolicySet,
        ports: Ports,
        delay_reject: bool = True,
        soft_bounce: bool = False,
        *,
        checks: Mapping[str, Check] | None = None,
        questions: int = quota.MOST,
        clock: Callable[[], float] | None = None,
    ) -> None:
        self.policies, self.ports, self.questions = policies, ports, questions
        self.delay_reject, self.soft_bounce = delay_reject, soft_bounce
        known = catalogue() if checks is None else checks
        self._clock = clock
        self._steps = {key: self._slots(*key, steps, known) for key, steps in policies.plan.steps.items()}

        self._talking = {
            role for (role, _), steps in self._steps.items() for step in steps if any(slot.check.open for slot in step)
        }
        self._personal = [policy for policy in policies.checks.values() if is_personal(policy)]

    def _slots(self, role: Role, stage: Stage, steps: tuple[tuple[str, ...], ...], known: Mapping[str, Check]) -> Steps:
        """The steps without checks that are off for everybody, or have nothing to do there."""
        placed = []
        for step in steps:
            slots = tuple(self._slot(known[name], self.policies.checks[name], stage) for name in step)
            slots = tuple(slot for slot in slots if slot.policy.exceptions or not _is_idle(slot, role, stage))
            placed.append(slots)
        return tuple(filter(None, placed))

    def _slot(self, check: Check, policy: CheckPolicy, stage: Stage) -> Slot:
        """What a check finds is told again where it says what decides, and no exception tells apart."""
        if self._clock is None or check.key is None or policy.exceptions or stage == "message":
            return Slot(check, policy)
        quiet = [word for word, ruling in policy.rulings.items() if ruling.action is Action.DUNNO]
        return Slot(check, policy, memory=Memory(check.key, quiet, self._clock))

    def stands(self, role: Role, stage: Stage) -> bool:
        """Whether any check is asked at this stage: if not, a front need not ask."""
        return bool(self._steps[role, stage]) or (self.delay_reject and stage == "rcpt")

    def standing(self, name: str, role: Role) -> CheckPolicy | None:
        """The policy of a check that is asked of this role at any stage, None where nobody is."""
        placed = (slot for stage in STAGES for step in self._steps.get((role, stage), ()) for slot in step)
        return next((slot.policy for slot in placed if slot.policy.name == name), None)

    def steps(self, role: Role, stage: Stage) -> Steps:
        """The checks that are asked, step by step."""
        return self._steps.get((role, stage), ())

    def talks(self, role: Role) -> Talks | None:
        """For a session of this role: what holds its conversations, where any check has some. Give it up with close()."""
        return Talks() if role in self._talking else None

    def ask(
        self, ctx: Context, talks: Talks | None = None, recall: bool = False, only: Address | None = None
    ) -> Decision | Awaitable[Decision]:
        """Judge one stage, connect to data; at rcpt for `ctx.recipient`. `decision.verdicts` belong into the trail.
        `recall`: nobody was asked about at rcpt, so what was delayed until then is judged here, for the `only` recipient;
        without one, what exceptions tell recipients apart by refuses nobody."""
        judgement = Judgement()
        recipient = ctx.recipient.address if ctx.stage == "rcpt" and ctx.recipient else only
        party = Party(judgement, recipient)
        hearing = self._hearing(ctx, (party,), self.delay_reject and ctx.stage in EARLY, talks)
        if self.delay_reject and (ctx.stage == "rcpt" or recall):
            hearing.recall_early(personal=recipient is not None)

        def conclude() -> Decision:
            decision = judgement.decision(tuple(hearing.found), ctx.transaction, self.soft_bounce)
            if hearing.identity is None:
                return decision
            return msgspec.structs.replace(decision, identity=hearing.identity)

        return self._run(hearing, conclude)

    def message(self, ctx: Context, talks: Talks | None = None) -> list[Group] | Awaitable[list[Group]]:
        """Judge the message once, for every group of recipients that are treated alike; see `combine`."""
        hearing = self._hearing(ctx, parties(self.policies, self._personal, ctx), False, talks)

        def conclude() -> list[Group]:
            return hearing.groups(self.soft_bounce)

        return self._run(hearing, conclude)

    def _hearing(self, ctx: Context, who: Sequence[Party], delayed: bool, talks: Talks | None) -> Hearing:
        if talks is None:
            return Hearing(self.policies, self.ports, ctx, who, delayed)
        hearing = TalkingHearing(self.policies, self.ports, ctx, who, delayed)
        hearing.talks = talks
        return hearing

    def _run(self, hearing: Hearing, conclude: Callable[[], T]) -> T | Awaitable[T]:
        """All steps of the stage."""
        steps = self._steps[hearing.ctx.role, hearing.ctx.stage]
        return self._go(hearing, steps, conclude, quota.Quota(self.questions, hearing.ctx.transaction))

    def _go(self, hearing: Hearing, steps: Steps, conclude: Callable[[], T], allowed: quota.Quota) -> T | Awaitable[T]:
        """The steps, one after the other, as long as nothing has to wait."""
        before = quota.current.set(allowed)
        try:
            for index, step in enumerate(steps):
                if hearing.over:
                    break
                asked = hearing.ask(step)
                if asked:
                    if len(asked) == 1 and isinstance(asked[0][1], Promise):
                        return self._promise(hearing, steps[index + 1 :], asked[0][0], asked[0][1], conclude, allowed)
                    return self._wait(hearing, steps[index + 1 :], asked, conclude, allowed)
        finally:
            quota.current.reset(before)
        return conclude()

    def _promise(
        self,
        hearing: Hearing,
        steps: Steps,
        slot: Slot,
        promise: Promise[Verdict],
        conclude: Callable[[], T],
        allowed: quota.Quota,
    ) -> Promise[T]:
        """The rest of the stage, once one check has promised its answer."""
        out: Promise[T] = Promise(future)
        deadline = hearing.within(((slot, promise),))
        then = expire(deadline, promise)

        def go_on(_: Promise[Verdict]) -> None:
            seconds = since(then)
            try:
                hearing.hear(((slot, promise),), (kept(slot, promise, hearing.ctx, deadline, seconds),))
                rest = self._go(hearing, steps, conclude, allowed) if steps else conclude()
            except Exception as error:
                out.set_exception(error)
                return
            follow(out, rest)

        out.on_cancel = promise.cancel
        promise.when_done(go_on)
        return out

    async def _wait(
        self, hearing: Hearing, steps: Steps, asked: list[Asking], conclude: Callable[[], T], allowed: quota.Quota
    ) -> T:
        """The rest of the stage, once a check has to wait."""
        before = quota.current.set(allowed)
        try:
            await self._rest(hearing, steps, asked)
        finally:
            quota.current.reset(before)
        return conclude()

    async def _rest(self, hearing: Hearing, steps: Steps, asked: list[Asking]) -> None:
        hearing.hear(asked, await settle(asked, hearing.ctx, hearing.within(asked)))
        for step in steps:
            if hearing.over:
                break
            if more := hearing.ask(step):
                hearing.hear(more, await settle(more, hearing.ctx, hearing.within(more)))


def future() -> asyncio.Future[None]:
    """What a promise that is awaited waits for."""
    return asyncio.get_running_loop().create_future()


def follow(out: Promise[T], rest: T | Awaitable[T]) -> Promise[T]:
    """`out`, which is kept with what `rest` is, or comes to."""
    if isinstance(rest, Promise):
        out.on_cancel = rest.cancel
        rest.when_done(lambda promise: _copy(out, promise))
    elif waits(rest):
        task = asyncio.ensure_future(rest)
        out.on_cancel = task.cancel
        task.add_done_callback(lambda done: _copy(out, done))
    else:
        out.set_result(rest)
    return out


def _copy(out: Promise[T], done: "Promise[T] | asyncio.Future[T]") -> None:
    try:
        out.set_result(done.result())
    except (Exception, asyncio.CancelledError) as error:
        out.set_exception(error)


def _is_idle(slot: Slot, role: Role, stage: Stage) -> bool:
    """Would asking it change nothing, whatever comes?"""
    idle = slot.check.idle
    return slot.policy.mode == "off" or (idle is not None and idle(slot.policy.knobs, role, stage))
