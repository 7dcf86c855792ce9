"""The identity check: who sends, as far as it is proven; against reports, names and stores of the test's own."""

import inspect
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import msgspec
import pytest

from appliance.checks import identity
from appliance.mail.auth import ArcReport, DkimReport, Signature, SpfAsk, SpfReport
from appliance.mail.context import Client, Context
from appliance.mail.identity import Identity
from appliance.mail.ports import Ports, Site, Unavailable
from appliance.mail.verdict import Verdict
from appliance.protocol.smtp.address import Address
from appliance.tables import open_table

SHARED = "postgrey_clients:exempt/shared_providers"
POLICIES = Path(__file__).resolve().parents[2] / "policies"
NOW = 1_800_000_000.0
DAY = 86400.0


class Reports:
    """mail.ports.Authentication with answers that were written beforehand; `later`: they must be awaited."""

    def __init__(self, spf: SpfReport, dkim: DkimReport | None = None, later: bool = False) -> None:
        self._spf, self._dkim, self._later = spf, dkim or DkimReport(), later
        self.asked: list[SpfAsk] = []

    def spf(self, ask: SpfAsk) -> Any:
        self.asked.append(ask)
        return self._late(self._spf) if self._later else self._spf

    def dkim(self, content: object) -> Any:
        return self._late(self._dkim) if self._later else self._dkim

    def arc(self, content: object) -> ArcReport:
        return ArcReport()

    async def _late(self, report: object) -> object:
        return report


class Past:
    """mail.ports.Identities: who was met when."""

    def __init__(self, first: dict[str, float] | None = None, away: bool = False) -> None:
        self._first, self._away = first or {}, away

    async def known(self, asked: Identity) -> Identity:
        if self._away:
            raise Unavailable("stated: away")
        first = self._first.get(asked.key, 0.0)
        fields = {name: getattr(asked, name) for name in asked.__struct_fields__}
        return Identity(**{**fields, "first": first, "last": first, "days": bool(first), "messages": bool(first)})

    def accepted(self, keys: Sequence[str]) -> None:
        raise AssertionError("a check counts nothing")


class Text:
    """A content that is nothing but its header."""

    header_complete = True

    def __init__(self, author: str) -> None:
        self.header = f"From: {author}\r\n\r\n".encode()


def passes(domain: str, **more: Any) -> SpfReport:
    return SpfReport(**{"result": "pass", "domain": domain, "matched": "ip4:192.0.2.0/24", **more})


def address(text: str) -> Address:
    local, at, domain = text.rpartition("@")
    return Address(local, domain, text) if at else Address(text, "", text)


def context(sender: str = "a@example.org", stage: Any = "mail", **more: Any) -> Context:
    client = {"address": "192.0.2.1", "name": "unknown", "proof": "none"}
    client |= {name: more.pop(name) for name in ("address", "name", "proof", "trusted_relay") if name in more}
    return Context(
        stage=stage,
        client=Client(**client),  # type: ignore[arg-type]
        helo="mx.example.net",
        sender=address(sender),
        now=NOW,
        **more,
    )


def shipped(path: str) -> bytes:
    with open(f"policies/{path}", "rb") as file:
        return file.read()


async def judge(ctx: Context, spf: SpfReport, past: Past | None = None, **more: Any) -> Verdict:
    reports = Reports(spf, **more)
    given = Ports(
        site=Site(hostname="mx.example.com", is_ours=lambda domain: domain == "example.com"),
        tables={SHARED: open_table(SHARED, shipped)},
        authentication=reports,
        identities=past,
    )
    found = identity.check(ctx, identity.Policy(), given)
    verdict: Verdict = await found if inspect.isawaitable(found) else found  # type: ignore[assignment]
    return verdict


def who(verdict: Verdict) -> tuple[str, str]:
    assert verdict.identity is not None
    return verdict.identity.name, verdict.identity.proof


NONE = SpfReport(result="none")


@pytest.mark.parametrize(
    ("ctx", "spf", "expected"),
    [
        (context(), passes("example.org"), ("example.org", "spf")),
        (context("a@news.example.co.uk"), passes("news.example.co.uk"), ("example.co.uk", "spf")),
        (context(""), passes("mx.example.net", scope="helo"), ("example.net", "spf")),
        (context(), passes("example.org", broad=True), ("192.0.2.0/24", "network")),
        (context(), NONE, ("192.0.2.0/24", "network")),
        (context(), SpfReport(result="fail", domain="example.org"), ("192.0.2.0/24", "network")),
        (context(), SpfReport(result="softfail", domain="example.org"), ("192.0.2.0/24", "network")),
        (context(), SpfReport(result="neutral", domain="example.org"), ("192.0.2.0/24", "network")),
        (context(name="mx1.example.net", proof="pass"), NONE, ("example.net", "name")),
        (context(name="mx1.example.net", proof="pass"), passes("example.org"), ("example.org", "spf")),
        (context(name="mx1.example.net", proof="pass"), passes("example.org", broad=True), ("example.net", "name")),
        (context(name="unknown", proof="fail"), NONE, ("192.0.2.0/24", "network")),
        (context(name="dsl-192-0-2-1.example.net", proof="pass"), NONE, ("192.0.2.0/24", "network")),
        (context(address="2001:db8:1:2::3"), NONE, ("2001:db8:1:2::/64", "network")),
        (context(address="::ffff:192.0.2.9"), NONE, ("192.0.2.0/24", "network")),
    ],
)
async def test_who_is_proven(ctx: Context, spf: SpfReport, expected: tuple[str, str]) -> None:
    assert who(await judge(ctx, spf)) == expected
    assert who(await judge(ctx, spf, later=True)) == expected


async def test_outcomes_tell_the_age() -> None:
    past = Past({"id:example.org": NOW - 20 * DAY})
    old = await judge(context(), passes("example.org"), past)
    assert (old.outcome, old.identity and old.identity.first) == ("known", NOW - 20 * DAY)
    assert "20.0 days" in old.reason
    assert (await judge(context("a@example.com"), passes("example.com"), past)).outcome == "new"
    assert (await judge(context(), NONE, past)).outcome == "unproven"
    assert old.evidence["spf_domain"] == "example.org" and old.evidence["helo"] == "mx.example.net"


@pytest.mark.parametrize(
    ("ctx", "spf"),
    [
        (context("a@gmail.com"), passes("gmail.com")),
        (context("a@googlemail.com"), passes("googlemail.com")),
        (context("a@yahoo.co.uk"), passes("yahoo.co.uk")),
        (context(name="mail-sor-f41.google.com", proof="pass"), NONE),
        (context("bounces+7@sendgrid.net"), passes("sendgrid.net")),
        (context("x@tenant.onmicrosoft.com"), passes("tenant.onmicrosoft.com")),
    ],
)
async def test_a10_a_shared_provider_is_named_as_one(ctx: Context, spf: SpfReport) -> None:
    verdict = await judge(ctx, spf, Past({"id:gmail.com": NOW - 400 * DAY}))
    assert verdict.outcome == "shared" and verdict.identity is not None and verdict.identity.shared
    assert verdict.identity.proven


async def test_a10_a_customer_of_a_cloud_with_its_own_domain_is_itself() -> None:
    ctx = context("a@tenant.example", name="mail-am6eur05on2065.outbound.protection.outlook.com", proof="pass")
    verdict = await judge(ctx, passes("tenant.example"))
    assert who(verdict) == ("tenant.example", "spf") and not (verdict.identity and verdict.identity.shared)
    assert "outlook.com" in verdict.evidence["client_name"]


async def test_dns_that_does_not_answer_is_temperror_and_the_rest_is_used() -> None:
    away = SpfReport(result="temperror", domain="example.org", reason="SERVFAIL")
    hidden = await judge(context(name="mx1.example.net", proof="pass"), away)
    assert hidden.outcome == "temperror" and who(hidden) == ("example.net", "name")
    nothing = await judge(context(proof="temperror"), NONE)
    assert nothing.outcome == "temperror" and who(nothing) == ("192.0.2.0/24", "network")


async def test_a_store_that_is_away_hides_the_age_only() -> None:
    verdict = await judge(context(), passes("example.org"), Past(away=True))
    assert verdict.outcome == "temperror" and who(verdict) == ("example.org", "spf")


async def test_behind_a_relay_of_ours_nobody_is_guessed() -> None:
    verdict = await judge(context(trusted_relay=True), passes("example.org"))
    assert (verdict.outcome, verdict.identity) == ("skipped", None)


async def test_a_unix_socket_has_no_spf() -> None:
    assert who(await judge(context(address="local"), passes("example.org"))) == ("local", "network")


@pytest.mark.parametrize(
    ("sender", "spf", "answerable"),
    [
        ("a@example.org", passes("example.org"), True),
        ("a@example.org", passes("example.org", broad=True), False),
        ("a@example.org", NONE, False),
        ("", passes("mx.example.net", scope="helo"), False),
    ],
)
async def test_a_notice_goes_to_proven_senders_only(sender: str, spf: SpfReport, answerable: bool) -> None:
    verdict = await judge(context(sender, name="mx1.example.net", proof="pass"), spf)
    assert verdict.identity is not None and verdict.identity.answerable is answerable


# ---------------------------------------------------------------------- what the content proves


def signed(*domains: str, counts: bool = True) -> DkimReport:
    return DkimReport(signatures=tuple(Signature(result="pass", domain=domain, counts=counts) for domain in domains))


def at_message(now: Identity | None, author: str = "example.org", sender: str = "a@example.org") -> Context:
    return context(sender, stage="message", identity=now, content=Text(f"a@{author}" if author else "nobody"))


NETWORK = Identity(name="192.0.2.0/24")
NAME = Identity(name="example.net", proof="name")
SPF = Identity(name="example.net", proof="spf", answerable=True)
CLOUD = Identity(name="sendgrid.net", proof="spf", shared=True, answerable=True)
GMAIL = Identity(name="gmail.com", proof="spf", shared=True, answerable=True)


@pytest.mark.parametrize(
    ("now", "dkim", "author", "expected"),
    [
        (NETWORK, signed("example.org"), "example.org", ("example.org", "dkim")),
        (NETWORK, signed("mail.example.org"), "news.example.org", ("example.org", "dkim")),
        (NAME, signed("example.org"), "example.org", ("example.org", "dkim")),
        (CLOUD, signed("sendgrid.net", "example.org"), "example.org", ("example.org", "dkim")),
        (None, signed("example.org"), "example.org", ("example.org", "dkim")),
        (SPF, signed("example.org"), "example.org", ("example.net", "spf")),
        (NETWORK, signed("attacker.example"), "example.org", ("192.0.2.0/24", "network")),
        (NETWORK, signed("example.org", counts=False), "example.org", ("192.0.2.0/24", "network")),
        (NETWORK, signed("example.org"), "", ("192.0.2.0/24", "network")),
        (NAME, signed("gmail.com"), "gmail.com", ("example.net", "name")),
        (NETWORK, signed("gmail.com"), "gmail.com", ("gmail.com", "dkim")),
    ],
)
async def test_a_signature_of_the_author_may_raise_it(
    now: Identity | None, dkim: DkimReport, author: str, expected: tuple[str, str]
) -> None:
    for later in (False, True):
        verdict = await judge(at_message(now, author), NONE, dkim=dkim, later=later)
        assert who(verdict) == expected


@pytest.mark.parametrize("now", [NETWORK, NAME, SPF, CLOUD, msgspec.structs.replace(SPF, answerable=False), None])
@pytest.mark.parametrize("author", ["example.org", "gmail.com", "example.net", ""])
@pytest.mark.parametrize("domain", ["example.org", "mail.example.org", "gmail.com", "example.net"])
def test_who_is_settled_would_not_be_raised(now: Identity | None, author: str, domain: str) -> None:
    """The short way (nothing is looked at) is taken only where the long one finds nothing."""
    given = Ports(site=Site(hostname="mx", is_ours=lambda domain: False), tables={SHARED: open_table(SHARED, shipped)})
    ctx = at_message(now, author)
    found = identity.signed(ctx, signed(domain), author, identity.Policy(), given)
    assert not identity._is_settled(now) or found is None
    assert identity._is_settled(now) == (now is SPF)


async def test_a_raised_identity_brings_its_age() -> None:
    past = Past({"id:example.org": NOW - 30 * DAY})
    verdict = await judge(at_message(NETWORK), NONE, past, dkim=signed("example.org"))
    assert (verdict.outcome, verdict.evidence["dkim_domain"]) == ("known", "example.org")


async def test_a_signature_of_somebody_else_makes_no_sender_answerable() -> None:
    """The signer of From may have written any MAIL FROM: the notice would go to a stranger."""
    backscatter = await judge(
        at_message(NETWORK, "spam.example", "victim@example.org"), NONE, dkim=signed("spam.example")
    )
    assert backscatter.identity is not None and not backscatter.identity.answerable
    own = await judge(at_message(NETWORK, "example.org", "bounce@mail.example.org"), NONE, dkim=signed("example.org"))
    assert own.identity is not None and own.identity.answerable
    kept = await judge(at_message(NAME, "list.example", "a@example.org"), NONE, dkim=signed("example.org"))
    assert who(kept) == ("example.net", "name") and kept.identity is not None and kept.identity.answerable


async def test_unsigned_content_changes_nothing() -> None:
    assert (await judge(at_message(SPF), NONE)).identity == SPF
    assert (await judge(at_message(None), NONE)).outcome == "skipped"
