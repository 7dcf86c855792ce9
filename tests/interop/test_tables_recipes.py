"""The recipes of docs/tables.md, as they stand there but for the paths, over a running gateway."""

import re
from collections.abc import Callable
from pathlib import Path

import apsw

from tests.peers.gateway import ROOT, Gateway
from tests.peers.policies import plain
from tests.peers.ports import wait_for
from tests.running.talking import asked

PAGE = (ROOT / "docs/tables.md").read_text()


def block(name: str) -> str:
    found = re.search(rf"^```\w+ {re.escape(name)}\n(.*?)^```$", PAGE, re.MULTILINE | re.DOTALL)
    assert found, name
    return found[1]


def test_recipients_from_a_database(gateway: Callable[..., Gateway], tmp_path: Path) -> None:
    database = apsw.Connection(str(tmp_path / "vmail.db"))
    database.execute(
        "CREATE TABLE mailbox (address, active); CREATE TABLE alias (address, goto);"
        "INSERT INTO mailbox VALUES ('joe@example.com', 1), ('gone@example.com', 0), ('joe@elsewhere.example', 1);"
        "INSERT INTO alias VALUES ('sales@example.com', 'joe@example.com')"
    )
    path = tmp_path / "recipients.cf"
    path.write_text(block("recipients.cf").replace("/var/mail/vmail.db", str(tmp_path / "vmail.db")))
    policy = block("recipient.toml").replace("/etc/postfix/recipients.cf", str(path))
    made = gateway(policies=plain() | {"recipient.toml": policy}, workers=1)
    assert asked(made.port, "joe@example.com") == asked(made.port, "Sales@example.com") == "250 2.1.5 Ok"
    assert asked(made.port, "gone@example.com").startswith("550 5.1.1 ")
    assert f"ok    sqlite:{path}: answers" in made.cli("table", "check").stdout
    assert "\t1\tsqlite:" in made.cli("table", "query", f"sqlite:{path}", "joe@example.com").stdout
    database.execute("INSERT INTO mailbox VALUES ('new@example.com', 1)")
    wait_for(lambda: asked(made.port, "new@example.com") == "250 2.1.5 Ok", 15, "the new mailbox")
    path.write_text(path.read_text() + "hosts = nowhere\n")  # what is not known is said, and the mail put off
    done = made.cli("check", check=False)
    assert done.returncode == 1 and f"{path}:5:1: hosts is not known" in done.stdout
    wait_for(lambda: asked(made.port, "x@example.com").startswith("451 4.3.0 "), 15, "the broken file to be seen")
    assert any(f"{path}:5: hosts is not known" in words for words in made.status()["degraded"])
    assert made.cli("reload", check=False).returncode != 0


def test_sendmails_texts(gateway: Callable[..., Gateway], tmp_path: Path) -> None:
    (tmp_path / "access").write_text(
        "From:spam.example\tERROR:5.7.1:550 No spam\nTo:old@example.com\tREJECT\nConnect:10\tREJECT\n"
    )
    (tmp_path / "relay-domains").write_text("partner.example\n")
    access = block("sendmail-access.toml").replace("/etc/mail/", f"{tmp_path}/")
    stages = '[inbound]\nconnect = ["access"]\nmail = ["access", "size"]\nrcpt = ["relay", "access", "recipient"]\n'
    files = plain(access=access) | {"stages.toml": stages, "recipients": "@example.com x\n@sub.partner.example x\n"}
    made = gateway(policies=files, workers=1)
    text = made.config.read_text()
    made.config.write_text(
        text.replace('["example.com"]', f'["example.com", "sendmail_relay_domains:{tmp_path}/relay-domains"]')
    )
    made.cli("reload")
    for sender in ("a@sub.spam.example", "b@spam.example"):
        said = asked(made.port, "joe@example.com", sender=sender)
        assert said.startswith("550 5.7.1 Sender address rejected: No spam"), said
    assert asked(made.port, "old@example.com").startswith("554 5.7.1 ")
    assert asked(made.port, "joe@sub.partner.example") == asked(made.port, "joe@example.com") == "250 2.1.5 Ok"
    assert asked(made.port, "joe@example.net").startswith("550 5.7.1 Relaying denied")
