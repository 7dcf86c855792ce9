"""The suspicion check: weak findings added up; each once; and the weights that an operator writes."""

from typing import Any

import pytest
from pydantic import ValidationError

from appliance.checks import catalogue, suspicion
from appliance.engine.policy import compile_policies
from appliance.mail.context import Client, Context, Recipient
from appliance.mail.ports import Ports, Site
from appliance.mail.verdict import Verdict
from appliance.protocol.smtp.address import Address

PORTS = Ports(site=Site(hostname="mx.example.com", is_ours=lambda domain: True))
TO = Address("b", "example.com", "b@example.com")


def context(*findings: str, signs: tuple[str, ...] = (), **more: Any) -> Context:
    """`findings`: "spf:fail", or "dnsbl:listed@x@example.com" for a verdict about a recipient."""
    trail = []
    for finding in findings:
        word, _, recipient = finding.partition("@")
        check, _, outcome = word.partition(":")
        trail.append(Verdict(check=check, outcome=outcome, recipient=recipient))
    given = {"stage": "rcpt", "recipient": Recipient(address=TO)} | more
    client = Client(address="192.0.2.1", trusted_relay=given.pop("trusted_relay", False))
    return Context(client=client, trail=tuple(trail), signs=frozenset(signs), **given)


def judge(ctx: Context, **knobs: Any) -> Verdict:
    return suspicion.check(ctx, suspicion.Policy(**knobs), PORTS)


@pytest.mark.parametrize(
    ("findings", "signs", "score", "outcome"),
    [
        ((), (), 0, "low"),
        (("spf:pass", "rdns:ok", "dnsbl:unlisted"), (), 0, "low"),
        (("rdns:none", "spf:fail"), (), 3, "low"),
        (("rdns:none", "spf:fail", "identity:unproven"), (), 4, "raised"),
        (("dnsbl:listed", "rdns:none"), (), 4, "raised"),
        (("dnsbl:listed", "rdns:none"), ("early_talk",), 7, "raised"),
        (("dnsbl:listed", "rdns:none", "spf:softfail"), ("early_talk",), 8, "high"),
        (("dnsbl:allowed", "identity:known"), (), -4, "low"),
        (("dnsbl:listed", "rdns:none", "identity:known"), (), 3, "low"),
        (("spf:temperror", "dnsbl:temperror", "rdns:temperror", "identity:temperror"), (), 0, "low"),
    ],
)
def test_the_sum_and_its_outcome(findings: tuple[str, ...], signs: tuple[str, ...], score: float, outcome: str) -> None:
    verdict = judge(context(*findings, signs=signs))
    assert (verdict.score, verdict.outcome) == (score, outcome)
    assert verdict.evidence["score"] == score == sum(verdict.evidence["parts"].values())


def test_each_finding_counts_once_and_other_recipients_are_not_mine() -> None:
    twice = context("spf:fail", "spf:fail", "dnsbl:listed@b@example.com", "dnsbl:listed@b@example.com")
    assert judge(twice).score == 5
    assert judge(context("dnsbl:listed@other@example.com")).score == 0
    everything = context("dnsbl:listed@other@example.com", "dnsbl:listed@b@example.com", stage="message", recipient=None)
    assert judge(everything).score == 3


def test_its_own_earlier_verdict_is_no_finding() -> None:
    ctx = context("suspicion:high", "spf:fail", stage="message", recipient=None)
    assert judge(ctx).evidence["parts"] == {"spf:fail": 2}


def test_the_reason_names_the_parts_heaviest_first() -> None:
    verdict = judge(context("rdns:none", "dnsbl:listed", "identity:known"))
    assert verdict.reason == "3: dnsbl:listed +3, rdns:none +1, identity:known -1"


def test_a_relay_of_ours_is_not_judged() -> None:
    assert judge(context("rdns:none", trusted_relay=True)).outcome == "skipped"


def test_weights_of_the_operator() -> None:
    ctx = context("rdns:none", "greylist:temperror")
    verdict = judge(ctx, weights={"rdns:none": 2.5, "greylist:temperror": 0.5}, raised_from=1, high_from=3)
    assert (verdict.score, verdict.outcome) == (3.0, "high")


@pytest.mark.parametrize(
    ("weights", "text"),
    [
        ({"spf": 1}, 'a weight is of "check:outcome"'),
        ({"sign:early": 1}, 'a weight is of "check:outcome"'),
        ({"suspicion:high": 1}, 'a weight is of "check:outcome"'),
        ({"spf:fail": float("nan")}, "finite number"),
        ({"spf:fail": 1e9}, "less than or equal to 100"),
    ],
)
def test_weights_that_are_none_are_mistakes(weights: dict[str, float], text: str) -> None:
    with pytest.raises(ValidationError, match=text):
        suspicion.Policy(weights=weights)


def test_weights_of_findings_that_no_check_makes_are_mistakes_of_the_file() -> None:
    weights = {"spf:fial": 1, "spff:fail": 1, "sign:nul": 1, "greylist:early": 1}
    _, complaints = compile_policies({"suspicion.toml": {"weights": weights}})
    assert sorted((one.file, one.path, one.text) for one in complaints) == [
        ("suspicion.toml", ("weights", "spf:fial"), "spf has no outcome fial (did you mean fail?)"),
        ("suspicion.toml", ("weights", "spff:fail"), "no check is called spff (did you mean spf?)"),
    ]


def test_the_shipped_weights_are_of_findings_that_exist() -> None:
    checks = catalogue()
    for key in suspicion.WEIGHTS:
        check, _, outcome = key.partition(":")
        assert outcome in (suspicion.SIGNS if check == suspicion.SIGN else checks[check].outcomes), key
    assert not [key for key in suspicion.WEIGHTS if key.endswith((":temperror", ":skipped"))], "unchecked is not bad"
