"""SPF over a running gateway: what clients hear, what stands on the mail that is delivered, what explain says."""

import re
from collections.abc import Callable

from tests.peers.gateway import ZONE, Gateway
from tests.peers.inner import Inner
from tests.peers.policies import plain
from tests.peers.ports import free_port
from tests.running.talking import Talk, asked, queue_id, sent, trusted_door

STAGES = """\
[inbound]
connect = []
helo = []
mail = ["spf"]
rcpt = ["relay", "recipient"]
data = []
message = ["size"]
"""
RECORDS = """\
. SOA ns. host. 1 2 3 4 60
good.example TXT "v=spf1 a:out.good.example include:more.example -all"
out.good.example A 192.0.2.1
more.example TXT "v=spf1 ip4:198.51.100.0/24 ip6:2001:db8::/32 -all"
soft.example TXT "v=spf1 ~all"
broken.example TXT "v=spf1 moo -all"
bounce.good.example TXT "v=spf1 ip4:192.0.2.1 -all"
"""
STRICT = 'judge_helo = true\n[on]\nfail = "reject"\nsoftfail = "reject"\npermerror = "reject"\nhelo_fail = "reject"\n'
TO = "bob@example.com"


def start(gateway: Callable[..., Gateway], spf: str = "") -> tuple[Gateway, int]:
    door = free_port()
    policies = plain(spf=spf) | {"stages.toml": STAGES}
    return gateway(policies=policies, zone=ZONE + RECORDS, more=trusted_door(door), workers=1), door


def field(content: bytes, name: str) -> list[str]:
    """The unfolded values of a field of the header."""
    header = re.sub(r"\r\n[ \t]+", " ", content.partition(b"\r\n\r\n")[0].decode())
    return [line.partition(": ")[2] for line in header.split("\r\n") if line.lower().startswith(f"{name.lower()}: ")]


def test_a7_results_stand_on_the_mail_and_a_strangers_do_not(gateway: Callable[..., Gateway], inner: Inner) -> None:
    _, door = start(gateway)
    forged = (
        b"Received-SPF: pass (mx.example.com: forged) client-ip=192.0.2.9\r\nFrom: <a@good.example>\r\n\r\nHello.\r\n"
    )
    cases = {
        "pass": ("192.0.2.1", "joe@good.example", "mail.good.example"),
        "include": ("2001:db8::5", "joe@good.example", "mail.good.example"),
        "fail": ("192.0.2.66", "joe@good.example", "mail.good.example"),
        "none": ("192.0.2.1", "joe@nobody.example", "mail.good.example"),
        "null": ("192.0.2.1", "", "bounce.good.example"),
    }
    for number, (address, sender, helo) in enumerate(cases.values(), 1):
        queue_id(sent(door, TO, sender=sender, body=forged, address=address, helo=helo))
        inner.wait(number)  # in this order
    kept = dict(zip(cases, inner.wait(len(cases)), strict=True))
    results = {name: field(kept[name].content, "Authentication-Results")[0] for name in cases}
    assert results == {
        "pass": "mx.example.com; spf=pass smtp.mailfrom=good.example",
        "include": "mx.example.com; spf=pass smtp.mailfrom=good.example",
        "fail": "mx.example.com; spf=fail smtp.mailfrom=good.example",
        "none": "mx.example.com; spf=none smtp.mailfrom=nobody.example",
        "null": "mx.example.com; spf=pass smtp.helo=bounce.good.example",
    }
    received = {name: field(kept[name].content, "Received-SPF")[0] for name in cases}
    assert received["include"] == (
        "pass (mx.example.com: domain of good.example designates 2001:db8::5 as permitted sender) "
        'client-ip="2001:db8::5"; envelope-from="joe@good.example"; helo=mail.good.example; receiver=mx.example.com; '
        'identity=mailfrom; mechanism="include:more.example"'
    )
    assert received["fail"].startswith("fail (mx.example.com: domain of good.example does not designate 192.0.2.66 ")
    assert "identity=helo" in received["null"]
    for message in kept.values():
        assert len(field(message.content, "Received-SPF")) == 1  # a stranger's is gone
        assert b"forged" not in message.content
        assert message.content.startswith((b"Authentication-Results:", b"X-Postgate-Mark:", b"Received-SPF:"))
    assert field(kept["fail"].content, "X-Postgate-Mark") == ["spf=fail"]


def test_refusals_are_bland_and_exact(gateway: Callable[..., Gateway]) -> None:
    made, door = start(gateway, STRICT)
    said = {
        "pass": asked(door, TO, "joe@good.example", address="192.0.2.1", helo="out.other.example"),
        "fail": asked(door, TO, "joe@good.example", address="192.0.2.66", helo="out.other.example"),
        "softfail": asked(door, TO, "joe@soft.example", address="192.0.2.66", helo="out.other.example"),
        "permerror": asked(door, TO, "joe@broken.example", address="192.0.2.66", helo="out.other.example"),
        "helo": asked(door, TO, "joe@nobody.example", address="192.0.2.66", helo="good.example"),
        "null": asked(door, TO, "", address="192.0.2.66", helo="good.example"),
    }
    assert {name: reply.partition(" [")[0] for name, reply in said.items()} == {
        "pass": "250 2.1.5 Ok",
        "fail": "550 5.7.23 Sender address rejected: the domain does not let this client send its mail",
        "softfail": "550 5.7.23 Sender address rejected: the domain does not expect mail from this client",
        "permerror": "550 5.7.24 Sender address rejected: the SPF record of the domain is broken",
        "helo": "550 5.7.23 Access denied: the domain of your HELO name does not let this client use it",
        "null": "550 5.7.23 Sender address rejected: the domain does not let this client send its mail",
    }
    made.wait_log("fail of good.example by -all")


def test_dns_that_is_away_refuses_nobody(gateway: Callable[..., Gateway], inner: Inner) -> None:
    """The name server of these gateways is away: what stands outside of the zone file cannot be known."""
    door = free_port()
    policies = plain(spf=STRICT) | {"stages.toml": STAGES}
    zone = ZONE + 'good.example TXT "v=spf1 include:away.example.net -all"\n'
    gateway(policies=policies, zone=zone, more=trusted_door(door), workers=1)
    talk = Talk(door, address="192.0.2.1", helo="away.example.org")
    for sender in ("joe@good.example", "joe@away.example.org", ""):
        assert talk.send(TO, sender=sender).startswith("250 ")
    talk.close()
    for kept in inner.wait(3):
        (result,) = field(kept.content, "Authentication-Results")
        assert result.startswith("mx.example.com; spf=temperror smtp.")
        assert field(kept.content, "Received-SPF")[0].startswith("temperror (mx.example.com: DNS did not answer about ")
        assert field(kept.content, "X-Postgate-Mark") == ["spf=temperror"]


def test_a_void_limit_of_the_operator_is_in_force(gateway: Callable[..., Gateway], inner: Inner) -> None:
    door = free_port()
    policies = plain(spf=f"void_limit = 4\n{STRICT}") | {"stages.toml": STAGES}
    record = 'old.example TXT "v=spf1 a:v1.example a:v2.example a:v3.example ip4:192.0.2.1 -all"\n'
    gateway(policies=policies, zone=ZONE + RECORDS + record, more=trusted_door(door), workers=1)
    assert asked(door, TO, "joe@old.example", address="192.0.2.1").startswith("250")
