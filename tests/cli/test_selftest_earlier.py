"""Who is stopped early in a self-test: skipped where the configuration says so of a fact, a miss in all other cases."""

from pathlib import Path
from typing import Any

import pytest

from appliance.cli.selftest import earlier
from appliance.cli.selftest.earlier import Decided
from appliance.cli.selftest.scanners import asked_by
from appliance.cli.selftest.scene import DOMAIN, HONEST, NAMELESS
from appliance.cli.selftest.who import NO_TLS, UNSIGNED, Finding, Who
from appliance.config.scanner_entry import ScannerEntry
from appliance.engine.policy import compile_policies
from appliance.engine.rules import PolicySet


def policies(files: dict[str, dict[str, Any]]) -> PolicySet:
    compiled, complaints = compile_policies({f"{name}.toml": values for name, values in files.items()})
    assert not [complaint for complaint in complaints if complaint.fatal]
    return compiled


NONE = {"rdns": {"on": {"none": "reject"}}}
NAMED = Decided("rdns", "none", NAMELESS)
TLS = {"tls": {"clients": ["inline:{192.0.2.10=required}"]}}
HIGH = {"suspicion": {"on": {"high": "reject"}}}
EXCEPT = {"rdns": {"exception": [{"match": {"helo_name": "x.example"}, "set": {"none": "reject"}, "reason": "x"}]}}


@pytest.mark.parametrize(
    ("files", "who", "decided"),
    [
        (NONE, Who(NAMELESS, "plain.example"), NAMED),
        ({"rdns": {"on": {"none": "quarantine"}}}, Who(NAMELESS, "plain.example"), NAMED),
        ({"spf": {"on": {"none": "defer"}}}, Who(NAMELESS, "plain.example"), Decided("spf", "none", "")),
        ({"spf": {"on": {"fail": "reject"}}}, Who(HONEST, DOMAIN), Decided("spf", "fail", "")),
        ({"dkim": {"on": {"none": "reject"}}}, Who(HONEST, "regular.example"), Decided("dkim", "none", "")),
        (TLS, Who(HONEST, "regular.example"), Decided("tls", "missing", "")),
        ({}, Who(HONEST, "regular.example"), Decided("access", "reject", "/f:1: client 192.0.2.0/24: REJECT")),
        ({}, Who(HONEST, "regular.example"), Decided("access", "reject", "/f:1: client 192.0.2: 554 go")),
        (HIGH, Who(NAMELESS, "spffail.example"), Decided("suspicion", "high", "3: rdns:none +1, spf:fail +2")),
        ({}, Who(HONEST, "unreachable.test"), Decided("dmarc", "temperror", "no answer")),
    ],
)
def test_a_fact_that_the_policies_refuse_is_a_reason(
    files: dict[str, dict[str, Any]], who: Who, decided: Decided, tmp_path: Path
) -> None:
    (tmp_path / f"{decided.check}.toml").touch()
    why = earlier.why(policies(files), [str(tmp_path)], who, decided)
    assert why.startswith(f"{decided.check} stops this stranger first: {decided.outcome}")
    assert why.endswith(f" in {tmp_path}/{decided.check}.toml")


def excepting(check: str, match: dict[str, Any], sets: dict[str, Any]) -> dict[str, dict[str, Any]]:
    return {check: {"exception": [{"match": match, "set": sets, "reason": "as agreed"}]}}


@pytest.mark.parametrize(
    ("files", "who", "decided"),
    [
        (EXCEPT, Who(NAMELESS, "plain.example", helo="x.example"), NAMED),
        (excepting("rdns", {"client_address": "203.0.113.0/24"}, {"none": "hold"}), Who(NAMELESS, "a.example"), NAMED),
        (
            excepting("spf", {"sender": "regular.example"}, {"pass": "reject"}),  # nobody is stopped for that as shipped
            Who(HONEST, "regular.example", sender="joe@regular.example"),
            Decided("spf", "pass", ""),
        ),
        (
            excepting("spf", {"tls": "TLSv1.3"}, {"pass": "hold"}),
            Who(HONEST, "a.example", "TLSv1.3"),
            Decided("spf", "pass", ""),
        ),
        (
            excepting("dkim", {"client_name": ".regular.example"}, {"none": "defer"}),
            Who(HONEST, "a.example"),
            Decided("dkim", "none", ""),
        ),
        (
            excepting("spf", {"identity": "192.0.2.0/24"}, {"none": "defer"}),
            Who(HONEST, "plain.example"),
            Decided("spf", "none", ""),
        ),
    ],
)
def test_an_exception_that_fits_is_a_reason_with_its_line(
    files: dict[str, dict[str, Any]], who: Who, decided: Decided, tmp_path: Path
) -> None:
    (tmp_path / f"{decided.check}.toml").write_text("# One line.\n[[exception]]\n")
    why = earlier.why(policies(files), [str(tmp_path)], who, decided)
    assert why.startswith(f"{decided.check} stops this stranger first: {decided.outcome}")
    [exception] = files[decided.check]["exception"]
    assert why.endswith(f"; [[exception]] {tmp_path}/{decided.check}.toml:2 ({exception['reason']})")


@pytest.mark.parametrize(
    ("files", "who", "decided"),
    [
        (EXCEPT, Who(NAMELESS, "plain.example", helo="y.example"), NAMED),  # it fits somebody else
        (
            excepting("rdns", {"client_address": "203.0.113.0/24"}, {"none": "hold"}),
            Who(HONEST, "regular.example"),
            NAMED,
        ),
        (
            excepting("spf", {"sender": "regular.example"}, {"fail": "reject"}),
            Who(HONEST, "regular.example"),
            Decided("spf", "fail", ""),
        ),
        ({}, Who(NAMELESS, "plain.example"), NAMED),  # the policy does not say so
        (NONE, Who(HONEST, "regular.example"), Decided("rdns", "none", HONEST)),  # it has a name
        ({"rdns": {"mode": "monitor"} | NONE["rdns"]}, Who(NAMELESS, "plain.example"), NAMED),
        ({"spf": {"on": {"fail": "reject"}}}, Who(HONEST, "regular.example"), Decided("spf", "fail", "")),
        ({}, Who(HONEST, "regular.example"), Decided("tls", "missing", "")),  # nobody demands it
        (TLS, Who(HONEST, "regular.example", tls="TLSv1.3"), Decided("tls", "missing", "")),
        ({"dkim": {"on": {"none": "reject"}}}, Who(HONEST, "regular.example", signed=True), Decided("dkim", "none", "")),
        ({}, Who(HONEST, "regular.example"), Decided("access", "reject", "/f:1: client 198.51.100: REJECT")),
        ({}, Who(HONEST, "regular.example"), Decided("access", "reject", "/f:1: sender regular.example: REJECT")),
        (HIGH, Who(HONEST, "spffail.example"), Decided("suspicion", "high", "3: rdns:none +1, spf:fail +2")),
        (HIGH, Who(NAMELESS, "spffail.example"), Decided("suspicion", "high", "9: ")),
        ({}, Who(HONEST, "regular.example"), Decided("dmarc", "temperror", "no answer")),
        ({}, Who(HONEST, "regular.example"), Decided("recipient", "unverifiable", "")),
        ({}, Who(HONEST, "regular.example"), Decided("plugin", "odd", "")),
    ],
)
def test_whatever_else_stops_a_stranger_is_no_reason(
    files: dict[str, dict[str, Any]], who: Who, decided: Decided
) -> None:
    assert earlier.why(policies(files), ["/nowhere"], who, decided) == ""


def test_the_checks_that_ask_a_scanner() -> None:
    clamd, amavis = ScannerEntry(kind="clamd", address=("127.0.0.1:1",)), ScannerEntry(kind="amavis")
    assert asked_by(policies({}), "av", clamd) == (["antivirus"], "")
    assert asked_by(policies({}), "am", amavis) == (["antivirus", "antispam"], "")
    named = policies({"antivirus": {"scanners": ["other"]}})
    assert asked_by(named, "av", clamd) == ([], "no check asks it")
    assert asked_by(named, "am", amavis) == (["antispam"], "")
    assert asked_by(policies({"antivirus": {"mode": "off"}}), "av", clamd) == ([], "antivirus is in mode off")


SIGNED_OR_TLS = {"dkim": {"on": {"none": "reject"}}} | TLS
WEIGHED = {"suspicion": {"weights": {"dkim:none": 8, "rdns:none": 1}, "on": {"high": "reject"}}}


@pytest.mark.parametrize(
    ("files", "who", "decided", "remedies"),
    [
        (SIGNED_OR_TLS, Who(HONEST, "regular.example"), Decided("dkim", "none", ""), {UNSIGNED}),
        (SIGNED_OR_TLS, Who(HONEST, "regular.example"), Decided("tls", "missing", ""), {NO_TLS}),
        (SIGNED_OR_TLS, Who(HONEST, "regular.example", signed=True), Decided("dkim", "none", ""), set()),
        (SIGNED_OR_TLS, Who(HONEST, "regular.example"), Decided("spf", "fail", ""), set()),
        (
            WEIGHED,
            Who(NAMELESS, "plain.example"),
            Decided("suspicion", "high", "9: dkim:none +8, rdns:none +1"),
            {UNSIGNED},
        ),
        (HIGH, Who(NAMELESS, "spffail.example"), Decided("suspicion", "high", "3: rdns:none +1, spf:fail +2"), set()),
    ],
)
def test_a_stranger_does_what_it_is_asked_for(
    files: dict[str, dict[str, Any]], who: Who, decided: Decided, remedies: set[Finding]
) -> None:
    compiled = policies(files)
    assert earlier.asks(compiled) and earlier.remedies(compiled, who, decided) == remedies


def test_a_configuration_that_asks_nothing_of_strangers() -> None:
    assert not earlier.asks(policies({}))
    assert not earlier.asks(policies({"dkim": {"mode": "monitor", "on": {"none": "reject"}}}))
