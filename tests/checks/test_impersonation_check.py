"""impersonation: names and domains that a reader takes for others (A12)."""

import time

import pytest

from appliance.checks import impersonation
from appliance.mail.ports import Unavailable
from appliance.mailauth import lookalike
from tests.mailauth.said import asked, ports

PEOPLE = {"texthash:people": "jane.doe example.com, .partner.example\njoe.d.smith example.com\n"}


def outcome(value: str, **knobs: object) -> str:
    told = ports(lists=PEOPLE if "people" in knobs else None)
    ctx = asked(b"From: " + value.encode() + b"\r\n")
    return impersonation.check(ctx, impersonation.Policy.model_validate(knobs), told).outcome


@pytest.mark.parametrize(
    ("value", "expected"),
    [
        ("Jane Doe <jane@shop.example>", "ok"),
        ('"jane@shop.example" <jane@shop.example>', "ok"),
        ('"jane@mail.shop.example" <jane@shop.example>', "ok"),
        ('"boss@bank.example" <x@shop.example>', "address_in_name"),
        ('"Boss <boss@bank.example>" <x@shop.example>', "address_in_name"),
        ('"Boss via boss\uff20bank.example" <x@shop.example>', "address_in_name"),
        ("=?utf-8?q?boss=40bank.example?= <x@shop.example>", "address_in_name"),
        ('"at 5 @ home" <x@shop.example>', "ok"),
    ],
)
def test_a12_an_address_in_the_display_name(value: str, expected: str) -> None:
    assert outcome(value) == expected


@pytest.mark.parametrize(
    ("value", "expected"),
    [
        ("P\u0430ypal <x@shop.example>", "mixed_scripts"),  # Cyrillic a
        ("Micr\u03bfsoft <x@shop.example>", "mixed_scripts"),  # Greek o
        ("Иван Петров <x@shop.example>", "ok"),
        ("Иван (Ivan) <x@shop.example>", "ok"),
        ("Γιώργος <x@shop.example>", "ok"),
        ("Jürgen Müller <x@shop.example>", "ok"),
        ("山田 Yamada <x@shop.example>", "ok"),
        ("\u202eknab <x@shop.example>", "mixed_scripts"),
        ("Pay\u200bpal <x@shop.example>", "mixed_scripts"),
        ("Team \U0001f468\u200d\U0001f4bb <x@shop.example>", "ok"),
        ("x@sh\u043ep-of-all.example", "mixed_scripts"),
    ],
)
def test_a12_scripts_that_are_mistaken_for_each_other(value: str, expected: str) -> None:
    assert outcome(value) == expected


@pytest.mark.parametrize(
    ("domain", "expected"),
    [
        ("example.com", "ok"),
        ("mail.example.com", "ok"),
        ("example.net", "lookalike"),
        ("examp1e.com", "lookalike"),
        ("exarnple.com", "lookalike"),
        ("exmaple.com", "lookalike"),
        ("exampel.com", "lookalike"),
        ("examplee.com", "lookalike"),
        ("exmple.com", "lookalike"),
        ("ex\u0430mple.com", "lookalike"),
        ("example-login.org", "lookalike"),
        ("example.com.evil.org", "lookalike"),
        ("bank.test", "ok"),
        ("bamk.test", "ok"),
        ("bank.org", "lookalike"),
        ("unrelated.org", "ok"),
        ("sample.org", "ok"),
        ("templeex.org", "ok"),
    ],
)
def test_a12_domains_near_ours_and_listed_ones(domain: str, expected: str) -> None:
    assert outcome(f"x@{domain}", domains="bank.test") == expected


@pytest.mark.parametrize(
    ("value", "expected"),
    [
        ("Jane Doe <jane@example.com>", "ok"),
        ("Jane Doe <jane@eu.partner.example>", "ok"),
        ("Jane Doe <jane.doe@freemail.example>", "lookalike"),
        ('"DOE, Jane" <jane.doe@freemail.example>', "lookalike"),
        ("J\u0430ne D\u043ee <jane.doe@freemail.example>", "lookalike"),
        ("Joe D. Smith <joe@freemail.example>", "lookalike"),
        ("Jane Roe <jane@freemail.example>", "ok"),
        ("jane.doe@freemail.example", "ok"),
    ],
)
def test_a12_people_who_write_from_elsewhere(value: str, expected: str) -> None:
    assert outcome(value, people="texthash:people") == expected


def test_a12_it_never_refuses_by_itself() -> None:
    found = {str(action) for outcome, action in impersonation.OUTCOMES.items() if outcome != "table_error"}
    assert found == {"dunno", "mark"}


def test_without_an_author_there_is_nothing_to_compare() -> None:
    assert outcome("root") == "skipped"
    assert impersonation.check(asked(role="outbound"), impersonation.Policy(), ports()).outcome == "skipped"


def test_a_list_that_is_not_open_is_no_answer() -> None:
    with pytest.raises(Unavailable):
        impersonation.check(asked(), impersonation.Policy(people=("texthash:people",)), ports())


def test_a12_bounded_for_hostile_names() -> None:
    many = tuple(f"{'x' * 50}{number}.example" for number in range(1000))
    begin = time.process_time()
    lookalike.near("y" * 60 + ".example", many)
    for text in ("a" * 100_000, "@" * 100_000, "\u0430a" * 50_000, "a@" * 50_000, "\u200d" * 100_000):
        lookalike.mixed_scripts(text)
        lookalike.addresses(text)
        list(lookalike.person(text))
    assert time.process_time() - begin < 0.5
