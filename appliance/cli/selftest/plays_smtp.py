"""Scenarios of the SMTP session: clean mail, recipients, relaying, sizes, line ends, BDAT, 8-bit, STARTTLS."""

from collections.abc import Iterable

from appliance.cli.selftest.expect import DELIVER, expect
from appliance.cli.selftest.play import DOMAIN, Mail, Play, Result, Scenarios, unlike
from appliance.cli.selftest.scene import HONEST, MAILBOX
from appliance.cli.selftest.stranger import PATIENCE, Reply, Stranger, Way
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
#: Lines that end nothing in BDAT, and where the chunks are cut: behind CRLF, the dot, CR, and the whole line.
DOTTED = "one\r\n.\r\ntwo\r\n.\r\nthree\r\n.\r\nfour\r\n.\r\nfive\r\n..\r\n.six\r\n"
_DOT, _CUTS = b"\r\n.\r\n", (2, 3, 4, 5)


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
        asked = await _asked(play, some)
        if isinstance(asked, Result):
            return asked
        for recipient, reply in zip(some, asked, strict=False):
            if reply.code // 100 == 5:
                continue
            if reply.code // 100 == 4 and (first := await play.stopped(play.mail(), reply)):
                return first
            problems.append(f"<{recipient}> got {reply.short}")
    return unlike(problems, "5xx to each", f"{len(RELAY)} refused", "address tricks of eight kinds")


async def _asked(play: Play, recipients: Iterable[str]) -> list[Reply] | Result:
    """The reply to each RCPT, on one connection; the result, where nobody is greeted."""
    async with play.stranger() as stranger:
        if first := await _ungreeted(play, stranger):
            return first
        await stranger.hello(play.tls)
        await stranger.say("MAIL FROM:<probe@regular.example>")
        return [await stranger.say(f"RCPT TO:<{recipient}>") for recipient in recipients]


@SMTP("oversize, announced")
async def announced(play: Play) -> Result:
    limit = play.snapshot.wiring.smtp.size_limit
    if not limit:
        return Result("skipped", "-", "-", "size_limit = 0")
    async with play.stranger() as stranger:
        if first := await _ungreeted(play, stranger):
            return first
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
        mail, inside = play.mail()._replace(facts=(("early_talker", "bare_lf"),)), play.mail()
        dialogue = f"MAIL FROM:<{inside.sender}>\r\nRCPT TO:<{MAILBOX}>\r\nDATA\r\n".encode()
        octets = mail.octets + b"before" + pseudo + dialogue + inside.octets
        content, stranger = _Counted(), play.stranger()
        reply = await play.send(mail._replace(octets=octets), stranger, way=Way(content=content))
        if not content.sent:
            first = await _ungreeted(play, stranger) or await play.stopped(mail, reply)
            return first or Result("miss", "content is asked for", reply.short)
        problems += [f"{pseudo!r}: {words}" for words in await _of_two(play, mail, inside, reply, content.second)]
    return unlike(problems, "one message each, or a refusal", "as expected", f"{len(PSEUDO)} pseudo ends")


class _Counted:
    """DATA, and whether its end got one reply: `second` is what came instead of that to QUIT."""

    def __init__(self) -> None:
        self.sent, self.second = False, ""

    async def __call__(self, stranger: Stranger, octets: bytes) -> Reply:
        answer = await stranger.say("DATA")
        if answer.code != 354:
            return answer
        self.sent, self.second = True, ""
        answer = await stranger.stuffed(octets)
        behind = await stranger.say("QUIT")
        # Whoever is refused may be sent away, with 421 or without a word.
        if answer.code and behind.code != 221 and not (answer.code != 250 and (behind.code == 421 or behind.ended)):
            self.second = behind.short
        return answer


async def _of_two(play: Play, mail: Mail, inside: Mail, reply: Reply, second: str) -> list[str]:
    """What is wrong with what became of `mail`, with `inside` behind its pseudo end."""
    problems = [f"a second reply, {second}"] * bool(second) + [reply.short] * (not reply.code)
    if reply.code == 250:
        became = await play.fate.of(mail.token, mail.sender, reply)
        if became.lost:
            problems.append(became.got)
        if became.arrived is not None and not became.arrived.endswith(inside.octets):
            problems.append("it went inside without what stood behind")
    heads = (one.partition(b"\r\n\r\n")[0] for one in play.inner.mails)
    if any(f"Message-ID: <{inside.token}@".encode() in head for head in heads):
        problems.append("it ended the message")
    return problems


async def _ungreeted(play: Play, stranger: Stranger) -> Result | None:
    """The result where the greeting is another than 220, or none in time."""
    if (greeting := stranger.greeting).code == 220:
        return None
    wait = getattr(play.policies.checks["early_talker"].knobs, "wait", 0.0)
    if greeting.silent and wait >= PATIENCE:
        return Result("skipped", "-", "-", f"{greeting.text}: early_talker.toml has wait = {wait:.0f} s")
    return await play.stopped(play.mail(), greeting) or Result("miss", "220 as greeting", greeting.short)


def _not_offered(play: Play, keyword: str) -> Result:
    """A miss, unless the listener says so."""
    for rule in play.snapshot.wiring.listen[0].ehlo_off:
        if keyword in (word.upper() for word in rule.keywords) and listed(HONEST, rule.networks):
            return Result("skipped", "-", "-", f"not offered: ehlo_off of your listener names {keyword}")
    return Result("miss", "offered", "not offered", f"nothing takes {keyword} away")


@SMTP("BDAT")
async def bdat(play: Play) -> Result:
    mail, stranger = play.mail(DOTTED), play.stranger()
    reply = await play.send(mail, stranger, way=Way(content=_in_chunks))
    if stranger.features and "CHUNKING" not in stranger.features:
        return _not_offered(play, "CHUNKING")
    result = await play.compare(mail, reply, DELIVER, "lone dots where chunks are cut")
    return await _unchanged(play, mail, result)


async def _in_chunks(stranger: Stranger, octets: bytes) -> Reply:
    """BDAT, cut at the lone dots of DOTTED."""
    begin, dot, chunks = 0, octets.index(b"\r\n\r\n"), []
    for cut in _CUTS:
        dot = octets.index(_DOT, dot + 1)
        chunks.append(octets[begin : dot + cut])
        begin = dot + cut
    reply = Reply(250, "")
    for chunk, last in (*((chunk, "") for chunk in chunks), (octets[begin:], " LAST")):
        if reply.code == 250:
            await stranger.raw(f"BDAT {len(chunk)}{last}\r\n".encode() + chunk)
            reply = await stranger.reply()
    return reply


async def _unchanged(play: Play, mail: Mail, result: Result) -> Result:
    """`result`, a miss if the body that arrived is not that of `mail`, octet for octet."""
    arrived = await play.inner.has(mail.token.encode(), 0.1)
    if result.state == "ok" and (arrived is None or _body(arrived) != _body(mail.octets)):
        return result._replace(state="miss", got="delivered with other octets")
    return result


def _body(octets: bytes) -> bytes:
    return octets.partition(b"\r\n\r\n")[2]


@SMTP("8-bit content")
async def eight_bit(play: Play) -> Result:
    mail = play.mail("Grüße, 你好, \udcff\udcfe\r\n")
    stranger = play.stranger()
    reply = await play.send(mail, stranger, way=Way(options=" BODY=8BITMIME"))
    if stranger.features and "8BITMIME" not in stranger.features:
        return _not_offered(play, "8BITMIME")
    return await _unchanged(play, mail, await play.compare(mail, reply, DELIVER, "octets unchanged"))


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
        if first := await _ungreeted(play, stranger):
            return first
        await stranger.hello()
        if "STARTTLS" not in stranger.features:
            return _not_offered(play, "STARTTLS")
        await stranger.raw(b"STARTTLS\r\nRSET\r\nNOOP\r\n")
        ready = await stranger.reply()
        wrong = await (_behind_tls(stranger, ready) if ready.code == 220 else _in_the_clear(stranger, ready))
    return unlike([wrong] * bool(wrong), "nothing behind STARTTLS is obeyed", "the session ended or forgot it")


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


async def _in_the_clear(stranger: Stranger, reply: Reply) -> str:
    """What is wrong where STARTTLS got another reply than 220; "" if the session ends without obeying."""
    for _ in range(4):
        if reply.code == 250 or reply.silent:
            return f"obeyed: {reply.short}" if reply.code else reply.text
        if not reply.code:
            return "" if reply.ended else reply.text
        reply = await stranger.reply()
    return f"the session goes on: {reply.short}"
