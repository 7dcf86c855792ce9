"""docs/transport.md, "Transports of your own", as it stands there: mail into a command, an archive, and through a filter
and back; who is known there; and a filter that says it delivers and does not."""

import json
import re
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from aiosmtpd.lmtp import LMTP

from tests.peers.content_filter import MARK, ContentFilter
from tests.peers.gateway import ROOT, ZONE, Gateway
from tests.peers.inner import Inner
from tests.peers.policies import STAGES, plain
from tests.peers.ports import free_port, wait_for
from tests.running.talking import queue_id, sent

PAGE = ROOT / "docs" / "transport.md"
#: Who is in no list is asked for.
POLICIES = {
    "stages.toml": STAGES.format(connect="[]", rcpt='["relay", "recipient"]', message='["size", "loop"]'),
    "recipient.toml": "callahead = true\n",
}
TO_LISTS = """\
#!{python} -IS
import json, sys
with open({told!r}, "a") as file:
    file.write(json.dumps([sys.argv[1:], sys.stdin.read()]) + "\\n")
"""


class Lmtp(Inner):
    def _protocol(self) -> LMTP:
        self.sessions += 1
        return LMTP(self, hostname="archive.example.net", loop=self._loop)


def block(name: str) -> str:
    (found,) = re.findall(rf"^```[a-z]+ {name}\n(.*?)^```$", PAGE.read_text(), re.MULTILINE | re.DOTALL)
    return str(found)


class Site:
    """The gateway of the page, with peers in the places that it names."""

    def __init__(self, root: Path, inner: Inner, policies: dict[str, str]) -> None:
        self.inner, self.vip, self.archive = inner, Inner().start(), Lmtp().start()
        back = free_port()
        self.scan = ContentFilter(back).start()
        self.told = root / "lists" / "told"
        self.told.parent.mkdir()
        self.told.parent.chmod(0o777)
        program = root / "to-lists"
        program.write_text(TO_LISTS.format(python=sys.executable, told=str(self.told)))
        program.chmod(0o755)
        self.made = Gateway(root / "g", inner.port, zone=ZONE, policies=policies)
        text = block("own-transports").replace("[gateway]\n", '[gateway]\ndrop = "off"\n')
        for old, new in {
            "/var/lib/postgate": "state",
            "0.0.0.0:25": f"127.0.0.1:{self.made.port}",
            "127.0.0.1:10026": f"127.0.0.1:{back}",
            "10.0.0.25]:25": f"127.0.0.1]:{inner.port}",
            "10.0.0.30]:2424": f"127.0.0.1]:{self.archive.port}",
            "127.0.0.1]:10024": f"127.0.0.1]:{self.scan.port}",
            "/usr/local/bin/to-lists": str(program),
            "/etc/postgate/": "",
        }.items():
            assert old in text, old
            text = text.replace(old, new)
        self.made.config.write_text(text + '[dns]\nnameservers = ["127.0.0.1:9"]\nzone = "zone"\n')
        (root / "g" / "filters").write_text(block("own-transports-filters"))
        second = block("own-transports-transport").replace("10.0.0.26]:25", f"127.0.0.1]:{self.vip.port}")
        (root / "g" / "transport").write_text(second)

    def lists(self) -> list[tuple[list[str], str]]:
        """What the command was given."""
        text = self.told.read_text() if self.told.exists() else ""
        return [(argv, stdin) for argv, stdin in map(json.loads, text.splitlines())]

    def stop(self) -> None:
        self.made.stop()
        for peer in (self.vip, self.archive, self.scan):
            peer.stop()


@pytest.fixture
def site(tmp_path: Path, inner: Inner) -> Iterator[Site]:
    site = Site(tmp_path, inner, POLICIES)
    yield site
    site.stop()


def test_the_page_as_it_stands(site: Site) -> None:
    checked = site.made.cli("check")
    assert "warning" not in checked.stdout and "[filters" not in checked.stdout, checked.stdout
    site.inner.known, site.vip.known = {"ann@example.com"}, {"vip@example.com"}
    site.archive.known = {"x@partner.example"}
    made = site.made.start()

    first = queue_id(sent(made.port, "talk+help@lists.example.com"))
    made.wait_log(f"{first}: to=<talk+help@lists.example.com>, relay=mailman, ")
    made.wait_log(f"{first}: removed")
    [(argv, text)] = site.lists()
    assert argv == ["lists.example.com", "sender@example.org", "--", "talk"]
    assert text.startswith("Return-Path: <sender@example.org>\n") and text.endswith("\n\nHello.\n")

    second = queue_id(sent(made.port, "vip@example.com", "x@partner.example", "ann@example.com"))
    [vip], [archived], [ann] = site.vip.wait(1), site.archive.wait(1), site.inner.wait(1)
    assert (vip.recipients, vip.content.count(MARK)) == (["vip@example.com"], 1) and len(site.scan.seen) == 1
    assert (archived.recipients, archived.content.count(MARK)) == (["x@partner.example"], 0)
    assert (ann.recipients, ann.content.count(MARK)) == (["ann@example.com"], 0)
    assert site.scan.told["IDENT"] == second
    made.wait_log(f", orig_queue_id={second}, orig_client=client.example.org[127.0.0.1]")
    wait_for(lambda: not made.cli("queue", "list", "--json").stdout.strip(), 20, "an empty queue")
    assert made.status()["degraded"] == [] and len(site.lists()) == 1

    # Who is not there is refused where its mail ends, though the filter takes everybody.
    assert sent(made.port, "nobody@example.com").startswith("550 5.1.1")
    shown = made.cli("route", "vip@example.com").stdout
    assert f"= scan:  ([filters.scan], smtp:[127.0.0.1]:{site.scan.port}: hands back)" in shown
    assert f"what it hands back goes on:\n  {site.made.root}/transport:1" in shown
    assert f"= smtp:[127.0.0.1]:{site.vip.port}" in shown


def test_a_name_that_a_reload_takes_away(site: Site) -> None:
    made = site.made.start()
    (made.root / "filters").write_text("lists.example.com mailmen:\n")
    refused = made.cli("reload", check=False)
    assert refused.returncode and f"{made.root}/filters:1:1: " in refused.stdout + refused.stderr
    sent(made.port, "talk@lists.example.com")
    wait_for(lambda: len(site.lists()) == 1, 20, "the way that was in force before")


def test_a_filter_that_only_says_it_delivers_goes_round_until_the_check_ends_it(
    gateway: Callable[..., Gateway], inner: Inner
) -> None:
    back = free_port()
    scan = ContentFilter(back).start()
    more = f'[[listen]]\nname = "back"\nrole = "reinject"\naddress = "127.0.0.1:{back}"\nworkers = 1\n'
    more += f'[filters.scan]\nnext_hop = "smtp:[127.0.0.1]:{scan.port}"\ndelivers = true\n'
    more += '[relay.routes]\n"example.com" = "scan:"\n'
    made = gateway(policies=plain(), more=more, workers=1)
    sent(made.port, "a@example.com")
    made.wait_log("5.4.6 Too many hops", 60)
    assert 5 < len(scan.seen) < 60 and not inner.messages
    scan.stop()
