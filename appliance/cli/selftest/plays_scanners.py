"""Whether the operator's own scanners find what they are there for: the test files of viruses and of spam.

Contract: each is judged by what it says itself, the scripted scanners say clean or are not asked. What failure means for
the mail: none.
"""

from collections.abc import Mapping
from functools import partial

from appliance.checks import antispam, antivirus
from appliance.cli.selftest.expect import absent, expect, off, only_watched
from appliance.cli.selftest.play import Play, Result, Scenario
from appliance.cli.selftest.plays_content import attached
from appliance.cli.selftest.scanners import asked_by, heard
from appliance.cli.selftest.scene import Scene
from appliance.cli.selftest.scripted import EICAR, GTUBE
from appliance.connectors.dialects import SCAN_FOR_VIRUSES

#: Those that must know GTUBE; amavisd may have been told not to look for spam.
SCORE_SPAM = antispam.KINDS - {"amavis"}


def finding(scene: Scene) -> list[Scenario]:
    """Each virus scanner by itself, all spam scanners with one mail."""
    kinds = {name: entry.kind for name, entry in scene.theirs.wiring.scanners.items()}
    viruses = {name: kind for name, kind in kinds.items() if kind in antivirus.KINDS}
    tried = [name for name, kind in viruses.items() if kind in SCAN_FOR_VIRUSES]
    found = [Scenario(f"your {name} finds EICAR", partial(_virus, name=name)) for name in tried]
    none = [Scenario("your virus scanners", partial(_no_virus_scanner, kinds=viruses))]
    return [*(found or none), Scenario("your spam scanners", _spam)]


async def _no_virus_scanner(play: Play, kinds: Mapping[str, str]) -> Result:
    why = "; ".join(f"what {name} ({kind}) finds stands in its own rules" for name, kind in kinds.items())
    none = f"no [scanners.NAME] of kind {', '.join(sorted(antivirus.KINDS))} is configured"
    return Result("skipped", "-", "-", why or none)


async def _virus(play: Play, name: str) -> Result:
    """The check asks one after the other until one finds something, so that one that is blind is vouched for by the
    others: here no other is asked."""
    checks, why = asked_by(play.policies, name, play.scene.theirs.wiring.scanners[name], absent)
    if antivirus.NAME not in checks or name in play.dead:
        return Result("skipped", "-", "-", play.dead.get(name) or why or "antivirus does not ask it")
    finding = (antivirus.NAME, "infected")
    expected = only_watched(*finding) if off(play.policies, antivirus.NAME) else expect(play.policies, finding)
    play.scene.alone(name)
    await play.gateway.reload()
    try:
        result = await play.judge(attached(play, EICAR, "eicar.com.txt", "text/plain"), expected)
    finally:
        play.scene.together()
        await play.gateway.reload()
    if result.state == "skipped":
        return result
    return result._replace(why="; ".join(filter(None, (f"{name} alone is asked", result.why))))


async def _spam(play: Play) -> Result:
    """The check asks all of them, and says what each said."""
    scanners = play.scene.theirs.wiring.scanners
    configured = [name for name, entry in scanners.items() if entry.kind in SCORE_SPAM]
    theirs = [name for name in configured if name not in play.dead]
    if configured and not theirs:
        return Result("skipped", "-", "-", "; ".join(play.dead[name] for name in configured))
    if not theirs:
        return Result("skipped", "-", "-", f"no [scanners.NAME] of kind {', '.join(sorted(SCORE_SPAM))} is configured")
    if why := off(play.policies, antispam.NAME):
        return Result("skipped", "-", "-", why)
    mail = play.mail(GTUBE.decode() + "\r\n")
    play.spamd.mute = True
    try:
        result = await play.judge(mail, expect(play.policies, (antispam.NAME, "high")), f"found by {', '.join(theirs)}")
    finally:
        play.spamd.mute = False
    said = heard(await play.gateway.verdicts(mail.sender))
    blind = [name for name in theirs if said.get(name, {}).get("kind") == "clean"]
    if result.state == "ok" and blind:
        return result._replace(state="miss", got=f"{result.got}, {', '.join(blind)}: clean")
    return result
