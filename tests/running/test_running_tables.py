"""Tables that are not in memory, over a running gateway: the keys that take a table, through proxymap."""

import os
import re
import shutil
import signal
import subprocess
from collections.abc import Callable
from contextlib import ExitStack
from pathlib import Path

import pytest

from tests.peers.gateway import Gateway
from tests.peers.inner import Inner
from tests.peers.map_servers import served, socketmap_handler
from tests.peers.policies import plain
from tests.peers.ports import free_port, wait_for
from tests.peers.process import stand_still
from tests.running.talking import asked, queue_id, sent

pytestmark = [
    pytest.mark.peer,
    pytest.mark.skipif(not shutil.which("postmap"), reason="Debian package postfix is not installed (make packages)"),
]


def compiled(path: Path, text: str, kind: str = "hash") -> str:
    """A table compiled by the real postmap, for everybody to read."""
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(text)
    subprocess.run(["postmap", f"{kind}:{path}"], check=True)
    for made in path.parent.glob(f"{path.name}.*"):
        made.chmod(0o644)
    return f"{kind}:{path}"


def test_a_changed_file_is_read_again_and_a_lost_daemon_puts_off(gateway: Callable[..., Gateway], tmp_path: Path) -> None:
    known = compiled(tmp_path / "t/known", "old@example.com x\n")
    files = plain() | {"recipient.toml": f'tables = ["{known}"]\ncallahead = false\n'}
    made = gateway(policies=files, workers=1)
    assert asked(made.port, "old@example.com") == "250 2.1.5 Ok"
    compiled(tmp_path / "t/known", "new@example.com x\n")
    wait_for(lambda: asked(made.port, "new@example.com") == "250 2.1.5 Ok", 15, "the new table")
    wait_for(lambda: asked(made.port, "old@example.com").startswith("550 5.1.1 "), 15, "the old answer to be forgotten")

    (pid,) = made.children()["proxymap"]
    stand_still(pid)
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


class Map:
    """A socketmap server; of the maps in `trouble` it says so, whatever the key."""

    def __init__(self, port: int, answers: dict[str, str]) -> None:
        self.answers, self.trouble = answers, set[str]()
        self._stack = ExitStack()
        self._stack.enter_context(served(socketmap_handler(self._reply), port))

    def _reply(self, name: str, key: str) -> tuple[str, str]:
        text = self.answers.get(key)
        return "TEMP" if name in self.trouble else "NOTFOUND" if text is None else "OK", text or ""

    def stop(self) -> None:
        self._stack.close()


def test_a_delivery_waits_for_a_table_that_is_away(gateway: Callable[..., Gateway], inner: Inner) -> None:
    """RCPT is put off while nobody knows where its mail goes, or whether the domain is ours; what was taken (as
    postmaster is) goes out once the table answers."""
    port = free_port()
    routes = f"socketmap:inet:127.0.0.1:{port}:routes"
    made = gateway(policies=plain(), workers=1)
    text = made.config.read_text().replace('domains = ["example.com"]', f'domains = ["example.com"]\nroutes = "{routes}"')
    made.config.write_text(text)
    made.cli("reload")
    assert asked(made.port, "late@example.com").startswith("451 4.3.0 ")
    accepted = queue_id(sent(made.port, "postmaster@example.com"))
    wait_for(lambda: any(routes in words for words in made.status()["degraded"]), 15, "the table's trouble to be said")
    assert accepted in made.cli("queue", "list").stdout and not inner.recipients()
    map_ = Map(port, {"postmaster@example.com": f"smtp:[127.0.0.1]:{inner.port}"})
    try:
        inner.wait(1, 40)
        assert inner.recipients() == {"postmaster@example.com": 1}
        sent(made.port, "default@example.com")  # no entry: the general next hop
        inner.wait(2)
        wait_for(lambda: made.status()["degraded"] == [], 15, "all well")
        made.config.write_text(text.replace('domains = ["example.com"]', f'domains = ["{routes}"]'))
        made.cli("reload")
        map_.answers["ours.example"] = "yes"
        known = made.root / "policies/recipients"
        known.write_text(known.read_text() + "@ours.example x\n")
        wait_for(lambda: asked(made.port, "joe@ours.example") == "250 2.1.5 Ok", 15, "the new domain")
        assert asked(made.port, "joe@theirs.example").startswith("550 5.7.1 Relaying denied")
        map_.trouble.add("routes")
        away = asked(made.port, "joe@third.example")
        assert away.startswith("451 4.3.0 Recipient cannot be checked at the moment"), away
    finally:
        map_.stop()


def test_rules_over_content_may_ask_a_table_that_is_not_in_memory(
    gateway: Callable[..., Gateway], inner: Inner, tmp_path: Path
) -> None:
    rules = compiled(tmp_path / "t/rules", "subject: REJECT no test please\n")
    stages = '["size", "loop", "content"]'
    header = "unionmap:{" + rules + "}"
    rule = f'header = ["pipemap:{{pcre:{{ {{/^(subject:) *test/ $1}} }}, {header}}}"]\n'
    made = gateway(policies=plain(message=stages, content=rule), workers=1)
    assert sent(made.port, "joe@example.com").startswith("550 5.7.1 no test please")
    assert sent(made.port, "joe@example.com", body=b"Subject: hello\r\n\r\nx\r\n").startswith("250 ")


def test_status_names_the_messages_that_a_table_put_off(gateway: Callable[..., Gateway], inner: Inner) -> None:
    """Over all workers and delivery: one line for the table, with counts and the queue ids; also where it is over."""
    port = free_port()
    known, routes = (f"socketmap:inet:127.0.0.1:{port}:{name}" for name in ("known", "routes"))
    files = plain() | {"recipient.toml": f'tables = ["{known}"]\ncallahead = false\n'}
    made = gateway(policies=files, workers=2)
    made.config.write_text(
        made.config.read_text().replace('domains = ["example.com"]', f'domains = ["example.com"]\nroutes = "{routes}"')
    )
    map_ = Map(port, {"postmaster@example.com": f"smtp:[127.0.0.1]:{inner.port}"})
    map_.trouble.add("known")
    made.cli("reload")
    try:
        _six_and_one(made, inner, map_, known, routes)
    finally:
        map_.stop()


def _six_and_one(made: Gateway, inner: Inner, map_: Map, known: str, routes: str) -> None:
    """Six recipients are put off by the list, a message waits for the table of routes."""
    replies = [asked(made.port, f"u{number}@example.com") for number in range(6)]
    ids = {re.search(r"\[(\w+)\]", reply)[1] for reply in replies}  # type: ignore[index]
    assert len(ids) == 6 and all(reply.startswith("451 4.3.0") for reply in replies)
    status = made.status()
    touched = status["touched"][f"table {known}"]
    assert touched["touched"] == 6 and set(touched["last"]) == ids
    (line,) = [line for line in status["degraded"] if known in line]
    assert "look-ups failed since the start); messages touched: 6, last: " in line
    page = made.cli("status", check=False).stdout
    assert all(one in line and one in page for one in ids)
    map_.trouble = {"routes"}
    accepted = queue_id(sent(made.port, "postmaster@example.com"))
    waiting = f"table {routes}"
    wait_for(lambda: accepted in made.status()["touched"].get(waiting, {}).get("last", ()), 15, "the delivery")
    map_.trouble = set()
    inner.wait(1, 30)
