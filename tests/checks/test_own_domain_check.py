"""own_domain: our domains from outside, others' from inside (A10, A11)."""

from collections.abc import Awaitable

import pytest

from appliance.checks import own_domain
from appliance.mail.auth import DkimReport, Signature, SpfReport
from appliance.mail.context import Client, Context
from appliance.mail.ports import Ports, Unavailable
from appliance.mail.verdict import Verdict
from tests.mailauth.said import Said, Text, asked, ports

OUR_FROM = b"From: boss@example.com\r\n"
NO = SpfReport(result="fail", domain="example.com")
YES = SpfReport(result="pass", domain="example.com")
LOST = SpfReport(result="temperror", domain="example.com")


def signed(domain: str, result: str = "pass", counts: bool = True) -> DkimReport:
    return DkimReport(signatures=(Signature(result=result, domain=domain, counts=counts),))  # type: ignore[arg-type]


async def judged(ctx: Context, told: Ports, **knobs: object) -> Verdict:
    answer = own_domain.check(ctx, own_domain.Policy.model_validate(knobs), told)
    return await answer if isinstance(answer, Awaitable) else answer


@pytest.mark.parametrize(
    ("fields", "sender", "outcome"),
    [
        (OUR_FROM, "a@example.org", "spoofed"),
        (b"From: a@example.org\r\n", "boss@example.com", "spoofed"),
        (b"From: boss@mail.example.com\r\n", "a@example.org", "spoofed"),
        (OUR_FROM, "", "spoofed"),
        (b"From: a@example.org, boss@example.com\r\n", "a@example.org", "spoofed"),
        (b"From: a@example.org\r\nFrom: boss@example.com\r\n", "a@example.org", "spoofed"),
        (b"From: =?utf-8?q?boss=40example.com?= <a@example.org>\r\n", "a@example.org", "ok"),
        (b"From: a@example.org\r\n", "a@example.org", "ok"),
        (b"From: a@notexample.com\r\n", "a@example.com.example.org", "ok"),
        (b"From: a@com\r\n", "", "ok"),
    ],
)
@pytest.mark.parametrize("later", [False, True])
async def test_a11_our_domains_from_a_stranger(fields: bytes, sender: str, outcome: str, later: bool) -> None:
    assert (await judged(asked(fields, sender=sender), ports(Said(NO, later=later)))).outcome == outcome


@pytest.mark.parametrize(
    ("protected", "fields", "outcome"),
    [
        ("example.com", OUR_FROM, "forbidden"),
        ("*", OUR_FROM, "forbidden"),
        (".example.com", OUR_FROM, "spoofed"),
        (".example.com", b"From: a@mail.example.com\r\n", "forbidden"),
        ("example.com", b"From: a@mail.example.com\r\n", "spoofed"),
        ("*", b"From: a@example.org\r\n", "ok"),
    ],
)
async def test_a11_where_the_operator_lists_the_domain_it_is_refused(protected: str, fields: bytes, outcome: str) -> None:
    assert (await judged(asked(fields), ports(Said(NO)), protected=protected)).outcome == outcome


@pytest.mark.parametrize(
    ("said", "outcome"),
    [
        (Said(NO, signed("example.com")), "ok"),
        (Said(NO, signed("example.com", counts=False)), "forbidden"),
        (Said(NO, signed("example.com", "fail")), "forbidden"),
        (Said(NO, signed("example.org")), "forbidden"),
        (Said(NO, signed("mail.example.com")), "forbidden"),
        (Said(NO, signed("com")), "ok"),
        (Said(NO, signed("example.com", "temperror")), "temperror"),
        (Said(NO, signed("", "temperror")), "temperror"),  # the content could not be read
        (Said(YES), "ok"),
        (Said(LOST), "temperror"),
        (Said(SpfReport(result="pass", scope="helo", domain="example.com")), "forbidden"),
    ],
)
async def test_a11_a_pass_of_that_very_domain_is_what_counts(said: Said, outcome: str) -> None:
    ctx = asked(OUR_FROM, sender="boss@example.com")
    assert (await judged(ctx, ports(said), protected="example.com")).outcome == outcome


async def test_a11_a_pass_of_dmarc_counts_for_the_author_only() -> None:
    passed = Verdict(check="dmarc", outcome="pass", evidence={"facts": {"header_from": "example.com"}})
    assert (await judged(asked(OUR_FROM, trail=(passed,)), ports(Said(NO)))).outcome == "ok"
    both = asked(OUR_FROM, sender="x@sub.example.com", trail=(passed,))
    assert (await judged(both, ports(Said(NO)))).outcome == "spoofed"


@pytest.mark.parametrize("found", ["forwarded", "sealed"])
async def test_a11_what_a_trusted_forwarder_brings_is_marked_at_most(found: str) -> None:
    verdict = Verdict(check="dmarc", outcome=found, evidence={"facts": {"header_from": "example.com"}})
    told, knobs = ports(Said(NO)), {"protected": "*"}
    assert (await judged(asked(OUR_FROM, trail=(verdict,)), told, **knobs)).outcome == "spoofed"
    both = asked(OUR_FROM, sender="x@sub.example.com", trail=(verdict,))
    assert (await judged(both, told, **knobs)).outcome == "forbidden"


async def test_a11_at_mail_only_a_protected_domain_whose_spf_says_no() -> None:
    def at_mail(sender: str = "boss@example.com") -> Context:
        return asked(sender=sender, stage="mail", content=None)

    assert (await judged(at_mail(), ports(Said(NO)), protected="example.com")).outcome == "forbidden"
    assert (await judged(at_mail(), ports(Said(NO, later=True)), protected="example.com")).outcome == "forbidden"
    assert (await judged(at_mail(), ports(Said(NO)))).outcome == "ok"
    for report in (YES, LOST, SpfReport(result="none"), SpfReport(result="softfail", domain="example.com")):
        assert (await judged(at_mail(), ports(Said(report)), protected="example.com")).outcome == "ok"
    assert (await judged(at_mail(""), ports(Said(NO)), protected="*")).outcome == "ok"


async def test_a_relay_of_ours_may_bring_our_mail() -> None:
    ctx = asked(OUR_FROM, client=Client(address="192.0.2.1", trusted_relay=True))
    assert (await judged(ctx, ports(Said(NO)), protected="*")).outcome == "skipped"


# -- outbound

SOURCES = {
    "cidr:sources": "192.0.2.0/28 example.com, .example.net\n192.0.2.16/28 *\n",
    "texthash:names": "app.example.com example.com\n",
}


def leaving(
    fields: bytes | None, sender: str = "a@example.com", address: str = "192.0.2.1", name: str = "unknown"
) -> Context:
    client = Client(address=address, name=name)
    stage = "mail" if fields is None else "message"
    content = None if fields is None else Text(fields)
    return asked(sender=sender, role="outbound", client=client, stage=stage, content=content)


@pytest.mark.parametrize(
    ("sender", "outcome"),
    [("a@example.com", "ok"), ("a@m.example.com", "ok"), ("", "ok"), ("a@example.org", "foreign"), ("a@com", "foreign")],
)
async def test_a10_our_people_send_with_our_domains(sender: str, outcome: str) -> None:
    assert (await judged(leaving(None, sender), ports())).outcome == outcome
    assert (
        await judged(leaving(b"From: " + (sender or "a@example.com").encode() + b"\r\n", ""), ports())
    ).outcome == outcome


@pytest.mark.parametrize(
    ("address", "name", "sender", "outcome"),
    [
        ("192.0.2.1", "unknown", "a@example.com", "ok"),
        ("192.0.2.1", "unknown", "a@m.example.net", "ok"),
        ("192.0.2.1", "unknown", "a@example.net", "foreign"),
        ("192.0.2.1", "unknown", "a@m.example.com", "foreign"),
        ("192.0.2.20", "unknown", "a@anything.example", "ok"),
        ("198.51.100.1", "unknown", "a@example.com", "foreign"),
        ("198.51.100.1", "app.example.com", "a@example.com", "ok"),
        ("198.51.100.1", "app.example.com", "a@example.net", "foreign"),
        ("198.51.100.1", "unknown", "", "ok"),
    ],
)
async def test_a10_only_listed_sources_with_domains_that_belong_to_them(
    address: str, name: str, sender: str, outcome: str
) -> None:
    told, knobs = ports(lists=SOURCES), {"sources": list(SOURCES)}
    assert (await judged(leaving(None, sender, address, name), told, **knobs)).outcome == outcome


async def test_a10_an_author_of_others_needs_his_signature() -> None:
    fields = b"From: a@example.org\r\n"
    assert (await judged(leaving(fields), ports(Said(dkim=signed("example.org"))))).outcome == "ok"
    assert (await judged(leaving(fields), ports(Said(dkim=signed("example.com"), later=True)))).outcome == "foreign"
    assert (await judged(leaving(fields), ports(Said(YES)))).outcome == "foreign"


async def test_a10_an_ambiguous_author_is_all_that_he_may_be() -> None:
    assert (await judged(leaving(b"From: a@example.com, a@example.org\r\n"), ports())).outcome == "foreign"
    assert (await judged(leaving(b"From: root\r\n"), ports())).outcome == "ok"


async def test_a10_a_table_that_is_not_open_is_no_permission() -> None:
    with pytest.raises(Unavailable):
        await judged(leaving(None), ports(), sources="texthash:nowhere")


async def test_mail_of_our_own_filters_is_not_judged_again() -> None:
    assert (await judged(asked(OUR_FROM, role="reinject"), ports(Said(NO)), protected="*")).outcome == "skipped"
