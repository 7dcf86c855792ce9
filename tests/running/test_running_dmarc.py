"""DMARC over a running gateway: what clients hear, what stands on the mail, what the journal keeps (A4 to A12)."""

import json
import re
import time
from collections.abc import Callable
from typing import Any

from tests.mailauth.signing import record, seal, sign
from tests.mailauth.test_author import AMBIGUOUS, FIELDS, TRACE, header
from tests.peers.gateway import ZONE, Gateway
from tests.peers.inner import Inner
from tests.peers.policies import plain
from tests.peers.ports import free_port, wait_for
from tests.running.talking import Talk, queue_id, sent, trusted_door

STAGES = """\
[inbound]
connect = []
helo = []
mail = ["spf", "own_domain"]
rcpt = ["relay", "recipient"]
data = []
message = ["size", "dkim", "arc", "dmarc", "own_domain", "impersonation"]
[outbound]
connect = []
helo = []
mail = ["own_domain"]
rcpt = []
data = []
message = ["own_domain"]
"""
DOMAINS = """\
. SOA ns. host. 1 2 3 4 60
_dmarc.strict.example TXT "v=DMARC1; p=reject; rua=mailto:reports@strict.example"
strict.example TXT "v=spf1 ip4:192.0.2.1 -all"
_dmarc.careful.example TXT "v=DMARC1; p=quarantine"
_dmarc.watching.example TXT "v=DMARC1; p=none"
_dmarc.example.org TXT "v=DMARC1; p=reject; adkim=s"
forward.example TXT "v=spf1 ip4:192.0.2.30 -all"
"""
TO = "bob@example.com"
STRANGER = {"address": "192.0.2.66", "name": "host.example.net"}


def start(
    gateway: Callable[..., Gateway],
    zone: str = DOMAINS,
    more: str = "",
    lists: dict[str, str] | None = None,
    **files: str,
) -> tuple[Gateway, int]:
    """`files`: policy files by name, `lists`: tables in the policies folder."""
    door, key = free_port(), record()
    strings = " ".join(f'"{key[at : at + 200]}"' for at in range(0, len(key), 200))
    text = ZONE + zone + f"s._domainkey.example.org TXT {strings}\n"
    policies = plain(**files) | {"stages.toml": STAGES} | (lists or {})
    return gateway(policies=policies, zone=text, more=trusted_door(door) + more, workers=1), door


def mail(author: str, more: bytes = b"") -> bytes:
    return more + f"From: {author}\r\nSubject: x\r\n\r\nHello.\r\n".encode()


def fields(content: bytes, name: str) -> list[str]:
    """The unfolded values of a field of the header."""
    header = re.sub(r"\r\n[ \t]+", " ", content.partition(b"\r\n\r\n")[0].decode())
    return [line.partition(": ")[2] for line in header.split("\r\n") if line.lower().startswith(f"{name.lower()}: ")]


def event(made: Gateway, reply: str) -> Any:
    """The journal's event of the message that was answered so."""
    known = re.search(r"queued as (\w+)|\[(\w+)\]$", reply)
    assert known, reply
    told = f'"id":"{known[1] or known[2]}"'
    made.wait_log(told)
    line = next(line for line in made.log().splitlines() if told in line and '"event":"message"' in line)
    return json.loads(line[line.index("{") :])


def facts(found: Any) -> Any:
    (verdict,) = [verdict for verdict in found["verdicts"] if verdict["check"] == "dmarc"]
    return verdict["evidence"]["facts"]


def test_the_owner_of_the_domain_is_obeyed(gateway: Callable[..., Gateway], inner: Inner) -> None:
    made, door = start(gateway)
    refused = sent(door, TO, sender="x@elsewhere.example", body=mail("boss@strict.example"), **STRANGER)
    assert refused.startswith("550 5.7.26 Message refused: it fails the DMARC policy of the author's domain [")
    cases = {
        "careful": ("quarantine", "fail header.from=careful.example polrec.p=quarantine policy.dmarc=quarantine"),
        "watching": ("fail", "fail header.from=watching.example polrec.p=none policy.dmarc=none"),
        "nobody": ("", "none header.from=nobody.example"),
    }
    for number, (name, (mark, result)) in enumerate(cases.items(), 1):
        queue_id(sent(door, TO, sender="x@elsewhere.example", body=mail(f"boss@{name}.example"), **STRANGER))
        content = inner.wait(number)[-1].content
        assert fields(content, "X-Postgate-Mark") == ([f"dmarc={mark}"] if mark else [])
        assert f"; dmarc={result}" in fields(content, "Authentication-Results")[0]
    queue_id(sent(door, TO, sender="x@strict.example", body=mail("boss@strict.example"), address="192.0.2.1"))
    content = inner.wait(4)[-1].content
    assert fields(content, "Authentication-Results")[0].endswith(
        "; dmarc=pass header.from=strict.example polrec.p=reject"
    )
    found = event(made, refused)
    assert (found["result"], found["deciding"]["check"], found["deciding"]["outcome"]) == ("reject", "dmarc", "reject")


def test_what_an_aggregate_report_needs_stands_in_the_journal(gateway: Callable[..., Gateway], inner: Inner) -> None:
    made, door = start(gateway)
    refused = sent(door, TO, sender="x@elsewhere.example", body=mail("boss@strict.example"), **STRANGER)
    found = event(made, refused)
    assert facts(found) == {
        "source_ip": "192.0.2.66",
        "helo": "mail.example.org",
        "envelope_from": "elsewhere.example",
        "envelope_to": ["example.com"],
        "header_from": "strict.example",
        "published": {
            "domain": "strict.example",
            "p": "reject",
            "sp": "reject",
            "np": "reject",
            "adkim": "r",
            "aspf": "r",
            "testing": "n",
            "fo": "0",
            "rua": ["mailto:reports@strict.example"],
            "discovery": "treewalk",
        },
        "result": "fail",
        "asked": "reject",
        "outcome": "reject",
        "aligned": {"spf": "fail", "dkim": "fail"},
        "spf": {"domain": "elsewhere.example", "scope": "mfrom", "result": "none"},
        "dkim": [],
        "overrides": [],
    }
    assert found["result"] == "reject"


def test_a4_an_ambiguous_author_is_refused(gateway: Callable[..., Gateway], inner: Inner) -> None:
    _, door = start(gateway)
    for body in (
        mail("a@strict.example, b@nobody.example"),
        mail("a@nobody.example", b"From: boss@strict.example\r\n"),
        mail("a@nobody.example", b"From : boss@strict.example\r\n"),
        b"\r\n" + mail("a@nobody.example"),
        b"Subject: none\r\n\r\nHello.\r\n",
    ):
        reply = sent(door, TO, sender="x@nobody.example", body=body, **STRANGER)
        assert reply.startswith("550 5.7.1 Message refused: it needs exactly one author in From [")
    assert inner.messages == []


def test_a5_dns_away_puts_off_and_after_the_budget_the_mail_passes_marked(
    gateway: Callable[..., Gateway], inner: Inner
) -> None:
    """Nothing in the zone: the only name server does not answer. The time of a message runs on
    over a restart."""
    budget = 12.0
    made, door = start(gateway, zone="", dmarc=f'put_off = "{budget:.0f}s"\n')
    body = mail("boss@away.example")

    def attempt() -> str:
        return sent(door, TO, sender="x@away.example", body=body, **STRANGER)

    begun = time.monotonic()
    first = attempt()
    assert first.startswith("451 4.4.3 The author's domain cannot be checked at the moment, please try again later [")
    assert event(made, first)["result"] == "defer"
    made.stop()
    made.start()
    again = attempt()
    assert again.startswith("451 4.4.3 ") or time.monotonic() - begun > budget
    wait_for(lambda: attempt().startswith("250 ") or time.sleep(0.5), 60, "the budget to be over")
    assert time.monotonic() - begun > budget
    content = inner.wait(1)[0].content
    assert "dmarc=undecided" in fields(content, "X-Postgate-Mark")
    assert "dmarc=temperror header.from=away.example" in fields(content, "Authentication-Results")[0]


def test_a7_a8_forged_results_are_gone_and_a_signed_message_still_passes(
    gateway: Callable[..., Gateway], inner: Inner
) -> None:
    _, door = start(gateway)
    signed = sign(mail("alice@example.org"), h="From:Subject")
    forged = (
        b"Authentication-Results: mx.example.com; dmarc=pass header.from=strict.example\r\n"
        b"AUTHENTICATION-RESULTS : (x) MX.example.com.\r\n ; spf=pass\r\n"
        b"Authentication-Results: other.example; dkim=pass\r\n"
        b"Received-SPF: pass (mx.example.com: forged)\r\nX-Spam-Status: No\r\n"
        b"ARC-Authentication-Results: i=1; mx.example.com; x\r\n"
    )
    sender = '"a;b=pass (x"@elsewhere.example'
    queue_id(sent(door, TO, sender=sender, body=forged + signed, **STRANGER))
    content = inner.wait(1)[0].content
    ours, other = fields(content, "Authentication-Results")
    assert ours.startswith("mx.example.com; spf=none smtp.mailfrom=elsewhere.example;")
    assert ours.endswith("; dmarc=pass header.from=example.org polrec.p=reject")
    assert other == "other.example; dkim=pass"
    assert len(fields(content, "Received-SPF")) == 1 and b"forged" not in content and b"X-Spam-Status" not in content
    assert len(fields(content, "ARC-Authentication-Results")) == 1
    assert content.endswith(signed)


def test_a_trusted_forwarder_and_what_is_stamped(gateway: Callable[..., Gateway], inner: Inner) -> None:
    knob = 'trusted_forwarders = "texthash:forwarders"\n'
    listed = "lists.example until=2099-12-31 proof=name\nforward.example until=2099-12-31 proof=spf\n"
    made, door = start(gateway, dmarc=knob, lists={"forwarders": listed})
    posted = mail("boss@strict.example", b"List-Id: <l.lists.example>\r\n")
    by_name = {"address": "192.0.2.40", "name": "lists.example"}
    reply = sent(door, TO, sender="l-bounces@lists.example", body=posted, **by_name)
    content = inner.wait(1)[0].content
    assert fields(content, "X-Postgate-Mark") == ["dmarc=forwarded"]
    assert fields(content, "Authentication-Results")[0].endswith(
        'dmarc=fail reason="forwarded by lists.example, proof name" header.from=strict.example '
        "polrec.p=reject policy.dmarc=reject policy.override=trusted_forwarder"
    )
    assert facts(event(made, reply))["overrides"][0]["type"] == "trusted_forwarder"
    srs = {"sender": "SRS0=ab=cd=strict.example=boss@forward.example", "address": "192.0.2.30", "name": "x.example"}
    assert sent(door, TO, body=mail("boss@strict.example"), **srs).startswith("250 ")
    for other in (
        sent(door, TO, sender="x@lists.example", body=mail("boss@strict.example"), **by_name),
        sent(door, TO, sender="x@lists.example", body=posted, **STRANGER),
        sent(door, TO, body=posted, **{**srs, "address": "192.0.2.31"}),
    ):
        assert other.startswith("550 5.7.26 ")
    nameless = sent(door, TO, sender="x@lists.example", body=posted, address="192.0.2.40", name="[TEMPUNAVAIL]")
    assert nameless.startswith("451 4.4.3 ")  # DNS hides whether it is the forwarder


def test_a9_a_listed_sealer_softens_a_reject(gateway: Callable[..., Gateway], inner: Inner) -> None:
    listed = "example.org until=2099-12-31\n"
    _, door = start(gateway, dmarc='trusted_sealers = "texthash:sealers"\n', lists={"sealers": listed})
    body = mail("boss@strict.example")
    for claims in ("mx.example.org; dmarc=fail header.from=strict.example", "mx.example.org; spf=pass"):
        assert sent(door, TO, body=seal(body, claims=claims), **STRANGER).startswith("550 5.7.26 ")
    good = "mx.example.org; dmarc=pass header.from=strict.example"
    assert sent(door, TO, body=seal(body, claims=good).replace(b"Subject: x", b"Subject: y"), **STRANGER).startswith(
        "550 "
    )
    queue_id(sent(door, TO, body=seal(body, claims=good), **STRANGER))
    content = inner.wait(1)[0].content
    assert fields(content, "X-Postgate-Mark") == ["dmarc=sealed"]
    assert 'dmarc=fail reason="sealed by example.org"' in fields(content, "Authentication-Results")[0]


def test_a11_a12_our_own_names_from_outside(gateway: Callable[..., Gateway], inner: Inner) -> None:
    made, door = start(gateway, own_domain='protected = ".example.com"\n')
    for number, (author, mark) in enumerate(
        {
            "boss@example.com": "own_domain=spoofed",
            '"boss@example.com" <x@nobody.example>': "impersonation=address_in_name",
            "x@examp1e.com": "impersonation=lookalike",
            "P\u0430ypal <x@nobody.example>": "impersonation=mixed_scripts",
        }.items(),
        1,
    ):
        queue_id(sent(door, TO, sender="x@nobody.example", body=mail(author), **STRANGER))
        assert fields(inner.wait(number)[-1].content, "X-Postgate-Mark") == [mark]
    reply = sent(door, TO, sender="x@nobody.example", body=mail("boss@sub.example.com"), **STRANGER)
    assert reply.startswith("550 5.7.1 Message refused: you may not use this domain [")
    assert event(made, reply)["deciding"]["outcome"] == "forbidden"


def test_a10_our_people_send_as_themselves(gateway: Callable[..., Gateway], inner: Inner) -> None:
    out = free_port()
    listener = f'[[listen]]\nname = "out"\nrole = "outbound"\naddress = "127.0.0.1:{out}"\nworkers = 1\n'
    listener += 'xclient = ["127.0.0.0/8"]\n'
    knob = 'sources = "cidr:sources"\n'
    start(gateway, more=listener, own_domain=knob, lists={"sources": "10.0.0.0/8 example.com\n"})
    ours, refused = mail("bob@example.com"), "550 5.7.1 Sender address rejected: not owned by you ["
    assert sent(out, TO, sender="bob@example.com", body=ours, address="10.0.0.1").startswith("250 ")
    assert sent(out, TO, sender="bob@example.com", body=ours, address="10.0.0.2").startswith("250 ")
    assert sent(out, TO, sender="bob@example.com", body=ours, address="192.0.2.1").startswith(refused)
    assert sent(out, TO, sender="x@strict.example", body=ours, address="10.0.0.1").startswith(refused)
    assert sent(out, TO, sender="bob@example.com", body=mail("x@strict.example"), address="10.0.0.1").startswith(refused)


def test_the_client_behind_a_relay_of_ours_is_judged(gateway: Callable[..., Gateway], inner: Inner) -> None:
    made, door = start(gateway)
    config = made.config.read_text().replace(
        "[gateway]\n", '[gateway]\ntrusted_relays = ["192.0.2.99"]\nauthserv_id = "filter.example.com"\n', 1
    )
    made.config.write_text(config)
    made.cli("reload")
    relay = {"address": "192.0.2.99", "name": "relay.example.com", "sender": "boss@strict.example"}

    def brought(received: str) -> str:
        return sent(door, TO, body=mail("boss@strict.example", received.encode()), **relay)

    by = " by relay.example.com; Mon, 1 Jan 2024 12:00:00 +0000\r\n"
    good = brought(f"Received: from mail.strict.example (mail.strict.example [192.0.2.1]){by}")
    inner.wait(1)
    assert facts(event(made, good))["source_ip"] == "192.0.2.1"
    assert brought(f"Received: from mail.strict.example (x [192.0.2.66]){by}").startswith("550 5.7.26 ")
    assert brought(f"Received: from x (x [10.1.1.1]){by}").startswith("250 ")
    kept = inner.wait(2)
    assert [fields(one.content, "X-Postgate-Mark") for one in kept] == [[], ["dmarc=undecided"]]
    told = [fields(one.content, "Authentication-Results")[0] for one in kept]
    assert told[0] == (
        "filter.example.com; dkim=none; spf=pass smtp.mailfrom=strict.example; "
        "dmarc=pass header.from=strict.example polrec.p=reject"
    )
    assert told[1].startswith("filter.example.com; ") and "dmarc=temperror" in told[1]


def test_a4_every_ambiguous_form_is_refused_at_once(gateway: Callable[..., Gateway], inner: Inner) -> None:
    """A hundred ways to write From that readers show differently, in sessions of ten."""
    _, door = start(gateway)
    bodies = [header(value)[len(TRACE) :] + b"Hello.\r\n" for value, _ in AMBIGUOUS]
    bodies += [fields + b"Hello.\r\n" for fields, _ in FIELDS]
    assert len(bodies) >= 100
    begin, taken = time.monotonic(), []
    for at in range(0, len(bodies), 10):
        talk = Talk(door, **STRANGER)
        for body in bodies[at : at + 10]:
            reply = talk.send(TO, sender="x@nobody.example", body=body)
            if not reply.startswith("550 5.7.1 Message refused: it needs exactly one author in From ["):
                taken.append((body, reply))
        talk.close()
    assert not taken and inner.messages == []
    assert time.monotonic() - begin < 30
