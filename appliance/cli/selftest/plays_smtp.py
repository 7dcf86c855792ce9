"""Scenarios of the SMTP session: clean mail, recipients, relaying, sizes, line ends, BDAT, 8-bit, STARTTLS."""

from collections.abc import Iterable

from appliance.cli.selftest.expect import DELIVER, expect
from appliance.cli.selftest.play import DOMAIN, Play, Result, Scenarios, unlike
from appliance.cli.selftest.scene import HONEST, MAILBOX
from appliance.cli.selftest.stranger import Reply, Stranger, Way
from appliance.daemons.fronts.networks import listed

SMTP = Scenarios()
#: Without which a self-test shows little.
CLEAN = "clean mail"
#: Ways to ask for relaying (threats B8): none of them may pass.
RELAY = (
    "victim@elsewhere.example",
    f"victim%elsewhere.example@{DOMAIN}",
    f"elsewhere.example!victim@{DOMAIN}",
    f'"victim@elsewhere.example"@{DOMAIN}',
    f"@{DOMAIN}:victim@elsewhere.example",
    f"victim@elsewhere.example@{DOMAIN}",
    "victim@[127.0.0.1]",
    f"victim@sub.{DOMAIN}",
)
#: What looks like the end of data to somebody (threats B1).
PSEUDO = (b"\n.\n", b"\n.\r\n", b"\r\n.\n", b"\r.\r", b"\r\n.\r", b"\r\n\0.\r\n", b"\r\n.\0\r\n")
#: Content larger than this is not sent for a test.
LARGEST = 120 * 1024 * 1024


@SMTP(CLEAN)
async def clean(play: Play) -> Result:
    mail = play.mail()
    result = await play.judge(mail, DELIVER, "an honest sender")
    if result.state == "ok" and "marked" in result.got:
        return result._replace(state="miss", expected="delivered, without a mark")
    return result


@SMTP("unknown recipient")
async def unknown(play: Play) -> Result:
    expected = expect(play.policies, ("recipient", "unknown"))
    knobs = play.policies.checks["recipient"].knobs
    if not getattr(knobs, "callahead", True) and len(getattr(knobs, "tables", ())) < 2:
        return Result("skipped", "-", "-", "recipient.toml has no tables, and callahead = false")
    if expected.kind == "skip":
        return Result("skipped", "-", "-", expected.words)
    mail = play.mail()
    reply = await play.send(mail, recipient=f"nobody@{DOMAIN}")
    if expected.kind != "deliver" or reply.code != 250:
        return await play.compare(mail, reply, expected, "neither in a list nor inside")
    outcomes = {one["outcome"] for one in await play.gateway.verdicts(mail.sender) if one["check"] == "recipient"}
    found = f"taken, recipient={'/'.join(sorted(outcomes)) or 'not judged'}"
    why = play.because(expected, "no server has it")
    return unlike([found] * ("unknown" not in outcomes), "taken, recipient=unknown", found, why)


@SMTP("relay attempts")
async def relay(play: Play) -> Result:
    problems = []
    limits = play.snapshot.wiring.limits
    bearable = max(1, min(limits.errors_soft, limits.errors_hard))
    for begin in range(0, len(RELAY), bearable):
        some = RELAY[begin : begin + bearable]
        for recipient, reply in zip(some, await _asked(play, some), strict=False):
            if reply.code // 100 == 5:
                continue
            if reply.code // 100 == 4 and (first := await play.stopped(play.mail(), reply)):
                return first
            problems.append(f"<{recipient}> got {reply.short}")
    return unlike(problems, "5xx to each", f"{len(RELAY)} refused", "address tricks of eight kinds")


async def _asked(play: Play, recipients: Iterable[str]) -> list[Reply]:
    """The reply to each RCPT, on one connection."""
    async with play.stranger() as stranger:
        await stranger.hello(play.tls)
        await stranger.say("MAIL FROM:<probe@regular.example>")
        return [await stranger.say(f"RCPT TO:<{recipient}>") for recipient in recipients]


@SMTP("oversize, announced")
async def announced(play: Play) -> Result:
    limit = play.snapshot.wiring.smtp.size_limit
    if not limit:
        return Result("skipped", "-", "-", "size_limit = 0")
    async with play.stranger() as stranger:
        await stranger.hello(play.tls)
        if "SIZE" not in stranger.features:
            return _not_offered(play, "SIZE")
        reply = await stranger.say(f"MAIL FROM:<big@regular.example> SIZE={limit + 1}")
    if reply.code != 552 and (first := await play.stopped(play.mail(), reply)):
        return first
    return Result("ok" if reply.code == 552 else "miss", "552 at MAIL", reply.short, f"limit {limit}")


@SMTP("oversize, sent")
async def sent(play: Play) -> Result:
    limit = play.snapshot.wiring.smtp.size_limit
    if not limit or limit > LARGEST:
        return Result("skipped", "-", "-", "no size_limit, or one too large to try")
    mail = play.mail(f"{'x' * 998}\r\n" * (limit // 1000 + 2))
    reply = await play.send(mail)
    if reply.code != 552 and (first := await play.stopped(mail, reply)):
        return first
    return Result("ok" if reply.code == 552 else "miss", "552 behind the content", reply.short, f"limit {limit}")


@SMTP("bare LF")
async def bare_lf(play: Play) -> Result:
    mail = play.mail("one\ntwo\nthree\r\n")._replace(facts=(("early_talker", "bare_lf"),))
    reply = await play.send(mail)
    if play.snapshot.wiring.smtp.bare_lf == "reject":
        missed = reply.code != 550 and await play.stopped(mail, reply)
        return missed or Result("ok" if reply.code == 550 else "miss", "550", reply.short, 'bare_lf = "reject"')
    result = await play.compare(mail, reply, DELIVER, 'bare_lf = "normalize": CRLF inside')
    arrived = await play.inner.has(mail.token.encode(), 0.1)
    if result.state == "ok" and (arrived is None or b"one\r\ntwo\r\nthree" not in arrived):
        return result._replace(state="miss", got="bare LF went inside")
    return result


@SMTP("smuggling")
async def smuggling(play: Play) -> Result:
    """Two mails in one for somebody who takes a pseudo end for an end: one, or none, must come of it."""
    problems = []
    for pseudo in PSEUDO:
        mail, inside = play.mail(), play.mail()
        dialogue = f"MAIL FROM:<{inside.sender}>\r\nRCPT TO:<{MAILBOX}>\r\nDATA\r\n".encode()
        octets = mail.octets + b"before" + pseudo + dialogue + b"Subject: smuggled\r\n\r\nsmuggled\r\n"
        reply = await play.send(mail._replace(octets=octets))
        if reply.code == 250 and (became := await play.fate.of(mail.token, mail.sender, reply)).lost:
            problems.append(f"{pseudo!r}: {became.got}")
        stolen = [one for one in play.inner.mails if one.partition(b"\r\n\r\n")[0].endswith(b"Subject: smuggled")]
        if stolen:
            problems.append(f"{pseudo!r} ended the message")
    return unlike(problems, "one message each, or a refusal", "as expected", f"{len(PSEUDO)} pseudo ends")


def _not_offered(play: Play, keyword: str) -> Result:
    """A miss, unless the listener says so."""
    for rule in play.snapshot.wiring.listen[0].ehlo_off:
        if keyword in (word.upper() for word in rule.keywords) and listed(HONEST, rule.networks):
            return Result("skipped", "-", "-", f"not offered: ehlo_off of your listener names {keyword}")
    return Result("miss", "offered", "not offered", f"nothing takes {keyword} away")


@SMTP("BDAT")
async def bdat(play: Play) -> Result:
    mail, stranger = play.mail("first chunk\r\n.\r\nsecond chunk\r\n"), play.stranger()
    reply = await play.send(mail, stranger, way=Way(content=_in_chunks))
    if stranger.features and "CHUNKING" not in stranger.features:
        return _not_offered(play, "CHUNKING")
    return await play.compare(mail, reply, DELIVER, "two chunks, a lone dot between")


async def _in_chunks(stranger: Stranger, octets: bytes) -> Reply:
    half, reply = len(octets) // 2, Reply(250, "")
    for chunk, last in ((octets[:half], ""), (octets[half:], " LAST")):
        if reply.code == 250:
            await stranger.raw(f"BDAT {len(chunk)}{last}\r\n".encode() + chunk)
            reply = await stranger.reply()
    return reply


@SMTP("8-bit content")
async def eight_bit(play: Play) -> Result:
    mail = play.mail("Grüße, 你好, \udcff\udcfe\r\n")
    stranger = play.stranger()
    reply = await play.send(mail, stranger, way=Way(options=" BODY=8BITMIME"))
    if stranger.features and "8BITMIME" not in stranger.features:
        return _not_offered(play, "8BITMIME")
    result = await play.compare(mail, reply, DELIVER, "octets unchanged")
    body = mail.octets.partition(b"\r\n\r\n")[2]
    arrived = await play.inner.has(mail.token.encode(), 0.1)
    if result.state == "ok" and (arrived is None or not arrived.endswith(body)):
        return result._replace(state="miss", got="delivered with other octets")
    return result


@SMTP("STARTTLS")
async def starttls(play: Play) -> Result:
    mail, stranger = play.mail(), play.stranger()
    reply = await play.send(mail, stranger, way=Way(tls=True))
    if not stranger.tls and stranger.features and "STARTTLS" not in stranger.features:
        return _not_offered(play, "STARTTLS")
    result = await play.compare(mail, reply, DELIVER, "the mail comes over TLS", stranger)
    arrived = await play.inner.has(mail.token.encode(), 0.1)
    if result.state == "ok" and (arrived is None or b"with ESMTPS" not in arrived):
        return result._replace(state="miss", got="delivered, not as ESMTPS")
    return result


@SMTP("STARTTLS injection")
async def injection(play: Play) -> Result:
    async with play.stranger() as stranger:
        await stranger.hello()
        if "STARTTLS" not in stranger.features:
            return _not_offered(play, "STARTTLS")
        await stranger.raw(b"STARTTLS\r\nRSET\r\nNOOP\r\n")
        replies: list[Reply] = []
        while len(replies) < 4 and (not replies or replies[-1].code):
            replies.append(await stranger.reply())
    obeyed = [reply for reply in replies if reply.code == 250]
    got = obeyed[0].short if obeyed else "the session ended"
    return Result("miss" if obeyed else "ok", "nothing behind STARTTLS is obeyed", got)
