"""Policy records: what is one, what its values mean (A5)."""

import time

import pytest

from appliance.mailauth.dmarc_record import Record, choose, parse


@pytest.mark.parametrize(
    "text",
    ["v=DMARC1", "v=DMARC1;", "v = DMARC1 ; p=none", "v=DMARC1;p=none;", "v=DMARC1 ;p=none", "v=DMARC1; =; ;;p=none"],
)
def test_what_is_a_record(text: str) -> None:
    found = parse(text)
    assert found is not None and found.p == "none" and not found.broken


@pytest.mark.parametrize(
    "text",
    [
        "",
        "v=dmarc1; p=reject",
        "V=DMARC1; p=reject",
        "v=DMARC2; p=reject",
        "v=DMARC1x; p=reject",
        "v=DMARC1 p=reject",
        "p=reject; v=DMARC1",
        " v=DMARC1; p=reject",
        "v=spf1 -all",
        "v=DMARC1; p=reject" + " " * 5000,
    ],
)
def test_a5_what_is_none(text: str) -> None:
    assert parse(text) is None


def test_all_tags() -> None:
    found = parse("v=DMARC1; p=Reject ; sp=quarantine; np=none; adkim=s; aspf=S; psd=n; t=y; fo=1; rua=mailto:a@b.org,x")
    assert found == Record(
        text=found.text if found else "",
        p="reject",
        sp="quarantine",
        np="none",
        adkim="s",
        aspf="s",
        psd="n",
        testing=True,
        fo="1",
        rua=("mailto:a@b.org",),
    )


@pytest.mark.parametrize(
    ("tags", "field", "value"),
    [
        ("adkim=x", "adkim", "r"),
        ("psd=maybe", "psd", "u"),
        ("psd=y", "psd", "y"),
        ("t=1", "testing", False),
        ("pct=0", "p", "reject"),
        ("p=none; rf=afrf; ri=1; unknown=1", "p", "reject"),
        ("sp=", "broken", True),
        ("sp=Quarantine", "sp", "quarantine"),
        ("np=block", "broken", True),
    ],
)
def test_single_values(tags: str, field: str, value: object) -> None:
    found = parse(f"v=DMARC1; p=reject; {tags}")
    assert found is not None and getattr(found, field) == value


def test_a_policy_that_is_missing_is_none_and_a_wrong_one_is_broken() -> None:
    missing, wrong = parse("v=DMARC1; rua=mailto:a@b.org"), parse("v=DMARC1; p=rejekt")
    assert missing and missing.p == "none" and not missing.broken
    assert wrong and wrong.broken


def test_a5_two_records_are_none() -> None:
    one, other = "v=DMARC1; p=reject", "v=DMARC1; p=none"
    assert choose([one, other]) is None
    assert choose([one, one]) is None
    found = choose(["v=spf1 -all", one, "google-site-verification=x"])
    assert found is not None and found.p == "reject"


@pytest.mark.parametrize("text", ["v=DMARC1;" + "a=" * 100_000, "v=DMARC1; " + " " * 4000 + "=", "v=DMARC1" + ";" * 4000])
def test_a5_linear(text: str) -> None:
    begin = time.process_time()
    parse(text)
    assert time.process_time() - begin < 0.1
