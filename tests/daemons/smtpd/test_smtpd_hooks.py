"""aiosmtpd's own handlers and one of ours as content filters; the traps of its contract."""

import io
from email.message import Message as EmailMessage
from typing import Any

import pytest
from aiosmtpd.handlers import Debugging, Message, Sink

from appliance.daemons.smtpd import hooks, record
from appliance.mail.verdict import Decision
from tests.daemons.smtpd.stage import Client, Stage


async def send(client: Client, sender: str = "a@example.net", body: bytes = b"Subject: x\r\n\r\nhello\r\n") -> str:
    for line in ("EHLO client.example.net", f"MAIL FROM:<{sender}>", "RCPT TO:<b@example.com>", "DATA"):
        reply = await client.say(line)
        if reply[0] not in "23":
            return reply
    client.send(body + b".\r\n")
    return await client.reply()


class Collect(Message):
    def __init__(self) -> None:
        super().__init__()
        self.seen: list[EmailMessage] = []

    def handle_message(self, message: EmailMessage) -> None:
        self.seen.append(message)


async def test_message_handler_sees_the_message_and_its_envelope() -> None:
    handler = Collect()
    async with Stage() as stage:
        stage.front.plug = hooks.plug(handler)
        assert (await send(await stage.connect())).startswith("250 2.0.0 Ok: queued")
        assert len(stage.intake.kept) == 1
    (message,) = handler.seen
    assert (message["X-MailFrom"], message["X-RcptTo"], message["Subject"]) == ("a@example.net", "b@example.com", "x")
    assert message["X-Peer"].startswith("('127.0.0.1', ")


async def test_debugging_and_sink_handlers() -> None:
    out = io.StringIO()
    for handler in (Debugging(out), Sink()):
        async with Stage() as stage:
            stage.front.plug = hooks.plug(handler)
            assert (await send(await stage.connect())).startswith("250")
            assert len(stage.intake.kept) == 1
    assert "MESSAGE FOLLOWS" in out.getvalue()
    assert "hello" in out.getvalue()


class Strict:
    """Refuses at each stage what is named so."""

    def __init__(self) -> None:
        self.calls: list[Any] = []

    async def handle_EHLO(
        self, server: Any, session: Any, envelope: Any, hostname: str, responses: list[str]
    ) -> list[str]:
        self.calls.append(("EHLO", hostname, session))
        return [*responses[:-1], "250-X-OURS", responses[-1]]

    async def handle_MAIL(self, server: Any, session: Any, envelope: Any, address: str, options: list[str]) -> str:
        self.calls.append(("MAIL", address, options))
        if address == "no@example.net":
            return "550 not welcome"
        envelope.mail_from = address
        return "250 OK"

    async def handle_RCPT(self, server: Any, session: Any, envelope: Any, address: str, options: list[str]) -> str:
        self.calls.append(("RCPT", address, options))
        if address.startswith("no"):
            return "450 4.2.2 later"
        envelope.rcpt_tos.append(address)
        return "250 OK"

    async def handle_DATA(self, server: Any, session: Any, envelope: Any) -> str:
        self.calls.append(("DATA", envelope.mail_from, list(envelope.rcpt_tos), envelope.content))
        if b"crash" in envelope.content:
            raise ValueError("secret of the handler")
        return "554 5.7.1 junk" if b"junk" in envelope.content else "250 OK"

    async def handle_QUIT(self, server: Any, session: Any, envelope: Any) -> str:
        self.calls.append(("QUIT",))
        return "221 bye"


async def test_a_handler_refuses_at_every_stage() -> None:
    handler = Strict()
    async with Stage() as stage:
        stage.front.plug = hooks.plug(handler)
        client = await stage.connect()
        assert "250-X-OURS" in await client.say("EHLO client.example.net")
        assert (await client.say("MAIL FROM:<no@example.net>")).startswith("550 5.7.1 not welcome [")
        await client.say("MAIL FROM:<a@example.net> SIZE=10 ENVID=AbC")
        assert (await client.say("RCPT TO:<no@example.com>")).startswith("450 4.2.2 later [")
        assert (await client.say("RCPT TO:<b@example.com> NOTIFY=NEVER")).startswith("250")
        await client.say("DATA")
        client.send(b"junk\r\n.\r\n")
        assert (await client.reply()).startswith("554 5.7.1 junk [")
        assert not stage.intake.kept
        assert (await send(client)).startswith("250")
        assert (await client.say("QUIT")).startswith("221")
    mails = [call for call in handler.calls if call[0] == "MAIL"]
    assert mails[1] == ("MAIL", "a@example.net", ["SIZE=10", "ENVID=AbC"])
    datas = [call for call in handler.calls if call[0] == "DATA"]
    assert [call[2] for call in datas] == [["b@example.com"], ["b@example.com"]]
    assert handler.calls[-1] == ("QUIT",)


async def test_trap_the_null_sender_is_empty() -> None:
    handler = Strict()
    async with Stage() as stage:
        stage.front.plug = hooks.plug(handler)
        await send(await stage.connect(), sender="")
    assert ("MAIL", "", []) in handler.calls


async def test_trap_exceptions_are_451_and_stay_in_the_log(capfd: pytest.CaptureFixture[str]) -> None:
    async with Stage() as stage:
        stage.front.plug = hooks.plug(Strict())
        client = await stage.connect()
        reply = await send(client, body=b"crash\r\n")
        assert reply.startswith("451 4.3.0 Error: internal error")
        assert await client.say("NOOP") == "250 2.0.0 Ok"
        assert not stage.intake.kept
    assert "secret of the handler" in capfd.readouterr().err


async def test_handle_exception_may_choose_the_answer() -> None:
    class Own(Strict):
        async def handle_exception(self, error: Exception) -> str:
            return "421 4.3.0 come again"

    async with Stage() as stage:
        stage.front.plug = hooks.plug(Own())
        assert (await send(await stage.connect(), body=b"crash\r\n")).startswith("421 4.3.0 come again")


async def test_a_hook_is_not_asked_about_what_the_engine_refused() -> None:
    handler = Strict()
    async with Stage() as stage:
        stage.front.plug = hooks.plug(handler)
        stage.engine_.rules["rcpt"] = lambda ctx: Decision(verb="reject", reply="550 5.1.1 unknown [x]")
        client = await stage.connect()
        await send(client)
    assert "RCPT" not in [call[0] for call in handler.calls]


async def test_trap_sessions_share_nothing_and_one_session_keeps_its_object() -> None:
    handler = Strict()
    async with Stage() as stage:
        stage.front.plug = hooks.plug(handler)
        one, two = await stage.connect(), await stage.connect()
        for client in (one, two, one):
            await client.say("EHLO client.example.net")
    sessions = [call[2] for call in handler.calls if call[0] == "EHLO"]
    assert sessions[0] is sessions[2]
    assert sessions[0] is not sessions[1]


class Quiet:
    """Says yes to what is no part of a transaction."""

    async def handle_RSET(self, server: Any, session: Any, envelope: Any) -> str:
        return "250 OK"

    async def handle_NOOP(self, server: Any, session: Any, envelope: Any, arg: str | None) -> str:
        return "250 OK"

    async def handle_VRFY(self, server: Any, session: Any, envelope: Any, address: str) -> str:
        return "250 OK"


async def test_a_reset_ends_the_transaction_and_nothing_else_does() -> None:
    async with Stage() as stage:
        stage.front.plug = hooks.plug(Quiet())
        client = await stage.connect()
        for line, code in (
            ("EHLO client.example.net", "250"),
            ("MAIL FROM:<a@example.net>", "250"),
            ("NOOP", "250"),
            ("RCPT TO:<b@example.com>", "250"),
            ("RSET", "250"),
            ("RCPT TO:<b@example.com>", "503"),
            ("MAIL FROM:<c@example.net>", "250"),
            ("RCPT TO:<b@example.com>", "250"),
        ):
            assert (await client.say(line)).startswith(code), line
        assert (await client.say("DATA")).startswith("354")
        client.send(b"Subject: x\r\n\r\nhello\r\n.\r\n")
        assert (await client.reply()).startswith("250")
        (kept,) = stage.intake.kept
    assert kept.trailer.sender == "c@example.net" and len(kept.trailer.recipients) == 1


@pytest.mark.parametrize("line", [b"NOOP\r\n", b"RSET\r\n", b"VRFY b@example.com\r\n"])
async def test_b6_what_a_handler_answers_is_junk_all_the_same(line: bytes) -> None:
    async with Stage(limits={"junk_commands": 20, "errors_hard": 3}) as stage:
        stage.front.plug = hooks.plug(Quiet())
        client = await stage.connect()
        await client.say("EHLO client.example.net")
        client.send(line * 30)
        replies = (await client.ended()).decode().splitlines()
    assert replies[-1].startswith("421 4.7.0 ") and len(replies) <= 25
    assert [reply[:3] for reply in replies[:20]] == ["250"] * 20


class Refusing:
    """Says the same of all messages."""

    def __init__(self, reply: str) -> None:
        self.reply = reply

    async def handle_DATA(self, server: Any, session: Any, envelope: Any) -> str:
        return self.reply


@pytest.mark.parametrize(
    ("reply", "verb"), [("550 5.7.1 no", "reject"), ("451 4.7.1 later", "defer"), ("421 bye", "disconnect")]
)
async def test_what_a_handler_says_is_counted_as_what_it_is(
    reply: str, verb: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    told: list[str] = []
    monkeypatch.setattr(record, "message", lambda session, ctx, combined, *more: told.append(combined.verb))
    async with Stage() as stage:
        stage.front.plug = hooks.plug(Refusing(reply))
        assert (await send(await stage.connect())).startswith(reply[:3])
        assert not stage.intake.kept
    assert told == [verb]
