"""What a client that is gone leaves behind while something was awaited for it: nothing. And what is awaited in vain, or
came too early, ends nobody else's place."""

import asyncio
import errno
import math
from typing import Any

import pytest

from appliance.daemons.smtpd.body import FileContent
from appliance.engine.pipeline import Group
from appliance.mail.context import Context
from appliance.mail.verdict import ACCEPT, Decision
from appliance.queue.large import LargeFile
from tests.daemons.smtpd.stage import Client, Stage
from tests.daemons.smtpd.test_smtpd_tls import equip


class Held:
    """A question that waits for `free`; `asked` is set once it is put."""

    def __init__(self) -> None:
        self.asked, self.free = asyncio.Event(), asyncio.Event()

    async def __call__(self, _ctx: Context) -> Decision:
        self.asked.set()
        await self.free.wait()
        return ACCEPT


async def gone(stage: Stage, client: Client) -> None:
    """The client hangs up, and the session has heard of it."""
    session = stage.session()
    client.reset()
    async with asyncio.timeout(10):
        while not session.lost:
            await asyncio.sleep(0)


async def over(session: Any) -> None:
    """Nothing is awaited any more."""
    async with asyncio.timeout(10):
        while session.busy:
            await asyncio.sleep(0)


@pytest.mark.parametrize("stage_", ["mail", "rcpt", "data"])
async def test_a_client_that_goes_while_it_is_asked_about_leaves_no_transaction(stage_: str) -> None:
    async with Stage() as stage:
        held = stage.engine_.rules[stage_] = Held()
        client = await stage.hello()
        client.send(b"MAIL FROM:<a@example.net>\r\nRCPT TO:<b@example.com>\r\nDATA\r\n")
        await held.asked.wait()
        session = stage.session()
        assert len(stage.front.transactions) == 1
        await gone(stage, client)
        held.free.set()
        await over(session)
        assert not stage.front.transactions


async def test_content_of_a_client_that_goes_while_it_is_slowed_is_given_back(monkeypatch: pytest.MonkeyPatch) -> None:
    async with Stage(limits={"errors_soft": 1}) as stage:
        client = await stage.hello()
        await client.say("MAIL FROM:<a@example.net>")
        await client.say("RCPT TO:<b@example.com>")
        client.send(b"BDAT 70000\r\n" + b"x" * 70000)
        assert (await client.reply()).startswith("250")
        slowed, free = asyncio.Event(), asyncio.Event()

        async def penalty() -> None:
            slowed.set()
            await free.wait()

        monkeypatch.setattr(stage.front, "penalty", penalty)
        client.send(b"NONSENSE\r\nNONSENSE\r\n")
        await slowed.wait()
        session = stage.session()
        await gone(stage, client)
        free.set()
        await over(session)
        assert not stage.front.transactions
        assert stage.intake.aborted == 1
        assert stage.front.memory.used == 0


async def test_a_question_that_was_given_up_by_others_costs_no_session(capfd: pytest.CaptureFixture[str]) -> None:
    """While it is awaited there is no deadline: such a session would stay for good."""

    async def given_up(_ctx: Context) -> Decision:
        raise asyncio.CancelledError

    async with Stage() as stage:
        stage.engine_.rules["rcpt"] = given_up
        client = await stage.hello()
        await client.say("MAIL FROM:<a@example.net>")
        assert (await client.say("RCPT TO:<b@example.com>")).startswith("451 4.3.0 Error: internal error")
        del stage.engine_.rules["rcpt"]
        assert (await client.say("RCPT TO:<c@example.com>")).startswith("250")


async def test_b3_what_comes_behind_starttls_before_anything_of_tls_is_not_obeyed() -> None:
    """libuv reads once more, in the same turn, where its buffer was full."""
    async with Stage() as stage:
        equip(stage)
        client = await stage.hello()
        session = stage.session()
        session.data_received(b"STARTTLS\r\n")
        session.data_received(b"EHLO evil.example.net\r\n")
        assert await client.reply() == "554 5.5.0 Error: SMTP protocol synchronization"
        assert await client.ended() == b""
        assert session.end == "pipelining"


@pytest.mark.parametrize("fails", [False, True])
async def test_b1_what_comes_before_a_refusal_of_data_is_no_commands(fails: bool) -> None:
    """Content that did not wait for 354: whatever is said of DATA, its lines are not obeyed."""
    held = Held()

    async def refuses(ctx: Context) -> Decision:
        await held(ctx)
        if fails:
            raise RuntimeError
        return Decision(verb="reject", reply="550 5.7.1 no")

    async with Stage() as stage:
        stage.engine_.rules["data"] = refuses
        client = await stage.hello()
        session = stage.session()
        client.send(b"MAIL FROM:<a@example.net>\r\nRCPT TO:<b@example.com>\r\nDATA\r\n")
        await held.asked.wait()
        client.send(b"RSET\r\nMAIL FROM:<evil@example.net>\r\n")
        await kept(session, 35)
        held.free.set()
        last = (await client.ended()).splitlines()[-1]
        assert last.startswith(b"421 4.3.0 " if fails else b"554 5.5.0 Error: SMTP protocol synchronization")
        assert [ctx.sender.text for ctx in stage.engine_.at("mail") if ctx.sender] == ["a@example.net"]


async def test_what_is_awaited_behind_content_has_no_deadline_of_the_content() -> None:
    """BDAT that waits for a file while commands before it were awaited: the time of the client is not that of a scan."""
    async with Stage() as stage:
        stage.front.memory.limit = 0
        file = stage.intake.large()
        assert file is not None
        coming: asyncio.Future[LargeFile] = asyncio.get_running_loop().create_future()
        wanted, scanned = asyncio.Event(), asyncio.Event()
        deadlines: list[float] = []

        def large_soon() -> asyncio.Future[LargeFile]:
            wanted.set()
            return coming

        async def scan(_ctx: Context) -> list[Any]:
            deadlines.append(session.deadline)
            scanned.set()
            return []

        stage.intake.larges, stage.intake.large_soon = 0, large_soon  # type: ignore[method-assign]
        rcpt = stage.engine_.rules["rcpt"] = Held()
        stage.engine_.rules["message"] = scan
        client = await stage.hello()
        session = stage.session()
        client.send(b"MAIL FROM:<a@example.net>\r\nRCPT TO:<b@example.com>\r\nBDAT 2000 LAST\r\n" + b"x" * 1000)
        await rcpt.asked.wait()
        await kept(session, 1000)
        rcpt.free.set()
        await wanted.wait()
        client.send(b"x" * 1000)
        await kept(session, 1000)
        coming.set_result(file)
        await scanned.wait()
        assert deadlines == [math.inf]


async def kept(session: Any, size: int) -> None:
    """So many octets wait for their turn."""
    async with asyncio.timeout(10):
        while len(session.ahead) < size:
            await asyncio.sleep(0)


async def test_copies_of_content_that_cannot_be_read_are_given_back(monkeypatch: pytest.MonkeyPatch) -> None:
    def broken(self: FileContent, size: int = 65536) -> Any:
        yield b"x"
        raise OSError(errno.EIO, "broken")

    kept = Decision(verb="accept", keep="hold", keep_reason="look")
    async with Stage() as stage:
        stage.engine_.rules["message"] = lambda _ctx: [Group((0,), ACCEPT), Group((1,), kept)]
        client = await stage.hello()
        client.send(b"MAIL FROM:<a@example.net>\r\nRCPT TO:<b@example.com>\r\nRCPT TO:<c@example.com>\r\n")
        for _ in range(3):
            await client.reply()
        assert (await client.say("DATA")).startswith("354")
        monkeypatch.setattr(FileContent, "chunks", broken)
        client.send(b"Subject: x\r\n\r\n" + b"y" * 100_000 + b"\r\n.\r\n")
        assert (await client.reply()).startswith("451")
        assert stage.intake.aborted == 2 and not stage.intake.kept


async def test_what_is_awaited_behind_a_proxy_header_has_no_deadline_of_the_header() -> None:
    deadlines: list[float] = []

    async def connect(_ctx: Context) -> Decision:
        deadlines.append(stage.session().deadline)
        return ACCEPT

    async with Stage(gateway={"delay_reject": False}, listen={"proxy": ["127.0.0.1"]}) as stage:
        stage.engine_.rules["connect"] = connect
        client = await stage.connect(banner=False)
        client.send(b"PROXY TCP4 192.0.2.7 192.0.2.1 40000 25\r\n")
        assert (await client.reply()).startswith("220 ")
        assert deadlines == [math.inf]
