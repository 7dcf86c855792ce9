"""The plain way of a message, and of a session."""

import asyncio

import pytest

from appliance.mail.verdict import Decision
from tests.daemons.smtpd.stage import Stage


async def test_a_message_is_kept_with_our_trace_field_on_top() -> None:
    async with Stage() as stage:
        client = await stage.content()
        client.send(b"Subject: hi\r\nMessage-ID: <1@example.net>\r\n\r\nbody\r\n.\r\n")
        reply = await client.reply()
        ((content, trailer, large),) = stage.intake.kept
        assert reply == f"250 2.0.0 Ok: queued as {trailer.queue_id}"
        assert not large
        head, _, rest = content.partition(b"Subject:")
        assert rest == b" hi\r\nMessage-ID: <1@example.net>\r\n\r\nbody\r\n"
        assert head.startswith(
            b"Received: from client.example.net (unknown [127.0.0.1])\r\n\tby mx.example.com (Postgate)"
        )
        assert f" with ESMTP id {trailer.queue_id}\r\n\tfor <b@example.com>; ".encode() in head
        assert (trailer.sender, trailer.recipients[0].address) == ("a@example.net", "b@example.com")
        assert trailer.message_id == "<1@example.net>"
        assert trailer.size == len(content)
        assert (await client.say("QUIT")).startswith("221")
        assert await client.ended() == b""


async def test_with_soft_bounce_no_answer_is_final() -> None:
    """`[gateway] soft_bounce`: who tries a new set-up loses no mail, whoever refuses it."""
    async with Stage(gateway={"soft_bounce": True}, smtp={"size_limit": 1000, "bare_lf": "reject"}) as stage:
        client = await stage.hello()
        said = [
            await client.say(line)
            for line in ("XYZZY", "RCPT TO:<b@example.com>", "MAIL FROM:<a@example.net> SIZE=2000", "MAIL FROM:<a@")
        ]
        assert [reply.split()[:2] for reply in said] == [
            ["400", "4.5.2"], ["403", "4.5.1"], ["452", "4.3.4"], ["401", "4.1.7"],
        ]  # fmt: skip
        for content in (b"a\nb", b"x" * 2000):
            client.send(b"MAIL FROM:<a@example.net>\r\nRCPT TO:<b@example.com>\r\nDATA\r\n")
            assert [(await client.reply())[:3] for _ in range(3)] == ["250", "250", "354"]
            client.send(content + b"\r\n.\r\n")
            assert (await client.reply()).startswith("4")
        client.send(b"NOOP\n")
        assert await client.reply() == "400 4.5.2 Error: bare <LF> received"


@pytest.mark.parametrize("later", [False, True])
@pytest.mark.parametrize("refusing", ["connect", "helo", "mail"])
async def test_the_first_stage_that_refuses_ends_the_asking(refusing: str, later: bool) -> None:
    """At once or behind a wait: no later stage makes a pass of it. (With delay_reject all are asked at MAIL.)"""
    no = Decision(verb="reject", reply="550 5.7.1 not you")

    async def slowly() -> Decision:
        await asyncio.sleep(0)
        return no

    async with Stage() as stage:
        stage.engine_.rules[refusing] = lambda _ctx: slowly() if later else no
        client = await stage.hello()
        assert (await client.say("MAIL FROM:<a@example.net>")).startswith("550 5.7.1 not you")
        every = ["connect", "helo", "mail"]
        assert [ctx.stage for ctx in stage.engine_.asked] == every[: every.index(refusing) + 1]
