"""The operator's policy services and milters: a clean mail goes past each of them before all else, and each has a row.

Contract: all are asked at the same time, each about a stranger of its own, so that one that hangs costs the time of one.
Status tells who was asked and did not answer, whatever the default makes of the mail. Who does not answer, or stops a
clean mail, is to be left out, so that it does not spoil what is not about it. What failure means for the mail: none.
"""

import asyncio
import time
from collections.abc import Iterable, Iterator, Mapping
from typing import Any, NamedTuple

from appliance.checks import milters, policy_services
from appliance.cli.selftest.earlier import Decided
from appliance.cli.selftest.expect import absent
from appliance.cli.selftest.play import Play, Result
from appliance.cli.selftest.scene import HONEST, PATIENCE
from appliance.cli.selftest.scene_services import KNOBS
from appliance.cli.selftest.stranger import Reply
from appliance.config.snapshot import Snapshot

Row = tuple[str, Result, float]
#: What one is called, and all of them in status.
_WORDS = {policy_services.NAME: ("policy service", "policy services"), milters.NAME: ("milter", "milters")}
#: Outcomes by which a service puts off, as those that greylist do.
_PUTS_OFF = frozenset({"defer", "defer_if_permit", "defer_if_reject", "tempfail"})
_WITHOUT = "the rest is played without it"
#: Seconds that a mail may take on its way past one of them, whatever that is asked at how many stages.
ASKING = 20.0


class Service(NamedTuple):
    """One that is configured."""

    check: str
    name: str

    @property
    def words(self) -> str:
        return f"{_WORDS[self.check][0]} {self.name}"

    @property
    def row(self) -> str:
        return f"your {self.words} answers"


class Told(NamedTuple):
    """What a clean mail showed of one. `out`: others are played without it."""

    row: Row
    out: bool = False


def configured(snapshot: Snapshot) -> Iterator[Service]:
    """All of them, in the order in which they are asked."""
    for check, (knob, _) in KNOBS.items():
        for entry in getattr(snapshot.policies.checks[check].knobs, knob):
            yield Service(check, entry.name)


async def answering(
    play: Play, wanted: Iterable[Service], strangers: Mapping[tuple[str, str], str], last: bool = False
) -> dict[Service, Told]:
    """A clean mail goes past each, from its own stranger. Unless it is the `last` time, those that it did not reach,
    because another check stopped it, are not told of yet."""
    listed = list(wanted)
    found = await asyncio.gather(*(_asked(play, one, strangers.get(one, HONEST), last) for one in listed))
    return {one: told for one, told in zip(listed, found, strict=True) if told is not None}


async def _asked(play: Play, one: Service, address: str, last: bool) -> Told | None:
    began, reply = time.monotonic(), Reply(0, f"no answer within {ASKING:.0f} s")
    try:
        async with asyncio.timeout(ASKING):
            reply = await play.send(play.mail(), play.stranger(address))
    except TimeoutError:
        pass  # it is seen in status who was asked
    decided = await play.gateway.decided(reply) if reply.code != 250 else None
    facts = (await known(play)).get(one, {})
    seconds = time.monotonic() - began
    if is_silent(facts):
        return Told((one.row, _silent(play, one, facts), seconds), out=True)
    if decided is not None and one == (decided.check, decided.reason.partition(":")[0]):
        return Told((one.row, _stopped(decided, reply.short), seconds), out=True)
    if last or reply.code == 250 or facts.get("state") == "well":
        return Told((one.row, _row(play, one, facts, decided, reply), seconds))
    return None


async def known(play: Play) -> dict[Service, Mapping[str, Any]]:
    """What status knows of each; trouble of one worker before what others say."""
    found: dict[Service, Mapping[str, Any]] = {}
    for worker in (await play.gateway.status())["dependencies"].values():
        for check, (_, section) in _WORDS.items():
            for name, facts in worker.get(section, {}).items():
                one = Service(check, name)
                if name != "degraded" and (
                    one not in found or is_silent(facts) or found[one]["state"] == "not asked yet"
                ):
                    found[one] = facts
    return found


def is_silent(facts: Mapping[str, Any]) -> bool:
    """Whether it was asked and did not answer."""
    return any(facts.get(key) for key in ("last trouble", "default taken", "failed for"))


def _silent(play: Play, one: Service, facts: Mapping[str, Any]) -> Result:
    """The row of one that was asked and did not answer."""
    if not (trouble := facts.get("last trouble", "")):
        return Result("miss", "an answer", "none, though it is there now", _WITHOUT)
    where = f"{facts['address']}: " if "address" in facts else ""
    knob, timeouts = KNOBS[one.check]
    listed = getattr(play.scene.theirs.policies.checks[one.check].knobs, knob)
    theirs = max((getattr(entry, key) for entry in listed if entry.name == one.name for key in timeouts), default=0.0)
    hurried = f" within {PATIENCE:.0f} s" in trouble and theirs > PATIENCE
    own = f"; {PATIENCE:.0f} s are the self-test's own limit, yours are {theirs:g} s" if hurried else ""
    return Result("miss", "an answer", where + trouble.partition(": ")[2], _WITHOUT + own)


def _stopped(decided: Decided, reply: str) -> Result:
    """The row of one that answers, and lets no clean mail in. Whether it greylists, or is in trouble, time would tell."""
    if decided.outcome in _PUTS_OFF:
        why = f"it puts off a stranger's clean mail ({reply}), as who greylists does, or who is in trouble: {_WITHOUT}"
        return Result("skipped", "-", "-", why)
    return Result("miss", "an answer that lets a clean mail in", reply, _WITHOUT)


def _row(play: Play, one: Service, facts: Mapping[str, Any], decided: Decided | None, reply: Reply) -> Result:
    if why := absent(play.policies, one.check):
        return Result("skipped", "-", "-", why)
    if facts.get("state") == "well":
        return Result("ok", "an answer", "an answer", "a clean mail")
    if decided is not None:
        return Result("skipped", "-", "-", f"{decided.check}:{decided.outcome} stops a clean mail before it is asked")
    if not reply.code:
        return Result("miss", "an answer", f"it did not answer or was not reached in time (a clean mail: {reply.text})")
    return Result("skipped", "-", "-", "it is not asked about a stranger's clean mail (its stages, roles, conditions)")
