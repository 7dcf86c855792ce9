"""The tls check: what must come encrypted, by sender and client; real tables."""

from typing import Any

import pytest

from appliance.checks import tls
from appliance.mail.context import Client, Context, Tls
from appliance.mail.ports import Ports, Site
from appliance.mail.verdict import Verdict
from appliance.protocol.smtp.address import Address
from appliance.tables import open_table

FILES = {
    "senders": b"bank.example required\nnew.bank.example TLSv1.3\nplain.bank.example may\n"
    b"odd.example sometimes\n<> required\n",
    "clients": b"192.0.2.0/28 required\n198.51.100.1 TLSv1.3\n203.0.113.0/24 may\n",
}
SENDERS, CLIENTS = "texthash:senders", "cidr:clients"
TABLES = {spec: open_table(spec, lambda path: FILES[path.rpartition("/")[2]]) for spec in (SENDERS, CLIENTS)}
PORTS = Ports(site=Site(hostname="mx.example.com", is_ours=lambda domain: True), tables=TABLES)
POLICY = tls.Policy(senders=(SENDERS,), clients=(CLIENTS,))


def judge(
    sender: str, version: str = "", address: str = "192.0.2.100", policy: tls.Policy = POLICY, **more: Any
) -> Verdict:
    local, _, domain = sender.rpartition("@")
    facts = Tls(version, "TLS_AES_256_GCM_SHA384", 256) if version else None
    client = Client(address=address, tls=facts, **more)
    return tls.check(Context(stage="mail", client=client, sender=Address(local, domain, sender)), policy, PORTS)


@pytest.mark.parametrize(
    ("sender", "version", "address", "outcome"),
    [
        ("a@elsewhere.example", "", "192.0.2.100", "skipped"),
        ("a@bank.example", "", "192.0.2.100", "missing"),
        ("a@bank.example", "TLSv1.2", "192.0.2.100", "ok"),
        ("a@bank.example", "TLSv1.3", "192.0.2.100", "ok"),
        ("a@bank.example", "TLSv1.1", "192.0.2.100", "weak"),
        ("a@bank.example", "TLSv1.4", "192.0.2.100", "ok"),
        ("a@branch.bank.example", "", "192.0.2.100", "missing"),
        ("a@new.bank.example", "TLSv1.2", "192.0.2.100", "weak"),
        ("a@plain.bank.example", "", "192.0.2.100", "skipped"),
        ("", "", "192.0.2.100", "missing"),
        ("a@elsewhere.example", "", "192.0.2.1", "missing"),
        ("a@elsewhere.example", "TLSv1.2", "198.51.100.1", "weak"),
        ("a@bank.example", "", "203.0.113.7", "skipped"),
        ("a@odd.example", "TLSv1.3", "192.0.2.100", "temperror"),
    ],
)
def test_what_is_demanded(sender: str, version: str, address: str, outcome: str) -> None:
    assert judge(sender, version, address).outcome == outcome


def test_the_minimum_is_a_knob_and_the_reason_names_the_line() -> None:
    strict = tls.Policy(senders=(SENDERS,), minimum="TLSv1.3")
    verdict = judge("a@bank.example", "TLSv1.2", policy=strict)
    assert verdict.outcome == "weak"
    assert verdict.reason.endswith("senders:1: bank.example needs TLSv1.3, session has TLSv1.2")


def test_nothing_is_demanded_as_shipped_nor_of_a_relay_of_ours() -> None:
    assert judge("a@bank.example", policy=tls.Policy()).outcome == "skipped"
    assert judge("a@bank.example", trusted_relay=True).outcome == "skipped"
