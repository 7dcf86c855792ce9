"""Addresses rewritten, over a running gateway: the recipe of docs/addresses.md as it stands there; tables behind proxymap
that break and come back; notices; what the command shows, what check finds."""

import json
import os
import re
import subprocess
from collections.abc import Callable
from pathlib import Path

import apsw
import pytest

from tests.peers.content_filter import ContentFilter
from tests.peers.gateway import POSTGATE, ROOT, Gateway
from tests.peers.inner import Inner
from tests.peers.policies import plain
from tests.peers.ports import answers, free_port, wait_for
from tests.running.talking import Talk, asked, queue_id, sent, trusted_door
from tests.running.test_running_filters import wiring

PAGE = (ROOT / "docs/addresses.md").read_text()
OK = "250 2.1.5 Ok"


def block(name: str) -> str:
    found = re.search(rf"^```\w+ {re.escape(name)}\n(.*?)^```$", PAGE, re.MULTILINE | re.DOTALL)
    assert found, name
    return found[1]


def test_the_page(gateway: Callable[..., Gateway], inner: Inner, tmp_path: Path) -> None:
    root = tmp_path / "gateway0"
    root.mkdir()
    for name in ("virtual", "aliases", "senders", "copies"):
        (root / name).write_text(block(name))
    more = f'[relay.routes]\n"*" = "smtp:[127.0.0.1]:{inner.port}"\n{block("wiring.toml")}'
    files = plain() | {"recipients": "ann@example.com known\n"}
    made = gateway(policies=files, more=more, workers=1)
    (made.root / "both.toml").write_text(
        made.config.read_text().replace('["example.com"]', '["example.com", "old.example"]')
    )
    made.config.write_text((made.root / "both.toml").read_text())
    made.cli("reload")
    for address, answer in {
        "sales@shop.example": OK,
        "SALES+may@Shop.example": OK,
        "nobody@shop.example": "550 5.1.1 ",
        "any.body@old.example": OK,
        "bob@example.com": "550 5.1.1 ",
        "postmaster@mx.example.com": OK,
        "Postmaster": OK,
        "root@mx.example.com": OK,
        "postmaster@shop.example": OK,
        "nobody@mx.example.com": "550 5.1.1 ",
        "ann@stranger.example": "550 5.7.1 ",
    }.items():
        assert asked(made.port, address).startswith(answer), address
    talk = Talk(made.port)
    reply = talk.send("sales+may@shop.example", "ann@example.com", "root@mx.example.com", sender="ann@example.com")
    kept = inner.wait(1)[0]
    assert kept.sender == "ann.smith@example.com"
    assert sorted(kept.recipients) == [
        "ann+may@example.com",
        "ann@example.com",
        "ann@example.com",
        "archive@example.com",
        "bob+may@example.com",
    ]
    assert b"From: <sender@example.org>" in kept.content, "the header of a stranger's mail stays"
    queued = queue_id(reply)
    made.wait_log(
        f"{queued}: rewritten: virtual_alias_maps {root}/virtual:2: <sales+may@shop.example> -> "
        "<ann+may@example.com>, <bob+may@example.com>"
    )
    made.wait_log(f"{queued}: rewritten: recipient_bcc_maps {root}/copies:1: <ann@example.com> -> <archive@example.com>")
    made.wait_log("to=<bob+may@example.com>, orig_to=<sales+may@shop.example>")
    made.wait_log(f"{queued}: removed")
    shown = made.cli("address", "rewrite", "recipient", "sales+may@shop.example").stdout
    expected = re.search(r"^\$ postgate address rewrite .*?\n(.*?)^```$", PAGE, re.MULTILINE | re.DOTALL)
    assert expected and shown == expected[1].replace("/etc/postgate", str(root))
    event = next(json.loads(line) for line in _events(made) if queued in line)
    assert {"by", "place", "from", "to", "count"} == set(event["rewritten"][0])
    assert [step["by"] for step in event["rewritten"]].count("virtual_alias_maps") == 1


def _events(made: Gateway) -> list[str]:
    folder = made.root / "state" / "journal"
    text = r'"rewritten".*\n'  # a line may still be on its way
    wait_for(lambda: any(re.search(text, path.read_text()) for path in folder.glob("*")), 15, "the event")
    return [line for path in folder.glob("*") for line in path.read_text().splitlines() if '"message"' in line]


def test_a_database_that_breaks_puts_off_and_comes_back(
    gateway: Callable[..., Gateway], inner: Inner, tmp_path: Path
) -> None:
    path = tmp_path / "vmail.db"
    database = apsw.Connection(str(path))
    database.execute("CREATE TABLE alias (address, goto); INSERT INTO alias VALUES ('shop.example', 'domain')")
    database.execute("INSERT INTO alias VALUES ('sales@shop.example', 'ann@example.com, bob@example.com')")
    database.execute("INSERT INTO alias VALUES ('evil@shop.example', 'ann@example.com' || char(10) || 'RCPT TO:<x@y>')")
    config = tmp_path / "alias.cf"
    config.write_text(f"dbpath = {path}\nquery = SELECT goto FROM alias WHERE address = '%s'\n")
    more = f'[addresses]\nvirtual_alias_maps = "sqlite:{config}"\n'
    made = gateway(policies=plain(), more=more, workers=1)
    assert asked(made.port, "sales@shop.example") == OK
    assert asked(made.port, "nobody@shop.example").startswith("550 5.1.1 ")
    assert asked(made.port, "evil@shop.example").startswith("451 4.3.0 ")
    made.wait_log("control character")
    assert sent(made.port, "sales+x@shop.example").startswith("250 2.0.0 Ok")
    assert inner.wait(1)[0].recipients == ["ann+x@example.com", "bob+x@example.com"]
    shown = made.cli("address", "rewrite", "recipient", "sales@shop.example", "--json")
    assert json.loads(shown.stdout)["to"] == ["ann@example.com", "bob@example.com"]
    config.write_text("nowhere = 1\n")
    for address in ("sales@shop.example", "user@example.com"):
        wait_for(lambda a=address: asked(made.port, a).startswith("451 4.3.0 "), 15, f"{address} to be put off")  # type: ignore[misc]
    config.write_text(f"dbpath = {path}\nquery = SELECT goto FROM alias WHERE address = '%s'\n")
    wait_for(lambda: asked(made.port, "sales@shop.example") == OK, 30, "the table to be back")
    assert asked(made.port, "user@example.com") == OK


ZONE = """\
$ORIGIN .
$TTL 300
org. SOA ns.org. root.org. 1 3600 600 86400 300
example.org. TXT "v=spf1 ip4:10.0.0.0/16 -all"
1.0.0.127.in-addr.arpa. PTR client.example.org.
client.example.org. A 127.0.0.1
"""
STAGES = """\
[inbound]
connect = []
helo = []
mail = ["identity", "spf"]
rcpt = ["relay", "recipient"]
message = ["identity"]
"""


def test_a_notice_names_the_recipient_that_the_sender_knows(gateway: Callable[..., Gateway], inner: Inner) -> None:
    """Each of a list by itself: one refused, one taken."""
    inner.refuse["full@example.com"] = "552 5.2.2 mailbox full"
    door = free_port()
    more = (
        f'[relay.routes]\n"example.org" = "smtp:[127.0.0.1]:{inner.port}"\n{trusted_door(door)}'
        '[addresses]\nvirtual_alias_maps = "inline:{ shop.example=x, '
        '{ both@shop.example=full@example.com, ok@example.com } }"\n'
    )
    made = gateway(policies=plain() | {"stages.toml": STAGES}, zone=ZONE, more=more, workers=1)
    reply = sent(door, "both@shop.example", sender="a@example.org", address="10.0.0.1", name="mx.example.org")
    mail, notice = sorted(inner.wait(2), key=lambda kept: kept.sender == "")
    assert mail.recipients == ["ok@example.com"]
    assert (notice.sender, notice.recipients) == ("", ["a@example.org"])
    fields = notice.content.partition(b"Final-Recipient: ")[2]
    assert fields.startswith(b"rfc822; full@example.com\r\nOriginal-Recipient: rfc822; both@shop.example\r\n")
    made.wait_log(f"{queue_id(reply)}: removed")


def test_our_own_mail_has_its_header_rewritten(gateway: Callable[..., Gateway], inner: Inner) -> None:
    inside = free_port()
    more = (
        f'[[listen]]\nname = "inside"\nrole = "outbound"\naddress = "127.0.0.1:{inside}"\nworkers = 1\n'
        '[addresses]\nmasquerade_domains = ["example.com"]\nmasquerade_exceptions = "root"\n'
        'canonical_maps = "inline:{ joe@example.com=joe.doe@example.com }"\n'
    )
    stages = plain()["stages.toml"]
    policies = plain() | {"stages.toml": stages + stages.replace("[inbound]", "[outbound]")}
    made = gateway(policies=policies, more=more, workers=1)
    big = b"x" * 70 + b"\r\n"
    for body in (b"small\r\n", big * 2000):
        message = b"From: Joe <joe@pc7.example.com>\r\nTo: root@pc7.example.com,\r\n joe@example.com\r\n\r\n" + body
        assert sent(inside, "user@example.com", sender="joe@pc7.example.com", body=message).startswith("250 ")
        wait_for(lambda b=body: any(k.content.endswith(b) for k in inner.messages), 20, "the message")  # type: ignore[misc]
        kept = inner.messages[-1]
        assert kept.sender == "joe@example.com", "masquerading comes behind the canonical maps"
        assert b"From: Joe <joe@example.com>\r\nTo: root@pc7.example.com,\r\n joe.doe@example.com\r\n" in kept.content
        assert kept.content.endswith(body)
    line = ": rewritten: From: masquerade_domains example.com: <joe@pc7.example.com>"
    wait_for(lambda: made.log().count(line) == 2, 15, "a line for each of the two")


def test_check_finds_what_cannot_be_meant(tmp_path: Path) -> None:
    made = Gateway(
        tmp_path,
        1,
        more="[addresses]\n"
        'virtual_alias_maps = ["texthash:virtual", "static:all@example.com"]\n'
        'alias_maps = "aliases:aliases"\n'
        'canonical_maps = "nosuch:x"\n'
        "virtual_alias_expansion_limit = 0\n"
        'masquerade_classes = ["envelope_from"]\n'
        'always_bcc = "archive"\n'
        'local_header_rewrite_clients = ["inside"]\n',
    )
    (tmp_path / "virtual").write_text("a@example.com b@example.com\nc@example.com |/bin/sh\n")
    (tmp_path / "aliases").write_text("root: :include:/etc/list\n")
    done = made.cli("check", check=False)
    assert done.returncode == 1
    for place in (
        r'postgate.toml:\d+:18: addresses.canonical_maps: "nosuch" is no table type',
        r"postgate.toml:\d+:33: addresses.virtual_alias_expansion_limit must be at least 1",
        r'postgate.toml:\d+:23: addresses.masquerade_classes\[0\] must be "envelope_sender"',
        r'postgate.toml:\d+:14: addresses.always_bcc: "archive" has no domain',
        r'postgate.toml:\d+:32: addresses.local_header_rewrite_clients: "inside" is no network',
    ):
        assert re.search(place, done.stdout), (place, done.stdout)
    text = made.config.read_text()
    text = text.replace('canonical_maps = "nosuch:x"\n', "").replace("limit = 0", "limit = 9").replace("_from", "_sender")
    text = text.replace('"archive"', '"archive@example.com"').replace('["inside"]', '["outbound", "10.0.0.0/8"]')
    made.config.write_text(text)
    done = made.cli("check", check=False)
    assert re.search(r"postgate.toml:\d+:43: static:all@example.com has an entry for every domain", done.stdout), (
        done.stdout
    )
    made.config.write_text(text.replace(', "static:all@example.com"', ""))
    done = made.cli("check", check=False)
    assert f'{tmp_path}/virtual:2:1: "|/bin/sh": a program is not run here' in done.stdout
    assert f'{tmp_path}/aliases:1:1: ":include:/etc/list": a list in a file is not read here' in done.stdout
    (tmp_path / "virtual").write_text("a@example.com b@example.com\n")
    (tmp_path / "aliases").write_text("root: ann@example.com\n")
    assert made.cli("check", check=False).returncode == 0


@pytest.mark.parametrize("door", ["content_filter", "proxy_filter"])
def test_a_filter_sees_new_addresses_and_nothing_is_rewritten_twice(
    gateway: Callable[..., Gateway], inner: Inner, door: str
) -> None:
    """Behind the queue and before it: what comes back is as it went."""
    back, port = free_port(), free_port()
    scan = ContentFilter(back).start()
    place = f"smtp:[127.0.0.1]:{scan.port}" if door == "content_filter" else f"127.0.0.1:{scan.port}"
    listen = (
        f'[[listen]]\nname = "filtered"\naddress = "127.0.0.1:{port}"\nworkers = 1\n{door} = "{place}"\n'
        '[addresses]\nvirtual_alias_maps = "inline:{ shop.example=x, '
        '{ all@shop.example=a@example.com, b@example.com }, { b@example.com=b@example.com, c@example.com } }"\n'
        'always_bcc = "archive@example.com"\nsender_canonical_maps = "inline:{ sender@example.org=new@example.org }"\n'
    )
    made = gateway(policies=plain(), more=wiring(back, listen), workers=1)
    try:
        first = queue_id(sent(port, "all@shop.example"))
        whom = ["a@example.com", "archive@example.com", "b@example.com", "c@example.com"]
        wait_for(lambda: len(inner.recipients()) >= len(whom), 20, "all recipients")
        assert dict(inner.recipients()) == dict.fromkeys(whom, 1)
        assert {kept.sender for kept in inner.messages} == {"new@example.org"}
        assert [sorted(one.rcpt_tos) for one in scan.seen] == [whom]
        made.wait_log(f"{first}: rewritten: always_bcc [addresses]: <> -> <archive@example.com>")
        wait_for(lambda: made.log().count(": rewritten: ") >= 4, 20, "all lines")
        assert made.log().count(": rewritten: ") == 4
    finally:
        scan.stop()


def test_other_fronts_know_the_maps_too(gateway: Callable[..., Gateway], inner: Inner) -> None:
    """A policy server answers for aliases; it rewrites nothing."""
    port = free_port()
    more = (
        f'[[policyd]]\naddress = "inet:127.0.0.1:{port}"\nworkers = 1\n'
        '[addresses]\nvirtual_alias_maps = "inline:{ shop.example=x, sales@shop.example=a@example.com }"\n'
    )
    gateway(policies=plain(), more=more, workers=1)
    wait_for(lambda: answers(port), 20, "the policy server")

    def asked_for(address: str) -> str:
        words = [*POSTGATE, "probe", "policy", f"inet:127.0.0.1:{port}", "--to", address]
        env = {**os.environ, "PYTHONPATH": str(ROOT)}
        return subprocess.run(words, env=env, capture_output=True, text=True, check=True, timeout=60).stdout

    assert "5.1.1" in asked_for("nobody@shop.example")
    assert "5.1.1" not in asked_for("sales@shop.example")
    assert "5.7.1" in asked_for("sales@stranger.example")
