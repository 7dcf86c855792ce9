"""Lists of recipients that a running gateway fetches: the first one, a later one, a source that is away, status."""

import json
import os
import re
import signal
import threading
from collections.abc import Callable
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import pytest

from tests.peers.gateway import POSTGATE, ROOT, Gateway
from tests.peers.policies import plain
from tests.peers.ports import wait_for
from tests.peers.process import Process
from tests.running.talking import asked

pytestmark = pytest.mark.peer
ENV = {"PYTHONPATH": str(ROOT)}
FILES = plain() | {"recipient.toml": 'tables = ["synced:staff"]\ncallahead = false\n'}


def listed(source: Path, *more: str) -> str:
    return "\n".join(["[recipients.staff]", 'kind = "csv"', f'source = "{source}"', *more, ""])


def test_from_the_first_start_on(gateway: Callable[..., Gateway], tmp_path: Path) -> None:
    source = tmp_path / "export.csv"
    made = gateway(policies=FILES, more=listed(source), workers=1)
    assert asked(made.port, "ann@example.com").startswith("451 4.1.1 "), "nobody is refused while there is no list"
    assert asked(made.port, "postmaster@example.com") == "250 2.1.5 Ok"
    wait_for(lambda: "recipients are not synced" in made.log(), 15, "the first try")
    first = re.findall(r"\[(\w+)\]", asked(made.port, "ann@example.com"))[0]
    status = made.status()
    one = status["touched"]["table synced:staff"]
    assert one["touched"] == 2 and one["last"][-1] == first and "was never fetched" in one["why"], (
        "which mail waits for it"
    )
    (said,) = [text for text in status["degraded"] if text.startswith("recipients staff:")]
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


def test_killed_at_work_the_old_list_stays_and_syncd_comes_back(gateway: Callable[..., Gateway], tmp_path: Path) -> None:
    hang, over = threading.Event(), threading.Event()
    people = ["ann@example.com", "bob@example.com"]

    class Source(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            self.send_response(200)
            self.end_headers()
            self.wfile.write(b"[")
            if hang.is_set():
                over.wait(60)
            self.wfile.write(json.dumps(people).encode()[1:])

        def log_message(self, *_: object) -> None:
            """Nobody reads it."""

    with ThreadingHTTPServer(("127.0.0.1", 0), Source) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        url = f"http://127.0.0.1:{server.server_port}/"
        made = gateway(policies=FILES, more=f'[recipients.staff]\nkind = "http"\nsource = "{url}"\n', workers=1)
        wait_for(lambda: asked(made.port, "ann@example.com") == "250 2.1.5 Ok", 15, "the first list")
        kept = made.root / "state/recipients/staff"
        before = kept.read_bytes()
        hang.set()
        asking = Process([*POSTGATE, "recipients", "sync", "--config", str(made.config)], tmp_path / "sync.log", ENV)
        (pid,) = made.children()["syncd"]
        children = Path(f"/proc/{pid}/task/{pid}/children")
        wait_for(lambda: children.read_text().split(), 15, "the process that fetches")
        (job,) = map(int, children.read_text().split())
        os.kill(pid, signal.SIGKILL)
        wait_for(lambda: not Path(f"/proc/{job}").exists(), 10, "it dies with syncd")
        wait_for(lambda: not asking.running(), 10, "the command to hear of it")
        assert "syncd ended before it had answered" in asking.output()
        asking.stop()
        assert kept.read_bytes() == before and asked(made.port, "ann@example.com") == "250 2.1.5 Ok"
        hang.clear()
        over.set()
        people.append("eve@example.com")
        wait_for(lambda: made.children().get("syncd", [pid]) != [pid], 15, "syncd to come back")
        assert made.cli("recipients", "sync").stdout.startswith("staff: 3 recipients, +1 -0")
        assert {path.name for path in kept.parent.iterdir()} == {"staff", ".staff.json"}
        server.shutdown()


def test_lists_come_and_go_with_a_reload(gateway: Callable[..., Gateway], tmp_path: Path) -> None:
    source = tmp_path / "export.csv"
    source.write_text("ann@example.com\n")
    made = gateway(policies=plain(), workers=1)
    assert "syncd" not in made.children()
    text = made.config.read_text()
    made.config.write_text(text + listed(source))
    failed = made.cli("recipients", "sync", check=False)
    assert failed.returncode == 1 and "the gateway that runs fetches no lists: postgate reload" in failed.stderr
    (made.root / "policies/recipient.toml").write_text(FILES["recipient.toml"])
    assert made.cli("reload").returncode == 0
    wait_for(lambda: asked(made.port, "ann@example.com") == "250 2.1.5 Ok", 15, "the list")
    made.config.write_text(text + listed(source).replace("staff", "people"))
    wrong = made.cli("reload", check=False)
    assert wrong.returncode == 1 and "there is no [recipients.staff]" in wrong.stderr + wrong.stdout
    (made.root / "policies/recipient.toml").write_text("")
    made.config.write_text(text)
    assert made.cli("reload").returncode == 0
    assert made.status()["dependencies"]["syncd.0"] == {"recipients": {}}, "it runs on, without a list"
    assert made.status()["degraded"] == []


def test_a_refused_list_is_told_at_once(gateway: Callable[..., Gateway], tmp_path: Path) -> None:
    source = tmp_path / "export.csv"
    people = [f"u{number}@example.com" for number in range(60)]
    source.write_text("\n".join(people))
    made = gateway(policies=FILES, more=listed(source, 'every = "2s"'), workers=1)
    wait_for(lambda: asked(made.port, people[50]) == "250 2.1.5 Ok", 15, "the first list")
    shorter = tmp_path / "shorter.csv"
    shorter.write_text("\n".join(people[:40]))
    shorter.replace(source)  # at once: nobody reads half of it
    wait_for(lambda: made.status()["degraded"], 15, "the next try")
    (said,) = made.status()["degraded"]
    assert said.startswith("recipients staff: the old list stays: 20 of 60 recipients would go, over 10 %")
    assert asked(made.port, people[50]) == "250 2.1.5 Ok"
    assert "u50@example.com" in made.cli("recipients", "sync", "--dry-run", "--force").stdout
    assert made.cli("recipients", "sync", "--force").stdout.startswith("staff: 40 recipients, +0 -20")
    wait_for(lambda: asked(made.port, people[50]).startswith("550 5.1.1 "), 15, "the list in force")
    assert made.status()["degraded"] == []
