"""Scenarios of STARTTLS: mail comes over it, and nothing said before the handshake is obeyed behind it."""

from appliance.cli.selftest.expect import DELIVER
from appliance.cli.selftest.play import Play, Result, Scenarios, unlike
from appliance.cli.selftest.stranger import Reply, Stranger, Way
from appliance.cli.selftest.unmet import arrived_as, not_offered, ungreeted

TLS = Scenarios(beside=True)


@TLS("STARTTLS")
async def starttls(play: Play) -> Result:
    mail, stranger = play.mail(), play.stranger()
    reply = await play.send(mail, stranger, way=Way(tls=True))
    if not stranger.tls and stranger.features and "STARTTLS" not in stranger.features:
        return not_offered(play, "STARTTLS")
    result = await play.compare(mail, reply, DELIVER, "the mail comes over TLS", stranger)
    return await arrived_as(play, mail, result, lambda mail: b"with ESMTPS" in mail, "delivered, not as ESMTPS")


@TLS("STARTTLS injection")
async def injection(play: Play) -> Result:
    async with play.stranger() as stranger:
        if first := await ungreeted(play, stranger):
            return first
        await stranger.hello()
        if "STARTTLS" not in stranger.features:
            return not_offered(play, "STARTTLS")
        await stranger.raw(b"STARTTLS\r\nRSET\r\nNOOP\r\n")
        ready = await stranger.reply()
        wrong = await (_behind_tls(stranger, ready) if ready.code == 220 else _in_the_clear(stranger, ready))
    wrong = wrong or await _remembered(play.stranger())
    expected = "nothing behind STARTTLS is obeyed, EHLO before it forgotten"
    return unlike([wrong] * bool(wrong), expected, "as expected", "the session ended or forgot what was said")


async def _behind_tls(stranger: Stranger, ready: Reply) -> str:
    """What is wrong once the gateway takes STARTTLS with commands behind it; "" if they are gone, or the session is."""
    before = await stranger.unasked()
    if before is None:
        secured = await stranger.handshake(ready)
        if secured.code != 220:
            return secured.text if secured.silent else ""
    unasked = before or await stranger.unasked()
    if unasked is not None:
        return "" if unasked.ended else f"obeyed: {unasked.short}"
    noop, bye = await stranger.say("NOOP"), await stranger.say("QUIT")
    if noop.code != 250:
        return "" if noop.ended else f"NOOP behind TLS got {noop.short}"
    return "" if bye.code == 221 else f"obeyed late: QUIT got {bye.short}"


async def _remembered(stranger: Stranger) -> str:
    """What is wrong if a session behind a handshake in good order remembers EHLO of before (RFC 3207, 4.2)."""
    async with stranger:
        await stranger.hello()
        ready = await stranger.starttls()
        reply = await stranger.say("MAIL FROM:<probe@regular.example>") if ready.code == 220 else ready
    return "" if reply.code == 503 else f"MAIL behind TLS, without EHLO, got {reply.short}"


async def _in_the_clear(stranger: Stranger, reply: Reply) -> str:
    """What is wrong where STARTTLS got another reply than 220; "" if the session ends without obeying."""
    for _ in range(4):
        if reply.code == 250 or reply.silent:
            return f"obeyed: {reply.short}" if reply.code else reply.text
        if not reply.code:
            return "" if reply.ended else reply.text
        reply = await stranger.reply()
    return f"the session goes on: {reply.short}"
