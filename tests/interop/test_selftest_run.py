"""`postgate selftest` as operators run it: on the embedded default, with real clamd and spamd, on files that must miss,
and --live against a running gateway."""

import contextlib
import json
import os
import signal
import smtplib
import subprocess
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import apsw
import pytest

from tests.peers import clamd, spamd
from tests.peers.clamd import Clamd
from tests.peers.gateway import POSTGATE, ROOT, Gateway
from tests.peers.ports import wait_for
from tests.peers.spamd import Spamd

CONFIG = """\
[gateway]
hostname = "mx.example.com"
state_dir = "{root}/never-touched"
policies = "policies"
[[listen]]
address = "127.0.0.1:2"
[relay]
domains = ["example.com"]
next_hop = "smtp:[127.0.0.1]:9"
"""


def selftest(folder: Path, *words: str) -> tuple[int, list[dict[str, Any]], str]:
    """(exit status, rows, what it said on stderr)."""
    ended = subprocess.run(
        [*POSTGATE, "selftest", "--json", *words],
        cwd=folder,
        env={**os.environ, "PYTHONPATH": str(ROOT)},
        capture_output=True,
        text=True,
        timeout=115,
        check=False,
    )
    return ended.returncode, [json.loads(line) for line in ended.stdout.splitlines()], ended.stderr


def wiring(folder: Path, more: str = "") -> str:
    """A wiring file in `folder`, beside a policies folder that may be filled."""
    (folder / "policies").mkdir(exist_ok=True)
    config = folder / "postgate.toml"
    config.write_text(CONFIG.format(root=folder) + more)
    return str(config)


def named(rows: list[dict[str, Any]], state: str) -> dict[str, str]:
    return {row["scenario"]: f"expected {row['expected']}, got {row['got']}" for row in rows if row["state"] == state}


def test_the_embedded_default_passes_within_two_minutes(tmp_path: Path) -> None:
    began = time.monotonic()
    status, rows, said = selftest(tmp_path)
    assert named(rows, "miss") == {} and status == 0, said
    assert set(named(rows, "skipped")) == {"your virus scanners", "your spam scanners"}
    assert len(rows) >= 30 and time.monotonic() - began < 120
    assert list(tmp_path.iterdir()) == [], "the folder it was called in is not written to"


@pytest.mark.peer
@pytest.mark.skipif(not clamd.available(), reason="Debian package clamav-daemon is not installed")
@pytest.mark.skipif(not spamd.available(), reason="Debian package spamd is not installed")
def test_with_real_clamd_and_spamd_nothing_is_skipped_and_a_dead_one_misses(tmp_path: Path) -> None:
    av, judge = Clamd(tmp_path / "clamd"), Spamd(tmp_path / "spamd")
    try:
        av.start()
        judge.start()
        more = f'[scanners.clamav]\nkind = "clamd"\naddress = "{av.address}"\n'
        more += f'[scanners.spamassassin]\nkind = "spamd"\naddress = "{judge.address}"\n'
        config = wiring(tmp_path, more)
        status, rows, said = selftest(tmp_path, "--config", config)
        assert named(rows, "miss") == {} and status == 0, said
        assert named(rows, "skipped") == {}
        av.stop()
        status, rows, _ = selftest(tmp_path, "--config", config, "--only", "your virus")
        assert status == 1 and "your virus scanners" in named(rows, "miss")
    finally:
        av.stop()
        judge.stop()
    assert not (tmp_path / "never-touched").exists()


def test_what_the_files_break_is_a_miss(tmp_path: Path) -> None:
    (tmp_path / "policies/access").mkdir(parents=True)
    (tmp_path / "policies/access/sender").write_text("regular.example REJECT\n")
    config = wiring(tmp_path)
    status, rows, _ = selftest(tmp_path, "--config", config, "--only", "clean mail")
    assert status == 1 and "554 5.7.1" in named(rows, "miss")["clean mail"]


def test_policies_in_force_are_what_is_expected(tmp_path: Path) -> None:
    policies = tmp_path / "policies"
    policies.mkdir()
    (policies / "spf.toml").write_text('[on]\nfail = "reject"\n')
    (policies / "greylist.toml").write_text('mode = "off"\n')
    config = wiring(tmp_path)
    status, rows, _ = selftest(tmp_path, "--config", config, "--only", "SPF fail")
    assert status == 0 and rows[0]["got"].startswith("550 5.7.23")
    status, rows, _ = selftest(tmp_path, "--config", config, "--only", "greylist")
    assert status == 0 and {row["state"] for row in rows} == {"skipped"} and "mode off" in rows[0]["why"]


def test_what_stands_in_the_files_and_is_not_here_costs_no_scenario(tmp_path: Path) -> None:
    """DNS lists, limits of clients, filters, a password in a file beside: none of it is ours."""
    policies = tmp_path / "policies"
    policies.mkdir()
    lists = 'client = ["zen.example.net=127.0.0.[2..11]*3"]\nsender = ["dbl.example.net"]\nthreshold = 3\n'
    (policies / "dnsbl.toml").write_text(lists + '[on]\ntemperror = "defer"\n')
    (policies / "antispam.toml").write_text('mode = "off"\n')  # that rspamd is not there
    (tmp_path / "pw").write_text("secret\n")
    more = "[limits]\nconnection_rate = 1\nmessage_rate = 1\nconnections_per_client = 1\n"
    more += '[scanners.r]\nkind = "rspamd"\naddress = "127.0.0.1:1"\npassword_file = "pw"\n'
    more += '[filters.amavis]\nnext_hop = "smtp:[127.0.0.1]:10024"\n'
    config = wiring(tmp_path, more)
    text = Path(config).read_text().replace("[relay]", 'content_filter = "amavis:"\nproxy_filter = "amavis"\n[relay]', 1)
    back = '[[listen]]\nname = "back"\nrole = "reinject"\naddress = "127.0.0.1:3"\n'
    Path(config).write_text(text.replace("[relay]", back + "[relay]", 1))
    for only in ("clean mail", "SPF fail", "kill -9"):
        status, rows, said = selftest(tmp_path, "--config", config, "--only", only)
        assert status == 0 and rows, (rows, said)
    assert {"smtpd", "scand"} <= set(rows[0]["why"].replace(",", "").split()), rows


def test_files_that_do_not_run_are_told_with_their_place(tmp_path: Path) -> None:
    config = wiring(tmp_path, "[smtp]\nsize = 3\n")
    status, rows, said = selftest(tmp_path, "--config", config)
    assert status == 2 and rows == [] and "postgate.toml:11:1: " in said


def of_session(leader: int) -> list[str]:
    """Command lines of what still runs in a session."""
    found = []
    for stat in Path("/proc").glob("[0-9]*/stat"):
        with contextlib.suppress(OSError):
            state, _, _, session = stat.read_text().rpartition(")")[2].split()[:4]
            if int(session) == leader and state not in "ZX":
                found.append(stat.with_name("cmdline").read_text().replace("\0", " "))
    return found


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM, signal.SIGHUP, signal.SIGKILL])
def test_an_interrupted_one_leaves_no_process_and_no_folder(number: signal.Signals) -> None:
    """Only kill -9 leaves its folder behind: nobody is left to remove it."""
    with tempfile.TemporaryDirectory() as folder:  # a short path: sockets are in it
        _interrupted(number, Path(folder))


def _heeds_interrupts() -> None:
    """Tests that run in the background of a shell ignore SIGINT, and so would what they start."""
    signal.signal(signal.SIGINT, signal.SIG_DFL)


def _interrupted(number: signal.Signals, tmp_path: Path) -> None:
    words = [*POSTGATE, "selftest", "--json", "--only", "greylist"]
    env = {**os.environ, "PYTHONPATH": str(ROOT), "TMPDIR": str(tmp_path)}
    with (tmp_path / "said").open("wb") as said:
        playing = subprocess.Popen(
            words, cwd=tmp_path, env=env, stdout=said, stderr=said, start_new_session=True, preexec_fn=_heeds_interrupts
        )
    logs = "postgate-selftest-*/mail.log"
    wait_for(lambda: any("451" in log.read_text() for log in tmp_path.glob(logs)), 60, "a stranger who was put off")
    assert len(of_session(playing.pid)) > 5
    playing.send_signal(number)
    status = playing.wait(30)
    wait_for(lambda: not of_session(playing.pid), 20, "the end of all processes")
    if number != signal.SIGKILL:
        assert status == 130 and list(tmp_path.iterdir()) == [tmp_path / "said"]


def stored(gateway: Gateway) -> dict[str, list[Any]]:
    """All that stated keeps on disk, but the clock."""
    (path,) = (gateway.root / "state").rglob("*.db")
    database = apsw.Connection(str(path), flags=apsw.SQLITE_OPEN_READONLY)
    try:
        names = [name for (name,) in database.execute("SELECT name FROM sqlite_master WHERE type = 'table'")]
        rows = {name: list(database.execute(f"SELECT * FROM {name} ORDER BY 1")) for name in names if name != "meta"}
    finally:
        database.close()
    return {name: found for name, found in rows.items() if found}


def test_live_asks_the_running_gateway_and_writes_nothing(gateway: Callable[..., Gateway]) -> None:
    running = gateway()
    with smtplib.SMTP("127.0.0.1", running.port, timeout=10) as stranger:  # somebody is remembered
        stranger.ehlo("client.example.org")
        stranger.mail("joe@example.org")
        assert stranger.rcpt("user@example.com")[0] == 451
    running.stop()
    remembered = stored(running)
    assert remembered
    running.start()
    before = running.status()
    ended = running.cli("selftest", "--live", "--json", check=False)
    rows = [json.loads(line) for line in ended.stdout.splitlines()]
    missed = named(rows, "miss")
    assert set(missed) <= {"status"}, missed  # its name server is away in this test, and status says so
    assert {row["scenario"] for row in rows} > {"greeting, public", "relay attempts, public", "test recipient, public"}
    assert running.status()["queue"] == before["queue"]
    running.stop()
    assert stored(running) == remembered


def test_live_without_a_gateway_says_what_to_do(tmp_path: Path) -> None:
    config = wiring(tmp_path)
    status, _, said = selftest(tmp_path, "--live", "--config", config)
    assert status != 0 and "no gateway is running here" in said
