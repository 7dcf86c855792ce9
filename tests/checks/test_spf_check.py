"""spf: which identity is asked, what each report becomes, what is written into the header."""

import asyncio
from collections.abc import Awaitable
from typing import Any

import msgspec
import pytest

from appliance.checks import spf
from appliance.mail.auth import SpfAsk, SpfReport, SpfTerm, Word
from appliance.mail.context import Client, Context
from appliance.mail.ports import Ports, Site
from appliance.mail.verdict import Verdict
from appliance.protocol.smtp.address import Address, parse_address
from tests.engine.scripted import context

SITE = Site(hostname="mx.example.com", is_ours=lambda domain: False)
NULL = Address("", "", "")


class Said:
    """An Authentication port whose SPF says the scripted word of each identity, at once or later."""

    def __init__(self, later: bool = False, **reports: SpfReport | Word) -> None:
        self.asked: list[SpfAsk] = []
        self._later = later
        self._reports = {
            scope: SpfReport(result=found, scope=scope, domain=f"{scope}.example", matched="-all")  # type: ignore[arg-type]
            if isinstance(found, str)
            else found
            for scope, found in reports.items()
        }

    def spf(self, ask: SpfAsk) -> SpfReport | Awaitable[SpfReport]:
        self.asked.append(ask)
        report = self._reports["mfrom" if ask.sender else "helo"]
        return self._wait(report) if self._later else report

    async def _wait(self, report: SpfReport) -> SpfReport:
        await asyncio.sleep(0)
        return report


async def judged(said: Any, ctx: Context | None = None, **more: Any) -> Verdict:
    ctx = ctx or context("mail", sender=parse_address(b"joe@mfrom.example")[0])
    answer = spf.check(ctx, spf.Policy(**more), Ports(site=SITE, authentication=said))
    return answer if isinstance(answer, Verdict) else await answer


@pytest.mark.parametrize("later", [False, True])
@pytest.mark.parametrize("word", ["pass", "fail", "softfail", "neutral", "none", "permerror", "temperror"])
async def test_every_result_is_an_outcome_of_its_own(word: Word, later: bool) -> None:
    said = Said(later, mfrom=word)
    verdict = await judged(said)
    assert verdict.outcome == word
    assert verdict.authres == (f"spf={word} smtp.mailfrom=mfrom.example",)
    assert said.asked == [SpfAsk("192.0.2.1", "mail.example.net", "joe@mfrom.example")]


async def test_a6_of_the_null_sender_the_helo_name_is_judged() -> None:
    said = Said(helo="fail")
    verdict = await judged(said, context("mail", sender=NULL))
    assert said.asked == [SpfAsk("192.0.2.1", "mail.example.net", "")]
    assert (verdict.outcome, verdict.authres) == ("fail", ("spf=fail smtp.helo=helo.example",))
    assert "identity=helo" in verdict.edits[0].value
    assert "envelope-from" not in verdict.edits[0].value


@pytest.mark.parametrize(
    ("mfrom", "helo", "outcome"),
    [
        ("pass", "fail", "helo_fail"),
        ("none", "fail", "helo_fail"),
        ("fail", "fail", "fail"),
        ("softfail", "pass", "softfail"),
        ("pass", "temperror", "pass"),
    ],
)
@pytest.mark.parametrize("later", [False, True])
async def test_a6_the_helo_name_is_judged_too_where_the_operator_wants_it(
    mfrom: Word, helo: Word, outcome: str, later: bool
) -> None:
    verdict = await judged(Said(later, mfrom=mfrom, helo=helo), judge_helo=True)
    assert verdict.outcome == outcome
    assert verdict.authres == (f"spf={mfrom} smtp.mailfrom=mfrom.example", f"spf={helo} smtp.helo=helo.example")
    assert verdict.evidence["of_helo"]["result"] == helo
    assert len(verdict.edits) == 1


async def test_a10_a_pass_of_a_record_that_lets_in_everybody_is_broad() -> None:
    report = SpfReport(result="pass", domain="mfrom.example", matched="+all", broad=True)
    verdict = await judged(Said(mfrom=report))
    assert (verdict.outcome, verdict.authres) == ("broad", ("spf=pass smtp.mailfrom=mfrom.example",))


@pytest.mark.parametrize(
    "ctx",
    [
        context("mail", role="outbound"),
        context("mail", client=Client(address="local")),
        context("mail", client=Client(address="192.0.2.1", trusted_relay=True)),
        context("mail", sender=None),
    ],
)
async def test_who_is_no_stranger_is_not_asked_about(ctx: Context) -> None:
    said = Said()
    verdict = await judged(said, ctx)
    assert (verdict.outcome, verdict.authres, verdict.edits, said.asked) == ("skipped", (), (), [])


async def test_without_the_port_it_is_skipped() -> None:
    assert (await judged(None)).outcome == "skipped"


async def test_received_spf_says_what_was_judged() -> None:
    report = SpfReport(result="pass", domain="mfrom.example", matched="ip4:192.0.2.0/24")
    edit = (await judged(Said(mfrom=report))).edits[0]
    assert (edit.op, edit.name) == ("prepend", "Received-SPF")
    assert " ".join(edit.value.split()) == (
        "pass (mx.example.com: domain of mfrom.example designates 192.0.2.1 as permitted sender) client-ip=192.0.2.1; "
        'envelope-from="joe@mfrom.example"; helo=mail.example.net; receiver=mx.example.com; identity=mailfrom; '
        'mechanism="ip4:192.0.2.0/24"'
    )
    assert (await judged(Said(mfrom=report), received_spf=False)).edits == ()


@pytest.mark.parametrize(
    ("sender", "helo", "term", "absent"),
    [
        (b'"a b"@mfrom.example', "mail.example.net", "all", "envelope-from"),
        (b"joe@mfrom.example", "x\r\nX-Evil: yes", "all", "helo="),
        (b"joe@mfrom.example", 'x"; spf=pass', "all", "helo="),
        (b"joe@mfrom.example", "m\0.example", "all", "helo="),
        (b"joe@mfrom.example", "mail.example.net", 'exists:"%{l}\r\n', "mechanism"),
        (b"joe@mfrom.example", "mail.example.net", "x" * 999, "mechanism"),
    ],
)
async def test_a8_what_does_not_fit_the_grammar_is_left_out(sender: bytes, helo: str, term: str, absent: str) -> None:
    report = SpfReport(result="pass", domain="mfrom.example", matched=term)
    ctx = context("mail", sender=parse_address(sender)[0], helo=helo)
    verdict = await judged(Said(mfrom=report), ctx)
    value = verdict.edits[0].value
    assert absent not in value
    assert "X-Evil" not in value
    assert value.replace("\n\t", " ").isprintable()
    assert verdict.authres == ("spf=pass smtp.mailfrom=mfrom.example",)


async def test_a_domain_that_is_none_leaves_no_property() -> None:
    report = SpfReport(result="none", scope="helo", reason="not a domain name: [192.0.2.1]")
    verdict = await judged(Said(helo=report), context("mail", sender=NULL, helo="[192.0.2.1]"))
    assert verdict.authres == ("spf=none",)
    assert verdict.reason == "none of no domain (HELO): not a domain name: [192.0.2.1]"


async def test_the_evidence_is_the_whole_report() -> None:
    term = SpfTerm("mfrom.example", "a:x.example", "no match", ("x.example A: 192.0.2.9",))
    report = SpfReport(
        result="permerror",
        domain="mfrom.example",
        reason="more than 2 terms without any record in DNS (a:z.example)",
        record="v=spf1 a:x.example a:z.example -all",
        terms=(term,),
        lookups=3,
        voids=3,
        ttl=60,
    )
    verdict = await judged(Said(mfrom=report))
    assert msgspec.json.decode(msgspec.json.encode(verdict.evidence)) == {
        "address": "192.0.2.1",
        "helo": "mail.example.net",
        "sender": "joe@mfrom.example",
        "result": "permerror",
        "domain": "mfrom.example",
        "reason": report.reason,
        "record": report.record,
        "terms": [{"domain": term.domain, "term": term.term, "result": term.result, "records": list(term.records)}],
        "lookups": 3,
        "voids": 3,
        "ttl": 60,
    }
    assert "problem=" in verdict.edits[0].value
