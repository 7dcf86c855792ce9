"""dkim and arc as checks: outcomes, what goes into Authentication-Results, and replays (row A3)."""

from collections.abc import Awaitable, Sequence
from typing import Any

import pytest

from appliance.checks import arc, dkim
from appliance.mail import authres
from appliance.mail.auth import ArcReport, DkimReport, Signature
from appliance.mail.context import Client, Context
from appliance.mail.ports import Ports, RateAsk, Site, Unavailable
from appliance.mail.verdict import Verdict
from appliance.stores.rates import AskedRate, Buckets
from tests.engine.scripted import address, context
from tests.mailauth.signing import MAIL, Letter

SITE = Site(hostname="mx.example.com", is_ours=lambda domain: domain == "example.com")
GOOD = Signature(
    result="pass",
    domain="example.org",
    selector="s",
    identity="@example.org",
    algorithm="rsa-sha256",
    bits=2048,
    counts=True,
    signature="AbC/dEf+12==",
    digest="d" * 32,
)


class Known:
    """An Authentication port that knows the answers, at once or later."""

    def __init__(
        self, *signatures: Signature, chain: ArcReport | None = None, later: bool = False, unread: int = 0
    ) -> None:
        self.report, self.chain = DkimReport(signatures=signatures, unread=unread), chain or ArcReport()
        self.later = later

    def spf(self, ask: Any) -> Any:
        raise AssertionError("not asked")

    def dkim(self, content: Any) -> Any:
        return self._when(self.report)

    def arc(self, content: Any) -> Any:
        return self._when(self.chain)

    def _when(self, found: Any) -> Any:
        async def wait() -> Any:
            return found

        return wait() if self.later else found


class Store:
    """The Rates port over real buckets."""

    def __init__(self, away: bool = False) -> None:
        self.buckets, self.away, self.now, self.asked = Buckets(), away, 1000.0, 0

    async def take(self, asks: Sequence[RateAsk], now: float) -> list[float]:
        if self.away:
            raise Unavailable("stated is away")
        self.asked += 1
        return self.buckets.take([AskedRate(ask.key, ask.cost, ask.limit, ask.period) for ask in asks], self.now)


def there(**more: Any) -> Context:
    return context("message", content=Letter(MAIL), **more)


async def asked(ports: Ports, ctx: Context | None = None, **knobs: Any) -> Verdict:
    answer = dkim.check(ctx or there(), dkim.Policy(**knobs), ports)
    return await answer if isinstance(answer, Awaitable) else answer


def said(result: str, **more: Any) -> Signature:
    return Signature(result=result, domain="example.org", reason=f"because {result}", **more)  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("results", "outcome"),
    [
        ([], "none"),
        (["fail", GOOD], "pass"),
        (["pass"], "policy"),
        (["policy", "fail"], "policy"),
        (["fail", "permerror"], "fail"),
        (["permerror"], "permerror"),
        (["neutral"], "neutral"),
        (["fail", "temperror"], "temperror"),
        (["temperror", "policy"], "temperror"),
        (["temperror", GOOD], "pass"),
    ],
)
@pytest.mark.parametrize("later", [False, True])
async def test_outcomes(results: list[Any], outcome: str, later: bool) -> None:
    signatures = [one if isinstance(one, Signature) else said(one) for one in results]
    verdict = await asked(Ports(site=SITE, authentication=Known(*signatures, later=later)))
    assert verdict.outcome == outcome in dkim.OUTCOMES
    assert outcome in ("none", "pass") or "because" in verdict.reason
    assert len(verdict.authres) == max(1, len(results))
    assert len(verdict.evidence["signatures"]) == len(results)


async def test_without_a_port_or_content_it_is_skipped() -> None:
    assert (await asked(Ports(site=SITE))).outcome == "skipped"
    assert (await asked(Ports(site=SITE, authentication=Known()), context("message"))).outcome == "skipped"
    assert arc.check(context("message"), arc.Policy(), Ports(site=SITE, authentication=Known())).outcome == "skipped"  # type: ignore[union-attr]


async def test_results_for_the_header() -> None:
    verdict = await asked(Ports(site=SITE, authentication=Known(GOOD, said("policy"))))
    assert verdict.authres == (
        'dkim=pass header.d=example.org header.i=@example.org header.s=s header.a=rsa-sha256 header.b="AbC/dEf+12=="',
        'dkim=policy reason="because policy" header.d=example.org',
    )
    assert (await asked(Ports(site=SITE, authentication=Known()))).authres == ("dkim=none",)


@pytest.mark.parametrize(
    "text", ['a"b@example.org', "a\r\nb@example.org", "(x)@example.org", "a b@example.org", "é@example.org"]
)
async def test_a8_what_a_signer_chose_stays_in_its_place(text: str) -> None:
    odd = Signature(
        result="pass", domain="example.org", identity=text, selector="s;x=y", signature='"; spf=pass', counts=True
    )
    verdict = await asked(Ports(site=SITE, authentication=Known(odd)))
    value = authres.field("mx.example.com", verdict.authres).value
    assert value.startswith("mx.example.com;\n\tdkim=pass") and "\r" not in value
    outside = "".join(value.split('"')[::2])
    assert "spf=" not in outside and "x=y" not in outside and value.count('"') % 2 == 0


# -- replays


def client(number: int) -> Client:
    return Client(address=f"198.51.{number}.7", name="unknown")


async def test_a3_one_signature_from_many_networks_is_a_replay() -> None:
    ports = Ports(site=SITE, authentication=Known(GOOD), rates=Store())
    outcomes = [(await asked(ports, there(client=client(n)), replay_networks=5)).outcome for n in range(8)]
    assert outcomes == ["pass"] * 5 + ["replayed"] * 3
    verdict = await asked(ports, there(client=client(99)), replay_networks=5)
    assert verdict.evidence["replay"] == {"d": "example.org", "digest": "d" * 32, "limit": 5, "period": 86400.0}
    assert verdict.authres[0].startswith("dkim=pass "), "the signature is what it is"
    assert "5 networks" in verdict.reason
    assert (await asked(ports, there(client=client(0)), replay_networks=5)).outcome == "replayed", "from whoever it comes"


async def test_a3_as_many_networks_as_are_allowed_are_no_replay_however_often() -> None:
    ports = Ports(site=SITE, authentication=Known(GOOD), rates=Store())
    for number in range(50):
        assert (await asked(ports, there(client=client(number % 5)), replay_networks=5)).outcome == "pass"


async def test_a3_one_network_may_bring_it_as_often_as_it_likes() -> None:
    """Retries, and a list server with many subscribers here."""
    ports = Ports(site=SITE, authentication=Known(GOOD), rates=Store())
    for number in range(300):
        near = Client(address=f"198.51.100.{number % 256}", name="unknown")
        assert (await asked(ports, there(client=near), replay_networks=2)).outcome == "pass"
    assert (await asked(ports, there(client=client(1)), replay_networks=2)).outcome == "pass"
    assert (await asked(ports, there(client=client(2)), replay_networks=2)).outcome == "replayed"


async def test_a3_other_signatures_are_counted_by_themselves() -> None:
    store = Store()
    for number in range(20):
        one = Signature(result="pass", domain="example.org", counts=True, digest=f"{number:032}")
        ports = Ports(site=SITE, authentication=Known(one), rates=store)
        assert (await asked(ports, there(client=client(number)), replay_networks=2)).outcome == "pass"


async def test_a3_it_is_forgotten() -> None:
    store = Store()
    ports = Ports(site=SITE, authentication=Known(GOOD), rates=store)
    for number in range(6):
        verdict = await asked(ports, there(client=client(number)), replay_networks=5)
    assert verdict.outcome == "replayed"
    store.now += 86400.0
    assert (await asked(ports, there(client=client(7)), replay_networks=5)).outcome == "pass"


SPF = Verdict(check="spf", outcome="pass")


@pytest.mark.parametrize(
    ("more", "counted"),
    [
        ({}, True),
        ({"client": Client(address="192.0.2.1", trusted_relay=True)}, False),
        ({"client": Client(address="192.0.2.1", name="mail.example.org", proof="pass")}, False),
        ({"client": Client(address="192.0.2.1", name="mail.example.org", proof="fail")}, True),
        ({"client": Client(address="192.0.2.1", name="mail.badexample.org", proof="pass")}, True),
        ({"sender": address("a@bounce.example.org"), "trail": (SPF,)}, False),
        ({"sender": address("a@bounce.example.org")}, True),
        ({"sender": address("a@example.net"), "trail": (SPF,)}, True),
        ({"sender": address("a@bounce.example.org"), "trail": (Verdict(check="spf", outcome="fail"),)}, True),
    ],
)
async def test_a3_direct_mail_of_the_signer_is_not_counted(more: dict[str, Any], counted: bool) -> None:
    store = Store()
    ports = Ports(site=SITE, authentication=Known(GOOD), rates=store)
    assert (await asked(ports, there(**more))).outcome == "pass"
    assert store.asked == counted


async def test_a3_only_signatures_that_count_are_counted_and_few_of_them() -> None:
    store = Store()
    ports = Ports(site=SITE, authentication=Known(said("fail"), said("pass"), *[GOOD] * 9), rates=store)
    await asked(ports)
    assert store.asked == dkim.COUNTED
    await asked(ports, replay_networks=0)
    assert store.asked == dkim.COUNTED


async def test_a3_without_the_store_nobody_knows() -> None:
    """The results stay, the outcome says that something was not looked at."""
    verdict = await asked(Ports(site=SITE, authentication=Known(GOOD), rates=Store(away=True)))
    assert verdict.outcome == "temperror" and "stated is away" in verdict.reason
    assert verdict.authres[0].startswith("dkim=pass ")
    assert (await asked(Ports(site=SITE, authentication=Known(GOOD)))).outcome == "pass"


# -- arc


@pytest.mark.parametrize(
    ("report", "outcome", "results"),
    [
        (ArcReport(), "none", ()),
        (
            ArcReport(result="pass", instances=2, sealers=("example.org", "lists.example.net"), claims=("a; b", "c; d")),
            "pass",
            ('arc=pass reason="sealed by lists.example.net"',),
        ),
        (ArcReport(result="fail", instances=1, reason="broken"), "fail", ("arc=fail reason=broken",)),
        (ArcReport(result="temperror", reason="SERVFAIL"), "temperror", ("arc=temperror",)),
    ],
)
@pytest.mark.parametrize("later", [False, True])
async def test_a9_arc_reports_and_nothing_more(
    report: ArcReport, outcome: str, results: tuple[str, ...], later: bool
) -> None:
    ports = Ports(site=SITE, authentication=Known(chain=report, later=later))
    answer = arc.check(there(), arc.Policy(), ports)
    verdict = await answer if isinstance(answer, Awaitable) else answer
    assert (verdict.outcome, verdict.authres) == (outcome, results)
    assert verdict.evidence["sealers"] == list(report.sealers) and verdict.identity is None
    assert arc.OUTCOMES[outcome] == ("mark" if outcome == "temperror" else "dunno")
