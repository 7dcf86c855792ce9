"""ARC chains (RFC 8617 5.2), row A9: the whole chain must verify, whoever made it."""

import re
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from appliance.mailauth import arc
from appliance.mailauth.dkim_message import Message
from appliance.protocol.errors import Unavailable
from tests.mailauth.signing import MAIL, Letter, chain, pem, record, seal, sets_of, sign

ONE = seal(sign())
TWO = seal(ONE, d="lists.example.net", s="t", claims="lists.example.net; arc=pass; dkim=fail")
THREE = seal(TWO, d="forward.example.com", s="u", claims="forward.example.com; arc=pass")


def judged(octets: bytes, keys: Any = None) -> str:
    return chain(octets, keys).result


def test_chains_that_hold() -> None:
    assert judged(MAIL) == judged(sign()) == "none"
    found = chain(ONE)
    assert (found.result, found.instances, found.sealers) == ("pass", 1, ("example.org",))
    found = chain(THREE)
    assert (found.result, found.instances) == ("pass", 3)
    assert found.sealers == ("example.org", "lists.example.net", "forward.example.com")
    assert found.claims == (
        "mx.example.net; spf=pass",
        "lists.example.net; arc=pass; dkim=fail",
        "forward.example.com; arc=pass",
    )


def test_a9_fifty_instances_hold_and_one_more_does_not() -> None:
    octets = MAIL
    for _ in range(50):
        octets = seal(octets, 1024)
    assert judged(octets, record(1024)) == "pass"
    more = chain(seal(octets, 1024), record(1024))
    assert more.result == "fail" and "more than 50" in more.reason


def test_a9_one_chain_asks_for_few_keys() -> None:
    octets = MAIL
    for number in range(21):
        octets = seal(octets, 1024, s=f"s{number}")
        message = Message(Letter(octets))
        assert len(arc.questions(arc.read(message))) == (number + 1 if number < 20 else 0)
    assert "different keys" in chain(octets, record(1024)).reason


CHANGED = [
    (b"i=1; mx.example.net; spf=pass", b"i=1; mx.example.net; spf=fail", "seal of instance 1"),
    (b"dkim=fail", b"dkim=pass", "seal of instance 2"),
    (b"ARC-Seal: i=1; a=rsa-sha256", b"ARC-Seal: i=1;  x=1; a=rsa-sha256", "seal of instance 1"),
    (b"Hello", b"Hallo", "message signature of instance 3"),
    (b"Alice", b"Alise", "message signature of instance 3"),
    (b"A  subject", b"Another subject", "message signature of instance 3"),
]


@pytest.mark.parametrize(("old", "new", "why"), CHANGED)
def test_a9_what_is_sealed_cannot_be_changed(old: bytes, new: bytes, why: str) -> None:
    assert THREE.count(old) == 1
    found = chain(THREE.replace(old, new))
    assert found.result == "fail" and why in found.reason
    assert found.claims == (), "nobody vouches for what a broken chain claims"


@pytest.mark.parametrize("instance", [1, 2, 3])
@pytest.mark.parametrize("part", ["results", "message signature", "seal"])
def test_a9_no_part_of_a_set_may_be_missing_or_twice(part: str, instance: int) -> None:
    field = sets_of(THREE)[instance - 1][("results", "message signature", "seal").index(part)] + b"\r\n"
    assert THREE.count(field) == 1
    assert judged(THREE.replace(field, b"")) == "fail"
    assert judged(field + THREE) == "fail"


def test_a9_the_oldest_sets_cannot_be_cut_off() -> None:
    """Nor the newest: what then is the newest signed another message."""
    sets = re.findall(rb"ARC-Seal:.*?(?=ARC-Seal:|DKIM-Signature:)", THREE, re.DOTALL)
    assert len(sets) == 3
    assert judged(THREE.replace(sets[2], b"")) == "fail"
    assert judged(THREE.replace(sets[1], b"")) == "fail"
    assert judged(THREE.replace(sets[0], b"")) == "pass", "the two that are left are a whole chain"
    changed = THREE.replace(sets[0], b"").replace(b"Hello", b"Hallo")
    assert judged(changed) == "fail"


@pytest.mark.parametrize(
    ("first", "second", "result"),
    [
        ("none", "pass", "pass"),
        ("pass", "pass", "fail"),
        ("fail", "pass", "fail"),
        ("none", "none", "fail"),
        ("none", "fail", "fail"),
        ("none", "PASS", "pass"),
        ("none", "maybe", "fail"),
        ("none", "", "fail"),
        ("", "pass", "fail"),
    ],
)
def test_a9_each_seal_says_the_right_thing_of_those_before(first: str, second: str, result: str) -> None:
    assert judged(seal(seal(MAIL, cv=first), cv=second)) == result


def test_a9_a_chain_that_failed_before_asks_nobody() -> None:
    message = Message(Letter(seal(ONE, cv="fail")))
    assert arc.questions(arc.read(message)) == []
    assert "says that the chain has failed" in chain(seal(ONE, cv="fail")).reason


@pytest.mark.parametrize(
    "tags", [{"h": "From"}, {"a": "rsa-md5"}, {"i": "0"}, {"i": "3"}, {"i": "x"}, {"i": "1"}, {"s": ""}, {"d": "org"}]
)
def test_a9_seals_that_are_none(tags: dict[str, str]) -> None:
    assert judged(seal(ONE, **tags)) == "fail"


@pytest.mark.parametrize("text", ["i=2", "i=x; a", "mx.example.net; i=2", "i=2, x", "i=99999; x", "", "i=1; x"])
def test_a9_results_without_an_instance(text: str) -> None:
    assert judged(TWO.replace(b"i=2; lists.example.net; arc=pass", text.encode())) == "fail"


@pytest.mark.parametrize("keys", [record(tags="v=DKIM1; t=s; "), record(tags="v=DKIM1; s=email; ")])
def test_keys_of_seals(keys: str) -> None:
    assert judged(TWO, keys) == "pass"


@pytest.mark.parametrize("keys", [(), "v=DKIM1; p=", "nonsense", record(1024), record(tags="v=DKIM1; s=other; ")])
def test_a9_one_bad_key_breaks_the_chain(keys: Any) -> None:
    for selector in ("s", "t", "u"):
        assert judged(THREE, {"s": record(), "t": record(), "u": record(), selector: keys}) == "fail"


def test_a9_short_keys_break_the_chain() -> None:
    assert judged(seal(MAIL, 512), record(512)) == "fail"


def test_dns_failure_is_temperror_never_pass_or_fail() -> None:
    for selector in ("s", "t", "u"):
        keys = {"s": record(), "t": record(), "u": record(), selector: Unavailable("SERVFAIL")}
        found = chain(THREE, keys)
        assert found.result == "temperror" and "SERVFAIL" in found.reason and found.claims == ()
    assert judged(THREE.replace(b"Hello", b"Hallo"), Unavailable("SERVFAIL")) == "fail", "no key could mend that"


@pytest.mark.parametrize("name", [b"From", b"Subject", b"to"])
def test_a9_a_doubled_field_is_vouched_for_by_nobody(name: bytes) -> None:
    found = chain(name + b": Mallory <m@example.net>\r\n" + TWO)
    assert found.result == "fail" and "more than once" in found.reason


def test_chains_of_dkimpy_hold_and_ours_hold_for_it(tmp_path: Path) -> None:
    """Sealed by stock dkimpy in a process of its own, which also reads a chain of this module's signer."""
    program = (
        "import sys, dkim\n"
        "signed, ours, pem, key = (open(name, 'rb').read() for name in sys.argv[1:])\n"
        "dns = lambda *a, **k: key\n"
        "print(dkim.arc_verify(ours, dnsfunc=dns)[0].decode())\n"
        "mail = b'Authentication-Results: mx.example.net; spf=pass\\r\\n' + signed\n"
        "for _ in range(2):\n"
        "    made = dkim.arc_sign(mail, b's', b'example.org', pem, b'mx.example.net', timestamp=1)\n"
        "    mail = b'Authentication-Results: mx.example.net; arc=pass\\r\\n' + b''.join(made) + mail\n"
        "sys.stdout.flush(); sys.stdout.buffer.write(mail)\n"
    )
    files = {"signed": sign(), "ours": TWO, "pem": pem(2048), "key": record().encode()}
    for name, octets in files.items():
        (tmp_path / name).write_bytes(octets)
    command = [sys.executable, "-c", program, *(str(tmp_path / name) for name in files)]
    first, _, made = subprocess.run(command, capture_output=True, check=True).stdout.partition(b"\n")
    assert first == b"pass"
    found = chain(made)
    assert (found.result, found.instances) == ("pass", 2), found
    assert judged(made.replace(b"Hello", b"Hallo")) == "fail"
