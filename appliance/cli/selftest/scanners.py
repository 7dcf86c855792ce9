"""The operator's own scanners: asked before all else, and then each of them away.

Contract: one that does not answer is one miss; the rest is played without it, so that it does not spoil what is not about
it. What failure means for the mail: none.
"""

import asyncio
import contextlib
import os
import re
import signal
import time
from collections.abc import Callable, Iterable
from functools import partial
from typing import Any

from appliance.checks import antispam, antivirus
from appliance.cli.selftest.expect import DELIVER, Expected, absent, expect, off
from appliance.cli.selftest.play import Mail, Play, Result, Scenario
from appliance.cli.selftest.plays_content import attached
from appliance.cli.selftest.scene import PATIENCE, Scene
from appliance.config.scanner_entry import ScannerEntry
from appliance.connectors import yara
from appliance.engine.rules import PolicySet

#: Seconds within which things are well again, and those that are waited once they were not.
RECOVERY, LATER = 30.0, 5.0
#: Who stopped a mail, in what was got, and outcomes by which checks wait for somebody to come back.
_BY = re.compile(r", by (\w+):(\w+)")
_TROUBLE = frozenset({"error", "temperror", "table_error", "undecided", "undecoded"})
_KINDS = {antivirus.NAME: antivirus.KINDS, antispam.NAME: antispam.KINDS}
Row = tuple[str, Result, float]


def asked_by(
    policies: PolicySet, name: str, entry: ScannerEntry, without: Callable[[PolicySet, str], str] = off
) -> tuple[list[str], str]:
    """The checks in force that ask a scanner, or why there is none. `without`: why a check is none of them."""
    found, why = [], []
    for check, kinds in _KINDS.items():
        named: tuple[str, ...] = getattr(policies.checks[check].knobs, "scanners", ())
        if name not in named and (named or entry.kind not in kinds):
            continue
        reason = without(policies, check)
        why += [reason] if reason else []
        found += [] if reason else [check]
    return found, "" if found else "; ".join(why) or "no check asks it"


async def answering(play: Play) -> list[Row]:
    """A clean mail goes past all of them: a row each. `play.dead` are those that do not answer."""
    rows: list[Row] = []
    if not play.scene.theirs.wiring.scanners:
        return rows
    began = time.monotonic()
    mail = play.mail()
    reply = await play.send(mail)
    missed = await play.stopped(mail, reply) if reply.code != 250 else None
    said = heard(await play.gateway.verdicts(mail.sender))
    seconds = time.monotonic() - began
    for name, entry in play.scene.theirs.wiring.scanners.items():
        result = _row(play, name, entry, said.get(name), missed)
        if result.state == "miss" and said.get(name, {}).get("kind") == "error":
            play.dead[name] = f"your {name} does not answer"
        rows.append((f"your {name} answers", result, seconds))
    return rows


def heard(verdicts: Iterable[dict[str, Any]]) -> dict[str, dict[str, Any]]:
    """What each scanner said, by its name; trouble before all else."""
    found: dict[str, dict[str, Any]] = {}
    for verdict in (verdict for verdict in verdicts if verdict["check"] in _KINDS):
        for fact in verdict.get("evidence", {}).get("scanners", ()):
            if found.get(fact["scanner"], {}).get("kind") != "error":
                found[fact["scanner"]] = fact
    return found


def _row(play: Play, name: str, entry: ScannerEntry, fact: dict[str, Any] | None, missed: Result | None) -> Result:
    checks, why = asked_by(play.policies, name, entry, absent)  # who is only watched asks as well
    if why:
        return Result("skipped", "-", "-", why)
    if fact is None:
        return missed or Result("miss", "clean", "it was not asked", ", ".join(checks))
    if fact["kind"] == "error":
        trouble = fact.get("why", "none")
        own = f"; {PATIENCE:.0f} s are the self-test's own limit, yours are {entry.timeout:g} s"
        hurried = entry.timeout > PATIENCE and " answer within " in trouble
        return Result("miss", "an answer", trouble, f"the rest is played without it{own if hurried else ''}")
    ok = fact["kind"] in ("clean", "spam")
    said = ", ".join(fact.get("names", ())) or fact.get("why", "")
    got = f"{fact['kind']}{f' ({said})' if said and not ok else ''} in {fact['seconds']:.2f} s"
    return Result("ok" if ok else "miss", "an answer: clean", got, f"a clean mail; kind {entry.kind}")


def away(scene: Scene) -> list[Scenario]:
    """Each scanner of the operator's away, and what takes messages apart."""
    found = [Scenario(f"your {name} away", partial(_away, name=name)) for name in scene.theirs.wiring.scanners]
    return [*found, Scenario("scand away", no_scand)]


async def _away(play: Play, name: str) -> Result:
    """Its address leads nowhere, its program is not there; then all is as before."""
    entry = play.scene.theirs.wiring.scanners[name]
    checks, why = asked_by(play.policies, name, entry)
    if why or name in play.dead:
        return Result("skipped", "-", "-", play.dead.get(name, why))
    expected = expect(play.policies, *((check, "error") for check in checks))
    if entry.kind == yara.KIND:
        return await _without_scand(play, play.mail, expected, checks)
    play.scene.away(name)
    await play.gateway.reload()
    try:
        result = await play.judge(play.mail(), expected, f"{', '.join(checks)}: error; it leads nowhere")
    finally:
        play.scene.back()
        await play.gateway.reload()
    return await recovered(play, result, checks)


async def no_scand(play: Play) -> Result:
    """The process that takes messages apart dies with a message in its hands."""
    findings = []
    offered = getattr(play.policies.checks[antivirus.NAME].knobs, "parts_limit", 0)
    for check, late in (("attachments", "undecided"), *([(antivirus.NAME, "undecoded")] if offered else [])):
        waits = getattr(play.policies.checks[check].knobs, "put_off", 0)
        findings.append((check, "temperror" if waits else late))
    expected = expect(play.policies, *findings)
    if expected.kind == "skip":
        return Result("skipped", "-", "-", expected.words)
    return await _without_scand(play, partial(attached, play, b"some octets", "notes.bin"), expected, [*dict(findings)])


async def _without_scand(play: Play, make: Callable[[], Mail], expected: Expected, checks: list[str]) -> Result:
    """It is stopped, so that it certainly has not read the message when it is killed. Every worker is connected: a
    message whose worker is not would wait for the next scand."""
    if why := await _connect(play):
        return why
    pids = (await play.gateway.pids()).get("scand", [])
    for pid in pids:
        os.kill(pid, signal.SIGSTOP)
    mail = make()
    judging = asyncio.create_task(play.judge(mail, expected, "killed with the message in its hands"))
    try:
        while not judging.done() and not any(told["waiting"] for told in await play.gateway.inspectors()):
            continue  # status waits for who does not answer
    finally:
        for pid in pids:
            os.kill(pid, signal.SIGKILL)
    return await recovered(play, await judging, checks, make)


async def _connect(play: Play) -> Result | None:
    """Give every worker something for scand, as long as one never had; what is wrong with that."""
    for _ in range(100):
        if all(told["connected"] for told in await play.gateway.inspectors()):
            return None
        mail = attached(play, b"some octets", "notes.bin")
        reply = await play.send(mail)
    first = await play.stopped(mail, reply) if reply.code != 250 else None
    return first or Result("miss", "scand is used by every worker", f"it is not: {reply.short}")


async def recovered(play: Play, result: Result, checks: Iterable[str], make: Callable[[], Mail] | None = None) -> Result:
    """`result`, if clean mail passes soon again without a mark of `checks`."""
    patience = min(RECOVERY, play.patience)
    if result.state != "ok" or await well(play, checks, make or play.mail, patience):
        return result
    play.patience = LATER  # what stays in trouble must not cost a self-test its two minutes
    return result._replace(state="miss", got=f"{result.got}; not used again within {patience:.0f} s")


async def well(play: Play, checks: Iterable[str], make: Callable[[], Mail], patience: float) -> bool:
    """Whether clean mail passes again without a mark of a check, in so many seconds."""
    with contextlib.suppress(TimeoutError):
        async with asyncio.timeout(patience):
            while True:
                mail = make()
                result = await play.judge(mail, DELIVER)
                play.refused.discard(mail.token)
                if result.state == "skipped":
                    return True
                if result.state == "ok" and not any(f"{check}=" in result.got for check in checks):
                    return True
                if (other := _BY.search(result.got)) and other[1] not in checks and other[2] not in _TROUBLE:
                    return True  # it is stopped by what has nothing to do with this: the row of the clean mail tells
                await asyncio.sleep(0.5)
    return False
