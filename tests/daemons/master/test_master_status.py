"""What status makes of the answers of the processes."""

from types import SimpleNamespace
from typing import Any, cast

from appliance.cli.status import lines, shown
from appliance.daemons import control
from appliance.daemons.master import status
from appliance.daemons.master.children import Child


def test_scanners_with_the_age_of_their_last_answer_stand_among_the_dependencies() -> None:
    health: dict[str, Any] = {
        "dns": {"cached": 3},
        "scanner clamav (clamd)": {"state": "well", "last answer": "3 s ago"},
        "milters": {"sign": {"state": "well"}},
        "sessions": 4,
        "degraded": [],
    }
    child = cast(Child, SimpleNamespace(worker="smtpd.0"))
    found = status.dependencies([child], {"smtpd.0": control.Answer(1, health=health)})
    assert set(found["smtpd.0"]) == {"dns", "milters", "scanner clamav (clamd)"}
    facts: dict[str, Any] = dict.fromkeys(("version", "hostname", "state", "config", "running", "state_dir"), "x")
    facts |= {
        "now": 2.0,
        "since": 1.0,
        "on_disk": {"same": True},
        "last_reload": None,
        "reloading": 0,
        "listening": {},
        "workers": [],
    }
    facts |= {"certificates": {}, "separation": "", "queue": None, "dependencies": found, "degraded": []}
    page = "\n".join(lines(facts))
    assert "scanner clamav (clamd): state well, last answer 3 s ago" in page


def test_nested_facts_are_shown_without_brackets() -> None:
    assert shown({"blind": [], "servers": {"192.0.2.53:53": 0}}) == "blind none, servers 192.0.2.53:53 0"
    assert shown([{"name": "smtp:[a]:25", "dead": True}, {"name": "b"}]) == "name smtp:[a]:25, dead True; name b"
