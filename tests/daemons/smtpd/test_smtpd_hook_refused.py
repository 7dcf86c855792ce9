"""A recipient that a handler has taken, and that is refused behind it all the same, is none of the message's."""

from typing import Any

import pytest

from appliance.daemons.smtpd import hooks
from tests.daemons.smtpd.test_smtpd_addresses import VIRTUAL, Moody, staged

COPY = "copy@example.com"


class Sees:
    """Has only handle_DATA."""

    def __init__(self) -> None:
        self.told: list[list[str]] = []
        self.options: list[str] = []

    async def handle_DATA(self, server: Any, session: Any, envelope: Any) -> str:
        self.told.append(list(envelope.rcpt_tos))
        self.options += envelope.rcpt_options
        return "250 OK"


class Takes(Sees):
    """Takes all recipients, with a copy for somebody else."""

    async def handle_RCPT(self, server: Any, session: Any, envelope: Any, address: str, options: list[str]) -> str:
        envelope.rcpt_tos += [address, COPY]
        return "250 OK"


@pytest.mark.parametrize("kind", [Sees, Takes])
@pytest.mark.parametrize("at_once", [True, False])
@pytest.mark.parametrize("away", [False, True])
async def test_who_is_refused_behind_the_handler_gets_nothing(kind: type[Sees], at_once: bool, away: bool) -> None:
    handler, table = kind(), Moody(VIRTUAL, at_once)
    copy = [COPY] if kind is Takes else []
    async with staged(virtual_alias_maps=table) as stage:
        stage.front.plug = hooks.plug(handler)
        client = await stage.hello()
        await client.say("MAIL FROM:<a@example.net>")
        table.away = away
        answer = await client.say("RCPT TO:<gone@alias.example>")
        assert answer.startswith("451" if away else "550 5.1.6")
        table.away = False
        assert (await client.say("RCPT TO:<one@alias.example>")).startswith("250")
        assert (await client.say("DATA")).startswith("354")
        client.send(b"Subject: x\r\n\r\nhi\r\n.\r\n")
        assert (await client.reply()).startswith("250")
        assert handler.told == [["one@alias.example", *copy]]
        (kept,) = stage.intake.kept
        assert [one.address for one in kept.trailer.recipients] == ["a@example.com", *copy]


async def test_what_was_wanted_for_who_is_refused_behind_the_handler_is_wanted_no_more() -> None:
    handler = Sees()
    async with staged(virtual_alias_maps=Moody(VIRTUAL, True)) as stage:
        stage.front.plug = hooks.plug(handler)
        client = await stage.hello()
        await client.say("MAIL FROM:<a@example.net>")
        assert (await client.say("RCPT TO:<gone@alias.example> NOTIFY=FAILURE")).startswith("550")
        assert (await client.say("RCPT TO:<one@alias.example> NOTIFY=NEVER")).startswith("250")
        assert (await client.say("DATA")).startswith("354")
        client.send(b"Subject: x\r\n\r\nhi\r\n.\r\n")
        assert (await client.reply()).startswith("250")
    assert handler.options == ["NOTIFY=NEVER"]
