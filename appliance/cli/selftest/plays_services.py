"""Each policy service and milter of the operator's away: what its default says must become of a clean mail.

Contract: only those are played that were asked about a clean mail, and answered. Nobody is at the address meanwhile;
that it was asked in vain is seen in status, whatever the default does. What failure means for the mail: none.
"""

from collections.abc import Iterator
from functools import partial

from appliance.checks import milters, policy_services
from appliance.cli.selftest import services
from appliance.cli.selftest.expect import Expected, expect, off
from appliance.cli.selftest.play import Play, Result, Scenario
from appliance.cli.selftest.scanners import recovered
from appliance.cli.selftest.scene import Scene, free_port
from appliance.cli.selftest.services import Service
from appliance.engine.rules import PolicySet
from appliance.mail import replies
from appliance.mail.actions import read_entry
from appliance.mail.milter import Said
from appliance.mail.verdict import Action

#: Where a mail goes then is not known here.
_ELSEWHERE = frozenset({Action.REDIRECT, Action.FILTER})
#: The code of who hangs up: it is of no class that an action makes.
_CLOSING = 421


def away(scene: Scene) -> Iterator[Scenario]:
    """All that are configured."""
    for one in services.configured(scene.theirs):
        yield Scenario(f"your {one.words} away", partial(_away, one=one))


async def _away(play: Play, one: Service) -> Result:
    told = play.services.get(one)
    if why := off(play.policies, one.check):
        return Result("skipped", "-", "-", why)
    if told is None or told.state != "ok":
        return Result("skipped", "-", "-", f'see "{one.row}"')
    default, outcome, reply = _default(play.policies, one)
    if play.policies.checks[one.check].rulings[outcome].action in _ELSEWHERE:
        return Result("skipped", "-", "-", f"its default, {default}, sends mail elsewhere")
    play.scene.services.away(*one, free_port())
    await play.gateway.reload()
    try:
        result = await play.judge(play.mail(), with_reply(expect(play.policies, (one.check, outcome)), reply), default)
        if result.state == "ok" and not services.is_silent((await services.known(play)).get(one, {})):
            result = result._replace(state="miss", got=f"{result.got}; it was not asked")
    finally:
        play.scene.services.together()
        await play.gateway.reload()
    return await recovered(play, result, [one.check])


def _default(policies: PolicySet, one: Service) -> tuple[str, str, str]:
    """The default of a service in words, what outcome it makes of a clean mail, its own reply ("": the policy's)."""
    knobs = policies.checks[one.check].knobs
    if isinstance(knobs, milters.Policy):
        milter = next(entry for entry in knobs.milters if entry.name == one.name)
        failed = Said(word="failed")
        verdict = milters.decide(milter, failed, "mail") or milters.accepted([(milter, failed)], (), "message")
        return f'default = "{milter.default}"', verdict.outcome, verdict.reply
    assert isinstance(knobs, policy_services.Policy)
    service = next(asked for asked in knobs.services if asked.name == one.name)
    entry = read_entry(service.default, "other")
    early = {*service.stages} <= policy_services.BEFORE_MAIL and entry.outcome in policy_services.OF_MESSAGE
    return f'default = "{service.default}"', "warn" if early else entry.outcome, entry.reply


def with_reply(expected: Expected, reply: str) -> Expected:
    """`expected`, where the default has a reply of its own."""
    if not reply or expected.kind not in ("refuse", "defer"):
        return expected
    refusal = replies.parse(reply)
    code = refusal.code if expected.code == _CLOSING else replies.as_class(refusal, expected.kind == "refuse").code
    return expected._replace(code=code, words=f"{code} {expected.words.partition(' ')[2]}")
