"""`postgate selftest` as operators run it: on the embedded default, with real scanners, on files that refuse early, with
scanners that are not there, on files that must miss, and --live against a running gateway."""

import contextlib
import json
import os
import signal
import smtplib
import subprocess
import tempfile
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import apsw
import pytest

from tests.interop.selftest_runs import Played, Runs, asked_for, selftest, wiring
from tests.peers import clamd, rspamd, spamd
from tests.peers.gateway import POSTGATE, ROOT, Gateway
from tests.peers.inner import Inner
from tests.peers.ports import wait_for

#: Whoever comes first waits for all that are played at the same time.
pytestmark = pytest.mark.timeout(300)


@pytest.fixture(scope="module")
def runs(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Runs]:
    """Those that tests of this session ask for."""
    base = tmp_path_factory.getbasetemp()
    made = Runs((base.parent if "PYTEST_XDIST_WORKER" in os.environ else base) / "st", asked_for(request, "played"))
    yield made
    made.close()


@pytest.fixture
def played(request: pytest.FixtureRequest, runs: Runs) -> Played:
    return runs[request.param]


@pytest.mark.parametrize("played", ["embedded"], indirect=True)
def test_the_embedded_default_passes_within_two_minutes(played: Played) -> None:
    assert played.named("miss") == {} and played.status == 0, played.said
    assert set(played.named("skipped")) == {"your virus scanners", "your spam scanners"}
    assert len(played.rows) >= 31 and played.seconds < 120
    assert list(Path(played.folder).glob("[!t]*")) == [], "the folder it was called in is not written to"


@pytest.mark.peer
@pytest.mark.parametrize("played", ["real"], indirect=True)
def test_real_scanners_are_asked_and_each_plays_away(played: Played) -> None:
    assert played.named("miss") == {} and played.status == 0, (played.named("miss"), played.said)
    kinds = {
        "program": True,
        "clamav": clamd.available(),
        "rspamd": rspamd.available(),
        "spamassassin": spamd.available(),
    }
    for name in (name for name, there in kinds.items() if there):
        assert played.named("ok")[f"your {name} answers"].startswith("expected an answer: clean, got clean in ")
        expected = "delivered, marked antispam=error" if name in ("rspamd", "spamassassin") else "451 "
        assert f"got {expected}" in played.named("ok")[f"your {name} away"]
    if all(kinds.values()):
        assert played.named("skipped") == {}
    assert not (Path(played.folder) / "never-touched").exists()


@pytest.mark.parametrize("played", ["strict"], indirect=True)
def test_who_is_refused_early_by_an_honest_configuration_is_skipped_with_the_file(played: Played) -> None:
    assert played.named("miss") == {} and played.status == 0, (played.named("miss"), played.said)
    file = f"{played.folder}/policies/rdns.toml"
    for name in ("greylist: first, early, late", "greylist: a pool of addresses"):
        why = played.named("skipped")[name]
        assert f'rdns stops this stranger first: none (203.0.113.9); [on] none = "reject" in {file}' in why
    assert "antispam is in mode off" in played.named("skipped")["your r answers"]
    assert "got 550 5.7.23" in played.named("ok")["SPF fail"]
    assert {"clean mail", "DNS away"} <= set(played.named("ok")), "a network of ours is no relay"
    assert "unknown recipient" in played.named("ok"), "a list that is fetched is there, and nobody is asked for it"
    killed = played.named("ok")["kill -9 of each process"]
    assert {"smtpd", "scand"} <= set(killed.replace(",", "").split()), killed
    assert not (Path(played.folder) / "never-touched").exists()


@pytest.mark.parametrize("played", ["dead"], indirect=True)
def test_who_does_not_answer_is_one_miss_and_spoils_nothing_else(played: Played) -> None:
    missed = played.named("miss")
    assert played.status == 1
    assert set(missed) == {"your clamav answers", "your program answers", "your policy service grey answers"}
    assert "127.0.0.1:1: cannot connect" in missed["your clamav answers"]
    assert "got /no/such/clamscan: exit code 127: cannot run" in missed["your program answers"]
    assert "waiting for the program /no/such/clamscan" in missed["your program answers"]
    for name in ("your clamav finds EICAR", "your clamav away"):
        assert "your clamav does not answer" in played.named("skipped")[name]
    wanted = {"clean mail", "EICAR, plain", "virus scanner away", "scand away", "DNS away", "inner server away and back"}
    assert wanted <= set(played.named("ok")), played.rows
    assert "greylist is in mode off" in played.named("skipped")["greylist: first, early, late"]


@pytest.mark.parametrize("played", ["listed"], indirect=True)
def test_what_the_files_break_is_a_miss_and_names_who_did_it(played: Played) -> None:
    assert played.status == 1 and set(played.named("miss")) == {"clean mail"}, played.rows
    assert "554 5.7.1" in played.named("miss")["clean mail"] and "by access:reject" in played.named("miss")["clean mail"]
    why = played.named("skipped")["greylist: a pool of addresses"]
    assert "access stops this stranger first" in why and f"{played.folder}/policies/access/client.cidr" in why


def test_files_that_do_not_run_are_told_with_their_place(tmp_path: Path) -> None:
    config = wiring(tmp_path, "[smtp]\nsize = 3\n")
    played = selftest(tmp_path, "--config", config)
    assert played.status == 2 and played.rows == [] and "postgate.toml:12:1: " in played.said


def of_session(leader: int) -> list[str]:
    """Command lines of what still runs in a session."""
    found = []
    for stat in Path("/proc").glob("[0-9]*/stat"):
        with contextlib.suppress(OSError):
            state, _, _, session = stat.read_text().rpartition(")")[2].split()[:4]
            if int(session) == leader and state not in "ZX":
                found.append(stat.with_name("cmdline").read_text().replace("\0", " "))
    return found


def test_an_interrupted_one_leaves_no_process_and_no_folder() -> None:
    """Only kill -9 leaves its folder behind: nobody is left to remove it."""
    with contextlib.ExitStack() as stack:  # all at the same time
        numbers = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP, signal.SIGKILL)
        folders = [Path(stack.enter_context(tempfile.TemporaryDirectory())) for _ in numbers]  # short: sockets are in it
        with ThreadPoolExecutor(len(numbers)) as crowd:
            list(crowd.map(_interrupted, numbers, folders))


def _heeds_interrupts() -> None:
    """Tests that run in the background of a shell ignore SIGINT, and so would what they start."""
    signal.signal(signal.SIGINT, signal.SIG_DFL)


def _begun(folder: Path) -> subprocess.Popen[bytes]:
    words = [*POSTGATE, "selftest", "--json", "--only", "greylist"]
    env = {**os.environ, "PYTHONPATH": str(ROOT), "TMPDIR": str(folder)}
    with (folder / "said").open("wb") as said:
        return subprocess.Popen(
            words, cwd=folder, env=env, stdout=said, stderr=said, start_new_session=True, preexec_fn=_heeds_interrupts
        )


def _interrupted(number: signal.Signals, folder: Path) -> None:
    """At work, then ended by a signal."""
    playing = _begun(folder)
    logs = "postgate-selftest-*/mail.log"
    wait_for(lambda: any("451" in log.read_text() for log in folder.glob(logs)), 60, "a stranger who was put off")
    assert len(of_session(playing.pid)) > 5
    playing.send_signal(number)
    status = playing.wait(30)
    wait_for(lambda: not of_session(playing.pid), 20, "the end of all processes")
    if number != signal.SIGKILL:
        assert status == 130 and list(folder.iterdir()) == [folder / "said"]


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


def test_live_asks_the_running_gateway_and_writes_nothing(gateway: Callable[..., Gateway], inner: Inner) -> None:
    inner.known = {"user@example.com", "other@example.com"}
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
    missed = Played(ended.returncode, rows, ended.stderr, 0.0, "").named("miss")
    assert set(missed) <= {"status"}, missed  # its name server is away in this test, and status says so
    assert {row["scenario"] for row in rows} > {"greeting, public", "relay attempts, public", "test recipient, public"}
    assert running.status()["queue"] == before["queue"]
    # Of one of these call-ahead knows something already, and one does not exist.
    for recipient, state in (("other@example.com", "ok"), ("user@example.com", "ok"), ("typo@example.com", "miss")):
        named = running.cli("selftest", "--live", "--json", "--recipient", recipient, check=False)
        rows = [json.loads(line) for line in named.stdout.splitlines()]
        assert ("test recipient, public", state) in [(row["scenario"], row["state"]) for row in rows], rows
    running.stop()
    now = stored(running)
    assert now == remembered, [(name, row) for name in now for row in now[name] if row not in remembered.get(name, [])]


def test_live_is_forgotten_where_clients_wait_for_the_greeting(tmp_path: Path, inner: Inner) -> None:
    """Nobody else comes to this gateway, not even to see whether it greets."""
    running = Gateway(tmp_path / "gateway", inner.port, policies={"early_talker.toml": 'wait = "1s"\n'})
    running.start(wait=False)
    try:
        wait_for(lambda: "running" in running.cli("status", check=False).stdout, 20, "the gateway")
        ended = running.cli("selftest", "--live", "--json", check=False)
        seconds = {row["scenario"]: row["seconds"] for row in map(json.loads, ended.stdout.splitlines())}
        assert seconds["greeting, public"] > 0.9, "the first one waited"
    finally:
        running.stop()
    assert "waiter" not in stored(running), stored(running)


def test_live_without_a_gateway_says_what_to_do(tmp_path: Path) -> None:
    config = wiring(tmp_path)
    played = selftest(tmp_path, "--live", "--config", config)
    assert played.status != 0 and "no gateway is running here" in played.said
