"""The same handler class behind a real aiosmtpd server and behind ours: what its hooks see of a transaction."""

from typing import Any

import pytest

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
