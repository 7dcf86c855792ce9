"""The same transport table, with names of one's own in it, before a real Postfix's pipe(8) and lmtp(8) and before ours:
who runs for whom, with which nexthop, who is known by verification, and what a sender hears of success."""

import email
import json
import smtplib
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from aiosmtpd.lmtp import LMTP

from tests.peers.gateway import ZONE, Gateway
from tests.peers.inner import Inner
from tests.peers.policies import STAGES
from tests.peers.ports import wait_for
from tests.peers.postfix import Postfix

pytestmark = pytest.mark.peer

TELL = """\
#!{python} -IS
import json, os, sys, tempfile
sys.stdin.buffer.read()
fd, name = tempfile.mkstemp(dir={told!r})
os.write(fd, json.dumps(sys.argv[1:]).encode())
os.close(fd)
os.rename(name, name + ".done")
sys.exit({code})
"""
WORDS = "n=${nexthop} f=${sender} -- ${recipient}"
DOMAINS = (
    *("lists", "news", "bare", "words", "upper", "blank", "colon", "literal", "deep.tree", "final", "archived", "gone"),
    *("late", "hole", "ours"),
)
TABLE = """\
lists.example       mailman:
news.example        mailman:other.example
bare.example        mailman
words.example       mailman:some words, and more
upper.example       mailman:UPPER.Example
blank.example       mailman: news.example
colon.example       mailman:a:b:c
literal.example     mailman:[192.0.2.1]:25
.tree.example       mailman:tree
user@ours.example   mailman:user
final.example       final:
archived.example    archive:inet:127.0.0.1:{lmtp}
gone.example        error:5.1.6 gone
late.example        retry:4.3.2 later
hole.example        discard:
sender.example      smtp:[127.0.0.1]:{told}
"""


BY_SENDER = (
    "inline:{ boss@by.example=mailman:boss, pipe@by.example=mailman:, none@by.example=mailman, slow@by.example=slow: }"
)
RELAYHOSTS = "inline:{{ pipe@by.example=[127.0.0.1]:{port}, slow@by.example=[127.0.0.1]:{port} }}"


class Lmtp(Inner):
    def _protocol(self) -> LMTP:
        self.sessions += 1
        return LMTP(self, hostname="archive.example.net", loop=self._loop)


class Side:
    """One of the two: where its commands tell, its archive, its next hop, and who hears of successes."""

    def __init__(self, root: Path, name: str) -> None:
        self.folder = root / name
        self.folder.mkdir()
        self.folder.chmod(0o777)
        self.program = root / f"tell-{name}"
        self.program.write_text(TELL.format(python=sys.executable, told=str(self.folder), code=0))
        self.program.chmod(0o755)
        self.default, self.told, self.archive = Inner().start(), Inner().start(), Lmtp().start()
        self.table = root / f"transport-{name}"
        self.table.write_text(TABLE.format(lmtp=self.archive.port, told=self.told.port))
        self.port = 0
        self.stopping: list[Any] = [self.default, self.told, self.archive]

    def runs(self) -> list[list[str]]:
        return sorted(json.loads(path.read_text()) for path in self.folder.glob("*.done"))

    def successes(self) -> list[tuple[str, str, str]]:
        """(recipient, action, status) of all reports that came."""
        found = []
        for kept in self.told.messages:
            parts: Any = email.message_from_bytes(kept.content).get_payload()
            for fields in parts[1].get_payload()[1:]:
                address = fields["Final-Recipient"].partition(";")[2].strip()
                found.append((address, str(fields["Action"]), str(fields["Status"])))
        return sorted(found)

    def stop(self) -> None:
        for one in reversed(self.stopping):
            one.stop()


def domains() -> list[str]:
    return [f"{name}.example" for name in DOMAINS]


@pytest.fixture
def theirs(tmp_path: Path, make_postfix: Callable[..., Postfix]) -> Iterator[Side]:
    side = Side(tmp_path, "theirs")
    services = "".join(
        f"{name} unix - n n - - pipe flags={flags} user=nobody argv={side.program} {WORDS}\n"
        for name, flags in (("mailman", "q"), ("final", "Xq"))
    )
    made = make_postfix(
        services=services + "archive unix - - n - - lmtp\nslow unix - - n - - smtp\n",
        transport_maps=f"texthash:{side.table}",
        sender_dependent_default_transport_maps=BY_SENDER,
        sender_dependent_relayhost_maps=RELAYHOSTS.format(port=side.told.port),
        relay_domains=" ".join([*domains(), "sender.example"]),
        relay_transport=f"smtp:[127.0.0.1]:{side.default.port}",
        default_transport=f"smtp:[127.0.0.1]:{side.default.port}",
        smtpd_recipient_restrictions="reject_unverified_recipient, permit",
        unverified_recipient_reject_code="550",
        address_verify_map="",
        address_verify_poll_count="30",
        address_verify_poll_delay="1s",
        parent_domain_matches_subdomains="",
        minimal_backoff_time="1000s",
    )
    side.port = made.port
    yield side
    side.stop()


@pytest.fixture
def ours(tmp_path: Path) -> Iterator[Side]:
    side = Side(tmp_path, "ours")
    outbound = STAGES.format(connect="[]", rcpt='["recipient"]', message="[]").replace("inbound", "outbound")
    policies = {
        "stages.toml": STAGES.format(connect="[]", rcpt='["relay", "recipient"]', message="[]")
        + outbound.replace('mail = ["size"]', 'mail = ["identity", "spf"]'),
        "recipient.toml": "callahead = true\n",
    }
    zone = ZONE + 'sender.example TXT "v=spf1 ip4:127.0.0.1 -all"\n'
    made = Gateway(tmp_path / "g", side.default.port, workers=1, policies=policies, zone=zone)
    words = json.dumps([str(side.program), *WORDS.split()])
    text = made.config.read_text().replace('domains = ["example.com"]', f"domains = {json.dumps(domains())}")
    text = text.replace('name = "public"', 'name = "public"\nrole = "outbound"').replace(
        "[relay]\n",
        f'[relay]\nroutes = "texthash:{side.table}"\n'
        f'sender_dependent_default_transport_maps = "{BY_SENDER}"\n'
        f'sender_dependent_relayhost_maps = "{RELAYHOSTS.format(port=side.told.port)}"\n',
    )
    text += f'[filters.mailman]\ncommand = {words}\n[filters.final]\ncommand = {words}\nflags = "X"\n'
    text += '[filters.slow]\nnext_hop = "smtp:"\n'
    text += '[filters.archive]\nnext_hop = "lmtp:[127.0.0.1]:1"\ndelivers = true\n'
    made.config.write_text(text)
    side.port = made.start().port
    side.stopping.append(made)
    yield side
    side.stop()


def send(side: Side, *to: str, sender: str = "ann@sender.example", notify: str = "") -> None:
    with smtplib.SMTP("127.0.0.1", side.port, timeout=60) as client:
        client.ehlo("client.example.org")
        client.mail(sender)
        for one in to:
            code, text = client.rcpt(one, [f"NOTIFY={notify}"] if notify else [])
            assert code == 250, (one, text)
        code, text = client.data(b"From: <a@b.example>\r\nTo: <c@d.example>\r\nSubject: x\r\n\r\nbody\r\n")
        assert code == 250, text


def test_the_same_table_runs_the_same_commands_for_the_same_recipients(theirs: Side, ours: Side) -> None:
    for side in (theirs, ours):
        send(side, "a@lists.example", "b@lists.example", "c@bare.example", "d@news.example")
        for to in ("words", "upper", "blank", "colon", "literal", "deep.tree", "final"):
            send(side, f"x+y@{to}.example")
        send(side, "user@ours.example", "other@ours.example")
        send(side, "x@far.example", sender="boss@by.example")
        send(side, "x@archived.example")
    count = 12
    for side in (theirs, ours):
        wait_for(lambda side=side: len(side.runs()) >= count, 30, f"{count} runs")  # type: ignore[misc]
        assert [kept.recipients for kept in side.archive.wait(1)] == [["x@archived.example"]]
        assert [kept.recipients for kept in side.default.wait(1)] == [["other@ours.example"]]
    # A nexthop with a blank in front has it in Postfix's pipe(8); here it has none, as before a host.
    told = [[word.replace("n= ", "n=") for word in argv] for argv in theirs.runs()]
    assert len(told) == count and ours.runs() == sorted(told) != theirs.runs()


def test_by_the_sender_an_empty_nexthop_is_the_relayhost_or_the_domain(theirs: Side, ours: Side) -> None:
    told = {}
    for side in (theirs, ours):
        for name in ("boss", "pipe", "none", "slow"):
            send(side, "x@far.example", sender=f"{name}@by.example")
        wait_for(lambda side=side: len(side.runs()) >= 3, 30, "three runs")  # type: ignore[misc]
        [slow] = side.told.wait(1)
        assert (slow.sender, slow.recipients) == ("slow@by.example", ["x@far.example"])
        told[side.folder.name] = [
            [word.replace(str(side.told.port), "PORT") for word in argv[:2]] for argv in side.runs()
        ]
    assert told["ours"] == told["theirs"]
    assert told["ours"] == [
        ["n=[127.0.0.1]:PORT", "f=pipe@by.example"],
        ["n=boss", "f=boss@by.example"],
        ["n=far.example", "f=none@by.example"],
    ]


def test_who_is_known_where_no_server_is_asked(theirs: Side, ours: Side) -> None:
    """Postfix's address verification and our call-ahead."""
    found: dict[str, dict[str, int]] = {}
    for side in (theirs, ours):
        with smtplib.SMTP("127.0.0.1", side.port, timeout=60) as client:
            client.ehlo("client.example.org")
            client.mail("ann@sender.example")
            codes = {
                name: client.rcpt(f"x@{name}.example")[0] for name in ("lists", "news", "hole", "gone", "late", "final")
            }
        found[side.folder.name] = {name: code // 100 for name, code in codes.items()}
    assert found["ours"] == found["theirs"] == {"lists": 2, "news": 2, "hole": 2, "gone": 5, "late": 4, "final": 2}


def test_what_a_sender_hears_of_success(theirs: Side, ours: Side) -> None:
    for side in (theirs, ours):
        send(side, "x@lists.example", "x@final.example", "x@archived.example", "x@hole.example", notify="SUCCESS")
    for side in (theirs, ours):
        wait_for(lambda side=side: len(side.successes()) >= 4, 30, "all reports")  # type: ignore[misc]
    told = {side.folder.name: {to: action for to, action, _ in side.successes()} for side in (theirs, ours)}
    assert told["theirs"]["x@lists.example"] == "relayed" and told["theirs"]["x@final.example"] == "delivered"
    # Who speaks LMTP delivers: with us that is said.
    assert told["theirs"].pop("x@archived.example") == "relayed" and told["ours"].pop("x@archived.example") == "delivered"
    assert told["ours"] == told["theirs"]
