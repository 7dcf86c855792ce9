"""`postgate status` of a running gateway whose next hops, call-ahead and name server are in trouble: who, why, how many
messages, which; and nothing of it once they are well."""

import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any, NamedTuple

import pytest

from tests.faults.inner_peers import Scripted
from tests.faults.senders import talk
from tests.peers.dns import Dns
from tests.peers.gateway import Gateway
from tests.peers.policies import plain
from tests.peers.ports import free_port, wait_for
from tests.running.talking import queue_id, sent

#: Nobody waits here for retries of minutes.
QUICK = '[queue]\nretry_min = "1s"\nretry_max = "1s"\ndead_probe = "1s"\n'
#: Of these recipients lists know; all others are asked for at their next hop.
LISTED = "@example.com x\nlisted@dead.example.com x\nlisted@lost.example.com x\n"


class World(NamedTuple):
    gateway: Gateway
    inner: Scripted
    dead: int
    names: Dns

    def said(self) -> dict[str, Any]:
        """What touched messages, by what it is."""
        found: dict[str, Any] = self.gateway.status()["touched"]
        return found

    def wait(self, what: str, *ids: str) -> str:
        """Until exactly these messages are told of it; why."""
        wait_for(lambda: set(self.said().get(what, {"last": ()})["last"]) == set(ids), 20, f"{what}: {ids}")
        one = self.said()[what]
        assert one["touched"] == len(ids)
        return str(one["why"])


@pytest.fixture
def world(tmp_path: Path) -> Iterator[World]:
    inner, dead = Scripted().start(), free_port()
    names = Dns({"example.org TXT": ('"v=spf1 -all"',)}).start()
    policies = plain() | {"recipients": LISTED, "recipient.toml": 'tables = ["texthash:recipients"]\n'}
    policies["stages.toml"] = policies["stages.toml"].replace('mail = ["size"]', 'mail = ["size", "spf"]')
    routes = (
        f'[relay.routes]\n"dead.example.com" = "smtp:[127.0.0.1]:{dead}"\n"lost.example.com" = "smtp:lost.example:25"\n'
    )
    made = Gateway(tmp_path, inner.port, workers=1, more=routes + QUICK, policies=policies, nameserver=names.address)
    domains = 'domains = ["example.com", "dead.example.com", "lost.example.com"]'
    wiring = made.config.read_text().replace('domains = ["example.com"]', domains)
    made.config.write_text(wiring.replace('zone = "zone"\n', 'zone = "zone"\ntimeout = "1s"\n'))
    try:
        yield World(made.start(), inner, dead, names)
    finally:
        made.stop()
        inner.stop()
        names.stop()


def test_each_kind_of_peer_in_trouble_is_named_with_its_messages_and_well_again(world: World) -> None:
    made, inner = world.gateway, world.inner
    assert made.status()["degraded"] == []

    # A next hop that puts off, one that is not there, one that nobody knows.
    inner.replies["DATA"] = b"451 4.3.0 no disk space left"
    busy = [queue_id(sent(made.port, "user@example.com")) for _ in range(3)]
    why = world.wait(hop := f"next hop smtp:[127.0.0.1]:{inner.port} fails", *busy)
    said = "host 127.0.0.1[127.0.0.1] said: 451 4.3.0 no disk space left (in reply to DATA command)"
    assert why == f"{said}; 3 messages wait for it"
    gone = queue_id(sent(made.port, "listed@dead.example.com"))
    why = world.wait(dead := f"next hop smtp:[127.0.0.1]:{world.dead} fails", gone)
    assert why == f"connect to 127.0.0.1[127.0.0.1]:{world.dead}: Connection refused; 1 message waits for it"
    lost = queue_id(sent(made.port, "listed@lost.example.com"))
    assert "Host not found" in world.wait("next hop smtp:lost.example fails", lost)

    # The same, asked for recipients.
    ids = [of_refusal(sent(made.port, f"new{n}@dead.example.com")) for n in range(2)]
    why = world.wait(ahead := f"call-ahead: next hop smtp:[127.0.0.1]:{world.dead} fails", *ids)
    assert why.startswith(f"connect to 127.0.0.1[127.0.0.1]:{world.dead}: Connection refused, after ")
    unknown = of_refusal(sent(made.port, "new@lost.example.com"))
    assert "Host not found" in world.wait("call-ahead: no next hop is found for lost.example.com", unknown)

    # The name server.
    world.names.gone()
    ids = [queue_id(sent(made.port, "user@example.com", sender=f"a@d{n}.example")) for n in range(3)]
    why = world.wait("no DNS server answers", *ids)
    assert re.fullmatch(rf"{world.names.address} failed for \S+ \w+: Connection refused, after \d+\.\d s", why), why
    world.wait(hop, *busy, *ids)  # each was tried by now

    page = made.cli("status", check=False)
    assert page.returncode == 1
    degraded = page.stdout.partition("\nDegraded\n")[2].splitlines()
    assert [
        line
        for line in degraded
        if line.startswith(f"  ! {hop}: {said}; 6 messages wait for it; messages touched: 6, last")
    ]
    assert len(degraded) == 6
    assert all(re.search(r"; messages touched: \d, last: \w+(, \w+)*$", line) for line in degraded), degraded
    log = made.log()
    for line in (
        f"error: next hop fails: next_hop=smtp:[127.0.0.1]:{inner.port} id=",
        f"error: next hop fails: next_hop=smtp:[127.0.0.1]:{world.dead} id={gone} seconds=",
        f"error: call-ahead fails: next_hop=smtp:[127.0.0.1]:{world.dead} why=connect to ",
    ):
        assert log.count(line) == 1, line
    first = re.search(
        rf"next hop fails: \S+:{inner.port} id=(\w+) seconds=[0-9.]+ why={re.escape(said)}$", log, re.MULTILINE
    )
    assert first and first[1] in busy
    assert f"error: name server fails: server={world.names.address} why=" in log, "of each process that asks it"

    # All of them come back.
    world.names.back()
    inner.replies.clear()
    late = Scripted(port=world.dead).start()
    try:
        wait_for(lambda: len(inner.messages) == 6 and len(late.messages) == 1, 20, "the mail that waited")
        wait_for(lambda: sent(made.port, "new@dead.example.com").startswith("250 "), 20, "the end of its rest")
        wait_for(lambda: not world.said().keys() & {hop, dead, ahead, "no DNS server answers"}, 20, "all well")
        for line in (
            f"next hop well again: next_hop=smtp:[127.0.0.1]:{inner.port} messages_touched=6",
            f"next hop well again: next_hop=smtp:[127.0.0.1]:{world.dead} messages_touched=1",
            f"call-ahead well again: next_hop=smtp:[127.0.0.1]:{world.dead}",
        ):
            assert made.log().count(f"warning: {line}") == 1, line
        assert f"warning: name server well again: server={world.names.address}" in made.log()
    finally:
        late.stop()


def of_refusal(reply: str) -> str:
    """The id at the end of a reply that puts a recipient off."""
    found = re.fullmatch(r"451 4\.1\.1 .* \[(\w+)\]", reply)
    assert found, reply
    return found[1]


HANDLER = """\
import time


class Moody:
    async def handle_DATA(self, server, session, envelope):
        if b"\\r\\nX-Mood: raise" in envelope.content:
            raise LookupError("no mood")
        if b"\\r\\nX-Mood: block" in envelope.content:
            time.sleep(3)
        return "250 OK"
"""


def test_a_handler_in_python(tmp_path: Path) -> None:
    """The operator's own filter raises, then hangs; who writes nothing of the kind passes, and then it is well."""
    inner, place = Scripted().start(), tmp_path / "site"
    place.mkdir()
    (place / "moody.py").write_text(HANDLER)
    made = Gateway(tmp_path, inner.port, workers=1, policies=plain())
    made.path += f":{place}"
    wiring = made.config.read_text()
    made.config.write_text(
        wiring.replace("workers = 1\n", 'workers = 1\nhandler = "moody:Moody"\nhandler_timeout = "1s"\n')
    )
    world = World(made, inner, 0, None)  # type: ignore[arg-type]
    try:
        made.start()
        ids = []
        for mood, why in (("raise", "LookupError: no mood"), ("block", "it did not return within 1 s")):
            content = f"From: a@example.org\r\nSubject: x\r\nX-Mood: {mood}\r\n\r\nhello\r\n".encode()
            kind, reply = talk(made.port, content, "user@example.com")
            assert kind == "refused" and reply.startswith("451 4.3.0 "), reply
            ids.append(reply[reply.index("[") + 1 : -1])
            told = world.wait("handler moody:Moody fails", *ids)
            assert told.startswith(f"{why}, at handle_DATA ("), told
            assert "handler failed: handler=moody:Moody hook=handle_DATA seconds=" in made.log()
            assert f"why={why} transaction={ids[-1]}" in made.log()
        assert any("handler moody:Moody fails" in text for text in made.status()["degraded"])
        assert "moody:Moody at public" in made.cli("status", check=False).stdout
        wait_for(lambda: sent(made.port, "user@example.com").startswith("250 "), 20, "mail to be taken")
        wait_for(lambda: made.status()["degraded"] == [], 20, "it is well again")
    finally:
        made.stop()
        inner.stop()
