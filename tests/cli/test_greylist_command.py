"""`postgate greylist` and `postgate recipients show|forget` against a real stated."""

import json
import signal
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
from click.testing import CliRunner

from appliance.cli import greylist, recipients
from appliance.stores import wire
from appliance.stores.console import Console

MAIN = Path(__file__).parents[1] / "daemons" / "stated_main.py"


@pytest.fixture
def config() -> Iterator[Path]:
    with tempfile.TemporaryDirectory() as folder:
        root = Path(folder)
        (root / "run").mkdir()
        (root / "policies").mkdir()
        (root / "config.toml").write_text('[gateway]\nstate_dir = "."\n')
        listening = socket.socket(socket.AF_UNIX)
        listening.bind(str(root / "run" / "stated.sock"))
        listening.listen(8)
        process = subprocess.Popen(
            [sys.executable, str(MAIN), str(listening.fileno()), folder], pass_fds=[listening.fileno()]
        )
        listening.close()
        yield root / "config.toml"
        process.send_signal(signal.SIGKILL)
        process.wait()


def step(config: Path, sender: str, client: str = "192.0.2.1", delay: float = 90.0) -> str:
    with Console(config.parent / "run" / "stated.sock", 20) as console:
        asked = wire.Step((f"net:{client}/24",), sender, "bob@example.com", client, delay, 172800.0, 3110400.0, 5)
        return str(console.ask(asked)[0])


def run(command: object, config: Path, *arguments: str) -> tuple[int, str]:
    result = CliRunner().invoke(command, [*arguments, "--config", str(config)])  # type: ignore[arg-type]
    return result.exit_code, result.output


def listed(config: Path, match: str, count: int, *more: str) -> list[str]:
    """The list once `count` records are on disk (they are written within a fraction of a second)."""
    until = time.monotonic() + 10
    while True:
        lines = run(greylist.command, config, "list", match, *more)[1].splitlines()
        lines = [] if lines in (["The greylist is empty"], ["The greylist has no such records"]) else lines
        if len(lines) == count or time.monotonic() > until:
            return lines
        time.sleep(0.02)


def test_list_show_delete(config: Path) -> None:
    for sender in ("ann@example.org", "cid@example.net"):
        assert step(config, sender) == "new"
    lines = listed(config, "", 2)
    assert [line.split(" waits since ")[0] for line in lines] == [
        "net:192.0.2.1/24 ann@example.org bob@example.com:",
        "net:192.0.2.1/24 cid@example.net bob@example.com:",
    ]
    assert len(listed(config, "EXAMPLE.ORG", 1)) == 1
    facts = json.loads(listed(config, "example.org", 1, "--json")[0])
    assert facts["key"] == ["net:192.0.2.1/24", "ann@example.org", "bob@example.com"]
    assert abs(facts["first"] - time.time()) < 60
    code, text = run(greylist.command, config, "show", "Ann+x@example.org", "Bob@example.com")
    assert (code, [line.split()[0] for line in text.splitlines()]) == (0, ["triplet", "pair"])
    assert run(greylist.command, config, "delete", "ann@example.org", "bob@example.com") == (0, "2 records forgotten\n")
    assert step(config, "ann@example.org") == "new"
    assert run(greylist.command, config, "delete", "nobody@example.org", "bob@example.com")[0] == 1


def test_pass_lets_a_pair_in_from_everywhere(config: Path) -> None:
    assert step(config, "ann@example.org") == "new"
    assert run(greylist.command, config, "pass", "ann@example.org", "bob@example.com")[0] == 0
    assert step(config, "ann@example.org", "198.51.100.9") == "known"
    assert step(config, "cid@example.org", "198.51.100.9") == "new"


def test_origins_that_passed_are_listed_and_forgotten(config: Path) -> None:
    step(config, "ann@example.org", delay=0.05)
    time.sleep(0.06)
    assert step(config, "ann@example.org", delay=0.05) == "passed"
    [line] = listed(config, "", 1, "--kind", "origin")
    assert line.startswith("net:192.0.2.1/24: passed 1 time,")
    assert run(greylist.command, config, "delete", "net:192.0.2.1/24", "--kind", "origin")[0] == 0
    assert listed(config, "", 0, "--kind", "origin") == []


def test_without_a_gateway_it_says_what_to_do(tmp_path: Path) -> None:
    (tmp_path / "config.toml").write_text('[gateway]\nstate_dir = "state"\n')
    code, text = run(greylist.command, tmp_path / "config.toml", "list")
    assert code == 1
    assert "no gateway is running here" in text
    assert f"postgate run --config {tmp_path}" in text


def test_recipients_show_and_forget(config: Path) -> None:
    with Console(config.parent / "run" / "stated.sock", 20) as console:
        console.ask(wire.ProbePut("eve@example.com", "unknown", "550 5.1.1 no", "smtp:[inner]:25", 86400.0))
    (config.parent / "policies" / "recipients").write_text("bob@example.com ok\n")
    code, text = run(recipients.command, config, "show", "eve@example.com")
    assert code == 1
    assert "listed     no" in text
    assert "unknown since" in text
    assert run(recipients.command, config, "show", "bob@example.com")[0] == 0
    assert run(recipients.command, config, "forget", "eve@example.com")[0] == 0
    assert run(recipients.command, config, "forget", "eve@example.com")[0] == 1
    assert "nothing remembered" in run(recipients.command, config, "show", "eve@example.com")[1]
