"""DMARC of one message (RFC 9989): alignment, policy, what DNS failures mean (A5, A6)."""

import random

import pytest

from appliance.mail.auth import DkimReport, DmarcReport, Signature, SpfReport, Word
from appliance.mailauth.dmarc import Ask, at_once, evaluate
from appliance.mailauth.dmarc_walk import Discovery
from appliance.protocol.dns import Answer
from tests.mailauth.dmarc_zone import AWAY, Zone, published


def spf(result: Word, domain: str, reason: str = "") -> SpfReport:
    return SpfReport(result=result, domain=domain, reason=reason)


def dkim(*pairs: tuple[Word, str], counts: bool = True) -> DkimReport:
    return DkimReport(
        signatures=tuple(Signature(result=word, domain=domain, selector="s", counts=counts) for word, domain in pairs)
    )


REJECT = published(example_org="p=reject")


async def judge(zone: Zone, ask: Ask, discovery: Discovery = "treewalk") -> DmarcReport:
    return await evaluate(ask, zone.query, discovery)


@pytest.mark.parametrize(
    ("tags", "author", "spf_of", "signed", "passes"),
    [
        ("p=reject", "example.org", "example.org", "", True),
        ("p=reject", "example.org", "mail.example.org", "", True),
        ("p=reject", "mail.example.org", "example.org", "", True),
        ("p=reject", "a.example.org", "b.example.org", "", True),
        ("p=reject", "example.org", "", "example.org", True),
        ("p=reject", "example.org", "", "mail.example.org", True),
        ("p=reject", "example.org", "bounce.example.net", "example.org", True),
        ("p=reject", "example.org", "example.net", "example.net", False),
        ("p=reject", "example.org", "badexample.org", "notexample.org", False),
        ("p=reject", "example.org", "example.org.example.net", "org", False),
        ("p=reject; aspf=s", "example.org", "mail.example.org", "", False),
        ("p=reject; aspf=s", "example.org", "example.org", "", True),
        ("p=reject; adkim=s", "example.org", "", "mail.example.org", False),
        ("p=reject; adkim=s", "example.org", "", "example.org", True),
        ("p=reject; adkim=s", "example.org", "mail.example.org", "mail.example.org", True),
    ],
)
async def test_a5_alignment(tags: str, author: str, spf_of: str, signed: str, passes: bool) -> None:
    found = await judge(
        Zone(published(example_org=tags)),
        Ask(author, spf("pass", spf_of) if spf_of else None, dkim(("pass", signed)) if signed else DkimReport()),
    )
    assert found.result == ("pass" if passes else "fail")
    assert (found.spf_aligned or found.dkim_aligned) == passes


NAMES = ("example.org", "mail.example.org", "example.net", "", "org")
WORDS: tuple[Word, ...] = ("pass", "pass", "pass", "fail", "temperror", "none")
RECORDS = (
    "p=reject",
    "p=quarantine; aspf=s; adkim=s; t=y",
    "p=wrong",
    "p=wrong; rua=mailto:a@example.org",
    "sp=none; p=none",
)


async def test_what_is_at_hand_is_judged_as_what_is_asked_for() -> None:
    """The short way (each method passes for the very author) gives the whole report that the long one gives."""
    dice, results = random.Random(9), set()
    for _ in range(4000):
        zone = Zone(
            published(example_org=dice.choice(RECORDS), **({"org": "p=none; psd=y"} if dice.random() < 0.3 else {}))
        )
        signed = dkim(
            *((dice.choice(WORDS), dice.choice(NAMES)) for _ in range(dice.randrange(3))), counts=dice.random() < 0.9
        )
        of_spf = spf(dice.choice(WORDS), dice.choice(NAMES), "x")
        ask = Ask(dice.choice(NAMES[:3]), of_spf, signed, dice.random() < 0.1, dice.random() < 0.1)
        found = at_once(ask, zone.answer)
        assert found == await judge(zone, ask)
        assert at_once(ask, lambda name, rtype: None) is None
        results.add((found.result, found.spf_aligned, found.dkim_aligned))
    assert len(results) > 6


async def test_both_methods_are_known_for_the_report() -> None:
    found = await judge(Zone(REJECT), Ask("example.org", spf("pass", "b.example.org"), dkim(("pass", "example.org"))))
    assert found.spf_aligned and found.dkim_aligned


async def test_a5_a_suffix_with_psd_keeps_its_customers_apart() -> None:
    zone = Zone(published(co_example="p=none; psd=y", one_co_example="p=reject"))
    found = await judge(zone, Ask("one.co.example", spf("pass", "two.co.example")))
    assert (found.result, found.organizational) == ("fail", "one.co.example")
    assert (await judge(zone, Ask("one.co.example", spf("pass", "m.one.co.example")))).result == "pass"


async def test_a5_psd_n_cuts_an_organization_off() -> None:
    zone = Zone(published(example_org="p=reject", lab_example_org="p=none; psd=n"))
    assert (await judge(zone, Ask("example.org", spf("pass", "x.lab.example.org")))).result == "fail"


@pytest.mark.parametrize("author", ["mail.example.co.uk", "example.co.uk"])
async def test_a5_the_suffix_list_as_a_choice(author: str) -> None:
    zone = Zone(published(example_co_uk="p=reject", co_uk="p=none"))
    assert (await judge(zone, Ask(author, spf("pass", "other.co.uk")), "psl")).result == "fail"
    assert (await judge(zone, Ask(author, spf("pass", "x.example.co.uk")), "psl")).result == "pass"


@pytest.mark.parametrize(
    ("tags", "author", "exists", "policy"),
    [
        ("p=reject", "example.org", True, "reject"),
        ("p=reject; sp=none", "example.org", True, "reject"),
        ("p=reject; sp=none", "a.example.org", True, "none"),
        ("p=reject", "a.example.org", True, "reject"),
        ("p=none; sp=quarantine; np=reject", "a.example.org", True, "quarantine"),
        ("p=none; sp=quarantine; np=reject", "a.example.org", False, "reject"),
        ("p=quarantine; np=reject", "a.example.org", False, "reject"),
        ("p=none; sp=quarantine", "a.example.org", False, "quarantine"),
        ("p=none; np=reject", "example.org", False, "none"),
        ("p=reject; t=y", "example.org", True, "quarantine"),
        ("p=quarantine; t=y", "example.org", True, "none"),
        ("p=none; sp=reject; t=y", "a.example.org", True, "quarantine"),
        ("p=none; t=y", "example.org", True, "none"),
        ("p=reject; pct=0", "example.org", True, "reject"),
        ("p=rejekt; rua=mailto:a@example.org", "example.org", True, "none"),
    ],
)
async def test_a5_the_policy_for_a_failure(tags: str, author: str, exists: bool, policy: str) -> None:
    zone = Zone(published(example_org=tags), [author] if exists else [])
    found = await judge(zone, Ask(author))
    assert (found.result, found.policy) == ("fail", policy)


async def test_a_broken_policy_that_nobody_reads_is_permerror() -> None:
    assert (await judge(Zone(published(example_org="p=rejekt")), Ask("example.org"))).result == "permerror"


async def test_a5_two_records_are_no_policy() -> None:
    zone = Zone({"_dmarc.example.org": ("v=DMARC1; p=reject", "v=DMARC1; p=none")})
    assert (await judge(zone, Ask("example.org"))).result == "none"


async def test_without_a_policy_a_pass_is_none_too() -> None:
    assert (await judge(Zone({}), Ask("example.org", spf("pass", "example.org")))).result == "none"


# -- what may count


async def test_a2_a_signature_that_does_not_count_is_no_pass() -> None:
    assert (
        await judge(Zone(REJECT), Ask("example.org", None, dkim(("pass", "example.org"), counts=False)))
    ).result == "fail"


@pytest.mark.parametrize("word", ["fail", "policy", "neutral", "permerror", "none"])
async def test_only_a_pass_is_a_pass(word: Word) -> None:
    found = await judge(Zone(REJECT), Ask("example.org", spf(word, "example.org"), dkim((word, "example.org"))))
    assert found.result == "fail"


async def test_a6_the_null_sender_has_its_helo_and_nobody_else_has() -> None:
    helo = SpfReport(result="pass", scope="helo", domain="example.org")
    assert (await judge(Zone(REJECT), Ask("example.org", helo, null_sender=True))).result == "pass"
    assert (await judge(Zone(REJECT), Ask("example.org", helo))).result == "fail"
    mail_from = spf("pass", "example.org")
    assert (await judge(Zone(REJECT), Ask("example.org", mail_from, null_sender=True))).result == "fail"


async def test_a10_a_shared_network_is_not_enough_where_the_operator_says_so() -> None:
    ask = Ask("example.org", spf("pass", "example.org"), dkim_only=True)
    found = await judge(Zone(REJECT), ask)
    assert found.result == "fail" and "signature is required" in found.reason
    assert (await judge(Zone(REJECT), ask._replace(dkim=dkim(("pass", "example.org"))))).result == "pass"


# -- what DNS did not answer


@pytest.mark.parametrize(
    ("ask", "result"),
    [
        (Ask("example.org", spf("temperror", "example.org")), "temperror"),
        (Ask("example.org", spf("temperror", "m.example.org")), "temperror"),
        (Ask("example.org", spf("temperror", "example.net")), "fail"),
        (Ask("example.org", None, dkim(("temperror", "example.org"))), "temperror"),
        (Ask("example.org", None, dkim(("temperror", "example.net"))), "fail"),
        (Ask("example.org", None, dkim(("temperror", ""))), "temperror"),  # nobody could read whose it is
        (Ask("example.org", spf("pass", "example.org"), dkim(("temperror", ""))), "pass"),
        (Ask("example.org", spf("temperror", "example.org"), dkim(("pass", "example.org"))), "pass"),
        (Ask("example.org", spf("pass", "example.org"), dkim(("temperror", "example.org"))), "pass"),
        (Ask("example.org", spf("temperror", "example.org"), null_sender=True), "fail"),
    ],
)
async def test_a5_temperror_only_on_a_way_that_could_have_passed(ask: Ask, result: str) -> None:
    found = await judge(Zone(REJECT), ask)
    assert found.result == result
    if result == "temperror":
        assert found.policy == "reject" and "temperror" not in found.reason and found.reason


@pytest.mark.parametrize("name", ["_dmarc.example.org", "_dmarc.org"])
async def test_a5_a_policy_that_cannot_be_asked_for_is_temperror(name: str) -> None:
    zone = Zone({**REJECT, name: AWAY})
    assert (await judge(zone, Ask("mail.example.org"))).result == "temperror"


async def test_a5_the_organizational_domain_away() -> None:
    zone = Zone({**REJECT, "_dmarc.m.example.org": AWAY})
    assert (await judge(zone, Ask("example.org", spf("pass", "m.example.org")))).result == "temperror"
    signed = dkim(("pass", "example.org"))
    assert (await judge(zone, Ask("example.org", spf("pass", "m.example.org"), signed))).result == "pass"
    assert (await judge(zone, Ask("example.org", spf("fail", "m.example.org")))).result == "fail"


async def test_a5_whether_the_author_exists_cannot_be_asked() -> None:
    zone = Zone({**published(example_org="p=none; np=reject"), "a.example.org": AWAY})
    assert (await judge(zone, Ask("a.example.org"))).result == "temperror"


async def test_a5_questions_are_bounded_whatever_the_signatures_are() -> None:
    deep = ".".join(["x"] * 40)
    signed = dkim(*[("pass", f"{number}.{deep}.example.org") for number in range(400)])
    zone = Zone(published(example_org="p=reject", org="p=none; psd=y"))
    zone.texts["_dmarc.x.example.org"] = ("v=DMARC1; p=none; psd=n",)
    assert (await judge(zone, Ask("example.org", None, signed))).result == "fail"
    assert len(zone.asked) < 40


async def test_what_a_report_needs_of_the_policy() -> None:
    found = await judge(Zone(published(example_org="p=reject; np=none; rua=mailto:r@example.org")), Ask("m.example.org"))
    assert found.facts["published"] == {
        "domain": "example.org",
        "p": "reject",
        "sp": "reject",
        "np": "none",
        "adkim": "r",
        "aspf": "r",
        "testing": "n",
        "fo": "0",
        "rua": ["mailto:r@example.org"],
    }


@pytest.mark.parametrize("author", ["example.org", "mail.example.org", "example.net"])
async def test_what_is_at_hand_is_judged_at_once_and_alike(author: str) -> None:
    ask = Ask(author, spf("pass", "example.org"), dkim(("pass", "example.net")))
    known: dict[tuple[str, str], Answer] = {}
    for _ in range(10):
        if (found := at_once(ask, lambda name, rtype: known.get((name, rtype)))) is not None:
            break
        zone = Zone(REJECT, ["mail.example.org"])
        await judge(zone, ask)
        key = next(key for key in zone.asked if key not in known)
        known[key] = await zone.query(*key)
    else:
        pytest.fail("it was never at hand")
    assert known
    assert found == await judge(Zone(REJECT, ["mail.example.org"]), ask)
