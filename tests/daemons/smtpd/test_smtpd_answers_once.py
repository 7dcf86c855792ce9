"""Each command has one answer, whatever goes wrong behind it; and the counts of the log are true."""

import asyncio

import pytest

from appliance.daemons.smtpd import record
from tests.daemons.smtpd.stage import Stage


async def test_an_error_behind_the_answer_is_no_second_answer(monkeypatch: pytest.MonkeyPatch) -> None:
    def broken(*_: object) -> None:
        raise RuntimeError("the log is broken")

    monkeypatch.setattr(record, "message", broken)
    async with Stage() as stage:
        client = await stage.content()
        client.send(b"Subject: x\r\n\r\nhello\r\n.\r\n")
        assert (await client.reply()).startswith("250 2.0.0 Ok: queued as")
        assert await client.say("NOOP") == "250 2.0.0 Ok"
        assert len(stage.intake.kept) == 1


async def test_who_cannot_be_remembered_behind_the_answer_is_no_second_answer(monkeypatch: pytest.MonkeyPatch) -> None:
    def broken(_address: str) -> None:
        raise RuntimeError("not now")

    async with Stage() as stage:
        monkeypatch.setattr(stage.state, "accepted", broken)
        client = await stage.content()
        client.send(b"Subject: x\r\n\r\nhello\r\n.\r\n")
        assert (await client.reply()).startswith("250 2.0.0 Ok: queued as")
        assert await client.say("NOOP") == "250 2.0.0 Ok"
        assert len(stage.intake.kept) == 1


async def test_the_log_counts_each_command_once(monkeypatch: pytest.MonkeyPatch) -> None:
    said: list[str] = []
    monkeypatch.setattr("appliance.daemons.smtpd.record.maillog.log", lambda text, service=None: said.append(text))
    async with Stage() as stage:
        client = await stage.content()
        client.send(b"Subject: x\r\n\r\nhello\r\n.\r\n")
        await client.reply()
        await client.say("QUIT")
        assert await client.ended() == b""
    assert [line for line in said if line.startswith("disconnect")] == [
        "disconnect from unknown[127.0.0.1] ehlo=1 mail=1 rcpt=1 data=1 quit=1 commands=5"
    ]


async def test_the_log_says_whose_a_message_is_before_delivery_can_have_it(monkeypatch: pytest.MonkeyPatch) -> None:
    """pflogsumm counts a message's octets only if its client= line stands before qmgr's."""
    said: list[str] = []
    monkeypatch.setattr("appliance.daemons.smtpd.record.maillog.log", lambda text, service=None: said.append(text))
    async with Stage() as stage:
        stage.intake.gate = asyncio.Event()
        client = await stage.content()
        client.send(b"Subject: x\r\nMessage-ID: <1@example.net>\r\n\r\nhello\r\n.\r\n")
        await stage.intake.begun.wait()
        assert [line.partition(": ")[2] for line in said if "=" in line] == [
            "client=unknown[127.0.0.1]",
            "message-id=<1@example.net>",
        ]
        stage.intake.gate.set()
        assert (await client.reply()).startswith("250")
