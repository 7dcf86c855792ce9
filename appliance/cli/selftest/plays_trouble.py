"""Scenarios of trouble: scanners, DNS and the inner server away; and what must be true of all that was played."""

from appliance.cli.selftest.expect import expect
from appliance.cli.selftest.play import Play, Result, Scenarios, once, unlike
from appliance.cli.selftest.scanners import RECOVERY, recovered
from appliance.cli.selftest.scripted import Scanner

AWAY, TROUBLE, CLOSING = Scenarios(), Scenarios(), Scenarios()


@AWAY("virus scanner away")
async def no_clamd(play: Play) -> Result:
    return await _scanner_away(play, play.clamd, "antivirus")


@AWAY("spam scanner away")
async def no_spamd(play: Play) -> Result:
    return await _scanner_away(play, play.spamd, "antispam")


async def _scanner_away(play: Play, scanner: Scanner, check: str) -> Result:
    expected = expect(play.policies, (check, "error"))
    await scanner.down()
    try:
        result = await play.judge(play.mail(), expected, "what could not be scanned is not clean")
    finally:
        await scanner.up()
    return await recovered(play, result, [check])


@TROUBLE("DNS away")
async def no_dns(play: Play) -> Result:
    expected = expect(play.policies, ("spf", "temperror"), ("dmarc", "temperror"))
    return await play.judge(play.mail(domain="unreachable.test"), expected, "every name server answers SERVFAIL")


@TROUBLE("inner server away and back")
async def no_inner(play: Play) -> Result:
    await play.inner.down()
    mail = play.mail()
    reply = await play.send(mail)
    early = await play.inner.has(mail.token.encode(), 1.5)
    await play.inner.up()
    if reply.code != 250 or early is not None:
        missed = Result("miss", "taken, then delivered", reply.short)
        return (await play.stopped(mail, reply) if reply.code != 250 else None) or missed
    became = await play.fate.of(mail.token, mail.sender, reply, RECOVERY)
    got = "taken, then delivered" if became.arrived is not None else became.got
    result = unlike([got] * (became.arrived is None), "taken, then delivered", got, "it waited in the queue")
    return await once(play, mail, result)


@CLOSING("nothing refused was delivered", always=True)
async def nothing_refused(play: Play) -> Result:
    arrived = [token for token in sorted(play.refused) if any(token.encode() in mail for mail in play.inner.mails)]
    refused = len(play.refused)
    rows = dict.fromkeys(play.rows.get(token, token) for token in arrived)
    return unlike(
        [f'a mail of "{row}" was' for row in rows], "none of them", f"none of {refused}", "all refusals of this run"
    )
