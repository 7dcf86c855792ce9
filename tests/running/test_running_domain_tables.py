"""Tables and files in the `domain` of a .cf file, over a running gateway: proxymap opens them as its own user."""

import json
import shutil
import sqlite3
from collections.abc import Callable
from contextlib import closing
from pathlib import Path

import pytest

from tests.peers.gateway import Gateway
from tests.peers.policies import plain
from tests.peers.ports import free_port, wait_for
from tests.running.talking import asked
from tests.running.test_running_tables import Map, compiled
from tests.tables.test_tables_domain import written

pytestmark = [
    pytest.mark.peer,
    pytest.mark.skipif(not shutil.which("postmap"), reason="Debian package postfix is not installed (make packages)"),
]
TAKEN, REFUSED = "250 2.1.5 Ok", "550 5.1.1 "


def known(root: Path, domain: str) -> str:
    """Recipients in a database that has everybody of the domains listed."""
    with closing(sqlite3.connect(root / "mail.db")) as database:
        database.execute("CREATE TABLE IF NOT EXISTS t (a TEXT)")
        database.commit()
    path = root / "known.cf"
    written(path, f"dbpath = {root}/mail.db\nquery = SELECT 1\ndomain = {domain}\n")
    for file in root.iterdir():
        if file.is_file():
            file.chmod(0o644)
    return f"sqlite:{path}"


def started(gateway: Callable[..., Gateway], spec: str) -> Gateway:
    files = plain() | {"recipient.toml": f'tables = ["{spec}"]\ncallahead = false\n'}
    made = gateway(policies=files, workers=1)
    text = made.config.read_text()
    made.config.write_text(
        text.replace('domains = ["example.com"]', 'domains = ["example.com", "b.example", "c.example"]')
    )
    made.cli("reload")
    return made


def test_files_and_tables_say_for_which_domains_a_database_is_asked(
    gateway: Callable[..., Gateway], tmp_path: Path
) -> None:
    root = tmp_path / "t"
    lists = compiled(root / "lists", "example.com x\n")
    (root / "names").write_text("b.example\n")
    made = started(gateway, known(root, f"{lists}, {root}/names"))

    def heard(domain: str, reply: str) -> None:
        wait_for(lambda: asked(made.port, f"joe@{domain}").startswith(reply), 15, f"{reply} for {domain}")

    assert asked(made.port, "joe@example.com") == TAKEN and asked(made.port, "joe@b.example") == TAKEN
    assert asked(made.port, "joe@c.example").startswith(REFUSED)
    written(root / "names", "!example.com c.example\n")
    (root / "names").chmod(0o644)
    heard("c.example", TAKEN)
    heard("b.example", REFUSED)
    compiled(root / "lists", "b.example x\n")
    heard("b.example", TAKEN)
    heard("example.com", REFUSED)
    (root / "lists.db").unlink()
    heard("b.example", "451 4.3.0 ")
    (wrong,) = made.status()["degraded"]
    assert f"{root}/known.cf:3: domain: {lists}: " in wrong
    compiled(root / "lists", "example.com x\n")
    heard("example.com", TAKEN)
    wait_for(lambda: made.status()["degraded"] == [], 15, "all well")


def test_a_server_that_is_away_puts_off_and_a_mistake_is_not_put_in_force(
    gateway: Callable[..., Gateway], tmp_path: Path
) -> None:
    port, root = free_port(), tmp_path / "t"
    root.mkdir()
    away = f"socketmap:inet:127.0.0.1:{port}:lists"
    made = started(gateway, known(root, f"b.example {away}"))
    assert asked(made.port, "joe@example.com").startswith("451 4.3.0 ")
    wait_for(lambda: asked(made.port, "joe@b.example") == TAKEN, 15, "what stands before it to be known")
    map_ = Map(port, {"example.com": "yes"})
    try:
        wait_for(lambda: asked(made.port, "joe@example.com") == TAKEN, 15, "the server to be asked")
        assert asked(made.port, "joe@c.example").startswith(REFUSED)
        (root / "b").mkdir()
        (root / "c").mkdir()
        known(root / "c", "!")
        broken = known(root / "b", f"b.example sqlite:{root}/c/known.cf")
        (made.root / "policies/recipient.toml").write_text(f'tables = ["{broken}"]\ncallahead = false\n')
        done = made.cli("check", check=False)
        assert done.returncode == 1 and f"{root}/b/known.cf:3:1: domain: " in done.stdout, done.stdout
        assert f"{root}/c/known.cf:3: domain: " in done.stdout, done.stdout
        assert made.cli("reload", check=False).returncode != 0
        assert asked(made.port, "ann@example.com") == TAKEN
    finally:
        map_.stop()


def test_a_check_of_all_tables_asks_their_servers_whatever_their_domains(
    gateway: Callable[..., Gateway], tmp_path: Path
) -> None:
    """For an address of a domain that is listed; where only tables say which, that is told."""
    port = free_port()
    specs = []
    for name, domain in (("names", "!a.example b.example"), ("tables", "inline:{c.example=x}")):
        path = tmp_path / f"{name}.cf"
        path.write_text(f"hosts = 127.0.0.1:{port}\ndomain = {domain}\n")
        specs.append(f"redis:{path}")
    files = plain() | {"recipient.toml": f"tables = {json.dumps(specs)}\ncallahead = false\n"}
    done = gateway(policies=files, workers=1).cli("table", "check", check=False)
    assert done.returncode == 1 and f"WRONG {specs[0]}: 127.0.0.1:{port}: " in done.stdout, done.stdout
    assert f"ok    {specs[1]}: the tables in its domain answer; its own server is asked for what they have" in done.stdout


def test_a_query_by_the_operator_asks_the_tables_of_a_domain(gateway: Callable[..., Gateway], tmp_path: Path) -> None:
    root = tmp_path / "t"
    made = gateway(policies=plain(), workers=1)
    spec = known(root, f"{compiled(root / 'lists', 'example.com x')}, b.example, fail:nobody-knows")
    done = made.cli("table", "query", spec, "joe@Example.com", "joe@b.example")
    assert done.stdout == f"joe@Example.com\t1\t{spec}\njoe@b.example\t1\t{spec}\n"
    done = made.cli("table", "query", spec, "joe@c.example", check=False)
    assert done.returncode == 2 and f"{spec}: {root}/known.cf:3: domain: fail:nobody-knows" in done.stderr
