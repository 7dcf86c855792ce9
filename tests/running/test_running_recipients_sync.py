"""Lists of recipients that a running gateway fetches: the first one, a later one, a source that is away, status."""

from collections.abc import Callable
from pathlib import Path

import pytest

from tests.peers.gateway import Gateway
from tests.peers.policies import plain
from tests.peers.ports import wait_for
from tests.running.talking import asked

pytestmark = pytest.mark.peer
FILES = plain() | {"recipient.toml": 'tables = ["synced:staff"]\ncallahead = false\n'}


def listed(source: Path, *more: str) -> str:
    return "\n".join(["[recipients.staff]", 'kind = "csv"', f'source = "{source}"', *more, ""])


def test_from_the_first_start_on(gateway: Callable[..., Gateway], tmp_path: Path) -> None:
    source = tmp_path / "export.csv"
    made = gateway(policies=FILES, more=listed(source), workers=1)
    assert asked(made.port, "ann@example.com").startswith("451 4.1.1 "), "nobody is refused while there is no list"
    assert asked(made.port, "postmaster@example.com") == "250 2.1.5 Ok"
    wait_for(lambda: "recipients are not synced" in made.log(), 15, "the first try")
    (said,) = [text for text in made.status()["degraded"] if text.startswith("recipients staff:")]
    assert "there is no list yet" in said and "export.csv: No such file" in said
    assert "the list staff is not there yet" in made.cli("check").stdout

    source.write_text("mail\nann@example.com\nBob@Example.com\neve@other.example\n")
    done = made.cli("recipients", "sync")
    assert done.stdout == "staff: 2 recipients, +2 -0 (1 of other domains, 0 no address)\n"
    wait_for(lambda: asked(made.port, "ann@example.com") == "250 2.1.5 Ok", 15, "the list in force")
    assert asked(made.port, "BOB+x@example.com") == "250 2.1.5 Ok"
    assert asked(made.port, "nobody@example.com").startswith("550 5.1.1 ")
    assert made.status()["degraded"] == []
    (facts,) = [
        found["recipients"]["staff"] for name, found in made.status()["dependencies"].items() if name == "syncd.0"
    ]
    assert facts["state"] == "well" and facts["known"] == 2 and facts["age"].endswith(" s") and "min" in facts["next"]
    assert "recipients: staff state well, known 2, age" in made.cli("status").stdout
    assert "never fetched" not in made.cli("check").stdout

    source.unlink()
    failed = made.cli("recipients", "sync", "staff", check=False)
    assert failed.returncode == 1 and "staff: the list of 2 stays:" in failed.stderr
    assert asked(made.port, "ann@example.com") == "250 2.1.5 Ok"
    assert made.status()["degraded"] == [], "old is not stale"
    (facts,) = [
        found["recipients"]["staff"] for name, found in made.status()["dependencies"].items() if name == "syncd.0"
    ]
    assert facts["state"] == "in trouble" and "No such file" in facts["trouble"]


def test_on_the_schedule(gateway: Callable[..., Gateway], tmp_path: Path) -> None:
    source = tmp_path / "export.csv"
    source.write_text("ann@example.com\nbob@example.com\neve@example.com\n")
    made = gateway(policies=FILES, more=listed(source, 'every = "2s"'), workers=1)
    wait_for(lambda: asked(made.port, "bob@example.com") == "250 2.1.5 Ok", 15, "the first list")
    source.write_text("ann@example.com\neve@example.com\n")
    wait_for(lambda: asked(made.port, "bob@example.com").startswith("550 5.1.1 "), 20, "the second list")
    assert asked(made.port, "ann@example.com") == "250 2.1.5 Ok"
