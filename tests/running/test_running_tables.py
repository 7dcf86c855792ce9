"""Tables that are not in memory, over a running gateway: every key that takes a table, through proxymap."""

import os
import shutil
import signal
import subprocess
from collections.abc import Callable
from pathlib import Path

import pytest

from tests.peers.gateway import Gateway
from tests.peers.inner import Inner
from tests.peers.policies import plain
from tests.peers.ports import wait_for
from tests.running.talking import asked, queue_id, sent

pytestmark = [
    pytest.mark.peer,
    pytest.mark.skipif(not shutil.which("postmap"), reason="Debian package postfix is not installed (make packages)"),
]
STAGES = """\
[inbound]
connect = ["access"]
helo = ["access"]
mail = ["access", "size"]
rcpt = ["relay", "access", "recipient"]
message = ["size", "loop"]
"""


def compiled(path: Path, text: str, kind: str = "hash") -> str:
    """A table compiled by the real postmap, for everybody to read."""
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(text)
    subprocess.run(["postmap", f"{kind}:{path}"], check=True)
    for made in path.parent.glob(f"{path.name}.*"):
        made.chmod(0o644)
    return f"{kind}:{path}"


def test_every_key_that_takes_a_table_takes_every_type(
    gateway: Callable[..., Gateway], inner: Inner, tmp_path: Path
) -> None:
    domains = compiled(tmp_path / "t/domains", "example.net x\n", "cdb")
    routes = compiled(tmp_path / "t/routes", f"example.net smtp:[127.0.0.1]:{inner.port}\n", "btree")
    client = compiled(tmp_path / "t/client", "192 REJECT never\n")
    helo = compiled(tmp_path / "t/helo", "spam.example REJECT by helo\n", "lmdb")
    sender = compiled(tmp_path / "t/sender", "bad.example REJECT by parent\n")
    known = compiled(tmp_path / "t/known", "user@example.net x\nflagged@example.net class1\n")
    recipient = "pipemap:{" + known + ", inline:{class1=HOLD flagged}}"
    access = f'client = ["{client}"]\nhelo = ["{helo}"]\nsender = ["{sender}"]\nrecipient = ["{recipient}"]\n'
    files = plain(access=access) | {"stages.toml": STAGES}
    files["recipient.toml"] = f'tables = ["{known}"]\ncallahead = false\n'
    made = gateway(policies=files, workers=1)
    text = made.config.read_text().replace('domains = ["example.com"]', f'domains = ["{domains}"]\nroutes = "{routes}"')
    made.config.write_text(text)
    assert "good:" in made.cli("check").stdout
    assert made.cli("reload").returncode == 0
    assert asked(made.port, "user@example.net") == "250 2.1.5 Ok"
    assert asked(made.port, "user+ext@EXAMPLE.net") == "250 2.1.5 Ok"
    assert asked(made.port, "nobody@example.net").startswith("550 5.1.1 ")
    assert asked(made.port, "user@example.com").startswith("550 5.7.1 Relaying denied")
    assert asked(made.port, "user@example.net", sender="x@sub.bad.example").startswith(
        "554 5.7.1 Sender address rejected: by parent"
    )
    assert asked(made.port, "user@example.net", helo="a.spam.example").startswith(
        "554 5.7.1 Helo command rejected: by helo"
    )
    sent(made.port, "user@example.net")
    inner.wait(1)
    held = queue_id(sent(made.port, "flagged@example.net"))
    assert held in made.cli("queue", "list", "--folder", "hold").stdout
    assert made.status()["degraded"] == []


def test_a_changed_file_is_read_again_and_a_lost_daemon_puts_off(gateway: Callable[..., Gateway], tmp_path: Path) -> None:
    known = compiled(tmp_path / "t/known", "old@example.com x\n")
    files = plain() | {"recipient.toml": f'tables = ["{known}"]\ncallahead = false\n'}
    made = gateway(policies=files, workers=1)
    assert asked(made.port, "old@example.com") == "250 2.1.5 Ok"
    compiled(tmp_path / "t/known", "new@example.com x\n")
    wait_for(lambda: asked(made.port, "new@example.com") == "250 2.1.5 Ok", 15, "the new table")
    wait_for(lambda: asked(made.port, "old@example.com").startswith("550 5.1.1 "), 15, "the old answer to be forgotten")

    (pid,) = made.children()["proxymap"]
    os.kill(pid, signal.SIGSTOP)
    hung = asked(made.port, "hung@example.com")
    assert hung.startswith("451 4.3.0 Recipient address cannot be checked just now"), hung
    os.kill(pid, signal.SIGKILL)
    wait_for(lambda: asked(made.port, "back@example.com").startswith("550 5.1.1 "), 20, "the new proxymap")
    (tmp_path / "t/known.db").write_bytes(b"\0" * 100)
    wait_for(lambda: asked(made.port, "x@example.com").startswith("451 4.3.0 "), 15, "the damage to be met")
    assert any("too short" in words for words in made.status()["degraded"])
    compiled(tmp_path / "t/known", "new@example.com x\n")
    wait_for(lambda: asked(made.port, "new@example.com") == "250 2.1.5 Ok", 20, "the table to be well again")
    wait_for(lambda: made.status()["degraded"] == [], 15, "all well")


def test_without_such_a_table_there_is_no_daemon(gateway: Callable[..., Gateway]) -> None:
    made = gateway(policies=plain(), workers=1)
    assert "proxymap" not in made.children()


def test_a_table_that_is_not_there_keeps_the_old_files_in_force(gateway: Callable[..., Gateway], tmp_path: Path) -> None:
    made = gateway(policies=plain(), workers=1)
    (made.root / "policies/recipient.toml").write_text(f'tables = ["hash:{tmp_path}/none"]\ncallahead = false\n')
    done = made.cli("check", check=False)
    assert done.returncode == 1 and f"recipient.toml:1:11: {tmp_path}/none.db cannot be read" in done.stdout
    assert made.cli("reload", check=False).returncode != 0
    assert asked(made.port, "anybody@example.com") == "250 2.1.5 Ok"
