"""The plain way of a message, and of a session."""

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
