"""Scenarios of the SMTP session: clean mail, recipients, relaying, sizes."""

from collections.abc import Iterable

from appliance.cli.selftest.expect import DELIVER, expect
from appliance.cli.selftest.play import DOMAIN, Play, Result, Scenarios, unlike
from appliance.cli.selftest.stranger import Reply
from appliance.cli.selftest.unmet import not_offered, ungreeted

SMTP = Scenarios(beside=True)
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
        asked = await _asked(play, some)
        if isinstance(asked, Result):
            return asked
        for recipient, reply in zip(some, asked, strict=False):
            if reply.code // 100 == 5 or (reply.code // 100 == 4 and _loose(play)):
                continue
            if reply.code // 100 == 4 and (first := await play.stopped(play.mail(), reply)):
                return first
            problems.append(f"<{recipient}> got {reply.short}")
    if loose := _loose(play):
        why = f"relay.toml has [on] {', '.join(loose)} put off"
        return unlike(problems, "4xx or 5xx to each", f"{len(RELAY)} put off or refused", why)
    return unlike(problems, "5xx to each", f"{len(RELAY)} refused", "address tricks of eight kinds")


def _loose(play: Play) -> list[str]:
    """What of relaying the operator puts off instead of refusing it."""
    return [word for word in ("not_ours", "trick") if expect(play.policies, ("relay", word)).kind == "defer"]


async def _asked(play: Play, recipients: Iterable[str]) -> list[Reply] | Result:
    """The reply to each RCPT, on one connection; the result, where nobody is greeted."""
    async with play.stranger() as stranger:
        if first := await ungreeted(play, stranger):
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
