"""Every fault of an operator's handler, at each of its hooks: 451 in bounded time, one line says who, which step and how
long, status names the handler with the messages it touched, and it is well again when the next hook is."""

import asyncio
import threading
import time
from collections.abc import Callable
from types import SimpleNamespace
from typing import Any

import pytest

from appliance.daemons.smtpd import hooked, hooks
from appliance.observe import metrics
from tests.daemons.smtpd.stage import Stage
from tests.daemons.smtpd.test_smtpd_hook_changes import send

#: For a handler that says nothing in time; whoever answers has longer than a busy machine stands still.
SECONDS, PATIENT = 0.4, 10.0


def raises() -> Any:
    raise LookupError("no such thing")


async def raises_later() -> Any:
    await asyncio.sleep(0)
    raise OSError(5, "Input/output error")


def ends_the_process() -> Any:
    raise SystemExit(1)


async def hangs() -> Any:
    await asyncio.Event().wait()


def blocks() -> Any:
    time.sleep(SECONDS + 0.6)  # a thread: nobody can end it
    return "250 OK"


def runs_without_end() -> Any:
    end = time.monotonic() + SECONDS + 0.3  # the test's thread has to end some day
    while time.monotonic() < end:
        pass
    return "250 OK"


async def too_late() -> Any:
    with_grace = asyncio.get_running_loop().create_future()
    asyncio.get_running_loop().call_later(SECONDS + 0.3, with_grace.set_result, None)
    await asyncio.shield(with_grace)
    return "250 OK"


#: What handlers do that is no answer.
FAULTS: dict[str, Callable[[], Any]] = {
    act.__name__: act for act in (raises, raises_later, ends_the_process, hangs, blocks, runs_without_end, too_late)
}
FAULTS |= {
    "nothing": lambda: None,
    "garbage": lambda: bytes(range(256)),
    "half an answer": lambda: "25",
    "two answers": lambda: "250-one\r\n250 two\r\n250 three",
    "another protocol": lambda: "HTTP/1.1 400 Bad Request",
    "an answer without end": lambda: "250 " + "x" * 10_000_000,
}
LATE = {"hangs", "blocks", "runs_without_end", "too_late"}
HOOKS = ("EHLO", "MAIL", "RCPT", "DATA")


class Handler:
    """`act` is what the hook of `name` does; None: it is well."""

    def __init__(self, name: str) -> None:
        self.name = name
        self.act: Callable[[], Any] | None = None

    def _said(self, name: str) -> Any:
        return self.act() if self.act is not None and name == self.name else "250 OK"

    def handle_EHLO(self, _server: Any, session: Any, _envelope: Any, host: str) -> Any:
        session.host_name = host
        return self._said("EHLO")

    def handle_MAIL(self, _server: Any, _session: Any, envelope: Any, address: str, _options: list[str]) -> Any:
        envelope.mail_from = address
        return self._said("MAIL")

    def handle_RCPT(self, _server: Any, _session: Any, envelope: Any, address: str, _options: list[str]) -> Any:
        envelope.rcpt_tos.append(address)
        return self._said("RCPT")

    def handle_DATA(self, _server: Any, _session: Any, _envelope: Any) -> Any:
        return self._said("DATA")


@pytest.fixture
def said(monkeypatch: pytest.MonkeyPatch) -> list[dict[str, Any]]:
    lines: list[dict[str, Any]] = []

    def keep(text: str, **more: Any) -> None:
        lines.append({"text": text} | more)

    monkeypatch.setattr(hooked, "log", SimpleNamespace(error=keep, warning=keep))
    return lines


@pytest.mark.parametrize("name", HOOKS)
@pytest.mark.parametrize("fault", FAULTS)
async def test_each_fault_at_each_hook(fault: str, name: str, said: list[dict[str, Any]]) -> None:
    handler = Handler(name)
    gauge = 'postgate_handler_degraded{handler="mark"}'
    async with Stage() as stage:
        stage.front.plug = begin = hooks.plug(handler, "mark", PATIENT)
        client, other = await stage.connect(), await stage.connect()
        handler.act, begun = FAULTS[fault], time.monotonic()
        begin.hooked.seconds = SECONDS if fault in LATE else PATIENT
        reply = await send(client)
        assert time.monotonic() - begun < SECONDS + 8
        assert reply.startswith("451 4.3.0 ") and "such thing" not in reply, reply
        assert not stage.intake.kept
        (line,) = said
        assert (line["text"], line["handler"], line["hook"]) == ("handler failed", "mark", f"handle_{name}")
        assert line["why"] and float(line["seconds"]) < SECONDS + 6 and line["transaction"] in reply, line
        (wrong,) = begin.hooked.degraded
        assert isinstance(wrong, dict) and wrong["what"] == "handler mark fails" and f"handle_{name} (" in wrong["why"]
        assert (wrong["touched"], wrong["last"]) == (1, [line["transaction"]])
        assert f"{gauge} 1.0" in metrics.exposition().decode()
        handler.act, begin.hooked.seconds = None, PATIENT
        assert (await send(other)).startswith("250"), "a session of others goes on"
        assert (await send(client)).startswith("250"), "and so does this one"
        assert begin.hooked.degraded == [] and said[1]["text"] == "handler well again" and len(said) == 2
        assert begin.hooked.facts()["failed for"] == f"1 (last: {line['transaction']})"
        assert f"{gauge} 0.0" in metrics.exposition().decode()


async def test_what_its_own_handle_exception_answers_is_a_failure_all_the_same(said: list[dict[str, Any]]) -> None:
    class Own(Handler):
        async def handle_exception(self, error: Exception) -> str:
            return "421 4.3.0 come again"

    handler = Own("DATA")
    handler.act = raises
    async with Stage() as stage:
        stage.front.plug = begin = hooks.plug(handler, "own", PATIENT)
        assert (await send(await stage.connect())).startswith("421 4.3.0 come again")
    assert begin.hooked.degraded and [line["why"] for line in said] == ["LookupError: no such thing"]


async def test_nonsense_that_is_left_in_the_envelope_is_a_failure(said: list[dict[str, Any]]) -> None:
    class Leaves(Handler):
        def handle_DATA(self, _server: Any, _session: Any, envelope: Any) -> str:
            envelope.content = 7
            return "250 OK"

    async with Stage() as stage:
        stage.front.plug = hooks.plug(Leaves(""), "leaves", SECONDS)
        assert (await send(await stage.connect())).startswith("451")
    (line,) = said
    assert line["hook"] == "handle_DATA" and "int in envelope.content" in line["why"]


async def test_a_refusal_is_no_failure(said: list[dict[str, Any]]) -> None:
    handler = Handler("DATA")
    handler.act = lambda: "550 5.7.1 no"
    async with Stage() as stage:
        stage.front.plug = begin = hooks.plug(handler, "no", PATIENT)
        assert (await send(await stage.connect())).startswith("550 5.7.1 no")
    assert not said and begin.hooked.facts()["state"] == "well"


async def test_what_a_late_hook_still_does_to_its_envelope_is_nothing_to_the_message(said: list[dict[str, Any]]) -> None:
    """Else who was told to come again has the message, and who was accepted next has none."""
    go_on, done = threading.Event(), threading.Event()

    class Slow:
        def handle_RCPT(self, _server: Any, _session: Any, envelope: Any, address: str, _options: list[str]) -> str:
            if address.startswith("slow@"):
                go_on.wait(10)
                envelope.rcpt_tos.append(address)
                done.set()
            else:
                go_on.set()
                done.wait(10)
            return "250 OK"

    async with Stage() as stage:
        stage.front.plug = begin = hooks.plug(Slow(), "slow", SECONDS)
        client = await stage.hello()
        assert (await client.say("MAIL FROM:<a@example.net>")).startswith("250")
        assert (await client.say("RCPT TO:<slow@example.com>")).startswith("451")
        begin.hooked.seconds = 20.0
        assert (await client.say("RCPT TO:<next@example.com>")).startswith("250")
        await client.say("DATA")
        assert (await client.say("Subject: x\r\n\r\nhi\r\n.")).startswith("250")
        (kept,) = stage.intake.kept
    assert [one.address for one in kept.trailer.recipients] == ["next@example.com"]
