"""A recipient that is named twice in one transaction: both are answered and judged, one copy is kept (Postfix's
duplicate filter)."""

from typing import Any

import msgspec

from appliance.engine.pipeline import Group
from appliance.mail.edits import Edit
from appliance.mail.verdict import ACCEPT
from tests.daemons.smtpd.stage import Stage

MESSAGE = b"From: Joe <x@host.example.com>\r\nSubject: s\r\n\r\nbody\r\n"


async def send(stage: Stage, *recipients: str) -> None:
    client = await stage.hello()
    await client.say("MAIL FROM:<x@host.example.com>")
    for one in recipients:
        assert await client.say(f"RCPT TO:{one}") == "250 2.1.5 Ok"
    assert (await client.say("DATA")).startswith("354")
    client.send(MESSAGE + b".\r\n")
    assert (await client.reply()).startswith("250")


def kept(stage: Stage) -> list[list[tuple[str, str]]]:
    return [[(one.address, one.notify) for one in entry.trailer.recipients] for entry in stage.intake.kept]


async def test_one_copy_and_both_are_judged() -> None:
    async with Stage() as stage:
        await send(stage, "<a@example.com>", "<b@example.com>", "<A@EXAMPLE.com>", "<a@example.com>")
        assert kept(stage) == [[("a@example.com", ""), ("b@example.com", "")]]
        assert len(stage.engine_.at("rcpt")) == 4
        (message,) = stage.engine_.at("message")
        assert [one.address.text for one in message.recipients] == [
            "a@example.com",
            "b@example.com",
            "A@example.com",
            "a@example.com",
        ]


async def test_other_wishes_about_reports_are_another_copy() -> None:
    async with Stage() as stage:
        said = (" NOTIFY=NEVER", " NOTIFY=FAILURE", " NOTIFY=NEVER")
        await send(stage, *(f"<a@example.com>{notify}" for notify in said))
        assert kept(stage) == [[("a@example.com", "NEVER"), ("a@example.com", "FAILURE")]]
        stage.intake.kept.clear()
        await send(stage, "<a@example.com> ORCPT=rfc822;x@y.example", "<a@example.com> ORCPT=rfc822;X@y.example")
        assert [len(one) for one in kept(stage)] == [1]


def edited(stage: Stage, **changes: Any) -> None:
    """From now on the decision about a message has these fields."""
    decision = msgspec.structs.replace(ACCEPT, **changes)
    stage.engine_.rules["message"] = lambda ctx: [Group(tuple(range(len(ctx.recipients))), decision)]


async def test_what_a_milter_adds_and_blind_copies_are_once_each() -> None:
    async with Stage() as stage:
        edited(stage, edits=(Edit("add_recipient", value="m@example.com"),), bcc=("c@example.com", "C@example.com"))
        await send(stage, "<a@example.com>", "<a@example.com>")
        assert kept(stage) == [[("a@example.com", ""), ("c@example.com", "NEVER"), ("m@example.com", "NEVER")]]


async def test_a_blind_copy_for_who_gets_it_anyway_is_none() -> None:
    async with Stage() as stage:
        edited(stage, bcc=("a@example.com", "B@Example.COM", "c@example.com"))
        await send(stage, "<a@example.com>", "<b@example.com>")
        assert kept(stage) == [[("a@example.com", ""), ("b@example.com", ""), ("c@example.com", "NEVER")]]


async def test_who_is_taken_out_and_put_in_again_gets_it() -> None:
    """By one milter, to give the recipient other arguments, or by the next one."""
    out, back = Edit("delete_recipient", value="a@example.com"), Edit("add_recipient", "NOTIFY=FAILURE", "A@example.com")
    for edits, expected in (
        ((out, back), [("b@example.com", ""), ("A@example.com", "FAILURE")]),
        ((back, out), [("b@example.com", "")]),
        ((out, back, out), [("b@example.com", "")]),
    ):
        async with Stage() as stage:
            edited(stage, edits=edits)
            await send(stage, "<a@example.com>", "<b@example.com>")
            assert kept(stage) == [expected]
