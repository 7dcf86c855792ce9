"""Scenarios about where a message ends and what its octets become: bare LF, smuggling, BDAT, 8-bit content."""

import asyncio

from appliance.cli.selftest.expect import DELIVER
from appliance.cli.selftest.play import Mail, Play, Result, Scenarios, unlike
from appliance.cli.selftest.scene import MAILBOX
from appliance.cli.selftest.stranger import Reply, Stranger, Way
from appliance.cli.selftest.unmet import arrived_as, not_offered, ungreeted

FRAMING = Scenarios(beside=True)
#: What looks like the end of data to somebody (threats B1).
PSEUDO = (b"\n.\n", b"\n.\r\n", b"\r\n.\n", b"\r.\r", b"\r\n.\r", b"\r\n\0.\r\n", b"\r\n.\0\r\n")
#: Lines that end nothing in BDAT, and where the chunks are cut: behind CRLF, the dot, CR, and the whole line.
DOTTED = "one\r\n.\r\ntwo\r\n.\r\nthree\r\n.\r\nfour\r\n.\r\nfive\r\n..\r\n.six\r\n"
_DOT, _CUTS = b"\r\n.\r\n", (2, 3, 4, 5)


@FRAMING("bare LF")
async def bare_lf(play: Play) -> Result:
    mail = play.mail("one\ntwo\nthree\r\n")._replace(facts=(("early_talker", "bare_lf"),))
    reply = await play.send(mail)
    if play.snapshot.wiring.smtp.bare_lf == "reject":
        missed = reply.code != 550 and await play.stopped(mail, reply)
        return missed or Result("ok" if reply.code == 550 else "miss", "550", reply.short, 'bare_lf = "reject"')
    result = await play.compare(mail, reply, DELIVER, 'bare_lf = "normalize": CRLF inside')
    return await arrived_as(play, mail, result, lambda mail: b"one\r\ntwo\r\nthree" in mail, "bare LF went inside")


@FRAMING("smuggling")
async def smuggling(play: Play) -> Result:
    """Two mails in one for somebody who takes a pseudo end for an end: one, or none, must come of it."""
    found = await asyncio.gather(*(_smuggled(play, pseudo) for pseudo in PSEUDO))
    if first := next((one for one in found if isinstance(one, Result)), None):
        return first
    problems = [words for one in found if not isinstance(one, Result) for words in one]
    return unlike(problems, "one message each, or a refusal", "as expected", f"{len(PSEUDO)} pseudo ends")


async def _smuggled(play: Play, pseudo: bytes) -> list[str] | Result:
    """What is wrong with what comes of one pseudo end; the result, where no content is asked for."""
    mail, inside = play.mail()._replace(facts=(("early_talker", "bare_lf"),)), play.mail()
    dialogue = f"MAIL FROM:<{inside.sender}>\r\nRCPT TO:<{MAILBOX}>\r\nDATA\r\n".encode()
    octets = mail.octets + b"before" + pseudo + dialogue + inside.octets
    content, stranger = _Counted(), play.stranger()
    reply = await play.send(mail._replace(octets=octets), stranger, way=Way(content=content))
    if not content.sent:
        first = await ungreeted(play, stranger) or await play.stopped(mail, reply)
        return first or Result("miss", "content is asked for", reply.short)
    return [f"{pseudo!r}: {words}" for words in await _of_two(play, mail, inside, reply, content.second)]


class _Counted:
    """DATA, none of it stuffed, and whether its end got one reply: `second` is what came instead of that to QUIT."""

    def __init__(self) -> None:
        self.sent, self.second = False, ""

    async def __call__(self, stranger: Stranger, octets: bytes) -> Reply:
        answer = await stranger.say("DATA")
        if answer.code != 354:
            return answer
        self.sent, self.second = True, ""
        await stranger.raw(octets + b".\r\n")  # as it stands: a dot that is doubled makes no pseudo end
        answer = await stranger.reply()
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
        if became.arrived is not None and await play.inner.has_again(mail.token.encode()):
            problems.append("it came twice")
        if became.arrived is not None and not became.arrived.endswith(inside.octets):
            problems.append("it went inside without what stood behind")
    heads = (one.partition(b"\r\n\r\n")[0] for one in play.inner.mails)
    if any(f"Message-ID: <{inside.token}@".encode() in head for head in heads):
        problems.append("it ended the message")
    return problems


@FRAMING("BDAT")
async def bdat(play: Play) -> Result:
    mail, stranger = play.mail(DOTTED), play.stranger()
    reply = await play.send(mail, stranger, way=Way(content=_in_chunks))
    if stranger.features and "CHUNKING" not in stranger.features:
        return not_offered(play, "CHUNKING")
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
    sent = _body(mail.octets)
    return await arrived_as(play, mail, result, lambda mail: _body(mail) == sent, "delivered with other octets")


def _body(octets: bytes) -> bytes:
    return octets.partition(b"\r\n\r\n")[2]


@FRAMING("8-bit content")
async def eight_bit(play: Play) -> Result:
    mail = play.mail("Grüße, 你好, \udcff\udcfe\r\n")
    stranger = play.stranger()
    reply = await play.send(mail, stranger, way=Way(options=" BODY=8BITMIME"))
    if stranger.features and "8BITMIME" not in stranger.features:
        return not_offered(play, "8BITMIME")
    why = "octets unchanged, BODY=8BITMIME inside, too"
    result = await _unchanged(play, mail, await play.compare(mail, reply, DELIVER, why))
    if result.state == "ok" and "BODY=8BITMIME" not in (told := play.inner.told(mail.token.encode())).upper().split():
        return result._replace(state="miss", got=f"delivered with {told}")
    return result
