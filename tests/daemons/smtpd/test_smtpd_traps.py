"""What aiosmtpd's users fell into (python-mail.md section 11), and what a worker must survive (threats Q1, Q4-Q6, Q9)."""

import asyncio
import errno
import re
import time
from typing import Any

import pytest

from appliance.engine.pipeline import Group
from appliance.mail.verdict import ACCEPT, Decision, Verdict
from appliance.queue.errors import SpoolError, SpoolFull
from appliance.queue.space import Space
from tests.daemons.smtpd.stage import Client, Stage, Trips

MESSAGE = b"Subject: x\r\n\r\nhello\r\n.\r\n"


async def many(client: Client, count: int) -> list[str]:
    return [await client.reply() for _ in range(count)]


async def until(true: Any) -> None:
    async with asyncio.timeout(5):
        while not true():
            await asyncio.sleep(0.001)


async def test_200_pipelined_commands_are_answered_in_one_write(monkeypatch: pytest.MonkeyPatch) -> None:
    async with Stage(limits={"recipients": 300}) as stage:
        client = await stage.hello()
        await client.say("MAIL FROM:<a@example.net>")
        writes = []
        session = stage.session()
        transport = session.transport

        class Spy:
            def write(self, data: bytes) -> None:
                writes.append(data)
                transport.write(data)

            def __getattr__(self, name: str) -> Any:
                return getattr(transport, name)

        session.transport = Spy()
        client.send(b"".join(b"RCPT TO:<u%d@example.com>\r\n" % n for n in range(200)))
        assert set(await many(client, 200)) == {"250 2.1.5 Ok"}
        assert len(writes) == 1


async def test_a_batch_that_needs_io_is_answered_in_order_by_one_task() -> None:
    async with Stage() as stage:

        async def slowly(ctx: Any) -> Decision:
            await asyncio.sleep(0)
            return ACCEPT if ctx.recipient.address.local != "no" else Decision(verb="reject", reply="550 5.1.1 No [x]")

        stage.engine_.rules["rcpt"] = slowly
        client = await stage.hello()
        client.send(b"MAIL FROM:<a@example.net>\r\n")
        client.send(b"".join(b"RCPT TO:<%b@example.com>\r\n" % n for n in (b"a", b"no", b"b")) + b"DATA\r\n")
        replies = await many(client, 5)
        assert [reply[:3] for reply in replies] == ["250", "250", "550", "250", "354"]


async def test_the_commands_behind_a_message_wait_for_its_answer() -> None:
    async with Stage() as stage:
        stage.intake.gate = asyncio.Event()
        client = await stage.content()
        client.send(MESSAGE + b"MAIL FROM:<c@example.net>\r\n")
        await stage.intake.begun.wait()
        assert len(stage.engine_.at("mail")) == 1
        stage.intake.gate.set()
        assert [reply[:9] for reply in await many(client, 2)] == ["250 2.0.0", "250 2.1.0"]


@pytest.mark.parametrize("bite", [1, 2, 3, 5, 7, 64])
async def test_a_pipelined_session_split_anywhere(bite: int) -> None:
    async with Stage() as stage:
        client = await stage.hello()
        said = b"MAIL FROM:<a@example.net>\r\nRCPT TO:<b@example.com>\r\nDATA\r\n"
        body = b"Subject: x\r\n\r\n..\r\n.x\r\n\r\n.\r\nQUIT\r\n"
        for part in (said, body):
            for start in range(0, len(part), bite):
                client.send(part[start : start + bite])
                await asyncio.sleep(0)
            await many(client, 3 if part is said else 2)
        assert stage.intake.kept[0].content.endswith(b"\r\nSubject: x\r\n\r\n.\r\nx\r\n\r\n")


async def test_what_stands_behind_data_is_neither_content_nor_commands() -> None:
    async with Stage() as stage:
        client = await stage.hello()
        client.send(
            b"MAIL FROM:<a@example.net>\r\nRCPT TO:<b@example.com>\r\nDATA\r\nSubject: hasty\r\n\r\n.\r\nQUIT\r\n"
        )
        replies = await many(client, 3)
        assert replies[2] == "554 5.5.0 Error: SMTP protocol synchronization"
        assert await client.ended() == b""
        assert not stage.intake.kept


# ------------------------------------------------------------------ clients that go away


async def test_half_close_behind_the_dot_still_gets_its_250() -> None:
    async with Stage() as stage:
        stage.intake.gate = asyncio.Event()
        client = await stage.content()
        client.send(MESSAGE)
        client.writer.write_eof()
        await stage.intake.begun.wait()
        stage.intake.gate.set()
        assert (await client.reply()).startswith("250 2.0.0 Ok: queued")
        assert await client.ended() == b""
        assert len(stage.intake.kept) == 1


async def test_a_commit_ends_though_the_client_is_gone() -> None:
    async with Stage() as stage:
        stage.intake.gate = asyncio.Event()
        client = await stage.content()
        client.send(MESSAGE)
        await stage.intake.begun.wait()
        client.reset()
        await until(lambda: not stage.front.sessions)
        stage.intake.gate.set()
        await until(lambda: len(stage.intake.kept) == 1)


async def test_a_client_that_is_gone_before_the_commit_leaves_nothing() -> None:
    async with Stage() as stage:
        gate = asyncio.Event()
        asked = asyncio.Event()

        async def scan(ctx: Any) -> list[Group]:
            asked.set()
            await gate.wait()
            return [Group((0,), ACCEPT)]

        stage.engine_.rules["message"] = scan
        client = await stage.content()
        client.send(MESSAGE)
        await asked.wait()
        session = stage.session()
        client.reset()
        await until(lambda: session.lost)
        gate.set()
        await until(lambda: session.task is None)
        assert not stage.intake.kept


async def test_a_client_that_is_gone_in_the_middle_gives_back_its_memory_and_file() -> None:
    async with Stage() as stage:
        for size in (1000, 200_000):
            client = await stage.content()
            client.send(b"x" * size)
            await until(lambda: stage.front.memory.used or stage.intake.larges < 100)
            client.reset()
            await until(lambda: not stage.front.sessions)
            assert stage.front.memory.used == 0
        assert stage.intake.aborted == 1
        assert not stage.intake.kept


# ------------------------------------------------------------------ the queue says no


@pytest.mark.parametrize(
    ("error", "reply"),
    [
        (SpoolFull("full"), "452 4.3.1 Insufficient system storage"),
        (SpoolError("sync"), "451 4.3.0 Error: queue file write error"),
    ],
)
async def test_q1_what_is_not_on_disk_gets_no_250(error: Exception, reply: str) -> None:
    async with Stage() as stage:
        stage.intake.error = error
        client = await stage.content()
        client.send(MESSAGE)
        assert (await client.reply()).startswith(reply)
        stage.intake.error = None
        await client.say("MAIL FROM:<a@example.net>")
        await client.say("RCPT TO:<b@example.com>")
        await client.say("DATA")
        client.send(MESSAGE)
        assert (await client.reply()).startswith("250 2.0.0")


@pytest.mark.parametrize("room", [None, Space(0, 1 << 20), Space(1 << 40, 0)])
async def test_q5_without_room_mail_is_put_off_and_comes_back(room: Space | None) -> None:
    async with Stage() as stage:
        client = await stage.hello()
        stage.intake.space, good = room, stage.intake.space
        assert re.fullmatch(
            r"452 4\.3\.1 Insufficient system storage \[\w+\]", await client.say("MAIL FROM:<a@example.net>")
        )
        stage.intake.space = good
        assert (await client.say("MAIL FROM:<a@example.net>")).startswith("250")


async def test_q5_a_declared_size_that_does_not_fit_is_put_off() -> None:
    async with Stage(smtp={"size_limit": 1000}) as stage:
        stage.intake.space = Space(2000, 1 << 20)
        stage.front.follow(stage.rules())
        client = await stage.hello()
        assert (await client.say("MAIL FROM:<a@example.net> SIZE=900")).startswith("250")


async def test_no_file_for_a_large_message_is_452() -> None:
    async with Stage() as stage:
        stage.intake.larges = 0
        client = await stage.content()
        client.send(b"x" * 100_000 + b"\r\n.\r\n")
        assert (await client.reply()).startswith("452 4.3.1")


async def test_q4_a_refused_group_goes_to_quarantine_the_others_are_delivered() -> None:
    no = Decision(verb="reject", reply="550 5.7.1 No [x]", deciding=Verdict(check="antivirus", outcome="infected"))
    async with Stage() as stage:
        stage.engine_.rules["message"] = lambda ctx: [Group((0, 2), ACCEPT), Group((1,), no)]
        client = await stage.hello()
        client.send(b"MAIL FROM:<a@example.net>\r\n" + b"".join(b"RCPT TO:<%d@example.com>\r\n" % n for n in range(3)))
        await many(client, 4)
        await client.say("DATA")
        client.send(MESSAGE)
        reply = await client.reply()
        quarantined, delivered = sorted(stage.intake.kept, key=lambda kept: kept.trailer.keep == "deliver")
        assert reply == f"250 2.0.0 Ok: queued as {delivered.trailer.queue_id}"
        assert [one.address for one in delivered.trailer.recipients] == ["0@example.com", "2@example.com"]
        assert [one.address for one in quarantined.trailer.recipients] == ["1@example.com"]
        assert quarantined.trailer.keep == "quarantine"
        assert quarantined.trailer.queue_id != delivered.trailer.queue_id
        assert b" for <" not in delivered.content


async def test_q4_groups_of_a_large_message_get_a_file_each() -> None:
    no = Decision(verb="reject", reply="550 5.7.1 No [x]")
    async with Stage() as stage:
        stage.engine_.rules["message"] = lambda ctx: [Group((0,), ACCEPT), Group((1,), no)]
        client = await stage.hello()
        client.send(b"MAIL FROM:<a@example.net>\r\nRCPT TO:<0@example.com>\r\nRCPT TO:<1@example.com>\r\nDATA\r\n")
        await many(client, 4)
        body = b"Subject: x\r\n\r\n" + b"y" * 300_000 + b"\r\n"
        client.send(body + b".\r\n")
        assert (await client.reply()).startswith("250")
        assert [kept.large for kept in stage.intake.kept] == [True, True]
        assert stage.intake.kept[0].content == stage.intake.kept[1].content
        assert stage.intake.kept[0].content.endswith(body)


# ------------------------------------------------------------------ memory and descriptors


async def test_q6_memory_does_not_grow_with_the_message() -> None:
    async with Stage() as stage:
        client = await stage.content()
        most = 0
        for _ in range(300):
            client.send(b"0123456789" * 10_000 + b"\r\n")
            await client.writer.drain()
            await asyncio.sleep(0)
            session = stage.session()
            most = max(most, stage.front.memory.used + len(session.ahead))
        client.send(b".\r\n")
        assert (await client.reply()).startswith("250")
        assert stage.intake.kept[0].trailer.size > 30_000_000
        assert most <= 65536 + 262144


async def test_q6_all_bodies_in_memory_are_bounded() -> None:
    trips = Trips("memory_messages")
    async with Stage(limits={"memory_messages": 100_000}) as stage:
        clients = [await stage.content() for _ in range(5)]
        for client in clients:
            client.send(b"x" * 40_000)
        await until(lambda: sum(session.transaction.octets() for session in stage.front.sessions) >= 200_000 - 20)
        assert stage.front.memory.used <= 100_000
        for client in clients:
            client.send(b"\r\n.\r\n")
            assert (await client.reply()).startswith("250")
        assert stage.front.memory.used == 0
    assert trips.count >= 1


async def test_q6_what_comes_while_a_question_is_open_is_bounded(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("appliance.daemons.smtpd.front.PENALTY", 0.0)
    async with Stage() as stage:
        gate = asyncio.Event()

        async def wait(ctx: Any) -> Decision:
            await gate.wait()
            return ACCEPT

        stage.engine_.rules["rcpt"] = wait
        client = await stage.hello()
        client.send(b"MAIL FROM:<a@example.net>\r\nRCPT TO:<b@example.com>\r\n" + b"NOOP\r\n" * 5_000_000)
        with pytest.raises(TimeoutError):
            await asyncio.wait_for(client.writer.drain(), 0.3)
        assert len(stage.session().ahead) < 700_000
        client.reset()
        gate.set()
        await until(lambda: not stage.front.sessions)


async def test_q6_without_descriptors_accepting_pauses_and_recovers(
    monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr("appliance.daemons.smtpd.front.ACCEPT_PAUSE", 0.05)
    async with Stage() as stage:
        calls = 0

        class Sick:
            def fileno(self) -> int:
                return stage.sock.fileno()

            def accept(self) -> Any:
                nonlocal calls
                calls += 1
                if calls < 4:
                    raise OSError(errno.EMFILE, "Too many open files")
                return stage.sock.accept()

        stage.front.stop_accepting()
        stage.front._accepting[Sick()] = "public"  # type: ignore[index]
        (sick,) = stage.front._accepting
        stage.front.loop.add_reader(sick, stage.front._accept, sick, "public")
        began = time.monotonic()
        client = await stage.connect()
        assert time.monotonic() - began >= 0.14
        assert await client.say("NOOP") == "250 2.0.0 Ok"
        assert calls < 8
    assert "accepting pauses" in capfd.readouterr().err


# ------------------------------------------------------------------ stop and reload


async def test_q9_drain_lets_a_transaction_end_and_sends_the_idle_away() -> None:
    async with Stage() as stage:
        idle, busy = await stage.hello(), await stage.content()
        draining = asyncio.create_task(stage.front.drain(5.0, 1.0))
        assert (await idle.reply()).startswith("421 4.3.2 mx.example.com")
        assert await idle.ended() == b""
        busy.send(MESSAGE)
        assert (await busy.reply()).startswith("250 2.0.0")
        assert (await busy.reply()).startswith("421 4.3.2")
        await asyncio.wait_for(draining, 4)
        assert len(stage.intake.kept) == 1


async def test_q9_drain_waits_for_a_commit_and_no_longer_than_the_grace_for_others() -> None:
    async with Stage() as stage:
        stage.intake.gate = asyncio.Event()
        committing, open_ = await stage.content(), await stage.content()
        committing.send(MESSAGE)
        await stage.intake.begun.wait()
        draining = asyncio.create_task(stage.front.drain(0.05, 5.0))
        assert (await open_.reply()).startswith("421 4.3.2")
        stage.intake.gate.set()
        assert (await committing.reply()).startswith("250 2.0.0")
        await asyncio.wait_for(draining, 4)


async def test_q9_a_transaction_keeps_the_rules_it_began_with() -> None:
    async with Stage() as stage:
        client = await stage.hello()
        await client.say("MAIL FROM:<a@example.net>")
        old = stage.engine_
        stage.engine_ = type(old)()
        stage.engine_.rules["rcpt"] = lambda ctx: Decision(verb="reject", reply="550 5.1.1 New [x]")
        stage.front.follow(stage.rules(hash_="new"))
        assert (await client.say("RCPT TO:<b@example.com>")).startswith("250")
        await client.say("DATA")
        client.send(MESSAGE)
        await client.reply()
        assert stage.intake.kept[0].trailer.policy == "hash"
        await client.say("MAIL FROM:<a@example.net>")
        assert (await client.say("RCPT TO:<b@example.com>")).startswith("550 5.1.1 New")


# ------------------------------------------------------------------ parameters and names


async def test_dsn_parameters_are_kept_as_they_were_sent() -> None:
    async with Stage(listen={"role": "reinject"}) as stage:
        client = await stage.hello()
        await client.say("MAIL FROM:<a@example.net> RET=HDRS ENVID=Ab+2Bc BODY=8BITMIME")
        await client.say("RCPT TO:<B@example.com> NOTIFY=SUCCESS,delay ORCPT=rfc822;Xy+2Bz@example.com")
        await client.say("DATA")
        client.send(MESSAGE)
        await client.reply()
        trailer = stage.intake.kept[0].trailer
        assert (trailer.ret, trailer.envid, trailer.body) == ("HDRS", "Ab+2Bc", "8BITMIME")
        assert trailer.recipients[0].notify == "SUCCESS,DELAY"
        assert trailer.recipients[0].orcpt == "rfc822;Xy+2Bz@example.com"


@pytest.mark.parametrize(
    ("said", "kept"), [("SUCCESS", "NEVER"), ("SUCCESS,FAILURE", "FAILURE"), ("NEVER", "NEVER"), ("DELAY", "DELAY")]
)
async def test_strangers_get_no_report_of_success(said: str, kept: str) -> None:
    async with Stage() as stage:
        client = await stage.hello()
        await client.say("MAIL FROM:<a@example.net>")
        assert (await client.say(f"RCPT TO:<b@example.com> NOTIFY={said}")).startswith("250")
        await client.say("DATA")
        client.send(MESSAGE)
        await client.reply()
        assert stage.intake.kept[0].trailer.recipients[0].notify == kept


async def test_smtputf8_only_where_it_is_offered() -> None:
    async with Stage() as stage:
        client = await stage.connect()
        assert "SMTPUTF8" not in await client.say("EHLO x.example.net")
        assert (await client.say("MAIL FROM:<é@example.net> SMTPUTF8"))[:3] in ("553", "555")
        stage.utf8 = True
        assert "SMTPUTF8" in await client.say("EHLO x.example.net")
        assert (await client.say("MAIL FROM:<é@example.net>")).startswith("553 5.6.7")
        assert (await client.say("MAIL FROM:<é@example.net> SMTPUTF8")).startswith("250")
        assert (await client.say("RCPT TO:<ü@example.com>")).startswith("250")
        await client.say("DATA")
        client.send(MESSAGE)
        await client.reply()
        ((content, trailer, _),) = stage.intake.kept
        assert trailer.smtputf8
        assert b" with UTF8SMTP id " in content
        assert "for <ü@example.com>".encode() in content


async def test_the_client_name_is_awaited_before_the_first_question_not_before_the_banner() -> None:
    async with Stage() as stage:
        gate = asyncio.Event()

        async def slow(address: str) -> Any:
            await gate.wait()
            return stage.name._replace(name="mail.example.net", reverse="mail.example.net", proof="pass")

        stage.naming = slow
        client = await stage.hello()
        client.send(b"MAIL FROM:<a@example.net>\r\n")
        await until(lambda: stage.session().busy)
        gate.set()
        assert (await client.reply()).startswith("250")
        assert [ctx.client.name for ctx in stage.engine_.asked] == ["mail.example.net"] * 3
        assert [ctx.stage for ctx in stage.engine_.asked] == ["connect", "helo", "mail"]


async def test_verdicts_of_earlier_stages_stand_in_the_trail() -> None:
    async with Stage() as stage:
        for name in ("connect", "helo", "mail", "rcpt"):
            stage.engine_.rules[name] = lambda ctx: Decision(
                verb="accept", verdicts=(Verdict(check=ctx.stage, outcome="seen", stage=ctx.stage),)
            )
        client = await stage.content()
        client.send(MESSAGE)
        await client.reply()
        (ctx,) = stage.engine_.at("message")
        assert [verdict.check for verdict in ctx.trail] == ["connect", "helo", "mail", "rcpt"]
        assert [found["check"] for found in stage.intake.kept[0].trailer.found()] == ["connect", "helo", "mail", "rcpt"]


async def test_content_is_what_checks_and_scanners_see() -> None:
    seen = []

    def look(ctx: Any) -> list[Group]:
        import os

        fd = ctx.content.open_fd()
        with open(fd, "rb") as file:
            octets = file.read()
        with pytest.raises(OSError):
            os.write(fd, b"x")
        seen.append((octets, b"".join(ctx.content.chunks(1000)), ctx.content.header, ctx.content.header_complete))
        return [Group((0,), ACCEPT)]

    async with Stage() as stage:
        stage.engine_.rules["message"] = look
        for size in (10, 200_000):
            client = await stage.content()
            client.send(b"Subject: x\r\n\r\n" + b"y" * size + b"\r\n.\r\n")
            assert (await client.reply()).startswith("250")
        for (octets, chunks, header, complete), kept in zip(seen, stage.intake.kept, strict=True):
            assert octets == chunks == kept.content
            assert header.endswith(b"Subject: x\r\n\r\n")
            assert complete
