"""MTAs that hang, die, talk rubbish or too much, and our own trouble: each costs its own connection alone, in bounded
time, with one line in the log; nothing stays behind (threats D1, D6)."""

import asyncio
import gc
import os
import socket
import struct
import time
from pathlib import Path

import pytest

from appliance.daemons.milterd.rules import Door
from appliance.engine.pipeline import Group
from appliance.mail.verdict import ACCEPT, Decision
from appliance.protocol.milter import packets as p
from appliance.protocol.milter.encoding import encode
from appliance.protocol.milter.negotiation import offer
from tests.daemons.milterd.stage import Stage
from tests.daemons.milterd.test_milterd_session import TAKEN, words
from tests.peers.mta import Mta

OFFER = encode(offer())


async def raw(stage: Stage, *parts: bytes) -> tuple[asyncio.StreamReader, asyncio.StreamWriter]:
    reader, writer = await asyncio.open_unix_connection(stage.path)
    for part in parts:
        writer.write(part)
        await writer.drain()
    return reader, writer


async def hung_up(reader: asyncio.StreamReader) -> bytes:
    """All that came until the end."""
    return await asyncio.wait_for(reader.read(), 5)


async def idle(stage: Stage) -> None:
    """Until all connections are gone, and what they held."""
    while stage.front.connections:
        await asyncio.sleep(0.001)
    assert stage.front.memory.used == 0


RUBBISH = {
    "SMTP": b"EHLO client.example.org\r\nMAIL FROM:<a@b.example>\r\n",
    "HTTP": b"GET / HTTP/1.1\r\nHost: x\r\n\r\n",
    "TLS": b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03" + bytes(32),
    "a policy request": b"request=smtpd_access_policy\nprotocol_state=RCPT\n\n",
}


@pytest.mark.parametrize("language", RUBBISH)
async def test_another_protocol_is_called_by_its_name(
    tmp_path: Path, language: str, capfd: pytest.CaptureFixture[str]
) -> None:
    async with Stage(tmp_path) as stage:
        reader, writer = await raw(stage, RUBBISH[language])
        assert await hung_up(reader) == b""
        await idle(stage)
        said = capfd.readouterr().err
        assert said.count("not the milter protocol from a local socket at milter") == 1
        assert said.rstrip().endswith(f"it looks like {language}")
        writer.close()


@pytest.mark.parametrize(
    "octets",
    [
        b"\0\0\0\0",
        b"\xff\xff\xff\xff",
        struct.pack(">I", 2 << 20) + b"B",
        OFFER + b"\0\0\0\1Z",
        OFFER + b"\0\0\0\1c",
        OFFER + b"\0\0\0\2Hx",
        OFFER + b"\0\0\0\4C\0X\0",
        encode(p.Negotiate(1, 0xF, 0x3F)),
        encode(p.Negotiate(6, 0, 0)),
        b"\0\0\0\x05O\0\0\0\6",
        encode(p.Connect(b"x")),
        OFFER + encode(p.Connect(b"x", "4", 1, b"192.0.2.1")) + encode(p.Helo(b"x")) + b"\0\0\0\3Lx\0",
    ],
)
async def test_rubbish_costs_its_connection_and_no_other(
    tmp_path: Path, octets: bytes, capfd: pytest.CaptureFixture[str]
) -> None:
    async with Stage(tmp_path) as stage:
        good = await (await stage.mta()).begin()
        reader, writer = await raw(stage, octets)
        await hung_up(reader)
        assert (await good.message()).reply == TAKEN
        assert capfd.readouterr().err.count("not the milter protocol") == 1
        writer.close()
        good.close()
        await idle(stage)


@pytest.mark.parametrize("upto", range(10))
async def test_an_mta_that_dies_after_each_step(tmp_path: Path, upto: int) -> None:
    """Also in the middle of a packet and of a body."""
    body = encode(p.Body(b"x" * 60_000)) * 3
    steps = [OFFER, encode(p.Connect(b"x", "4", 1, b"192.0.2.1")), encode(p.Helo(b"x"))]
    steps += [encode(p.Mail(b"<a@b.example>")), encode(p.Rcpt(b"<c@example.com>")), encode(p.Data())]
    steps += [encode(p.Header(b"Subject", b" x")), encode(p.EndOfHeader()), body, encode(p.EndOfMessage())]
    async with Stage(tmp_path) as stage:
        before = len(os.listdir("/proc/self/fd"))
        for half in (b"", steps[upto][: len(steps[upto]) // 2]):
            reader, writer = await raw(stage, *steps[:upto], half)
            if upto:
                await asyncio.wait_for(reader.readexactly(5), 5)
            writer.close()
            await idle(stage)
        gc.collect()
        assert len(os.listdir("/proc/self/fd")) <= before + 1


async def test_one_octet_at_a_time(tmp_path: Path) -> None:
    octets = b"".join(
        map(
            encode,
            (
                offer(),
                p.Connect(b"x", "4", 1, b"192.0.2.1"),
                p.Helo(b"x"),
                p.Mail(b"<a@b.example>"),
                p.Rcpt(b"<c@example.com>"),
                p.Data(),
                p.Header(b"Subject", b" x"),
                p.EndOfHeader(),
                p.Body(b"x\r\n"),
                p.EndOfMessage(),
                p.Quit(),
            ),
        )
    )
    async with Stage(tmp_path) as stage:
        reader, writer = await raw(stage, *(octets[at : at + 1] for at in range(len(octets))))
        assert (await hung_up(reader)).endswith(encode(TAKEN))
        assert len(stage.engine.at("message")) == 1
        writer.close()


async def test_silence_is_ended_and_dripping_is_no_speech(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The time runs from the last whole packet: octets that never become one do not move it."""
    monkeypatch.setattr("appliance.daemons.milterd.front.LOOK", 0.01)
    async with Stage(tmp_path, idle="1s") as stage:
        reader, writer = await raw(stage, OFFER, b"\0\0")
        await asyncio.wait_for(reader.readexactly(17), 5)
        (connection,) = stage.front.connections
        connection.deadline = stage.front.loop.time()
        assert await asyncio.wait_for(reader.read(), 5) is not None
        await idle(stage)
        writer.close()


@pytest.mark.parametrize("default", ["tempfail", "accept"])
@pytest.mark.parametrize("step", ["mail", "rcpt", "message"])
async def test_a_decision_that_comes_too_late(
    tmp_path: Path, default: str, step: str, capfd: pytest.CaptureFixture[str]
) -> None:
    async with Stage(tmp_path, default=default, deadline="1s", message_deadline="1s") as stage:
        door = stage.rules.doors["milter"]
        limits = {"deadline": 60.0, "message_deadline": 60.0}
        limits["message_deadline" if step == "message" else "deadline"] = 0.02
        door.front = door.front.model_copy(update=limits)
        never = asyncio.get_running_loop().create_future
        stage.engine.rules[step] = lambda ctx: never()
        mta = await (await stage.mta()).begin()
        answers = [await mta.mail(), await mta.rcpt(), await mta.rcpt("b@example.com"), await mta.data()]
        answers.append(await mta.content() if step == "message" else None)
        at = {"mail": 0, "rcpt": 2, "message": 4}[step]
        if default == "tempfail":
            assert words(answers[at]).startswith("451 4.7.1 Service unavailable, please try again later [")
        else:
            assert words(answers[at]) == ("accept" if step == "message" else "continue")
        name = {"message": "END_OF_MESSAGE"}.get(step, step.upper())
        lines = [line for line in capfd.readouterr().err.splitlines() if "no decision" in line]
        assert len(lines) == (2 if step == "rcpt" else 1), "one for each answer"
        about = "mta_id=4F00, client=client.example.org[192.0.2.1], front=milter"
        assert all(f": no decision at {name} within 0.02 s: {default}; {about}" in line for line in lines), lines
        (told,) = stage.front.degraded()
        assert not isinstance(told, str) and told["what"] == "milterd decided too late" and told["touched"] == 1
        assert "4F00" in told["last"][0]
        stage.engine.rules.clear()
        mta = await (await stage.mta()).begin()
        assert (await mta.message()).reply == TAKEN


@pytest.mark.parametrize("thrown", [False, True])
async def test_a_recipient_that_is_taken_by_default_is_one_of_its_message(tmp_path: Path, thrown: bool) -> None:
    """It was refused at the end for want of recipients, or the message was judged as if it were for the others alone."""
    async with Stage(tmp_path, default="accept") as stage:
        door = stage.rules.doors["milter"]
        never = asyncio.get_running_loop().create_future
        if thrown:
            stage.engine.rules["mail"] = lambda _ctx: Decision(verb="discard")
        stage.engine.rules["rcpt"] = lambda ctx: never() if "late" in ctx.recipient.address.local else ACCEPT
        mta = await (await stage.mta()).begin()
        for recipients in (("late@example.com",), ("a@example.com", "late@example.com", "b@example.com")):
            await mta.mail()
            for recipient in recipients:
                door.front = door.front.model_copy(update={"deadline": 0.02 if "late" in recipient else 60.0})
                assert words(await mta.rcpt(recipient)) == "continue"
            await mta.data()
            heard = await mta.content()
            if thrown:
                assert words(heard) == "discard"
                continue
            assert heard.reply == TAKEN
            (ctx,) = stage.engine.at("message")
            assert tuple(one.address.text for one in ctx.recipients) == recipients
            stage.engine.asked.clear()


async def test_progress_at_the_end_for_all_and_before_it_for_postfix(tmp_path: Path) -> None:
    async with Stage(tmp_path) as stage:
        door = stage.rules.doors["milter"]
        door.front = door.front.model_copy(update={"progress": 0.005})
        for who, early in (("Postfix 3.9.0", True), ("8.17.1", False)):
            gates = {step: asyncio.Event() for step in ("rcpt", "message")}

            async def wait(step: str, decision: object, gates: dict[str, asyncio.Event] = gates) -> object:
                await gates[step].wait()
                return decision

            stage.engine.rules |= {
                "rcpt": lambda ctx, wait=wait: wait("rcpt", ACCEPT),
                "message": lambda ctx, wait=wait: wait("message", [Group((0,), ACCEPT)]),
            }
            mta = await (await stage.mta(v=who)).begin()
            await mta.mail()
            asking = asyncio.create_task(mta.rcpt())
            if early:
                while not any(heard.progress for heard in mta.heard):
                    await asyncio.sleep(0.001)
            while not (busy := [one for one in stage.front.connections if one.busy]):
                await asyncio.sleep(0.001)
            await asyncio.sleep(0)  # its task has begun
            assert [one._ticking is not None for one in busy] == [early]
            gates["rcpt"].set()
            await asking
            assert any(heard.progress for heard in mta.heard) == early
            mta.heard.clear()
            asking = asyncio.create_task(mta.content())  # type: ignore[arg-type]
            while sum(heard.progress for heard in mta.heard) < 3:
                await asyncio.sleep(0.001)
            gates["message"].set()
            assert (await asking).reply == TAKEN  # type: ignore[union-attr]


async def test_a_mistake_of_ours_puts_off_and_the_next_message_passes(
    tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    async with Stage(tmp_path) as stage:

        def broken(ctx: object) -> object:
            raise ZeroDivisionError("ours")

        async def broken_later(ctx: object) -> object:
            raise ZeroDivisionError("ours, later")

        def given_up(ctx: object) -> object:
            waited_for = asyncio.get_running_loop().create_future()
            waited_for.cancel()
            return waited_for

        for rule in (broken, broken_later, given_up):
            for step in ("mail", "rcpt", "data", "message"):
                stage.engine.rules = {step: rule}
                mta = await (await stage.mta()).begin()
                answers = [*await mta.envelope(), await mta.content() if step == "message" else None]
                hit = answers[("mail", "rcpt", "data", "message").index(step)]
                assert words(hit).startswith("451 4.7.1 Service unavailable"), step
        stage.engine.rules.clear()
        assert (await (await (await stage.mta()).begin()).message()).reply == TAKEN
        said = capfd.readouterr().err
        assert said.count("internal error") == 12 and "ZeroDivisionError" in said


async def test_a_mistake_where_no_answer_is_due_is_answered_at_the_end(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    async with Stage(tmp_path) as stage:
        mta = await (await stage.mta()).begin()
        await mta.envelope()

        def broken(*_args: object) -> None:
            raise ZeroDivisionError("ours")

        with monkeypatch.context() as patched:
            patched.setattr("appliance.daemons.milterd.collector.Collector.field", broken)
            heard = await mta.content()
        assert words(heard).startswith("451 4.7.1 ") and not stage.engine.at("message")
        assert (await mta.message()).reply == TAKEN


@pytest.mark.parametrize(
    ("events", "answers"),
    [
        ([p.Mail(b"<a@b.example>"), p.Rcpt(b"<c@example.com>"), p.EndOfMessage()], ["451", "451", "451"]),
        ([p.Helo(b"x"), p.Connect(b"x", "4", 1, b"192.0.2.1"), p.EndOfMessage()], ["451"]),
        (
            [
                p.Connect(b"x", "4", 1, b"192.0.2.1"),
                p.Helo(b"x"),
                p.Rcpt(b"<c@example.com>"),
                p.Header(b"A", b" 1"),
                p.EndOfMessage(),
            ],
            ["451", "451"],
        ),
        (
            [
                p.Connect(b"x", "4", 1, b"192.0.2.1"),
                p.Mail(b"<a@b.example>"),
                p.Rcpt(b"<c@example.com>"),
                p.Header(b"A", b" 1"),
                p.EndOfHeader(),
                p.Header(b"B", b" behind the header"),
                p.EndOfMessage(),
            ],
            ["c", "c", "451"],
        ),
        (
            [
                p.Connect(b"x", "4", 1, b"192.0.2.1"),
                p.Mail(b"<a@b.example>"),
                p.Rcpt(b"<c@example.com>"),
                p.Data(),
                p.Rcpt(b"<d@example.com>"),
                p.EndOfMessage(),
            ],
            ["c", "c", "c", "451", "a"],
        ),
        (
            [
                p.Connect(b"x", "4", 1, b"192.0.2.1"),
                p.Mail(b"<a@b.example>"),
                p.Mail(b"<e@b.example>"),
                p.Rcpt(b"<c@example.com>"),
                p.Data(),
                p.Data(),
                p.EndOfMessage(),
                p.EndOfMessage(),
            ],
            ["c", "c", "c", "c", "c", "a", "451"],
        ),
    ],
)
async def test_odd_orders_are_answered_and_what_was_not_seen_whole_is_put_off(
    tmp_path: Path, events: list[p.FromMta], answers: list[str]
) -> None:
    async with Stage(tmp_path) as stage:
        reader, writer = await raw(stage, OFFER, *map(encode, events), encode(p.Quit()))
        octets = await hung_up(reader)
        length = struct.unpack(">I", octets[:4])[0]
        octets, found = octets[4 + length :], []
        while octets:
            length = struct.unpack(">I", octets[:4])[0]
            packet, octets = octets[4 : 4 + length], octets[4 + length :]
            found.append(packet[1:4].decode() if packet[:1] == b"y" else packet[:1].decode())
        assert found == answers
        assert all(ctx.sender is None or ctx.sender.local != "a" or len(events) < 8 for ctx in stage.engine.at("message"))
        writer.close()


async def test_a_client_that_goes_away_while_it_is_judged(tmp_path: Path) -> None:
    async with Stage(tmp_path) as stage:
        begun, ended = asyncio.Event(), asyncio.Event()

        async def judging() -> object:
            begun.set()
            try:
                await asyncio.get_running_loop().create_future()
            finally:
                ended.set()

        stage.engine.rules["message"] = lambda ctx: judging()
        mta = await (await stage.mta()).begin()
        asking = asyncio.create_task(mta.message())
        await asyncio.wait_for(begun.wait(), 5)
        mta.close()
        await asyncio.wait_for(ended.wait(), 5)
        await idle(stage)
        with pytest.raises((ConnectionResetError, TimeoutError, OSError)):
            await asking


async def test_octets_without_end_while_we_think_are_not_taken(tmp_path: Path) -> None:
    """A flood behind an event whose answer takes time stops at the socket, not in our memory."""
    async with Stage(tmp_path) as stage:
        gate = asyncio.Event()

        async def wait() -> Decision:
            await gate.wait()
            return ACCEPT

        stage.engine.rules["mail"] = lambda ctx: wait()
        mail = encode(p.Connect(b"x", "4", 1, b"192.0.2.1")) + encode(p.Mail(b"<a@b.example>"))
        reader, writer = await raw(stage, OFFER, mail)
        await asyncio.wait_for(reader.readexactly(17), 5)
        flood = encode(p.Unknown(b"x" * 60_000))
        (connection,) = stage.front.connections
        sent = 0
        while sent < 200 and not connection._paused:
            writer.write(flood)
            sent += 1
            await asyncio.sleep(0)
        assert connection._paused and connection.machine.unread < 4 << 20
        gate.set()
        writer.close()
        await idle(stage)


async def test_who_comes_above_the_limit_waits(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("appliance.daemons.fronts.accepting.PAUSE", 0.01)
    async with Stage(tmp_path, connections=2) as stage:
        first, second = await stage.mta(), await stage.mta()
        third = asyncio.create_task(stage.mta())
        async with asyncio.timeout(5):
            while "accepting pauses: all connections of milter are taken" not in stage.front.degraded():
                await asyncio.sleep(0.001)
        assert len(stage.front.connections) == 2 and not third.done()
        first.close()
        mta = await asyncio.wait_for(third, 5)
        assert (await (await mta.begin()).message()).reply == TAKEN
        second.close()


async def test_who_fills_one_front_keeps_nobody_from_another(tmp_path: Path) -> None:
    """Also where the other one may have fewer connections than are open at the first."""
    with socket.socket(socket.AF_UNIX) as listening:
        path = str(tmp_path / "second.sock")
        listening.bind(path)
        listening.listen(8)
        async with Stage(tmp_path, connections=4) as stage:
            front = stage.rules.doors["milter"].front.model_copy(update={"name": "second", "connections": 2})
            stage.rules.doors = {**stage.rules.doors, "second": Door(front, stage.rules.engine, (), True)}
            filling = [await stage.mta() for _ in range(4)]
            stage.front.accept_on(listening, "second")
            both = [await asyncio.wait_for(Mta.to(path), 5) for _ in range(2)]
            assert stage.front._places("second") == 0 and stage.front._places("milter") == 0
            for mta in (*both, *filling):
                mta.close()
            await idle(stage)
            assert stage.front._places("second") == 2 and stage.front._places("milter") == 4


async def test_drain_lets_a_message_end(tmp_path: Path) -> None:
    async with Stage(tmp_path) as stage:
        bystander = await (await stage.mta()).begin()
        mta = await (await stage.mta()).begin()
        await mta.envelope()
        draining = asyncio.create_task(stage.front.drain(5))
        assert await bystander.closed()
        assert (await mta.content()).reply == TAKEN
        assert await mta.closed()
        await asyncio.wait_for(draining, 5)


async def test_new_rules_from_the_next_message_on(tmp_path: Path) -> None:
    async with Stage(tmp_path) as stage:
        mta = await (await stage.mta()).begin()
        await mta.envelope()
        fresh = Stage.__new__(Stage)
        fresh.rules = type(stage.rules)()
        fresh.rules.played.rules["mail"] = lambda ctx: Decision(verb="reject", reply="550 5.7.1 new rules")
        stage.front.follow(fresh.rules)
        assert (await mta.content()).reply == TAKEN
        assert words(await mta.mail()).startswith("550 5.7.1 new rules")


async def test_new_rules_that_need_more_end_the_connection_between_clients(tmp_path: Path) -> None:
    """What was agreed on is not enough: this client is judged by the old rules, then the MTA comes anew."""
    async with Stage(tmp_path) as stage:
        mta = await (await stage.mta()).begin()
        fresh = type(stage.rules)(mixed="tempfail")
        fresh.played.policy.rulings.clear()
        fresh.doors["milter"].__init__(fresh.doors["milter"].front, fresh.engine, (), True)  # type: ignore[misc]
        assert fresh.doors["milter"].want != stage.rules.doors["milter"].want
        stage.front.follow(fresh)
        assert (await mta.message()).reply == TAKEN and len(stage.engine.at("message")) == 1
        await mta.do(mta.machine.quit_nc())
        assert await mta.closed()
        assert (await (await (await stage.mta()).begin()).message()).reply == TAKEN
        assert len(fresh.played.at("message")) == 1


async def test_a_flood_of_messages_keeps_nobody_waiting(tmp_path: Path) -> None:
    """Messages that are there all at once are heard in turns: another MTA is served between them."""
    message = (p.Mail(b"<a@b.example>"), p.Rcpt(b"<c@example.com>"), p.Data(), p.EndOfHeader(), p.EndOfMessage())
    flood = b"".join(map(encode, message)) * 1000
    async with Stage(tmp_path) as stage:

        def judge(_ctx: object) -> Decision:
            until = time.monotonic() + 0.0005
            while time.monotonic() < until:
                pass
            return ACCEPT

        stage.engine.rules["mail"] = judge
        other = await (await stage.mta()).begin()
        reader, writer = await raw(stage, OFFER, encode(p.Connect(b"x", "4", 1, b"192.0.2.1")), flood, encode(p.Quit()))
        async with asyncio.timeout(60):
            while len(stage.engine.at("mail")) < 10:
                await asyncio.sleep(0)
            assert (await other.message()).reply == TAKEN
            assert len(stage.engine.at("mail")) < 700, "long before the last of them"
            while await reader.read(1 << 16):
                continue
        assert len(stage.engine.at("message")) == 1001, "and all of them are answered"
        writer.close()
