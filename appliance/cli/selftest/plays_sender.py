"""Scenarios of who sent it: DKIM, SPF, DMARC, our own domain, greylisting and a pool of addresses."""

import asyncio
from typing import Any

from appliance.cli.selftest.arrived import header_of
from appliance.cli.selftest.expect import DELIVER, Expected, expect, off
from appliance.cli.selftest.play import DOMAIN, Mail, Play, Result, Scenarios, unlike
from appliance.cli.selftest.scene import DELAY, HERE, MAILBOX, NAMELESS, OTHER

SENDER = Scenarios(beside=True)


@SENDER("signed mail")
async def signed(play: Play) -> Result:
    """A fixed message with a DKIM signature: our results stand on top."""
    mail = Mail("signed@regular.example", "signed@regular.example", (HERE / "signed.eml").read_bytes(), signed=True)
    found = [(check, "pass") for check in ("spf", "dkim", "dmarc") if not off(play.policies, check)]
    wanted = ["=".join(one) for one in found]
    if not wanted:
        return Result("skipped", "-", "-", "spf, dkim and dmarc are not enforced")
    result = await play.judge(
        mail, expect(play.policies, *found), "DKIM, SPF and DMARC pass, as verdicts and in the mail"
    )
    arrived = await play.inner.has(mail.token.encode(), 0.1)
    if result.state != "ok" or arrived is None:
        return result
    lines = [line for line in header_of(arrived).split("\r\n") if line.lower().startswith("authentication-results:")]
    missing = [word for word in wanted if not lines or word not in lines[0]]
    return unlike(
        [f"no {word}" for word in missing], f"delivered, {' '.join(wanted)}", f"delivered, {' '.join(wanted)}", result.why
    )


@SENDER("SPF fail")
async def spf_fail(play: Play) -> Result:
    mail = play.mail(domain="spffail.example")
    return await play.judge(mail, expect(play.policies, ("spf", "fail")), "the domain does not let this client send")


@SENDER("DMARC reject")
async def dmarc_reject(play: Play) -> Result:
    mail = play.mail(author="<boss@strict.example>")
    return await play.judge(mail, expect(play.policies, ("dmarc", "reject")), "From of another domain, p=reject")


@SENDER("DMARC quarantine")
async def dmarc_quarantine(play: Play) -> Result:
    mail = play.mail(author="<boss@doubtful.example>")
    return await play.judge(mail, expect(play.policies, ("dmarc", "quarantine")), "From of another domain, p=quarantine")


@SENDER("two authors")
async def ambiguous(play: Play) -> Result:
    mail = play.mail(headers="From: <boss@strict.example>\r\n")._replace(facts=(("dkim", "policy"),))  # if it is signed
    return await play.judge(mail, expect(play.policies, ("dmarc", "ambiguous")), "two From fields")


@SENDER("spoofed own domain")
async def spoofed(play: Play) -> Result:
    mail = play.mail(domain=DOMAIN)
    expected = expect(play.policies, ("own_domain", "spoofed"), ("spf", "fail"))
    return await play.judge(mail, expected, "our domain, from outside, without a pass")


async def _try(play: Play, mail: Mail, address: str, expected: Expected) -> Result:
    """One attempt."""
    result = await play.judge(mail, expected, stranger=play.stranger(address, "mail.plain.example"))
    return result._replace(got=f"{address}: {result.got} instead of {result.expected}")


async def _greylisted(play: Play, domain: str, second: str) -> Result:
    """First, early, late; the late one from `second`."""
    expected = expect(play.policies, ("greylist", "early"))
    if expected.kind == "skip":
        return Result("skipped", "-", "-", expected.words)
    knobs: Any = play.policies.checks["greylist"].knobs
    mail = play.mail(domain=domain)
    tries = [await _try(play, mail, NAMELESS, expected), await _try(play, mail, NAMELESS, expected)]
    if "greylist:not_suspicious" in tries[0].got and "no_name" not in knobs.reasons:
        return Result(
            "skipped", "-", "-", 'reasons of greylist has no "no_name", and nothing else is odd about this stranger'
        )
    if tries[0].state != "skipped":
        await asyncio.sleep(DELAY + 0.5)
        tries.append(await _try(play, mail, second, DELIVER))
    if skipped := next((result for result in tries if result.state == "skipped"), None):
        return skipped
    play.refused.discard(mail.token)
    wanted = f"{expected.words} twice, then delivered"
    why = tries[0].why or f"delay {DELAY} s; the last from {second}"
    return unlike([result.got for result in tries if result.state == "miss"], wanted, wanted, why)


@SENDER("greylist: first, early, late", ahead=True)
async def greylist(play: Play) -> Result:
    return await _greylisted(play, "plain.example", NAMELESS)


@SENDER("greylist: a pool of addresses", ahead=True)
async def pool(play: Play) -> Result:
    if why := off(play.policies, "identity"):
        return Result("skipped", "-", "-", why)
    return await _greylisted(play, "pool.example", OTHER)


__all__ = ["MAILBOX", "SENDER"]
