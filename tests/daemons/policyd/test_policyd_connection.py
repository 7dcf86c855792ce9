"""Connections of policy clients: every request that can be read is answered, in order, in time; nothing else costs more
than its own connection."""

import asyncio
import time
from pathlib import Path

import pytest

from appliance.daemons.policyd import record
from appliance.mail.context import Context
from appliance.mail.promise import Promise
from appliance.mail.verdict import ACCEPT, Decision
from tests.daemons.policyd.stage import Stage, request

pytestmark = pytest.mark.asyncio


@pytest.fixture
def said(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    lines: list[str] = []
    monkeypatch.setattr(record.maillog, "log", lambda text, *_more: lines.append(text))
    monkeypatch.setattr(record.maillog, "capped", lambda _cause, text: lines.append(text))
    return lines


def late(gate: asyncio.Event, decision: Decision = ACCEPT) -> object:
    async def answer() -> Decision:
        await gate.wait()
        return decision

    return lambda _ctx: answer()


async def test_many_requests_on_a_connection_in_one_write_or_octet_by_octet(tmp_path: Path) -> None:
    async with Stage(tmp_path) as stage:
        client = await stage.client()
        client.writer.write(request(instance="1") + request(instance="2") + request(instance="3"))
        assert [await client.answer() for _ in range(3)] == ["DUNNO"] * 3
        for octet in request(instance="4"):
            client.writer.write(bytes([octet]))
            await client.writer.drain()
        assert await client.answer() == "DUNNO"
        assert await client.send(request(instance="5").replace(b"\n", b"\r\n")) == "DUNNO"
        assert len(stage.engine.at("rcpt")) == 5
        assert len(stage.engine.at("connect")) == 1, "one client, one connection: asked about once"


async def test_what_must_wait_keeps_its_place(tmp_path: Path) -> None:
    async with Stage(tmp_path) as stage:
        gate = asyncio.Event()

        def rule(ctx: Context) -> object:
            if ctx.recipient is not None and ctx.recipient.address.local == "slow":
                return late(gate, Decision(verb="reject", reply="550 5.7.1 no [x]"))(ctx)  # type: ignore[operator]
            return ACCEPT

        stage.engine.rules["rcpt"] = rule
        client, other = await stage.client(), await stage.client()
        client.writer.write(request(recipient="slow@example.com", instance="1") + request(instance="2"))
        assert await other.ask(instance="3") == "DUNNO", "others do not notice"
        gate.set()
        assert [await client.answer(), await client.answer()] == ["550 5.7.1 no [x]", "DUNNO"]


async def test_a_promise_that_is_kept_already_keeps_its_place(tmp_path: Path) -> None:
    async with Stage(tmp_path) as stage:

        def rule(ctx: Context) -> object:
            if ctx.recipient is None or ctx.recipient.address.local != "kept":
                return ACCEPT
            promise: Promise[Decision] = Promise(lambda: None)
            promise.set_result(Decision(verb="reject", reply="550 5.7.1 no [x]"))
            return promise

        stage.engine.rules["rcpt"] = rule
        client = await stage.client()
        client.writer.write(
            request(instance="1") + request(recipient="kept@example.com", instance="2") + request(instance="3")
        )
        assert [await client.answer() for _ in range(3)] == ["DUNNO", "550 5.7.1 no [x]", "DUNNO"]


@pytest.mark.parametrize(("default", "answer"), [("defer", "DEFER_IF_PERMIT"), ("dunno", "DUNNO")])
async def test_no_answer_in_time_and_errors_of_ours_are_the_default(
    tmp_path: Path, said: list[str], default: str, answer: str
) -> None:
    async with Stage(tmp_path, default=default, deadline="1s") as stage:
        stage.engine.rules["rcpt"] = late(asyncio.Event())  # type: ignore[assignment]
        client = await stage.client()
        assert (await client.ask()).partition(" ")[0] == answer
        (line,) = [line for line in said if "RCPT: no answer within 1 s" in line]
        assert (await client.ask(recipient="another@example.com")).partition(" ")[0] == answer, "the same message"
        (told,) = stage.front.degraded()
        assert not isinstance(told, str) and (told["what"], told["touched"]) == ("policyd decided too late", 1)
        (ident,) = told["last"]
        assert len(ident) > 10
        assert line.endswith(f"; {ident} from mail.example.org[192.0.2.7]: from=<a=b@example.org> to=<user@example.com>")

        def broken(_ctx: Context) -> Decision:
            raise RuntimeError("broken")

        stage.engine.rules["rcpt"] = broken
        assert (await client.ask(instance="2")).partition(" ")[0] == answer
        del stage.engine.rules["rcpt"]
        assert await client.ask(instance="3") == "DUNNO", "the connection goes on"


@pytest.mark.parametrize(
    ("octets", "name"),
    [
        (b"GET / HTTP/1.0\r\n\r\n", "HTTP"),
        (b"EHLO x\r\n", "SMTP"),
        (b"\x16\x03\x01\x00\xa5\x01", "TLS"),
        (b"\x00\x00\x00\x0dO\x00\x00\x00\x06", "milter"),
        (b"what\n\n", "line 1 of a request is no name=value"),
        (b"request=smtpd_access_policy\nwhat\n\n", "line 2"),
        (b"request=" + b"x" * 9000, "line of more than"),
    ],
)
async def test_rubbish_costs_its_own_connection(tmp_path: Path, said: list[str], octets: bytes, name: str) -> None:
    async with Stage(tmp_path) as stage:
        client, other = await stage.client(), await stage.client()
        assert await other.ask() == "DUNNO"
        client.writer.write(request(instance="good") + octets)
        assert await client.answer() == "DUNNO", "what came before it is answered"
        assert await client.closed()
        (line,) = [line for line in said if "hung up" in line]
        assert name in line and "a local socket at policy" in line
        assert await other.ask(instance="2") == "DUNNO"


@pytest.mark.parametrize(
    ("changes", "why"),
    [
        ({"request": "junk"}, "request='junk' is not answered here"),
        ({"client_address": "999.1.1.1"}, "is no address"),
        ({"client_address": "unknown"}, "is no address"),
        ({"client_address": "fe80::1%eth0"}, "is no address"),
        ({"protocol_state": "BDAT"}, "protocol_state='BDAT' is not known"),
        ({"protocol_state": ""}, "no protocol_state"),
        ({"recipient": ""}, "no recipient"),
    ],
)
async def test_what_lacks_something_is_dunno_with_a_line(
    tmp_path: Path, said: list[str], changes: dict[str, str], why: str
) -> None:
    async with Stage(tmp_path) as stage:
        client = await stage.client()
        assert await client.ask(**changes) == "DUNNO"
        assert any(why in line for line in said)
        assert not stage.engine.asked
        assert await client.ask() == "DUNNO" and stage.engine.asked


@pytest.mark.parametrize(
    "address",
    [
        "ok.example!a",
        "b!a",
        "a%b",
        "@c.example",
        "x" * 300 + "@c.example",
        "@",
        "a b@@",
        "a@-.example",
    ],
)
async def test_d6_an_address_that_cannot_be_read_passes_nobody(tmp_path: Path, said: list[str], address: str) -> None:
    """What our own SMTP server refuses is refused here, too: Postfix may make an address of it that leads to somebody."""
    async with Stage(tmp_path) as stage:
        client = await stage.client()
        for state in ("MAIL", "RCPT", "DATA", "END-OF-MESSAGE"):
            answer = await client.ask(sender=address, protocol_state=state, instance=state)
            assert answer == "501 5.1.7 Bad sender address syntax"
        assert await client.ask(sender=address, protocol_state="HELO") == "DUNNO", "nobody asked about it"
        for _ in range(2):
            assert await client.ask(recipient=address, instance="r") == "501 5.1.3 Bad recipient address syntax"
        assert await client.ask(instance="r") == "DUNNO", "the next recipient of the same message"
        assert any("is no address: 501 5.1.7" in line for line in said)


async def test_a_name_without_a_domain_is_at_home_here(tmp_path: Path) -> None:
    """Postfix takes it, and so does our own SMTP server."""
    async with Stage(tmp_path) as stage:
        client = await stage.client()
        for number, recipient in enumerate(("joe", "user@example.com", "joe")):
            assert await client.ask(sender="root", recipient=recipient, instance=f"r{number // 2}") == "DUNNO"
        seen = [
            (ctx.sender and ctx.sender.text, ctx.recipient and ctx.recipient.address.text)
            for ctx in stage.engine.at("rcpt")
        ]
        assert {sender for sender, _ in seen} == {"root@mx.example.com"}
        assert {"joe@mx.example.com", "user@example.com"} == {recipient for _, recipient in seen}


async def test_missing_attributes_of_old_clients_are_tolerated(tmp_path: Path) -> None:
    async with Stage(tmp_path) as stage:
        client = await stage.client()
        old = b"sender=\nrecipient=user@example.com\nclient_address=2001:DB8::7\nprotocol_state=RCPT\n"
        old += b"request=smtpd_access_policy\n\n"
        assert await client.send(old) == "DUNNO"
        (ctx,) = stage.engine.at("rcpt")
        assert ctx.client.address == "2001:db8::7" and ctx.client.proof == "unknown"
        assert ctx.sender is not None and ctx.sender.text == ""
        assert await client.send(old.replace(b"sender=\n", b"")) == "DUNNO"
        assert len(stage.engine.at("rcpt")) == 1, "without a sender nothing can be judged"


async def test_a_client_that_closed_its_side_gets_its_answer(tmp_path: Path) -> None:
    async with Stage(tmp_path) as stage:
        gate = asyncio.Event()
        stage.engine.rules["rcpt"] = late(gate)  # type: ignore[assignment]
        client = await stage.client()
        client.writer.write(request())
        client.writer.write_eof()
        await asyncio.sleep(0)
        gate.set()
        assert await client.answer() == "DUNNO"
        assert await client.closed()


async def test_silent_clients_are_hung_up_on(tmp_path: Path) -> None:
    async with Stage(tmp_path, idle="1s") as stage:
        client = await stage.client()
        assert await client.ask() == "DUNNO"
        assert await client.closed()
        assert not stage.front.connections


async def test_those_above_the_limit_wait_for_a_place(tmp_path: Path) -> None:
    async with Stage(tmp_path, connections=1) as stage:
        first, second = await stage.client(), await stage.client()
        assert await first.ask() == "DUNNO"
        second.writer.write(request(instance="2"))
        first.close()
        assert await second.answer() == "DUNNO"
        assert any("connections" in why for why in stage.front.degraded())


async def test_drain_answers_what_was_asked(tmp_path: Path) -> None:
    stage = Stage(tmp_path)
    gate = asyncio.Event()
    stage.engine.rules["rcpt"] = late(gate)  # type: ignore[assignment]
    idle, busy = await stage.client(), await stage.client()
    assert await idle.ask(protocol_state="CONNECT", instance="", sender="", recipient="") == "DUNNO"
    busy.writer.write(request())
    while not stage.engine.at("rcpt"):
        await asyncio.sleep(0)
    draining = asyncio.create_task(stage.front.drain(5))
    assert await idle.closed()
    gate.set()
    assert await busy.answer() == "DUNNO"
    assert await busy.closed()
    await draining
    assert not stage.front.connections


async def test_no_task_where_the_engine_answers_at_once(tmp_path: Path) -> None:
    async with Stage(tmp_path) as stage:
        client = await stage.client()
        await client.ask()
        made: list[object] = []
        loop = asyncio.get_running_loop()
        loop.set_task_factory(lambda loop, coro, **more: made.append(coro) or asyncio.Task(coro, loop=loop, **more))  # type: ignore[arg-type,func-returns-value]
        client.writer.write(b"".join(request(instance=str(n)) for n in range(20)))
        data = b""
        while data.count(b"\n\n") < 20:
            data += await client.reader.read(4096)
        loop.set_task_factory(None)
        assert not made


async def test_a_flood_of_rubbish_leaves_nothing_behind(tmp_path: Path, said: list[str]) -> None:
    async with Stage(tmp_path, connections=20, messages=50) as stage:
        good = await stage.client()
        assert await good.ask() == "DUNNO"
        rubbish = [b"GET / HTTP/1.0\r\n\r\n", b"\x16\x03\x01\x02\x00", b"what\n\n", b"", request()[:40], b"\xff" * 9000]
        for number in range(300):
            client = await stage.client()
            client.writer.write(rubbish[number % len(rubbish)])
            client.close()
        for number in range(100):
            assert await good.ask(instance=str(number)) == "DUNNO"
        async with asyncio.timeout(10):
            while len(stage.front.connections) > 1:
                await asyncio.sleep(0.01)
        assert len(stage.front.messages) == 50 and stage.front._per_door == {"policy": 1}


async def test_who_asks_without_end_keeps_nobody_waiting(tmp_path: Path) -> None:
    """Requests that are there all at once are answered in turns: another client is served between them."""
    async with Stage(tmp_path) as stage:

        def judge(_ctx: Context) -> Decision:
            until = time.monotonic() + 0.0005
            while time.monotonic() < until:
                pass
            return ACCEPT

        stage.engine.rules["rcpt"] = judge
        many, other = await stage.client(), await stage.client()
        assert await other.ask(instance="first") == "DUNNO"
        many.writer.write(b"".join(request(instance=f"m{number}") for number in range(1000)))
        many.writer.write_eof()
        async with asyncio.timeout(30):
            while len(stage.engine.at("rcpt")) < 10:
                await asyncio.sleep(0)
            assert await other.ask(instance="other") == "DUNNO"
            assert len(stage.engine.at("rcpt")) < 500, "long before the last of them"
            answers = await many.reader.read()
            while more := await many.reader.read():
                answers += more
        assert answers == b"action=DUNNO\n\n" * 1000, "and all of them are answered"


@pytest.mark.parametrize("raises", [False, True])
async def test_an_answer_behind_the_deadline_is_none_of_the_next_request(tmp_path: Path, raises: bool) -> None:
    """It did not let itself be cancelled."""
    put, second, free, ended = asyncio.Event(), asyncio.Event(), asyncio.Event(), asyncio.Event()

    async def stubborn(_ctx: Context) -> Decision:
        put.set()
        try:
            await asyncio.Event().wait()
        except asyncio.CancelledError:
            ended.set()
            if raises:
                raise OSError from None
        return Decision(verb="reject", reply="550 5.7.1 no [x]")

    async def slow(_ctx: Context) -> Decision:
        second.set()
        await free.wait()
        return ACCEPT

    async with Stage(tmp_path) as stage:
        stage.engine.rules["rcpt"] = stubborn
        client = await stage.client()
        client.writer.write(request(instance="one"))
        await put.wait()
        stage.engine.rules["rcpt"] = slow
        (connection,) = stage.front.connections
        connection.look(stage.front.loop.time() + 1000)
        assert (await client.answer()).startswith("DEFER_IF_PERMIT 4.3.0")
        client.writer.write(request(instance="two"))
        await ended.wait()
        await second.wait()
        free.set()
        assert await client.answer() == "DUNNO"
