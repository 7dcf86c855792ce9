"""Every limit trips, is counted and logged, and the session ends tidily (threats B6, B7)."""

import asyncio
from typing import Any

import pytest

from appliance.config.model import Limits
from appliance.daemons.smtpd import limits
from appliance.mail.verdict import ACCEPT, Decision
from tests.daemons.smtpd.stage import Client, Stage, Trips


@pytest.mark.parametrize("size", [2047, 5000, 70_000, 1_000_000])
async def test_b6_command_lines(size: int, capfd: pytest.CaptureFixture[str]) -> None:
    trips = Trips("command_line")
    async with Stage() as stage:
        client = await stage.hello()
        client.send(b"NOOP " + b"x" * size + b"\r\nNOOP\r\n")
        assert await client.reply() == "500 5.5.2 Error: line too long"
        assert await client.reply() == "250 2.0.0 Ok"
    assert trips.count == 1
    assert "limit command_line" in capfd.readouterr().err


async def test_b6_lines_with_parameters_may_be_longer() -> None:
    async with Stage() as stage:
        client = await stage.hello()
        await client.say("MAIL FROM:<a@example.net>")
        orcpt = "rfc822;" + "x" * 480
        assert (await client.say("RCPT TO:<b@example.com>" + " " * 2000 + f"ORCPT={orcpt}")).startswith("250")
        assert (await client.say("RCPT TO:<b@example.com>" + " " * 4100)) == "500 5.5.2 Error: line too long"


async def test_b6_a_line_too_long_that_ends_in_a_bare_lf_hides_nothing() -> None:
    async with Stage() as stage:
        client = await stage.hello()
        client.send(b"NOOP " + b"x" * 5000)
        assert (await client.reply()).startswith("500")
        client.send(b"x\nMAIL FROM:<a@example.net>\r\n")
        assert await client.reply() == "500 5.5.2 Error: bare <LF> received"
        assert not stage.engine_.at("mail")


async def test_b6_recipients() -> None:
    trips = Trips("recipients")
    async with Stage(limits={"recipients": 100}) as stage:
        client = await stage.hello()
        await client.say("MAIL FROM:<a@example.net>")
        client.send(b"".join(b"RCPT TO:<u%d@example.com>\r\n" % n for n in range(103)))
        replies = [await client.reply() for _ in range(103)]
        assert replies[:100] == ["250 2.1.5 Ok"] * 100
        (over,) = set(replies[100:])
        await client.say("DATA")
        client.send(b"x\r\n.\r\n")
        assert (await client.reply()).startswith("250")
        trailer = stage.intake.kept[0].trailer
        assert len(trailer.recipients) == 100
        assert over == f"452 4.5.3 Error: too many recipients [{trailer.queue_id}]"
    assert trips.count == 1


async def test_b6_errors_slow_down_then_end_the_session(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("appliance.daemons.smtpd.front.PENALTY", 0.1)
    trips, slowed = Trips("errors"), Trips("errors_soft")
    async with Stage(limits={"errors_soft": 2, "errors_hard": 4}) as stage:
        client = await stage.connect()
        began = asyncio.get_running_loop().time()
        for _ in range(5):
            assert (await client.say("XYZZY")).startswith("500")
        assert await client.reply() == "421 4.7.0 mx.example.com Error: too many errors"
        assert await client.ended() == b""
        assert asyncio.get_running_loop().time() - began >= 0.2
    assert (trips.count, slowed.count) == (1, 1)


async def test_b6_errors_are_forgotten_when_a_message_is_accepted() -> None:
    async with Stage(limits={"errors_hard": 2}) as stage:
        client = await stage.content()
        client.send(b"x\r\n.\r\n")
        await client.reply()
        for _ in range(2):
            assert (await client.say("XYZZY")).startswith("500")
            assert (await client.say("XYZZY")).startswith("500")
            await client.say("MAIL FROM:<a@example.net>")
            await client.say("RCPT TO:<b@example.com>")
            await client.say("DATA")
            client.send(b"x\r\n.\r\n")
            assert (await client.reply()).startswith("250")


async def test_b6_put_off_recipients_are_no_errors() -> None:
    async with Stage(limits={"errors_hard": 2}) as stage:
        client = await stage.hello()
        await client.say("MAIL FROM:<a@example.net>")
        stage.engine_.rules["rcpt"] = lambda ctx: ACCEPT.__class__(verb="defer", reply="450 4.7.1 Greylisted [x]")
        for n in range(10):
            assert (await client.say(f"RCPT TO:<u{n}@example.com>")).startswith("450")


@pytest.mark.parametrize("waits", [False, True])
async def test_b6_refused_recipients_are_errors_whether_somebody_was_asked_or_not(
    waits: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A list of guessed addresses, of which a table, the inside or a policy server says that they are unknown."""
    monkeypatch.setattr("appliance.daemons.smtpd.front.PENALTY", 0.1)
    unknown = Decision(verb="reject", reply="550 5.1.1 User unknown [x]")

    async def later() -> Decision:
        await asyncio.sleep(0)
        return unknown

    trips, slowed = Trips("errors"), Trips("errors_soft")
    async with Stage(limits={"errors_soft": 3, "errors_hard": 5}) as stage:
        client = await stage.hello()
        await client.say("MAIL FROM:<a@example.net>")
        stage.engine_.rules["rcpt"] = lambda ctx: later() if waits else unknown
        began = asyncio.get_running_loop().time()
        for number in range(6):
            assert (await client.say(f"RCPT TO:<u{number}@example.com>")).startswith("550")
        assert await client.reply() == "421 4.7.0 mx.example.com Error: too many errors"
        assert await client.ended() == b""
        assert asyncio.get_running_loop().time() - began >= 0.2, "answered slowly from the fourth on"
    assert (trips.count, slowed.count) == (1, 1)


async def test_b6_junk_commands() -> None:
    trips = Trips("junk_commands")
    async with Stage(limits={"junk_commands": 20, "errors_hard": 3}) as stage:
        client = await stage.hello()
        client.send(b"NOOP\r\n" * 30)
        replies = (await client.ended()).decode().splitlines()
        assert replies[-1] == "421 4.7.0 mx.example.com Error: too many errors"
        assert len(replies) == 24
    assert trips.count == 1


async def test_b6_only_junk_counts_as_junk(monkeypatch: pytest.MonkeyPatch) -> None:
    """Behind 100 NOOPs an honest message with many recipients still gets through."""
    monkeypatch.setattr("appliance.daemons.smtpd.front.PENALTY", 0.0)
    async with Stage(limits={"junk_commands": 5, "errors_hard": 3}) as stage:
        client = await stage.hello()
        client.send(b"NOOP\r\n" * 6 + b"MAIL FROM:<a@example.net>\r\n" + b"RCPT TO:<b@example.com>\r\n" * 10)
        for _ in range(17):
            assert (await client.reply()).startswith("250")
        await client.say("DATA")
        client.send(b"x\r\n.\r\n")
        assert (await client.reply()).startswith("250")


@pytest.mark.parametrize("size", [2_000, 200_000])
async def test_b6_a_header_over_the_limit_passes_and_is_told(size: int, capfd: pytest.CaptureFixture[str]) -> None:
    trips = Trips("header_size")
    async with Stage(limits={"header_size": 1000}) as stage:
        client = await stage.content()
        client.send(b"X: " + b"y" * size + b"\r\n\r\nbody\r\n.\r\n")
        assert (await client.reply()).startswith("250")
        assert len(stage.engine_.at("message")[0].content.header) == 1000  # type: ignore[union-attr]
        assert stage.intake.kept[0].content.endswith(b"\r\n\r\nbody\r\n")
        client.send(b"MAIL FROM:<a@example.net>\r\nRCPT TO:<b@example.com>\r\nDATA\r\n")
        for _ in range(3):
            await client.reply()
        client.send(b"X: y\r\n\r\n" + b"z" * size + b"\r\n.\r\n")
        assert (await client.reply()).startswith("250")
    assert trips.count == 1
    assert "limit header_size" in capfd.readouterr().err


async def test_b6_messages_of_a_session() -> None:
    trips = Trips("messages_per_session")
    async with Stage(limits={"messages_per_session": 2}) as stage:
        client = await stage.hello()
        for _ in range(2):
            assert (await client.say("MAIL FROM:<a@example.net>")).startswith("250")
            await client.say("RSET")
        assert (await client.say("MAIL FROM:<a@example.net>")).startswith("421 4.7.0 mx.example.com")
        assert await client.ended() == b""
    assert trips.count == 1


async def test_b6_content_over_the_limit_is_read_and_refused() -> None:
    trips = Trips("size")
    async with Stage(smtp={"size_limit": 100_000}) as stage:
        client = await stage.content()
        for count in range(1, 21):
            client.send(b"x" * 9_998 + b"\r\n")
            while stage.session().transaction.octets() < count * 10_000 - 4:
                await asyncio.sleep(0)
        client.send(b".\r\nNOOP\r\n")
        assert (await client.reply()).startswith("552 5.3.4 Error: message file too big")
        assert await client.reply() == "250 2.0.0 Ok"
        assert stage.intake.aborted == 1
        assert not stage.intake.kept
    assert trips.count == 1


# ------------------------------------------------------------------ connections


async def refused(stage: Stage) -> str:
    client = await stage.connect(banner=False)
    reply = await client.reply()
    assert await client.ended() == b""
    return reply


async def test_b6_connections_of_one_client() -> None:
    trips = Trips("connections_per_client")
    async with Stage(limits={"connections_per_client": 2}) as stage:
        first, _ = await stage.connect(), await stage.connect()
        assert await refused(stage) == "421 4.7.0 mx.example.com Error: too many connections from 127.0.0.1"
        await first.say("QUIT")
        await first.close()
        await stage.connect()
    assert trips.count == 1


async def test_b6_a_listed_relay_may_open_more() -> None:
    async with Stage(limits={"connections_per_client": 1}, listen={"xclient": ["127.0.0.0/8"]}) as stage:
        for _ in range(3):
            await stage.connect()


@pytest.mark.parametrize(
    ("over", "reply", "name"),
    [
        ("connections", "421 4.7.0", "connections_per_client"),
        ("connection_rate", "421 4.7.0", "connection_rate"),
        ("total", "421 4.3.2", "connections"),
    ],
)
async def test_b6_what_stated_counted_over_all_workers(over: str, reply: str, name: str) -> None:
    trips = Trips(name)
    async with Stage() as stage:
        stage.state.over = over
        assert (await refused(stage)).startswith(reply)
        assert stage.state.open == {"127.0.0.1": 0}
    assert trips.count == 1


async def test_b6_without_stated_the_limits_of_this_worker_hold_and_nobody_else_waits() -> None:
    async with Stage(limits={"message_rate": 1}) as stage:
        stage.state.away, stage.state.over = True, "connections"
        client = await stage.hello()
        assert (await client.say("MAIL FROM:<a@example.net>")).startswith("250")


async def test_b6_rates_of_messages_and_recipients() -> None:
    messages, recipients = Trips("message_rate"), Trips("recipient_rate")
    async with Stage(limits={"message_rate": 1}) as stage:
        client = await stage.hello()
        assert (await client.say("MAIL FROM:<a@example.net>")).startswith("250")
        await client.say("RSET")
        assert (await client.say("MAIL FROM:<a@example.net>")).startswith("450 4.7.1 Error: too much mail from 127.0.0.1")
    async with Stage(limits={"recipient_rate": 1}) as stage:
        client = await stage.hello()
        await client.say("MAIL FROM:<a@example.net>")
        assert (await client.say("RCPT TO:<a@example.com>")).startswith("250")
        assert (await client.say("RCPT TO:<b@example.com>")).startswith("450 4.7.1 Error: too many recipients from")
    assert (messages.count, recipients.count) == (1, 1)


async def test_b6_the_reserve_is_for_known_good_clients() -> None:
    trips = Trips("connections")
    settings = {"connections": 4, "connections_reserve": 2, "connections_per_client": 0}
    async with Stage(limits=settings) as stage:
        open_ = [await stage.connect() for _ in range(2)]
        assert (await refused(stage)).startswith("421 4.3.2 mx.example.com All server ports are busy")
        await open_[0].say("EHLO x.example.net")
        for line in ("MAIL FROM:<a@example.net>", "RCPT TO:<b@example.com>", "DATA"):
            await open_[0].say(line)
        open_[0].send(b"x\r\n.\r\n")
        assert (await open_[0].reply()).startswith("250")
        assert stage.state.good == ["127.0.0.1"]
        await stage.connect()
        await stage.connect()
        assert (await refused(stage)).startswith("421 4.3.2")
    assert trips.count == 2


async def test_b6_the_reserve_is_for_filters_that_hand_mail_back() -> None:
    """Else sessions that wait for a filter could keep it from ending them."""
    settings = {"connections": 2, "connections_reserve": 1, "connections_per_client": 0}
    async with Stage(limits=settings, listen={"role": "reinject"}) as stage:
        await stage.connect()
        await stage.connect()
        assert (await refused(stage)).startswith("421 4.3.2")


async def test_b7_when_connections_run_out_timeouts_are_short() -> None:
    trips = Trips("stress")
    settings = {"connections": 4, "connections_reserve": 0, "connections_per_client": 0, "stress_timeout": "1s"}
    async with Stage(limits=settings) as stage:
        clients = [await stage.connect() for _ in range(4)]
        for client in clients:
            client.send(b"NOOP\r\n")
            await client.reply()
        ended = [await client.ended() for client in clients]
        assert sum(b"421 4.4.2 mx.example.com Error: timeout exceeded" in said for said in ended) >= 1
    assert trips.count == 1


# ------------------------------------------------------------------ time


def soon(stage: Stage, **seconds: float) -> None:
    """Shorter times than the wiring can say."""
    limits_ = stage.front.rules.limits
    object.__setattr__(stage.front.rules, "limits", limits_.model_copy(update=seconds))


async def test_b7_a_silent_client_gets_421(capfd: pytest.CaptureFixture[str]) -> None:
    trips = Trips("timeout_command")
    async with Stage() as stage:
        client = await stage.hello()
        soon(stage, timeout_command=0.1)
        await client.say("EHLO client.example.net")
        assert await client.reply() == "421 4.4.2 mx.example.com Error: timeout exceeded"
        assert await client.ended() == b""
    assert trips.count == 1
    assert "timeout after EHLO from unknown[127.0.0.1]" in capfd.readouterr().err


async def test_b7_single_octets_do_not_keep_a_session_alive() -> None:
    async with Stage() as stage:
        client = await stage.hello()
        soon(stage, timeout_command=0.2)
        await client.say("NOOP")
        began = asyncio.get_running_loop().time()

        async def drip() -> None:
            while True:
                client.send(b"N")
                await asyncio.sleep(0.02)

        dripping = asyncio.create_task(drip())
        assert (await client.reply()).startswith("421 4.4.2")
        dripping.cancel()
        assert asyncio.get_running_loop().time() - began < 8, "each octet would begin it anew, without end"


async def slow_body(client: Client, chunks: int, pause: float, size: int) -> str:
    for _ in range(chunks):
        client.send(b"x" * size + b"\r\n")
        await asyncio.sleep(pause)
    client.send(b".\r\n")
    return await client.reply()


async def test_b7_a_slow_but_honest_body_passes_though_it_takes_longer_than_the_timeout() -> None:
    async with Stage() as stage:
        soon(stage, timeout_data=1.5, data_rate=100)
        client = await stage.content()
        assert (await slow_body(client, 10, 0.2, 400)).startswith("250")


async def test_b7_a_stalled_body_ends_with_421() -> None:
    trips = Trips("timeout_data")
    async with Stage() as stage:
        soon(stage, timeout_data=0.15)
        client = await stage.content()
        client.send(b"Subject: x\r\n")
        assert await client.reply() == "421 4.4.2 mx.example.com Error: timeout exceeded"
        assert await client.ended() == b""
        assert not stage.intake.kept
        assert stage.front.memory.used == 0
    assert trips.count == 1


async def test_b7_a_trickle_below_the_least_rate_ends_with_421() -> None:
    trips, silence = Trips("data_rate"), Trips("timeout_data")
    async with Stage() as stage:
        soon(stage, timeout_data=1.5, data_rate=100_000)
        client = await stage.content()
        assert (await slow_body(client, 20, 0.1, 10)).startswith("421 4.4.2")
    assert (trips.count, silence.count) == (1, 0)


async def test_b7_a_25_mb_body_at_40_kb_a_second_would_pass(monkeypatch: pytest.MonkeyPatch) -> None:
    """The same arithmetic as in a session, with the clock turned: 640 seconds, 300 of them are the timeout."""
    async with Stage() as stage:
        client = await stage.content()
        session = stage.session()
        now = start = session.transaction.data_since

        class Clock:
            def __getattr__(self, name: str) -> Any:
                return getattr(stage.front.loop, name)

            def time(self) -> float:
                return now

        session.loop = Clock()
        for second in range(1, 641):
            now = start + second
            assert session.deadline > now, f"cut off after {second} s"
            client.send(b"x" * 40_958 + b"\r\n")
            await client.writer.drain()
            while session.transaction.octets() < second * 40_960 - 4:
                await asyncio.sleep(0)
        assert session.deadline <= start + 300 + 640 * 40_960 / 500
        now += 301
        assert session.deadline < now
        session.loop = stage.front.loop
        session.deadline = now + 1e6
        client.send(b".\r\n")
        assert (await client.reply()).startswith("250")


async def test_b7_a_session_has_an_end() -> None:
    trips = Trips("session_life")
    async with Stage() as stage:
        soon(stage, session_life=0.3)
        client = await stage.hello()
        reply = ""
        while not reply.startswith("421"):
            client.send(b"MAIL FROM:<a@example.net>\r\nRSET\r\n")
            for _ in range(2):
                reply = await client.reply()
                if reply.startswith("421"):
                    break
            await asyncio.sleep(0.05)
        assert reply == "421 4.4.2 mx.example.com Error: timeout exceeded"
    assert trips.count == 1


async def test_b7_a_client_that_does_not_read_is_cut_off(monkeypatch: pytest.MonkeyPatch) -> None:
    import socket

    trips = Trips("timeout_write")
    async with Stage(limits={"junk_commands": 10_000_000}) as stage:
        soon(stage, timeout_write=0.2)
        stage.sock.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, 4096)
        raw = socket.socket()
        raw.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
        raw.setblocking(False)
        loop = asyncio.get_running_loop()
        await loop.sock_connect(raw, ("127.0.0.1", stage.port))
        with pytest.raises(OSError):
            async with asyncio.timeout(8):
                while True:
                    await loop.sock_sendall(raw, b"EHLO client.example.net\r\n" * 2000)
        raw.close()
        async with asyncio.timeout(5):
            while stage.front.sessions:
                await asyncio.sleep(0.01)
    assert trips.count == 1


#: Each limit of config.example.toml and the names under which it is counted and logged ("": see the reason).
NAMES = {
    "smtpd": "",  # how many processes there are
    "scand": "",
    "command_line": "command_line",
    "command_line_parameters": "command_line",
    "header_size": "header_size",
    "recipients": "recipients",
    "errors_soft": "errors_soft",
    "errors_hard": "errors",
    "junk_commands": "junk_commands",
    "messages_per_session": "messages_per_session",
    "connections": "connections",
    "connections_reserve": "connections",
    "connections_per_client": "connections_per_client",
    "connection_rate": "connection_rate",
    "message_rate": "message_rate",
    "recipient_rate": "recipient_rate",
    "rate_period": "",  # what the rates are counted in
    "timeout_command": "timeout_command",
    "timeout_data": "timeout_data",
    "timeout_tls": "timeout_tls",
    "timeout_write": "timeout_write",
    "session_life": "session_life",
    "data_rate": "data_rate",
    "memory_messages": "memory_messages",
    "stress_timeout": "stress",
}


def test_b6_every_limit_has_a_name_in_metrics_and_log() -> None:
    assert set(NAMES) == set(Limits.model_fields)
    tripped = {name for name in NAMES.values() if name}
    assert tripped | limits.OTHERS == limits.NAMES
    with pytest.raises(KeyError):
        limits.hit("no such limit", "x")
