"""Scenarios of the SMTP session: clean mail, recipients, relaying, sizes."""

import asyncio

from appliance.cli.selftest.expect import DELIVER, expect
from appliance.cli.selftest.play import DOMAIN, Play, Result, Scenarios, once, unlike
from appliance.cli.selftest.relaying import ATTEMPTS, NAME, Attempt, before, put_off, refusal
from appliance.cli.selftest.scene import RELAYER
from appliance.cli.selftest.unmet import not_offered, ungreeted

SMTP = Scenarios(beside=True)
#: Without which a self-test shows little.
CLEAN = "clean mail"
#: Content larger than this is not sent for a test.
LARGEST = 120 * 1024 * 1024


@SMTP(CLEAN)
async def clean(play: Play) -> Result:
    mail = play.mail()
    result = await play.judge(mail, DELIVER, "an honest sender")
    if result.state == "ok" and "marked" in result.got:
        return result._replace(state="miss", expected="delivered, without a mark")
    return await once(play, mail, result)


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
    """Each by a stranger of its own: the log names who refused which."""
    told = await asyncio.gather(*(_attempt(play, attempt) for attempt in ATTEMPTS))
    if first := next((one for one in told if isinstance(one, Result)), None):
        return first
    problems = [one for one in told if isinstance(one, str) and one]
    wanted, got = "refused by relay, each", f"{len(ATTEMPTS)} refused"
    if loose := put_off(play.policies):
        got, why = f"{len(ATTEMPTS)} put off or refused", f"relay.toml has [on] {', '.join(loose)} put off"
        return unlike(problems, "put off or refused by relay, each", got, why)
    return unlike(problems, wanted, got, "address tricks of eight kinds, mailboxes that nobody else refuses")


async def _attempt(play: Play, attempt: Attempt) -> str | Result:
    """What is wrong with the reply, ""; the result, where no recipient can be named."""
    recipient = attempt.at(DOMAIN)
    async with play.stranger() as stranger:
        if first := await ungreeted(play, stranger):
            return first
        await stranger.hello(play.tls)
        reply = await stranger.envelope(RELAYER)
        if reply.code != 250:
            first = await play.stopped(play.mail(sender=RELAYER), reply, stranger)
            return first or Result("miss", "MAIL is taken", reply.short)
        reply = await stranger.say(f"RCPT TO:<{recipient}>")
    decided = await play.gateway.decided(reply) if attempt.finding and reply.code not in (0, 250) else None
    if decided is not None and decided.check != NAME:
        if reply.code // 100 in (4, 5) and decided.check in before(play.policies):
            return ""
        who = f", by {decided.check}:{decided.outcome}"
        return await play.stopped(play.mail(sender=RELAYER), reply) or f"<{recipient}> got {reply.short}{who}"
    its_own, expected = decided is not None or not attempt.finding, refusal(play.policies, attempt.finding)
    return "" if its_own and reply.code == expected.code else f"<{recipient}> got {reply.short}, not {expected.code}"


@SMTP("oversize, announced")
async def announced(play: Play) -> Result:
    limit = play.snapshot.wiring.smtp.size_limit
    if not limit:
        return Result("skipped", "-", "-", "size_limit = 0")
    async with play.stranger() as stranger:
        if first := await ungreeted(play, stranger):
            return first
        await stranger.hello(play.tls)
        if "SIZE" not in stranger.features:
            return not_offered(play, "SIZE")
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
