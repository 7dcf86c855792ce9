"""The same handler class behind a real aiosmtpd server and behind ours: what its hooks see of a transaction."""

from typing import Any

import pytest

from appliance.daemons.smtpd import hooks
from tests.daemons.smtpd.stage import Stage
from tests.daemons.smtpd.test_smtpd_hook_twins import dialogue, ours, theirs

LINES = [
    "EHLO client.example.net",
    "MAIL FROM:<a@example.net> SIZE=500 BODY=8BITMIME",
    "RCPT TO:<no@example.com>",
    "RCPT TO:<later@example.com>",
    "RCPT TO:<b@example.com>",
    "RCPT TO:<c@example.com>",
    "DATA",
    "Subject: x\r\n\r\n..dot\r\n...two\r\n \r\n.",
    "MAIL FROM:<a@example.net> BODY=7BIT",
    "RCPT TO:<b@example.com>",
    "RSET",
    "MAIL FROM:<c@example.net>",
    "RCPT TO:<b@example.com>",
    "DATA",
    "Subject: y\r\n\r\nhi\r\n.",
    "QUIT",
]


class Sees:
    """Has only handle_DATA."""

    def __init__(self) -> None:
        self.calls: list[Any] = []

    def note(self, server: Any, session: Any, envelope: Any, *more: Any) -> None:
        left = (envelope.mail_from, list(envelope.mail_options), list(envelope.rcpt_tos), list(envelope.rcpt_options))
        at = (session.host_name, session.extended_smtp, session.authenticated, session.ssl)
        same = (server.envelope is envelope, server.session is session, envelope.smtp_utf8)
        self.calls.append((*more, left, at, same))

    async def handle_DATA(self, server: Any, session: Any, envelope: Any) -> str:
        _, found, body = envelope.content.partition(b"Subject:")  # ours has a Received field before it
        self.note(server, session, envelope, "DATA", found + body, envelope.content == envelope.original_content)
        return "250 OK"


class Follows(Sees):
    """Does in MAIL and RCPT what aiosmtpd's documentation asks of a handler."""

    async def handle_MAIL(self, server: Any, session: Any, envelope: Any, address: str, options: list[str]) -> str:
        self.note(server, session, envelope, "MAIL", address, list(options))
        envelope.mail_from = address
        envelope.mail_options.extend(options)
        return "250 OK"

    async def handle_RCPT(self, server: Any, session: Any, envelope: Any, address: str, options: list[str]) -> str:
        self.note(server, session, envelope, "RCPT", address, list(options))
        if address.startswith(("no@", "later@")):
            return "550 never" if address.startswith("no@") else "450 later"
        envelope.rcpt_tos.append(address)
        envelope.rcpt_options.extend(options)
        return "250 OK"

    async def handle_RSET(self, server: Any, session: Any, envelope: Any) -> str:
        self.note(server, session, envelope, "RSET")
        return "250 OK"


@pytest.mark.parametrize("kind", [Sees, Follows])
async def test_hooks_see_of_a_transaction_what_aiosmtpd_shows_them(kind: type[Sees]) -> None:
    first, second = kind(), kind()
    async with theirs(first) as client:
        expected = await dialogue(client, LINES)
    async with ours(second) as client:
        said = await dialogue(client, LINES)
    assert [one[:3] for one in said] == [one[:3] for one in expected]
    assert second.calls == first.calls and len(first.calls) == (2 if kind is Sees else 12)


FAILS = {"raises": KeyError("x"), "returns nothing": None, "returns a list": ["250 OK"]}


class Fails(Follows):
    """Fails for one recipient, in the way that `how` says."""

    def __init__(self, how: str) -> None:
        super().__init__()
        self.how = how

    async def handle_RCPT(self, server: Any, session: Any, envelope: Any, address: str, options: list[str]) -> Any:
        if not address.startswith("fails@"):
            return await super().handle_RCPT(server, session, envelope, address, options)
        envelope.rcpt_tos.append(address)  # as if all were well
        if isinstance(what := FAILS[self.how], Exception):
            raise what
        return what


class Says(Fails):
    async def handle_exception(self, error: Exception) -> str:
        self.calls.append(("exception",))
        return "550 not this one"


TO = ("b@example.com", "fails@example.com", "c@example.com")
LETTER = ("MAIL FROM:<a@example.net>", *(f"RCPT TO:<{one}>" for one in TO), "DATA", "Subject: x\r\n\r\nhi\r\n.")


@pytest.mark.parametrize("how", FAILS)
async def test_a_hook_that_fails_for_one_recipient_fails_for_him_alone(how: str) -> None:
    """A 503 to the next one would be final: his mail would come back to its sender."""
    async with Stage() as stage:
        stage.front.plug = hooks.plug(Fails(how))
        client = await stage.hello()
        client.send("".join(f"{line}\r\n" for line in LETTER[:5]).encode())
        said = [(await client.reply())[:9] for _ in range(5)]
        assert said == ["250 2.1.0", "250 2.1.5", "451 4.3.0", "250 2.1.5", "354 End d"]
        assert (await client.say(LETTER[5])).startswith("250")
        (kept,) = stage.intake.kept
    assert [one.address for one in kept.trailer.recipients] == ["b@example.com", "c@example.com"]


@pytest.mark.parametrize("how", FAILS)
async def test_handle_exception_is_asked_wherever_aiosmtpd_asks_it(how: str) -> None:
    first, second = Says(how), Says(how)
    lines = ("EHLO client.example.net", *LETTER)
    async with theirs(first) as client:
        expected = await dialogue(client, lines)
    async with ours(second) as client:
        said = await dialogue(client, lines)
    assert said[3] == expected[3] == "550 not this one"
    assert [one[:3] for one in said] == [one[:3] for one in expected]
    assert len([call for call in second.calls if call[0] == "exception"]) == 1


async def test_who_is_refused_gets_nothing_though_the_hook_has_put_him_down() -> None:
    class Late(Follows):
        async def handle_RCPT(self, server: Any, session: Any, envelope: Any, address: str, options: list[str]) -> str:
            envelope.rcpt_tos.append(address)
            return "550 never" if address.startswith("fails@") else "250 OK"

    async with Stage() as stage:
        stage.front.plug = hooks.plug(Late())
        client = await stage.hello()
        said = [await client.say(line) for line in LETTER]
        assert said[2].startswith("550") and said[5].startswith("250")
        (kept,) = stage.intake.kept
    assert [one.address for one in kept.trailer.recipients] == ["b@example.com", "c@example.com"]
