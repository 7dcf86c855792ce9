"""dmarc: what is found of a message, whom an operator trusts, how long DNS may be away (A4, A5, A9)."""

from collections.abc import Awaitable

import pytest

from appliance.checks import dmarc
from appliance.mail.auth import ArcReport, DkimReport, Signature, SpfReport
from appliance.mail.context import Client, Context
from appliance.mail.ports import Ports, Unavailable
from appliance.mail.verdict import Verdict
from tests.mailauth.dmarc_zone import AWAY, Zone, published
from tests.mailauth.said import Firsts, Said, Text, asked, ports

PASS = SpfReport(result="pass", domain="example.org")
OTHER = SpfReport(result="pass", domain="forward.example")
FAIL = SpfReport(result="fail", domain="example.org")
REJECT = Zone(published(example_org="p=reject"))
DOWN = Zone({"_dmarc.example.org": AWAY})


async def judged(ctx: Context, told: Ports, **knobs: object) -> Verdict:
    answer = dmarc.check(ctx, dmarc.Policy.model_validate(knobs), told)
    return await answer if isinstance(answer, Awaitable) else answer


@pytest.mark.parametrize(
    ("policy", "spf", "outcome"),
    [
        ("p=reject", PASS, "pass"),
        ("p=reject", FAIL, "reject"),
        ("p=quarantine", FAIL, "quarantine"),
        ("p=none", FAIL, "fail"),
        ("p=reject; t=y", FAIL, "quarantine"),
        ("p=quarantine; t=y", FAIL, "fail"),
        ("p=rejekt", FAIL, "permerror"),
    ],
)
@pytest.mark.parametrize("later", [False, True])
async def test_outcomes(policy: str, spf: SpfReport, outcome: str, later: bool) -> None:
    zone = Zone(published(example_org=policy))
    assert (await judged(asked(), ports(Said(spf, later=later), zone))).outcome == outcome


async def test_no_policy_is_none() -> None:
    found = await judged(asked(), ports(Said(FAIL)))
    assert (found.outcome, found.authres) == ("none", ("dmarc=none header.from=example.org",))


async def test_what_authentication_results_say() -> None:
    zone = Zone(published(example_org="p=reject; sp=quarantine"))
    found = await judged(asked(b"From: a@m.example.org\r\n"), ports(Said(FAIL), zone))
    assert found.authres == (
        "dmarc=fail header.from=m.example.org polrec.p=reject polrec.domain=example.org policy.dmarc=quarantine",
    )


@pytest.mark.parametrize(
    "fields", [b"", b"From: a@example.org, b@example.net\r\n", b"From: a@example.org\r\nFrom: a@example.org\r\n"]
)
async def test_a4_no_single_author_is_refused_and_never_without_a_result(fields: bytes) -> None:
    told = ports(Said(PASS), REJECT)
    found = await judged(asked(fields), told)
    assert found.outcome == "ambiguous" and found.evidence["from_ambiguous"]
    assert found.authres[0].startswith('dmarc=fail reason="From is ambiguous"')


async def test_a4_a_header_that_is_not_whole_has_no_author() -> None:
    found = await judged(asked(Text(b"From: a@example.org\r\n", complete=False)), ports(Said(PASS), REJECT))
    assert found.outcome == "ambiguous"


async def test_a6_the_null_sender_is_judged_by_its_helo() -> None:
    helo = SpfReport(result="pass", scope="helo", domain="example.org")
    assert (await judged(asked(sender=""), ports(Said(helo), REJECT))).outcome == "pass"
    assert (await judged(asked(), ports(Said(helo), REJECT))).outcome == "reject"


async def test_a10_domains_whose_network_is_shared_need_a_signature() -> None:
    told = ports(Said(PASS), REJECT)
    assert (await judged(asked(), told, dkim_only=["example.org"])).outcome == "reject"
    assert (await judged(asked(), told, dkim_only=[".example.org"])).outcome == "pass"
    signed = DkimReport(signatures=(Signature(result="pass", domain="example.org", counts=True),))
    assert (await judged(asked(), ports(Said(PASS, signed), REJECT), dkim_only="*")).outcome == "pass"


async def test_without_a_resolver_nothing_is_said() -> None:
    found = await judged(asked(), Ports(site=ports().site))
    assert (found.outcome, found.authres) == ("skipped", ())


# -- DNS away


async def test_a5_dns_away_puts_off_and_after_the_budget_marks() -> None:
    early, late = Firsts(7199.0), Firsts(7200.0)
    assert (await judged(asked(), ports(Said(FAIL), DOWN, early))).outcome == "temperror"
    assert (await judged(asked(), ports(Said(FAIL), DOWN, late))).outcome == "undecided"
    assert (await judged(asked(), ports(Said(FAIL), DOWN, early), put_off="1h")).outcome == "undecided"
    assert early.keys[0] == late.keys[0]


async def test_a5_each_message_has_its_own_budget_at_every_attempt() -> None:
    firsts = Firsts()
    told = ports(Said(FAIL), DOWN, firsts)
    other = b"Received: from c (d [192.0.2.9])\r\n\tby mx.example.com;\r\n\tanother time\r\n"
    await judged(asked(), told)
    await judged(asked(Text(b"From: a@example.org\r\n", top=other)), told)
    await judged(asked(b"From: a@example.org\r\nSubject: another\r\n"), told)
    await judged(asked(sender="b@example.org"), told)
    assert firsts.keys[0] == firsts.keys[1] and len(set(firsts.keys)) == 3


async def test_a5_nobody_waits_where_the_owner_asks_for_nothing() -> None:
    lost, firsts = SpfReport(result="temperror", domain="example.org"), Firsts()
    zone = Zone(published(example_org="p=none"))
    assert (await judged(asked(), ports(Said(lost), zone, firsts))).outcome == "undecided"
    assert not firsts.keys
    assert (await judged(asked(), ports(Said(lost), REJECT, firsts))).outcome == "temperror"


async def test_a5_without_a_memory_nobody_is_put_off_for_ever() -> None:
    assert (await judged(asked(), ports(Said(FAIL), DOWN))).outcome == "undecided"
    with pytest.raises(Unavailable):
        await judged(asked(), ports(Said(FAIL), DOWN, Firsts(away=True)))


# -- trusted forwarders

LIST = b"From: a@example.org\r\nList-Id: <l.lists.example.net>\r\n"
FORWARDERS = {"texthash:forwarders": "mail.example.net until=2026-12-31 proof=name\n"}
KNOB = {"trusted_forwarders": "texthash:forwarders"}


@pytest.mark.parametrize("policy", ["reject", "quarantine"])
async def test_a_trusted_forwarder_stands_for_a_failure(policy: str) -> None:
    zone = Zone(published(example_org=f"p={policy}"))
    found = await judged(asked(LIST), ports(Said(FAIL), zone, lists=FORWARDERS), **KNOB)
    assert found.outcome == "forwarded"
    assert found.authres[0].startswith('dmarc=fail reason="forwarded by mail.example.net, proof name" ')
    assert f"policy.dmarc={policy} policy.override=trusted_forwarder" in found.authres[0]
    assert found.evidence["facts"]["overrides"][0]["type"] == "trusted_forwarder"
    assert "texthash" not in found.authres[0] and "forwarders:1" in found.reason


@pytest.mark.parametrize(
    "entry",
    [
        "mail.example.net until=2026-09-20 proof=name",
        "mail.example.net until=2026-12-31 proof=spf",
        "mail.example.net proof=name",
        "mail.example.net until=2026-12-31",
        "mail.example.net until=2026-12-31 proof=name because",
        "mail.example.net until=never proof=name",
        ".mail.example.net until=2026-12-31 proof=name",
        "example.net until=2026-12-31 proof=name",
    ],
)
async def test_a_forwarder_that_is_past_unproven_or_misread_is_not_trusted(entry: str) -> None:
    told = ports(Said(FAIL), REJECT, lists={"texthash:forwarders": f"{entry}\n"})
    assert (await judged(asked(LIST), told, **KNOB)).outcome == "reject"


async def test_a_forwarder_is_trusted_on_its_last_day() -> None:
    told = ports(Said(FAIL), REJECT, lists={"texthash:forwarders": ".example.net until=2026-09-21 proof=name\n"})
    assert (await judged(asked(LIST), told, **KNOB)).outcome == "forwarded"


async def test_a_forwarder_proven_by_spf() -> None:
    told = ports(Said(OTHER), REJECT, lists={"texthash:forwarders": "forward.example until=2026-12-31 proof=spf\n"})
    assert (await judged(asked(LIST, sender="srs0=x@forward.example"), told, **KNOB)).outcome == "forwarded"


async def test_a10_a_pass_that_proves_nobody_proves_no_forwarder() -> None:
    told = ports(
        Said(SpfReport(result="pass", domain="forward.example", broad=True)),
        REJECT,
        lists={"texthash:forwarders": "forward.example until=2026-12-31 proof=spf\n"},
    )
    assert (await judged(asked(LIST, sender="srs0=x@forward.example"), told, **KNOB)).outcome == "reject"


@pytest.mark.parametrize("proof", ["fail", "none", "unknown"])
async def test_a_name_that_is_not_confirmed_proves_nothing(proof: str) -> None:
    client = Client(address="198.51.100.7", name="mail.example.net", proof=proof)  # type: ignore[arg-type]
    told = ports(Said(FAIL), REJECT, lists=FORWARDERS)
    assert (await judged(asked(LIST, client=client), told, **KNOB)).outcome == "reject"


async def test_mail_of_the_forwarder_itself_is_not_forwarded_mail() -> None:
    assert (await judged(asked(), ports(Said(FAIL), REJECT, lists=FORWARDERS), **KNOB)).outcome == "reject"


@pytest.mark.parametrize(
    ("fields", "sender"),
    [
        (b"Resent-From: x@example.net\r\n", "a@example.org"),
        (b"Delivered-To: x@example.net\r\n", "a@example.org"),
        (b"", "SRS0=abc=de=example.org=a@mail.example.net"),
        (b"Received: from x\r\nReceived: from y\r\n", "a@example.org"),
        (b"ARC-Seal: i=1\r\n", "a@example.org"),
    ],
)
async def test_what_forwarded_mail_looks_like(fields: bytes, sender: str) -> None:
    told = ports(Said(FAIL), REJECT, lists=FORWARDERS)
    ctx = asked(fields + b"From: a@example.org\r\n", sender=sender)
    assert (await judged(ctx, told, **KNOB)).outcome == "forwarded"


async def test_a_broken_signature_of_the_author_looks_forwarded() -> None:
    broken = DkimReport(signatures=(Signature(result="fail", domain="example.org"),))
    told = ports(Said(FAIL, broken), REJECT, lists=FORWARDERS)
    assert (await judged(asked(), told, **KNOB)).outcome == "forwarded"


async def test_a_pass_needs_nobody_to_stand_for_it() -> None:
    found = await judged(asked(LIST), ports(Said(PASS), REJECT, lists=FORWARDERS), **KNOB)
    assert found.outcome == "pass" and "override" not in found.authres[0]


# -- trusted sealers

SEALERS = {"texthash:sealers": "sealer.example until=2026-12-31\nlater.example until=2026-12-31\n"}
SEALED = "mx.sealer.example; spf=pass smtp.mailfrom=a@example.org; dmarc=pass (p=reject) header.from=example.org"
ARC_KNOB = {"trusted_sealers": "texthash:sealers"}


async def with_arc(report: ArcReport) -> str:
    told = ports(Said(FAIL, arc=report), REJECT, lists=SEALERS)
    found = await judged(asked(), told, **ARC_KNOB)
    assert found.authres[0].startswith("dmarc=fail")
    return found.outcome


def chain(*links: tuple[str, str], result: str = "pass") -> ArcReport:
    return ArcReport(
        result=result,  # type: ignore[arg-type]
        instances=len(links),
        sealers=tuple(sealer for sealer, _ in links),
        claims=tuple(claim for _, claim in links),
    )


async def test_a9_a_listed_sealer_softens_a_reject_and_makes_no_pass() -> None:
    assert await with_arc(chain(("sealer.example", SEALED))) == "sealed"
    assert await with_arc(chain(("sealer.example", SEALED), ("later.example", "later.example; arc=pass"))) == "sealed"
    assert await with_arc(chain(("evil.example", "x; none"), ("sealer.example", SEALED))) == "sealed"
    signed = "mx.sealer.example; dkim=pass header.d=example.org header.s=s"
    assert await with_arc(chain(("sealer.example", signed))) == "sealed"


@pytest.mark.parametrize(
    "report",
    [
        chain(("evil.example", SEALED)),
        chain(("sealer.example", SEALED), ("evil.example", "x; arc=pass")),
        chain(("evil.example", SEALED), ("sealer.example", "mx.sealer.example; arc=pass")),
        chain(("sealer.example", SEALED), result="fail"),
        chain(("sealer.example", "mx.sealer.example; dmarc=fail header.from=example.org")),
        chain(("sealer.example", "mx.sealer.example; dmarc=pass header.from=example.net")),
        chain(("sealer.example", "mx.sealer.example; dmarc=pass header.from=m.example.org.evil.example")),
        chain(("sealer.example", "mx.sealer.example; spf=pass smtp.mailfrom=a@example.org")),
        chain(("sealer.example", 'mx; dkim=fail reason="; dmarc=pass header.from=example.org" header.d=example.org')),
        chain(("sealer.example", "mx; dkim=fail (; dmarc=pass header.from=example.org) header.d=example.org")),
        chain(("sealer.example", "mx; none (; dmarc=pass header.from=example.org")),
        chain(("sealer.example", "")),
        ArcReport(result="pass", instances=1, sealers=("sealer.example",)),
        ArcReport(),
    ],
)
async def test_a9_what_is_no_reason_to_believe_a_seal(report: ArcReport) -> None:
    assert await with_arc(report) == "reject"


# -- who might stand for it, if DNS answered

NAMELESS = Client(address="198.51.100.7", proof="temperror")
LOST = SpfReport(result="temperror", domain="forward.example", reason="no answer")
HIDDEN = ArcReport(result="temperror", instances=1, sealers=("sealer.example",), reason="key: no answer")
BY_SPF = {"texthash:forwarders": "forward.example until=2026-12-31 proof=spf\n"}


@pytest.mark.parametrize(
    ("ctx", "said", "lists", "knob", "after"),
    [
        (asked(LIST, client=NAMELESS), Said(FAIL), FORWARDERS, KNOB, "reject"),
        (asked(LIST, sender="x@forward.example", client=NAMELESS), Said(LOST), BY_SPF, KNOB, "undecided"),
        (asked(LIST, sender="x@forward.example"), Said(LOST), BY_SPF, KNOB, "undecided"),
        (asked(), Said(FAIL, arc=HIDDEN), SEALERS, ARC_KNOB, "undecided"),
    ],
    ids=["name", "spf and name", "spf", "seal"],
)
async def test_a5_dns_that_hides_who_stands_for_it_puts_off(
    ctx: Context, said: Said, lists: dict[str, str], knob: dict[str, str], after: str
) -> None:
    """Whoever sends can make his own name fail, as often as he likes: after the budget that is no excuse."""
    found = await judged(ctx, ports(said, REJECT, Firsts(0.0), lists=lists), **knob)
    assert (found.outcome, found.authres[0].partition(" ")[0]) == ("temperror", "dmarc=fail")
    assert "asked: reject" in found.reason and found.evidence["facts"]["overrides"] == []
    assert (await judged(ctx, ports(said, REJECT, Firsts(7200.0), lists=lists), **knob)).outcome == after
    zone = Zone(published(example_org="p=none"))
    assert (await judged(ctx, ports(said, zone, Firsts(0.0), lists=lists), **knob)).outcome == "fail"


@pytest.mark.parametrize(
    ("ctx", "said", "lists", "knob"),
    [
        (asked(client=NAMELESS), Said(FAIL), FORWARDERS, KNOB),
        (
            asked(LIST, sender="x@other.example"),
            Said(SpfReport(result="temperror", domain="other.example")),
            BY_SPF,
            KNOB,
        ),
        (asked(), Said(FAIL, arc=HIDDEN), {"texthash:sealers": "sealer.example until=2026-01-31\n"}, ARC_KNOB),
        (asked(LIST, client=NAMELESS), Said(FAIL), {}, {}),
    ],
    ids=["not forwarded", "not listed", "past", "nobody is trusted"],
)
async def test_where_nobody_could_stand_for_it_nobody_waits(
    ctx: Context, said: Said, lists: dict[str, str], knob: dict[str, str]
) -> None:
    assert (await judged(ctx, ports(said, REJECT, Firsts(0.0), lists=lists), **knob)).outcome == "reject"


# -- behind a relay of ours

RELAY = Client(address="192.0.2.1", trusted_relay=True)


@pytest.mark.parametrize(
    "received",
    [
        b"Received: from mail.example.org (mail.example.org [198.51.100.9])\r\n\tby relay.example.com; date\r\n",
        b"Received: from mail.example.org ([198.51.100.9] helo=mail.example.org)\r\n\tby relay.example.com; date\r\n",
        b"Received: from mail.example.org (198.51.100.9) by relay.example.com; date\r\n",
        b"Received: from unknown (HELO mail.example.org) (198.51.100.9)\r\n  by relay.example.com; date\r\n",
        b"Received: from [198.51.100.9] (helo=mail.example.org)\r\n\tby relay.example.com; date\r\n",
        b"Received: from r2 (r2 [192.0.2.2]) by relay.example.com; date\r\n"
        b"Received: from mail.example.org (x [198.51.100.9])\r\n\tby r2; date\r\n",
    ],
)
async def test_the_client_behind_a_relay_of_ours_is_judged(received: bytes) -> None:
    said = Said(PASS)
    told = ports(said, REJECT, is_relay={"192.0.2.1", "192.0.2.2"}.__contains__)
    found = await judged(asked(received + b"From: a@example.org\r\n", client=RELAY), told)
    assert found.outcome == "pass"
    assert [(ask.address, ask.helo) for ask in said.asked] == [("198.51.100.9", "mail.example.org")]
    assert found.evidence["facts"]["source_ip"] == "198.51.100.9"
    assert found.authres == (
        "spf=pass smtp.mailfrom=example.org",
        "dmarc=pass header.from=example.org polrec.p=reject",
    )


@pytest.mark.parametrize(
    "received",
    [
        b"",
        b"Received: by relay.example.com with local; date\r\n",
        b"Received: from x (x [10.0.0.1]) by relay.example.com; date\r\n",
        b"Received: from x (x [not.an.address]) by relay.example.com [198.51.100.9]; date\r\n",
    ],
)
async def test_a_client_behind_a_relay_that_is_not_known_is_marked(received: bytes) -> None:
    said, firsts = Said(PASS), Firsts()
    told = ports(said, REJECT, firsts, is_relay={"192.0.2.1"}.__contains__)
    found = await judged(asked(received + b"From: a@example.org\r\n", client=RELAY), told)
    assert (found.outcome, said.asked, firsts.keys) == ("undecided", [], [])
    null = await judged(asked(received + b"From: a@example.org\r\n", sender="", client=RELAY), told)
    assert null.outcome == "undecided"
    signed = DkimReport(signatures=(Signature(result="pass", domain="example.org", counts=True),))
    told = ports(Said(PASS, signed), REJECT, is_relay={"192.0.2.1"}.__contains__)
    assert (await judged(asked(received + b"From: a@example.org\r\n", client=RELAY), told)).outcome == "pass"


# -- what a report needs


async def test_the_facts_of_an_aggregate_report() -> None:
    signed = DkimReport(signatures=(Signature(result="fail", domain="example.org", selector="s1", reason="body hash"),))
    found = await judged(asked(), ports(Said(FAIL, signed), REJECT))
    facts = found.evidence["facts"]
    assert facts["source_ip"] == "198.51.100.7"
    assert (facts["envelope_from"], facts["envelope_to"], facts["header_from"]) == (
        "example.org",
        ["example.com"],
        "example.org",
    )
    assert (facts["asked"], facts["outcome"], facts["result"]) == ("reject", "reject", "fail")
    assert facts["aligned"] == {"spf": "fail", "dkim": "fail"}
    assert facts["spf"] == {"domain": "example.org", "scope": "mfrom", "result": "fail"}
    assert facts["dkim"] == [{"domain": "example.org", "selector": "s1", "result": "fail", "human_result": "body hash"}]
    assert facts["published"]["p"] == "reject" and facts["published"]["discovery"] == "treewalk"
    testing = Zone(published(example_org="p=reject; t=y"))
    found = await judged(asked(), ports(Said(FAIL), testing))
    assert found.evidence["facts"]["overrides"] == [{"type": "policy_test_mode", "comment": "t=y"}]
