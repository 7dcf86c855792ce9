"""Puts one question to one check, whatever happens to it: the answer is always a Verdict that the check declared.

Contract: a crash, Unavailable, a missed deadline, an undeclared outcome is `temperror`, a table that cannot answer
`table_error` where the check tells the two apart; other checks never notice.
Crashes are traced to the operators' log, never to the peer. Cancelling (the client is gone) is passed on.
"""

import asyncio
import functools
from collections.abc import Awaitable, Iterable, Sequence
from typing import NamedTuple, cast

import msgspec

from appliance.checks import TABLE_ERROR, Asked, Check
from appliance.checks.knobs import Policy as Knobs
from appliance.engine.deadlines import within
from appliance.engine.recall import Memory
from appliance.engine.rules import CheckPolicy
from appliance.mail.context import Context
from appliance.mail.lookup import Waiting, waiting
from appliance.mail.ports import Ports, Unavailable
from appliance.mail.promise import Promise
from appliance.mail.verdict import Verdict
from appliance.observe import metrics, oplog, trouble

_log = oplog.get("engine")
_verdicts = metrics.tally("postgate_check_outcomes_total", "Verdicts by check and outcome.", ("check", "outcome"))
_outcomes = _verdicts.counts
#: Of pairs (check, outcome) a cell: `cell[0] += 1` counts verdicts that were found without asking again.
found_together = _verdicts.bundle
_seconds = metrics.spread("postgate_check_seconds", "Time of checks that had to wait.", ("check",))
#: A check's histogram, found once.
timer = functools.cache(_seconds.labels)
_crashes = metrics.counter("postgate_check_crashes_total", "Checks that failed by a mistake of ours.", ("check",))
_deadlines = metrics.counter("postgate_check_deadlines_total", "Checks that missed the deadline.", ("check",))
_replace = msgspec.structs.replace


class Slot(NamedTuple):
    """A check in its place in a stage, with its policy. `knobs`: those it was asked with, if recipients differ; `memory`:
    what it found lately, where that may be told again."""

    check: Check
    policy: CheckPolicy
    knobs: Knobs | None = None
    memory: Memory | None = None


def call(slot: Slot, ctx: Context, told: CheckPolicy, ports: Ports) -> Asked:
    """Ask; the answer, or what must be awaited for it."""
    try:
        answer = slot.check.check(ctx, told.knobs, ports)
    except Exception as error:
        return failed(slot, ctx, error)
    return answer


def verdict_of(slot: Slot, ctx: Context, ports: Ports) -> Asked:
    """Ask a check that is the same for everybody: its verdict, stamped, or what must be awaited for it."""
    memory = slot.memory
    key = None if memory is None else memory.key(ctx)
    if memory is not None and key is not None and (kept := memory.get(key)) is not None:
        _outcomes[kept.check, kept.outcome] += 1
        return kept
    try:
        answer = slot.check.check(ctx, slot.policy.knobs, ports)
    except Exception as error:
        answer = failed(slot, ctx, error)
    if type(answer) is not Verdict:
        return answer
    verdict = stamp(slot, ctx, answer)
    if memory is not None:
        memory.keep(key, verdict)
    return verdict


def failed(slot: Slot, ctx: Context, error: BaseException) -> Verdict:
    """The verdict of a check that gave none."""
    name, outcome = slot.policy.name, "temperror"
    if isinstance(error, Unavailable):
        if error.table:
            trouble.tables.note(f"table {error.table}", str(error), ctx.transaction)
            outcome = TABLE_ERROR if TABLE_ERROR in slot.policy.rulings else outcome
        return Verdict(check=name, outcome=outcome, reason=str(error) or "not available")
    if isinstance(error, TimeoutError):
        return Verdict(check=name, outcome="temperror", reason=str(error) or "timed out")
    _crashes.labels(name).inc()
    _log.error("a check failed", check=name, stage=ctx.stage, transaction=ctx.transaction, exc_info=error)
    return Verdict(check=name, outcome="temperror", reason=f"failed: {type(error).__name__}")


def stamp(slot: Slot, ctx: Context, answer: object) -> Verdict:
    """The answer as a declared verdict that knows its stage and recipient; counted."""
    name = slot.policy.name
    if not isinstance(answer, Verdict) or answer.check != name or answer.outcome not in slot.policy.rulings:
        answer = failed(slot, ctx, TypeError(f"{name} answered {answer!r}"[:300]))
    _outcomes[name, answer.outcome] += 1
    if lacks := answer.evidence.get("lacks"):  # a list that is yet to be fetched: told like a table that cannot answer
        trouble.tables.note(f"table {lacks}", answer.reason, ctx.transaction)
    recipient = ctx.recipient.address.text if ctx.stage == "rcpt" and ctx.recipient else answer.recipient
    if answer.shared:
        recipient = ""
    if answer.more:
        more = tuple(stamp(slot, ctx, further) for further in answer.more)
        return _replace(answer, stage=ctx.stage, recipient=recipient, more=more)
    return _replace(answer, stage=ctx.stage, recipient=recipient)


def counted(verdicts: Iterable[Verdict]) -> None:
    """Verdicts that were found and not stamped."""
    for verdict in verdicts:
        _outcomes[verdict.check, verdict.outcome] += 1


async def settle(asked: Sequence[tuple[Slot, Asked]], ctx: Context, deadline: float) -> list[Verdict]:
    """The answers of one step, in list order, at most `deadline` seconds later."""
    missing = [(slot, answer) for slot, answer in asked if not isinstance(answer, Verdict)]
    if len(missing) == 1:
        found = [await _alone(*missing[0], ctx, deadline)]
    else:
        found = await _together(missing, ctx, deadline)
    late = iter(found)
    return [stamp(slot, ctx, answer if isinstance(answer, Verdict) else next(late)) for slot, answer in asked]


async def _answer(slot: Slot, answer: Awaitable[Verdict], ctx: Context, note: Waiting) -> Verdict:
    """Await one check; its time is counted. `note` knows whether it waits for a table."""
    clock = asyncio.get_running_loop().time
    start, before = clock(), waiting.set(note)
    try:
        return await answer
    except asyncio.CancelledError as error:
        if cast("asyncio.Task[object]", asyncio.current_task()).cancelling():
            raise
        return failed(slot, ctx, error)  # what it waited for was given up, not this
    except Exception as error:
        return failed(slot, ctx, error)
    finally:
        waiting.reset(before)
        timer(slot.check.name).observe(clock() - start)


def kept(slot: Slot, promise: Promise[Verdict], ctx: Context, deadline: float, seconds: float) -> Verdict:
    """The verdict of one check that answered by a promise; its time is counted."""
    waited(slot, seconds)
    try:
        answer: object = promise.result()
    except (Exception, asyncio.CancelledError) as error:
        answer = gone(slot, error, ctx, deadline)
    return stamp(slot, ctx, answer)


def waited(slot: Slot, seconds: float) -> None:
    """A check had to wait so long."""
    timer(slot.check.name).observe(seconds)


def gone(slot: Slot, error: BaseException, ctx: Context, deadline: float) -> Verdict:
    """The verdict of a check whose promise was broken: by `deadline` (seconds), or by what went wrong."""
    late = isinstance(error, TimeoutError) and not error.args
    return _missed(slot, deadline) if late else failed(slot, ctx, error)


async def _alone(slot: Slot, answer: Awaitable[Verdict], ctx: Context, deadline: float) -> Verdict:
    """One check waits: no task is needed."""
    note = Waiting()
    try:
        return await within(deadline, _answer(slot, answer, ctx, note))
    except TimeoutError:
        return _missed(slot, deadline, note)


async def _together(asked: Sequence[tuple[Slot, Awaitable[Verdict]]], ctx: Context, deadline: float) -> list[Verdict]:
    """Several wait at the same time, under one deadline; who has not answered by then is cancelled."""
    notes = [Waiting() for _ in asked]
    tasks = [
        asyncio.ensure_future(_answer(slot, answer, ctx, note)) for (slot, answer), note in zip(asked, notes, strict=True)
    ]
    try:
        await asyncio.wait(tasks, timeout=deadline)
        done = [task.done() for task in tasks]
    finally:
        for task in tasks:
            task.cancel()
    return [
        task.result() if ended else _missed(slot, deadline, note)
        for (slot, _), task, ended, note in zip(asked, tasks, done, notes, strict=True)
    ]


def _missed(slot: Slot, deadline: float, note: Waiting | None = None) -> Verdict:
    """It had no answer in time; `note` says whether that was for want of a table."""
    name = slot.check.name
    _deadlines.labels(name).inc()
    if note is not None and note.tables and TABLE_ERROR in slot.policy.rulings:
        return Verdict(check=name, outcome=TABLE_ERROR, reason=f"a table had no answer within {deadline:g} s")
    return Verdict(check=name, outcome="temperror", reason=f"no answer within {deadline:g} s")
