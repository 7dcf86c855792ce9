"""The operator's policy services and milters: a clean mail goes past them before all else, and each has a row.

Contract: status tells who was asked and did not answer, whatever the default makes of the mail. Who does not answer, or
stops a clean mail, is taken out of the temporary gateway's files, so that it does not spoil what is not about it. What
failure means for the mail: none.
"""

import time
from collections.abc import Iterable, Iterator, Mapping
from typing import Any, NamedTuple

from appliance.checks import milters, policy_services
from appliance.cli.selftest.earlier import Decided
from appliance.cli.selftest.expect import absent
from appliance.cli.selftest.play import Play, Result
from appliance.cli.selftest.stranger import Reply
from appliance.config.snapshot import Snapshot

Row = tuple[str, Result, float]
#: Checks that ask services of the operator's: the knob with these, what one is called, and all of them in status.
KINDS = {
    policy_services.NAME: ("services", "policy service", "policy services"),
    milters.NAME: ("milters", "milter", "milters"),
}
#: Outcomes by which a service puts off, as those that greylist do.
_PUTS_OFF = frozenset({"defer", "defer_if_permit", "defer_if_reject", "tempfail"})
_LATE = Result("skipped", "-", "-", "not asked: others took the time that there is for all services (see their rows)")
_WITHOUT = "the rest is played without it"


class Service(NamedTuple):
    """One that is configured."""

    check: str
    name: str

    @property
    def row(self) -> str:
        return f"your {KINDS[self.check][1]} {self.name} answers"


def configured(snapshot: Snapshot) -> Iterator[Service]:
    """All of them, in the order in which they are asked."""
    for check, (knob, _, _) in KINDS.items():
        for entry in getattr(snapshot.policies.checks[check].knobs, knob):
            yield Service(check, entry.name)


async def answering(play: Play, wanted: Iterable[Service], until: float, last: bool = False) -> dict[Service, Row]:
    """A clean mail goes past all of them, again without those that stop it or do not answer, but not after `until`.
    Unless it is the `last` time, those that it did not reach because another check stopped it get no row yet."""
    told: dict[Service, Row] = {}
    left = list(wanted)
    while left:
        if (began := time.monotonic()) > until:
            return told | {one: (one.row, _LATE, 0.0) for one in left}
        reply = await play.send(play.mail())
        decided = await play.gateway.decided(reply) if reply.code != 250 else None
        facts = await _facts(play)
        out = {one: miss for one in left if (miss := _silent(facts.get(one, {})))}
        if not out and decided is not None and (one := Service(decided.check, decided.reason.partition(":")[0])) in left:
            out[one] = _stopped(decided, reply.short)
        seconds = time.monotonic() - began
        if not out:
            known = {one: facts.get(one, {}) for one in left}
            sure = [one for one in left if last or reply.code == 250 or known[one].get("state") == "well"]
            return told | {one: (one.row, _row(play, one, known[one], decided, reply), seconds) for one in sure}
        told |= {one: (one.row, result, seconds) for one, result in out.items()}
        left = [one for one in left if one not in out]
        play.snapshot = play.scene.without_services(out)
        await play.gateway.reload()
    return told


async def _facts(play: Play) -> dict[Service, Mapping[str, Any]]:
    """What status knows of each; trouble of one worker before what others say."""
    found: dict[Service, Mapping[str, Any]] = {}
    for worker in (await play.gateway.status())["dependencies"].values():
        for check, (_, _, section) in KINDS.items():
            for name, facts in worker.get(section, {}).items():
                one = Service(check, name)
                if name != "degraded" and (one not in found or _silent(facts) or found[one]["state"] == "not asked yet"):
                    found[one] = facts
    return found


def _silent(facts: Mapping[str, Any]) -> Result | None:
    """The row of one that was asked and did not answer."""
    if trouble := facts.get("last trouble", ""):
        where = f"{facts['address']}: " if "address" in facts else ""
        return Result("miss", "an answer", where + trouble.partition(": ")[2], _WITHOUT)
    if facts.get("default taken") or facts.get("failed for"):
        return Result("miss", "an answer", "none, though it is there now", _WITHOUT)
    return None


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
