"""Scenarios of trouble: scanners, DNS and the inner server away, and kill -9 of each process with mail in flight."""

import asyncio
import contextlib
import os
import signal
from collections import Counter

import click

from appliance.cli.selftest.expect import KEPT, expect
from appliance.cli.selftest.gateway import Trouble
from appliance.cli.selftest.play import Mail, Play, Result, Scenarios, unlike
from appliance.cli.selftest.plays_content import attached
from appliance.cli.selftest.scanners import RECOVERY, recovered
from appliance.cli.selftest.scripted import Scanner
from appliance.cli.selftest.stranger import Reply

AWAY, TROUBLE = Scenarios(), Scenarios()
#: Not ours to kill one by one: they stand for what is outside.
OUTSIDE = frozenset({"master", "inbox"})


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
    return unlike([got] * (became.arrived is None), "taken, then delivered", got, "it waited in the queue")


@TROUBLE("kill -9 of each process")
async def killed(play: Play) -> Result:
    """Two senders go on while one process after the other dies: what got 250 arrives."""
    accepted: dict[str, tuple[Mail, Reply]] = {}
    sending = [asyncio.create_task(_flow(play, accepted, plain)) for plain in (True, False)]
    problems = []
    services = [service for service in await play.gateway.pids() if service not in OUTSIDE]
    try:
        for service in services:
            problems += await _killed(play, service)
        await play.gateway.kill()
        await play.gateway.start()
        await asyncio.sleep(0.5)
    except Trouble as error:
        problems.append(str(error))
    finally:
        for task in sending:
            task.cancel()
        await asyncio.gather(*sending, return_exceptions=True)
    return await _counted(play, accepted, problems, services)


async def _counted(
    play: Play, accepted: dict[str, tuple[Mail, Reply]], problems: list[str], services: list[str]
) -> Result:
    became = await _became(play, accepted)
    lost = len(accepted) - became.total()
    if lost and (dropped := became["dropped"]) and not problems:  # the line that says so dies with who was to write it
        why = f"your policies drop such mail ({dropped} of {len(accepted)}): what is lost beside it does not show"
        return Result("skipped", "-", "-", why)
    if lost:
        problems.append(f"{lost} of {len(accepted)} accepted mails are lost")
    if not accepted:
        problems.append("no mail was accepted meanwhile")
        if play.turned_away and (first := await play.stopped(*play.turned_away)):
            return first
    aside = [f", {count} {place}" for place, count in sorted(became.items()) if place != "delivered"]
    got = f"{len(accepted)} accepted{''.join(aside)}, none lost"
    return unlike(problems, "what got 250 is not lost", got, f"{', '.join(services)}, master")


async def _became(play: Play, accepted: dict[str, tuple[Mail, Reply]]) -> Counter[str]:
    """How many are where in the end: delivered, or where policies put them (for what could not be judged meanwhile)."""
    found: Counter[str] = Counter()
    left, places = dict(accepted), dict[str, str]()
    with contextlib.suppress(TimeoutError):
        async with asyncio.timeout(RECOVERY):
            while left:
                with contextlib.suppress(click.ClickException):  # delivery is not back yet
                    places = await play.gateway.places()
                for token, (mail, reply) in list(left.items()):
                    if where := _is_settled(play, mail, reply, places):
                        found[where] += 1
                        del left[token]
                await asyncio.sleep(0.1)
    return found


def _is_settled(play: Play, mail: Mail, reply: Reply, places: dict[str, str]) -> str:
    """Where it is for good, or ""."""
    if any(mail.token.encode() in one for one in play.inner.mails):
        return "delivered"
    place = places.get(mail.sender, "")
    if place in KEPT.values():
        return f"in {place}"
    return "dropped" if not place and play.gateway.has_dropped(reply) else ""


async def _killed(play: Play, service: str) -> list[str]:
    """Kill all processes of a service, wait until others stand in their places."""
    before = (await play.gateway.pids()).get(service, [])
    if not before:
        return [f"no process {service} was found"]
    for pid in before:
        os.kill(pid, signal.SIGKILL)
    with contextlib.suppress(TimeoutError):
        async with asyncio.timeout(RECOVERY):
            while True:
                now = (await play.gateway.pids()).get(service, [])
                if len(now) >= len(before) and not set(now) & set(before):
                    await asyncio.sleep(0.3)
                    return []
                await asyncio.sleep(0.05)
    return [f"{service} did not come back within {RECOVERY:.0f} s"]


async def _flow(play: Play, accepted: dict[str, tuple[Mail, Reply]], plain: bool) -> None:
    """Mail after mail, until cancelled; `plain`: without what scand must take apart."""
    while True:
        mail = play.mail() if plain else attached(play, b"some octets", "notes.bin")
        try:
            reply = await play.send(mail)
        except ConnectionError:
            await asyncio.sleep(0.05)
            continue
        play.refused.discard(mail.token)  # who was cut off does not know
        if reply.code == 250:
            accepted[mail.token] = mail, reply
        else:
            play.turned_away = mail, reply
        await asyncio.sleep(0.05)


@TROUBLE("nothing refused was delivered", always=True)
async def nothing_refused(play: Play) -> Result:
    arrived = [token for token in sorted(play.refused) if any(token.encode() in mail for mail in play.inner.mails)]
    refused = len(play.refused)
    return unlike([f"{token} was" for token in arrived], "none of them", f"none of {refused}", "all refusals of this run")
