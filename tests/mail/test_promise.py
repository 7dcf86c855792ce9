"""Promises: kept once, mapped, broken, awaited, given up; the engine goes on behind them as behind anything awaited."""

import asyncio
import weakref
from collections.abc import Callable
from typing import Any

import pytest

from appliance.engine import deadlines
from appliance.mail.ports import Unavailable
from appliance.mail.promise import Promise
from appliance.mail.verdict import Decision, Verdict
from tests.engine.scripted import check, context, engine, said


def promised() -> Promise[Any]:
    return Promise(lambda: asyncio.get_running_loop().create_future())


def test_it_is_kept_once_and_its_steps_are_taken_in_order() -> None:
    promise: Promise[int] = promised()
    found: list[object] = []
    texts = promise.map(lambda number: number + 1).map(str)
    texts.when_done(lambda kept: found.append(kept.result()))
    assert not promise.done() and found == []
    promise.set_result(1)
    promise.set_result(5)
    promise.set_exception(ValueError())
    assert promise.done() and found == ["2"]
    texts.when_done(lambda kept: found.append(kept.result()))
    assert found == ["2", "2"]


def test_a_step_that_fails_breaks_it() -> None:
    promise: Promise[int] = promised()
    promise.map(lambda number: 1 // number)
    promise.set_result(0)
    with pytest.raises(ZeroDivisionError):
        promise.result()


def test_a_step_may_come_after_the_answer() -> None:
    promise: Promise[int] = promised()
    promise.set_result(1)
    assert promise.map(lambda number: number + 1).map(str).result() == "2"
    promise.map(lambda text: 1 // 0).map(lambda number: pytest.fail("not behind a failure"))
    with pytest.raises(ZeroDivisionError):
        promise.result()


@pytest.mark.parametrize("when", ["before", "behind"])
def test_a_rescue_makes_an_answer_of_what_went_wrong_before_it(when: str) -> None:
    def found(settle: Callable[[Promise[Any]], None]) -> int:
        promise: Promise[int] = promised()
        if when == "behind":
            settle(promise)
        made = promise.map(lambda number: 1 // number).rescue(lambda error: -1).map(lambda number: number * 10)
        if when == "before":
            settle(promise)
        return made.result()

    assert found(lambda promise: promise.set_result(1)) == 10
    assert found(lambda promise: promise.set_result(0)) == -10
    assert found(lambda promise: promise.set_exception(OSError())) == -10


def test_a_rescue_hears_of_nothing_behind_it_and_may_fail() -> None:
    promise: Promise[int] = promised()
    promise.rescue(lambda error: pytest.fail("it stands before the mistake")).map(lambda number: 1 // number)
    promise.set_result(0)
    with pytest.raises(ZeroDivisionError):
        promise.result()
    promise = promised()
    promise.rescue(lambda error: 1 // 0)
    promise.set_exception(ValueError())
    with pytest.raises(ZeroDivisionError):
        promise.result()


@pytest.mark.parametrize("end", ["kept", "broken", "given up"])
def test_it_leaves_no_cycle(end: str) -> None:
    """Steps usually know what waits with the promise, and so the promise: the collector would have to find them all."""
    promise: Promise[Any] = promised()
    promise.on_cancel = lambda: promise
    promise.map(lambda value: promise).rescue(lambda error: promise).map(lambda value: str(promise))
    gone = weakref.finalize(promise._steps[0], lambda: None)
    {"kept": promise.set_result, "broken": promise.set_exception}.get(end, lambda _: promise.cancel())(OSError())
    assert not gone.alive


def test_who_gave_it_up_hears_nothing() -> None:
    promise: Promise[int] = promised()
    found: list[object] = []
    promise.on_cancel = lambda: found.append("given up")
    promise.map(lambda number: found.append(number))
    promise.when_done(found.append)
    promise.cancel()
    promise.set_result(1)
    assert found == ["given up"] and promise.done()


async def test_it_may_be_awaited() -> None:
    promise: Promise[int] = promised()
    asyncio.get_running_loop().call_soon(promise.set_result, 3)
    assert await promise == 3
    broken: Promise[int] = promised()
    asyncio.get_running_loop().call_soon(broken.set_exception, Unavailable("away"))
    with pytest.raises(Unavailable):
        await broken
    dropped: Promise[int] = promised()
    task = asyncio.ensure_future(dropped)
    await asyncio.sleep(0)
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task
    assert dropped.done()


def outcomes(decision: Decision) -> list[str]:
    return [f"{verdict.check}:{verdict.outcome}" for verdict in decision.verdicts]


def promising(made: Promise[Verdict], behind: Any = "mark") -> Any:
    """An engine whose second check of three promises, and what it answers."""
    checks = [check("a"), check("b", lambda ctx, policy: made), check("c", behind)]
    return engine(checks, {"rcpt": ["a", "b", "c"]}).ask(context())


async def test_the_engine_goes_on_once_it_is_kept() -> None:
    made: Promise[Verdict] = promised()
    answer = promising(made)
    assert isinstance(answer, Promise) and not answer.done()
    made.set_result(said("b", "fine"))
    assert outcomes(answer.result()) == ["a:fine", "b:fine", "c:mark"]
    assert deadlines._watch is not None and not deadlines._watch.waiting


@pytest.mark.parametrize(
    ("error", "reason"),
    [
        (Unavailable("stated: away"), "stated: away"),
        (ValueError("secret"), "failed: ValueError"),
        (TimeoutError(), "no answer"),
    ],
)
async def test_a_broken_promise_is_temperror(error: Exception, reason: str) -> None:
    made: Promise[Verdict] = promised()
    answer = promising(made)
    made.set_exception(error)
    decision = answer.result()
    assert outcomes(decision) == ["a:fine", "b:temperror", "c:mark"] and decision.verdicts[1].reason.startswith(reason)


async def test_another_check_may_wait_behind_it() -> None:
    first: Promise[Verdict] = promised()
    then: Promise[Verdict] = promised()
    answer = promising(first, lambda ctx, policy: then)
    first.set_result(said("b", "fine"))
    assert not answer.done()
    then.set_result(said("c", "reject"))
    assert outcomes(answer.result()) == ["a:fine", "b:fine", "c:reject"]

    async def later() -> Verdict:
        await asyncio.sleep(0)
        return said("c", "reject")

    first = promised()
    answer = promising(first, lambda ctx, policy: later())
    first.set_result(said("b", "fine"))
    assert outcomes(await answer) == ["a:fine", "b:fine", "c:reject"]


async def test_the_deadline_breaks_it(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(deadlines, "STEP", 0.01)
    made: Promise[Verdict] = promised()
    checks = [check("b", lambda ctx, policy: made)]
    answer = engine(checks, {"rcpt": ["b"]}, deadline=0.02).ask(context())
    decision = await answer
    assert decision.verdicts[0].reason == "no answer within 0.02 s"
    made.set_result(said("b", "fine"))
    assert deadlines._watch is not None and not deadlines._watch.waiting


async def test_who_gives_up_the_answer_leaves_nothing_waiting() -> None:
    made: Promise[Verdict] = promised()
    answer = promising(made)
    answer.cancel()
    assert made.done() and deadlines._watch is not None and not deadlines._watch.waiting
