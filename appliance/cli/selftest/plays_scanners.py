"""Whether the operator's own scanners find what they are there for: the test files of viruses and of spam.

Contract: each is judged by what it says itself, the scripted scanners say clean or are not asked. What failure means for
the mail: none.
"""

import re
from collections.abc import Iterable, Mapping
from functools import partial
from typing import Any

from appliance.checks import antispam, antivirus
from appliance.cli.selftest.expect import Expected, absent, expect, off, only_watched
from appliance.cli.selftest.places import line_of
from appliance.cli.selftest.play import Play, Result, Scenario
from appliance.cli.selftest.plays_content import attached
from appliance.cli.selftest.scanners import asked_by, heard
from appliance.cli.selftest.scene import Scene, alone_of
from appliance.cli.selftest.scripted import EICAR, GTUBE
from appliance.connectors import yara
from appliance.mail.scan import ScanResult

#: Those that must know GTUBE; amavisd may have been told not to look for spam.
SCORE_SPAM = antispam.KINDS - {"amavis"}
_EICAR_RULE = re.compile(rb"^\s*(?:(?:private|global)\s+)*rule\s+\w*eicar", re.IGNORECASE | re.MULTILINE)


def finding(scene: Scene) -> list[Scenario]:
    """Each virus scanner by itself, all spam scanners with one mail."""
    kinds = {name: entry.kind for name, entry in scene.theirs.wiring.scanners.items()}
    viruses = [name for name, kind in kinds.items() if kind in antivirus.KINDS]
    found = [Scenario(f"your {name} finds EICAR", partial(_virus, name=name), beside=True) for name in viruses]
    return [*(found or [Scenario("your virus scanners", _no_virus_scanner)]), Scenario("your spam scanners", _spam)]


async def _no_virus_scanner(_: Play) -> Result:
    return Result("skipped", "-", "-", f"no [scanners.NAME] of kind {', '.join(sorted(antivirus.KINDS))} is configured")


async def _virus(play: Play, name: str) -> Result:
    """The check asks one after the other until one finds something, so that one that is blind is vouched for by the
    others: about this mail no other is asked."""
    entry = play.scene.theirs.wiring.scanners[name]
    checks, why = asked_by(play.policies, name, entry, absent)
    if antivirus.NAME not in checks or name in play.dead:
        return Result("skipped", "-", "-", play.dead.get(name) or why or "antivirus does not ask it")
    mail = attached(play, EICAR, "eicar.com.txt", "text/plain", alone_of(name))
    reply = await play.send(mail)
    result = await play.compare(mail, reply, _expected(play, "infected"))
    if result.state == "miss":
        verdicts = await play.gateway.verdicts(mail.sender)
        found: dict[str, Any] = next((one for one in verdicts if one["check"] == antivirus.NAME), {})
        if (
            (outcome := str(found.get("outcome", ""))) == "clean"
            and entry.kind == yara.KIND
            and not _know_eicar(play.scene.rules)
        ):
            return Result("skipped", "-", "-", "no rule in policies/yara has EICAR in its name, and none fits it")
        if meant := _meant(play, outcome, found.get("evidence", {}).get("scanners", ())):
            result = await play.compare(mail, reply, _expected(play, outcome))
            result = result._replace(why="; ".join(filter(None, (meant, result.why))))
    if result.state == "skipped":
        return result
    return result._replace(why="; ".join(filter(None, (f"{name} alone is asked", result.why))))


def _expected(play: Play, outcome: str) -> Expected:
    finding = (antivirus.NAME, outcome)
    return only_watched(*finding) if off(play.policies, antivirus.NAME) else expect(play.policies, finding)


def _know_eicar(rules: Mapping[str, bytes]) -> bool:
    return any(_EICAR_RULE.search(text) for text in rules.values())


def _meant(play: Play, outcome: str, facts: Iterable[Mapping[str, Any]]) -> str:
    """Why `outcome` is what was found, where the operator wants less than "infected" to be made of it; or ""."""
    knobs = play.policies.checks[antivirus.NAME].knobs
    assert isinstance(knobs, antivirus.Policy)
    for fact in facts:
        said = ScanResult(kind=fact["kind"], scanner=fact["scanner"], names=tuple(fact.get("names", ())))
        if not said.names or antivirus.outcome(said, knobs.names) != outcome:
            continue
        if said.kind == "suspicious":
            return f'{said.names[0]} has kind = "suspicious"'
        line = line_of(antivirus.NAME, play.scene.policy_folders, ("names",))
        return f"{said.names[0]}: {line} has names by which that is {outcome}"
    return ""


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
