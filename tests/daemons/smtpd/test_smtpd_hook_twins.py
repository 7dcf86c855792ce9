"""The same handler class behind a real aiosmtpd server and behind ours: what it says is what the client hears."""

import asyncio
import re
import socket
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from typing import Any

import pytest
from aiosmtpd.controller import Controller

from appliance.daemons.smtpd import hooks
from tests.daemons.smtpd.stage import Client, Stage
from tests.daemons.smtpd.test_smtpd_tls import equip, trusting

HEADERS = [
    b"PROXY TCP4 192.0.2.5 192.0.2.1 1234 25\r\n",
    b"PROXY TCP6 2001:db8::5 2001:db8::1 1234 25\r\n",
    b"PROXY UNKNOWN\r\n",
    b"\r\n\r\n\0\r\nQUIT\n\x21\x11\x00\x12\xc0\x00\x02\x05\xc0\x00\x02\x01\x04\xd2\x00\x19\x02\x00\x03abc",
    b"\r\n\r\n\0\r\nQUIT\n\x20\x00\x00\x00",
]


class Talks:
    """Every hook that has no part in the envelope; what it returns is told by the client's words."""

    def __init__(self) -> None:
        self.calls: list[tuple[Any, ...]] = []

    async def handle_HELO(self, server: Any, session: Any, envelope: Any, name: str) -> str:
        self.calls.append(("HELO", name, session.extended_smtp, envelope.mail_from))
        if name == "no.example.net":
            return "550 not you"
        session.host_name = name
        return "250 pleased to meet you"

    async def handle_NOOP(self, server: Any, session: Any, envelope: Any, argument: str | None) -> str:
        self.calls.append(("NOOP", argument, envelope.mail_from, session.host_name))
        answers: dict[str, Any] = {"octets": b"250 in octets", "lines": "250-one\r\n250 two"}
        return answers.get(argument or "", argument or "250 nothing done")

    async def handle_RSET(self, server: Any, session: Any, envelope: Any) -> str:
        self.calls.append(("RSET", envelope.mail_from, list(envelope.rcpt_tos), server.envelope is envelope))
        return "250 all is forgotten"

    async def handle_VRFY(self, server: Any, session: Any, envelope: Any, address: str) -> str:
        self.calls.append(("VRFY", address))
        return "550 nobody" if address.startswith("nobody") else f"252 perhaps {address}"

    async def handle_MAIL(self, server: Any, session: Any, envelope: Any, address: str, options: list[str]) -> str:
        envelope.mail_from = address
        return "250 OK"

    async def handle_QUIT(self, server: Any, session: Any, envelope: Any) -> str:
        self.calls.append(("QUIT", envelope.mail_from))
        return "221 farewell"


class Greets:
    """handle_EHLO as aiosmtpd had it first: the last line of the answer."""

    async def handle_EHLO(self, server: Any, session: Any, envelope: Any, name: str) -> str:
        session.host_name = name
        return "250 AS-OF-OLD"


class Secure:
    """Says whether a session is secure enough. aiosmtpd does not await this hook."""

    def __init__(self, answer: Any = True) -> None:
        self.answer = answer
        self.ssl: list[Any] = []

    def handle_STARTTLS(self, server: Any, session: Any, envelope: Any) -> Any:
        self.ssl.append(session.ssl)
        if isinstance(self.answer, Exception):
            raise self.answer
        return self.answer


class Behind:
    """Takes what the load balancer says of a connection, or not."""

    def __init__(self, answer: Any = True) -> None:
        self.answer = answer
        self.seen: list[Any] = []

    async def handle_PROXY(self, server: Any, session: Any, envelope: Any, data: Any) -> Any:
        self.seen.append(data)
        assert session.proxy_data is data
        if isinstance(self.answer, Exception):
            raise self.answer
        return self.answer


@asynccontextmanager
async def theirs(handler: Any, **options: Any) -> AsyncIterator[Client]:
    """A client of aiosmtpd's own server."""

    class AnyPort(Controller):
        def _trigger_server(self) -> None:
            assert self.server is not None
            self.port = self.server.sockets[0].getsockname()[1]  # type: ignore[attr-defined]
            socket.create_connection(("127.0.0.1", self.port)).close()

    named: dict[str, Any] = {"server_hostname": "mx.example.com", "ready_timeout": 30}
    controller = AnyPort(handler, hostname="127.0.0.1", port=0, **named, **options)
    await asyncio.to_thread(controller.start)
    client = Client(*await asyncio.open_connection("127.0.0.1", controller.port))
    try:
        yield client
    finally:
        await client.close()
        await asyncio.to_thread(controller.stop)


@asynccontextmanager
async def ours(handler: Any, **sections: Any) -> AsyncIterator[Client]:
    async with Stage(**sections) as stage:
        equip(stage)
        stage.front.plug = hooks.plug(handler)
        yield await stage.connect(banner=False)


def told(reply: str) -> str:
    """Without what only ours adds: the enhanced code (RFC 2034) and the id."""
    return re.sub(r"(?m)^(\d{3}[ -])[245]\.\d\.\d ", r"\1", re.sub(r" \[\w+\]\Z", "", reply))


async def dialogue(client: Client, lines: Sequence[str]) -> list[str]:
    await client.reply()
    return [told(await client.say(line)) for line in lines]


LINES = [
    "HELO no.example.net",
    "MAIL FROM:<a@example.net>",
    "HELO client.example.net",
    "NOOP",
    "NOOP 250 as you like",
    "NOOP octets",
    "NOOP lines",
    "NOOP 450 not now",
    "NOOP 550 never",
    "NOOP nonsense",
    "MAIL FROM:<a@example.net>",
    "NOOP",
    "RSET",
    "RSET",
    "RSET now",
    "VRFY user@example.com",
    "VRFY <user@example.com>",
    "VRFY nobody@example.com",
    "VRFY",
    "MAIL FROM:<a@example.net>",
    "HELO client.example.net",
    "QUIT",
]


async def test_what_is_said_to_commands_outside_the_transaction_is_what_aiosmtpd_would_say() -> None:
    first, second = Talks(), Talks()
    async with theirs(first) as client:
        expected = await dialogue(client, LINES)
        assert await client.ended() == b""
    async with ours(second) as client:
        said = await dialogue(client, LINES)
        assert await client.ended() == b""
    # What is no reply at all aiosmtpd sends as it is; here it is a failure like any other.
    bad = LINES.index("NOOP nonsense")
    assert expected[bad] == "nonsense" and said[bad].startswith("451 Error: internal error")
    differing = {line for line, one, other in zip(LINES, said, expected, strict=True) if one != other}
    own = {"MAIL FROM:<a@example.net>", "RSET now", "VRFY", "NOOP nonsense"}  # our words, the same codes
    assert differing <= own, differing
    assert [one[:3] for one in said[:bad] + said[bad + 1 :]] == [one[:3] for one in expected[:bad] + expected[bad + 1 :]]
    assert second.calls == first.calls
    assert ("RSET", None, [], True) in second.calls and (
        "NOOP",
        None,
        "a@example.net",
        "client.example.net",
    ) in second.calls


async def test_handle_ehlo_of_old_gives_the_last_line() -> None:
    with pytest.warns(DeprecationWarning):
        async with theirs(Greets()) as client:
            await client.reply()
            expected = await client.say("EHLO client.example.net")
    async with ours(Greets()) as client:
        await client.reply()
        said = await client.say("EHLO client.example.net")
        assert (await client.say("MAIL FROM:<a@example.net>")).startswith("250")
    assert said.splitlines()[0] == expected.splitlines()[0] == "250-mx.example.com"
    assert said.splitlines()[-1] == expected.splitlines()[-1] == "250 AS-OF-OLD"
    assert "HELP" not in said + expected and "250-PIPELINING" in said.splitlines()


async def test_hooks_that_are_not_there_leave_our_own_answers() -> None:
    async with ours(Greets()) as client:
        await client.reply()
        assert await client.say("NOOP") == "250 2.0.0 Ok"
        assert await client.say("RSET") == "250 2.0.0 Ok"
        assert (await client.say("VRFY x@example.com")).startswith("252 2.5.2 ")
        assert await client.say("QUIT") == "221 2.0.0 Bye"


@pytest.mark.parametrize(
    ("answer", "line"),
    [
        ("221 Bye", "221 2.0.0 Bye"),
        ("221 2.1.5 Bye", "221 2.1.5 Bye"),
        ("421 Bye", "421 4.0.0 Bye"),
        ("500 Stay", "500 5.0.0 Stay"),
        ("354 Go", "354 Go"),
    ],
)
async def test_an_answer_to_quit_gets_the_enhanced_code_that_it_lacks(answer: str, line: str) -> None:
    async def hook(*_: Any) -> str:
        return answer

    async with ours(type("Leaves", (), {"handle_QUIT": staticmethod(hook)})()) as client:
        await client.reply()
        assert await client.say("QUIT") == line
        assert await client.ended() == b""


@pytest.mark.parametrize("argument", ["a@b@c", "<", "x y z", "\\xff"])
async def test_vrfy_of_what_is_no_address_asks_no_hook(argument: str) -> None:
    handler = Talks()
    async with ours(handler) as client:
        await client.reply()
        assert (await client.say(f"VRFY {argument}")).startswith("501 5.1.3 ")
    assert not handler.calls


@pytest.mark.parametrize("name", ["NOOP", "RSET", "VRFY a@example.com", "QUIT"])
@pytest.mark.parametrize("how", ["raises", "hangs", "none"])
async def test_a_hook_that_fails_is_451_and_the_session_goes_on(name: str, how: str) -> None:
    async def hook(*_: Any) -> Any:
        if how == "raises":
            raise ValueError("secret")
        if how == "hangs":
            await asyncio.sleep(60)

    verb = name.partition(" ")[0]
    handler = type("Fails", (), {f"handle_{verb}": staticmethod(hook)})()
    async with Stage() as stage:
        stage.front.plug = hooks.plug(handler, seconds=0.2)
        client = await stage.hello()
        assert (await client.say(name)).startswith("451 4.3.0 Error: internal error")
        assert (await client.say("MAIL FROM:<a@example.net>")).startswith("250")


@pytest.mark.parametrize("code", [421, 521])
async def test_421_of_a_hook_ends_the_session(code: int) -> None:
    async with ours(Talks()) as client:
        await client.reply()
        assert (await client.say(f"NOOP {code} enough")).startswith(f"{code} {code // 100}.7.1 enough")
        assert await client.ended() == b""


async def test_a_group_of_commands_is_answered_in_order() -> None:
    async with ours(Talks()) as client:
        await client.reply()
        await client.say("EHLO client.example.net")
        client.send(b"NOOP 250 one\r\nRSET\r\nMAIL FROM:<a@example.net>\r\nNOOP 250 two\r\nQUIT\r\n")
        said = [told(await client.reply()) for _ in range(5)]
    assert said == ["250 one", "250 all is forgotten", "250 Ok", "250 two", "221 farewell"]


# ---------------------------------------------------------------------- STARTTLS


LACK = "554 Command refused due to lack of security"


async def over_tls(client: Client) -> list[str]:
    await client.reply()
    await client.say("EHLO client.example.net")
    assert (await client.say("STARTTLS")).startswith("220")
    await client.writer.start_tls(trusting(), server_hostname="mx.example.com")
    lines = ["NOOP", "EHLO client.example.net", "MAIL FROM:<a@example.net>", "QUIT"]
    return [told(await client.say(line)) for line in lines]


@pytest.mark.parametrize("answer", [True, False, None, "yes", 0])
async def test_a_session_that_the_hook_finds_not_secure_enough_is_served_no_more(answer: Any) -> None:
    first, second = Secure(answer), Secure(answer)
    async with Stage() as stage:
        equip(stage)
        context = stage.front.contexts["public"]
    async with theirs(first, tls_context=context) as client:
        expected = await over_tls(client)
    async with ours(second) as client:
        said = await over_tls(client)
    assert [one[:3] for one in said] == [one[:3] for one in expected]
    assert [one == LACK for one in said] == [one == LACK for one in expected] == [not answer] * 3 + [False]
    assert second.ssl[0]["cipher"] == first.ssl[0]["cipher"] and len(second.ssl) == 1
    assert second.ssl[0]["version"] == "TLSv1.3"


async def test_a_coroutine_counts_by_what_it_returns() -> None:
    class Waits(Secure):
        async def handle_STARTTLS(self, server: Any, session: Any, envelope: Any) -> bool:
            return False

    async with ours(Waits()) as client:
        assert (await over_tls(client))[:3] == [LACK] * 3


@pytest.mark.parametrize("more", [{}, {"handle_exception": lambda self, error: "250 never mind"}])
async def test_a_failing_starttls_hook_says_nothing_unasked_and_is_451_from_then_on(more: dict[str, Any]) -> None:
    handler = type("Fails", (Secure,), more)(ValueError("secret"))
    async with ours(handler) as client:
        said = await over_tls(client)
    assert said == ["451 Error: internal error, please try again later"] * 3 + ["221 Bye"]


async def test_a_failed_handshake_asks_no_hook() -> None:
    handler = Secure()
    async with ours(handler) as client:
        await client.reply()
        await client.say("STARTTLS")
        client.send(b"MAIL FROM:<a@example.net>\r\n" * 10)
        assert b"250" not in await client.ended()
    assert not handler.ssl


# ---------------------------------------------------------------------- PROXY


@pytest.mark.parametrize("header", HEADERS)
@pytest.mark.parametrize("answer", [True, False, None, "yes"])
async def test_the_hook_lets_in_what_the_load_balancer_hands_over(header: bytes, answer: Any) -> None:
    first, second = Behind(answer), Behind(answer)
    async with theirs(first, proxy_protocol_timeout=5) as client:
        client.send(header)
        expected = await client.reply()
    async with ours(second, listen={"proxy": ["127.0.0.0/8"]}) as client:
        client.send(header + b"EHLO client.example.net\r\n")
        said = await client.reply()
        if answer:
            assert "250-PIPELINING" in await client.reply()
        else:
            assert await client.ended() == b""
    assert said[:4] == expected[:4] == ("220 " if answer else "")
    assert second.seen == first.seen and second.seen[0].whole_raw == header


async def test_without_the_hook_the_header_is_there_to_be_read() -> None:
    class Reads:
        async def handle_NOOP(self, server: Any, session: Any, envelope: Any, argument: str | None) -> str:
            return (
                f"250 {session.peer[0]} {session.proxy_data.dst_port} {bytes(session.proxy_data.tlv.AUTHORITY).decode()}"
            )

    async with ours(Reads(), listen={"proxy": ["127.0.0.0/8"]}) as client:
        client.send(HEADERS[3])
        await client.reply()
        assert told(await client.say("NOOP")) == "250 192.0.2.5 25 abc"


@pytest.mark.parametrize("error", [ValueError("secret"), None])
async def test_a_failing_proxy_hook_is_421(error: Exception | None) -> None:
    class Hangs(Behind):
        async def handle_PROXY(self, server: Any, session: Any, envelope: Any, data: Any) -> Any:
            await asyncio.sleep(60)

        async def handle_exception(self, error: Exception) -> str:
            return "250 never mind"

    async with Stage(listen={"proxy": ["127.0.0.0/8"]}) as stage:
        stage.front.plug = hooks.plug(Behind(error) if error else Hangs(), seconds=0.2)
        client = await stage.connect(banner=False)
        client.send(HEADERS[0])
        assert await client.reply() == "421 4.3.0 mx.example.com Server local data error"
        assert await client.ended() == b""


async def test_a_client_that_leaves_meanwhile_is_let_go() -> None:
    handler, gone = Behind(), asyncio.Event()

    async def wait(*_: Any) -> bool:
        loop.call_soon_threadsafe(gone.set)
        await asyncio.sleep(0.2)
        return True

    loop = asyncio.get_running_loop()
    handler.handle_PROXY = wait  # type: ignore[method-assign]
    async with Stage(listen={"proxy": ["127.0.0.0/8"]}) as stage:
        stage.front.plug = hooks.plug(handler)
        client = await stage.connect(banner=False)
        client.send(HEADERS[0])
        await asyncio.wait_for(gone.wait(), 5)
        client.reset()
        async with asyncio.timeout(5):
            while stage.front.sessions:
                await asyncio.sleep(0.01)
        assert stage.front.connections.open == 0


# ---------------------------------------------------------------------- what is never called


class Authenticates(Talks):
    """A class of somebody who serves his own users with aiosmtpd as well."""

    async def auth_LOGIN(self, server: Any, args: Any) -> Any:
        raise AssertionError("it is called")

    async def handle_AUTH(self, server: Any, session: Any, envelope: Any, args: Any) -> Any:
        raise AssertionError("it is called")


async def test_a_hook_that_nobody_calls_is_logged_when_the_handler_is_loaded(capfd: pytest.CaptureFixture[str]) -> None:
    hooks.load.cache_clear()
    async with Stage(listen={"handler": f"{__name__}:Authenticates"}) as stage:
        client = await stage.hello()
        assert (await client.say("AUTH LOGIN")).startswith("502 5.5.1 ")
        assert told(await client.say("NOOP 250 here")) == "250 here"
    said = [line for line in capfd.readouterr().err.splitlines() if "is never called" in line]
    assert len(said) == 2 and all("AUTH is not offered" in line and "Authenticates" in line for line in said)
    assert f"{__file__}:" in said[0]
