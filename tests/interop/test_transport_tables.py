"""A transport table in a database, asked at delivery: it dies and comes back, and so does the process that asks it. Mail
waits meanwhile, goes nowhere else and is not returned; status and queue name the table."""

import contextlib
import json
import os
import signal
import smtplib
import sqlite3
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from tests.peers.gateway import Gateway
from tests.peers.inner import Inner
from tests.peers.policies import plain
from tests.peers.ports import wait_for

pytestmark = pytest.mark.peer


@pytest.fixture
def other() -> Iterator[Inner]:
    server = Inner().start()
    yield server
    server.stop()


@pytest.fixture
def made(gateway: Callable[..., Gateway], tmp_path: Path, other: Inner) -> Gateway:
    """Mail for example.com goes to `other` by the database, and would go to `inner` without it."""
    database, cf, generic = tmp_path / "t.db", tmp_path / "transport.cf", tmp_path / "generic.cf"
    generic.write_text(f"dbpath = {database}\nquery = SELECT new FROM generic WHERE address = '%s'\n")
    cf.write_text(f"dbpath = {database}\nquery = SELECT way FROM transport WHERE address = '%s'\n")
    with contextlib.closing(sqlite3.connect(database)) as db, db:
        db.execute("CREATE TABLE transport (address, way)")
        db.execute("CREATE TABLE generic (address, new)")
        db.execute("INSERT INTO generic VALUES ('sender@example.org', 'outside@example.net')")
        rows = [("example.com", f"smtp:[127.0.0.1]:{other.port}"), ("gone@example.com", "error:5.1.6 moved away")]
        db.executemany("INSERT INTO transport VALUES (?, ?)", [*rows, ("odd@example.com", "local:")])
    built = gateway(policies=plain(), workers=1)
    text = built.config.read_text().replace("[relay]\n", f'[relay]\nroutes = "sqlite:{cf}"\n')
    built.config.write_text(f'{text}[addresses]\nsmtp_generic_maps = "sqlite:{generic}"\n')
    built.cli("reload")
    wait_for(lambda: "proxymap" in built.children(), 15, "proxymap")
    return built


def send(made: Gateway, recipient: str) -> tuple[int, str]:
    """The answer to RCPT, or to the end of data, and the queue id."""
    with smtplib.SMTP("127.0.0.1", made.port) as client:
        client.ehlo("client.example.org")
        client.mail("sender@example.org")
        code, text = client.rcpt(recipient)
        if code == 250:
            code, text = client.data(b"From: sender@example.org\r\nSubject: hi\r\n\r\nbody\r\n")
        return code, text.decode().split()[-1]


def waiting(made: Gateway, *words: str) -> bool:
    shown = json.dumps(made.status()) + made.cli("queue", "list", "--json").stdout
    return all(word in shown for word in words)


def test_a_database_of_transports_dies_and_comes_back(made: Gateway, inner: Inner, other: Inner, tmp_path: Path) -> None:
    assert send(made, "ann@example.com")[0] == 250
    (kept,) = other.wait(1)
    assert kept.sender == "outside@example.net" and b"From: outside@example.net\r\n" in kept.content
    assert send(made, "gone@example.com")[0] == 550, "the table refuses it, and so do we before the queue"
    (tmp_path / "t.db").rename(tmp_path / "away.db")
    # an address that is known without it: what is asked before the queue needs the table too
    wait_for(lambda: send(made, "ann@example.com")[0] == 451, 20, "the table to fail")
    code, queue_id = send(made, "postmaster@example.com")
    assert code == 250
    wait_for(lambda: waiting(made, queue_id, "transport.cf"), 20, "status and queue to name the table")
    assert not inner.messages and f"{queue_id}: removed" not in made.log() and "status=bounced" not in made.log()
    (tmp_path / "away.db").rename(tmp_path / "t.db")
    wait_for(lambda: other.recipients()["postmaster@example.com"] == 1, 45, "the mail that waited")
    assert not inner.messages
    made.wait_log(f"{queue_id}: removed")


def test_the_process_that_asks_dies(made: Gateway, inner: Inner, other: Inner) -> None:
    for pid in made.children()["proxymap"]:
        os.kill(pid, signal.SIGKILL)
    wait_for(lambda: send(made, "postmaster@example.com")[0] == 250, 20, "mail to be taken")
    assert other.wait(1, 45)[0].recipients == ["postmaster@example.com"] and not inner.messages


def test_an_entry_that_is_no_way_keeps_its_mail(made: Gateway, inner: Inner, other: Inner, tmp_path: Path) -> None:
    with contextlib.closing(sqlite3.connect(tmp_path / "t.db")) as db, db:
        db.execute("UPDATE transport SET way = ? WHERE address = 'example.com'", (f"smtp:[x]\nRCPT TO:<{'a' * 9}>",))
    wait_for(lambda: send(made, "postmaster@example.com")[0] == 250, 20, "mail to be taken")
    wait_for(lambda: waiting(made, "transport.cf", "control character"), 20, "the reason")
    assert not inner.messages and not other.messages and "status=bounced" not in made.log()


def test_generic_maps_in_a_database_that_dies(made: Gateway, inner: Inner, other: Inner, tmp_path: Path) -> None:
    def renamed(old: str, new: str) -> None:
        with contextlib.closing(sqlite3.connect(tmp_path / "t.db")) as db, db:
            db.execute(f"ALTER TABLE {old} RENAME TO {new}")

    def deferred(queue_id: str) -> bool:
        lines = [line for line in made.log().splitlines() if queue_id in line and "status=deferred" in line]
        return any("generic.cf" in line and "dsn=4.3.0" in line and "relay=none" in line for line in lines)

    renamed("generic", "away")
    sent: list[str] = []
    wait_for(lambda: sent.append(send(made, "ann@example.com")[1]) or deferred(sent[-1]), 40, "mail that waits")
    wait_for(lambda: waiting(made, sent[-1], "generic.cf"), 20, "status and queue to name the table")
    assert not inner.messages
    renamed("away", "generic")
    wait_for(
        lambda: made.cli("queue", "flush", "--all", check=False) and f"{sent[-1]}: removed" in made.log(), 45, "the end"
    )
    assert {kept.sender for kept in other.messages} == {"outside@example.net"} and not inner.messages
    assert "status=bounced" not in made.log()
