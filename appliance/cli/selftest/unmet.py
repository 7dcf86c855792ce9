"""What a scenario needs and does not get: a greeting, a keyword of EHLO, its mail inside as it has to be."""

from collections.abc import Callable

from appliance.cli.selftest.play import Mail, Play, Result
from appliance.cli.selftest.scene import HONEST
from appliance.cli.selftest.stranger import PATIENCE, Stranger
from appliance.daemons.fronts.networks import listed


async def ungreeted(play: Play, stranger: Stranger) -> Result | None:
    """The result where the greeting is another than 220, or none in time."""
    if (greeting := stranger.greeting).code == 220:
        return None
    wait = getattr(play.policies.checks["early_talker"].knobs, "wait", 0.0)
    if greeting.silent and wait >= PATIENCE:
        return Result("skipped", "-", "-", f"{greeting.text}: early_talker.toml has wait = {wait:.0f} s")
    return await play.stopped(play.mail(), greeting) or Result("miss", "220 as greeting", greeting.short)


def not_offered(play: Play, keyword: str) -> Result:
    """A miss, unless the listener says so."""
    for rule in play.snapshot.wiring.listen[0].ehlo_off:
        if keyword in (word.upper() for word in rule.keywords) and listed(HONEST, rule.networks):
            return Result("skipped", "-", "-", f"not offered: ehlo_off of your listener names {keyword}")
    return Result("miss", "offered", "not offered", f"nothing takes {keyword} away")


async def arrived_as(play: Play, mail: Mail, result: Result, holds: Callable[[bytes], bool], otherwise: str) -> Result:
    """`result`; a miss that says `otherwise` where the mail was delivered and what is inside does not hold."""
    arrived = await play.inner.has(mail.token.encode(), 0.1)
    if result.state == "ok" and (arrived is None or not holds(arrived)):
        return result._replace(state="miss", got=otherwise)
    return result
