"""antivirus about the parts of a message (C1): what was not offered is neither clean nor bad."""

import inspect

import msgspec
import pytest

from appliance.checks import antivirus, catalogue
from appliance.mail.inspection import Report
from appliance.mail.plain import is_plain
from appliance.mail.ports import Unavailable
from appliance.mail.scan import ScanResult
from appliance.mail.verdict import Action, Verdict
from tests.checks.test_attachments_check import Reader
from tests.checks.test_check_scans import Fixed, Text, av, context, ports
from tests.mailauth.said import Firsts

MULTIPART = b"Received: x\r\nContent-Type: multipart/mixed; boundary=y\r\n\r\n--y\r\n\r\nz\r\n--y--\r\n"


def part(kind: str, *names: str, why: str = "") -> ScanResult:
    return ScanResult(kind=kind, scanner="av", names=names, why=why, evidence={"part": "1.2"})  # type: ignore[arg-type]


async def verdict_of(
    *scanners: Fixed,
    reader: Reader,
    octets: bytes = MULTIPART,
    policy: antivirus.Policy | None = None,
    firsts: Firsts | None = None,
) -> Verdict:
    found = msgspec.structs.replace(ports(*scanners), inspector=reader, firsts=firsts)
    asked = antivirus.check(context(Text(octets)), policy or antivirus.Policy(), found)
    assert inspect.isawaitable(asked)
    return await asked


async def test_c1_a_part_that_is_infected_infects_the_message() -> None:
    scanner = av("clean")
    scanner.parts = [part("infected", "Eicar-Test", why="Eicar-Test in part '1.2'"), part("clean")]
    found = await verdict_of(scanner, reader=Reader(Report(2)))
    assert found.outcome == "infected" and found.reason == "av: Eicar-Test in part '1.2'"
    assert found.evidence["scanners"][1]["part"] == "1.2"
    assert scanner.limits == [(500, 67108864)]


@pytest.mark.parametrize(
    ("raw", "kind", "names", "outcome"),
    [
        ("clean", "infected", ("PUA.X",), "suspicious"),
        ("clean", "error", (), "error"),
        ("clean", "oversize", (), "oversize"),
        ("clean", "skipped", (), "undecoded"),
        ("clean", "clean", (), "clean"),
        ("oversize", "infected", ("X",), "infected"),
        ("oversize", "skipped", (), "oversize"),
        ("oversize", "clean", (), "oversize"),
        ("suspicious", "skipped", (), "suspicious"),
    ],
)
async def test_c1_the_worst_of_message_and_parts_decides(
    raw: str, kind: str, names: tuple[str, ...], outcome: str
) -> None:
    scanner = av(raw, why="")
    scanner.parts = [part(kind, *names)]
    assert (await verdict_of(scanner, reader=Reader(Report(2)))).outcome == outcome


async def test_a_reason_of_many_finds_is_cut() -> None:
    scanner = av("clean")
    scanner.parts = [part("infected", f"V{number}") for number in range(300)]
    found = await verdict_of(scanner, reader=Reader(Report(2)))
    assert found.outcome == "infected" and found.reason == "; ".join(f"av: V{number}" for number in range(20))


@pytest.mark.parametrize("raw", ["infected", "error"])
async def test_parts_are_not_offered_where_they_change_nothing(raw: str) -> None:
    scanner = av(raw, "X")
    found = await verdict_of(scanner, reader=Reader(Report(2)))
    assert found.outcome == raw and scanner.limits == []


async def test_c1_without_scand_a_message_is_not_clean() -> None:
    found = await verdict_of(av("clean"), reader=Reader(Unavailable("scand is away")))
    assert found.outcome == "undecoded" and "scand is away" in found.reason  # nobody remembers first tries
    assert catalogue()["antivirus"].outcomes["undecoded"] is Action.MARK
    found = await verdict_of(av("infected", "X"), reader=Reader(Unavailable("scand is away")))
    assert found.outcome == "infected"


@pytest.mark.parametrize(
    ("age", "put_off", "outcome"), [(0.0, 7200.0, "temperror"), (7200.0, 7200.0, "undecoded"), (0.0, 0.0, "undecoded")]
)
async def test_c6_scand_away_puts_off_for_a_bounded_time(age: float, put_off: float, outcome: str) -> None:
    firsts = Firsts(age)
    away = Reader(Unavailable("scand is away"))
    found = await verdict_of(av("clean"), reader=away, policy=antivirus.Policy(put_off=put_off), firsts=firsts)
    assert found.outcome == outcome and "scand is away" in found.reason
    assert catalogue()["antivirus"].outcomes["temperror"] is Action.DEFER_IF_PERMIT
    found = await verdict_of(av("infected", "X"), reader=away, firsts=firsts)
    assert found.outcome == "infected"


async def test_c1_every_scanner_is_offered_the_parts() -> None:
    first, second = av("clean"), av("clean", scanner="other")
    second.parts = [part("infected", "X")]
    assert (await verdict_of(first, second, reader=Reader(Report(2)))).outcome == "infected"
    assert first.limits and second.limits


async def test_a_plain_text_and_a_limit_of_nought_are_not_taken_apart() -> None:
    reader = Reader(Report(2))
    plain = b"Received: x\r\nSubject: y\r\n\r\nhello\r\n"
    assert (await verdict_of(av("clean"), reader=reader, octets=plain)).outcome == "clean"
    none = antivirus.Policy(parts_limit=0)
    assert (await verdict_of(av("clean"), reader=reader, policy=none)).outcome == "clean"
    assert reader.asked == []


@pytest.mark.parametrize(
    ("octets", "plain"),
    [
        (b"Subject: x\r\n\r\ny\r\n", True),
        (b"Content-Type: text/plain; charset=utf-8\r\nContent-Transfer-Encoding: 8bit\r\n\r\ny\r\n", True),
        (b"Content-Transfer-Encoding: 7BIT\r\nSubject: x\r\nContent-type: Text/Plain\r\n\r\ny\r\n", True),
        (b"Content-Type: text/html\r\n\r\ny\r\n", False),
        (b"Content-Type: text/plain\r\n multipart/mixed\r\n\r\ny\r\n", False),
        (b"Content-Type: text/plain\r\nContent-Type: text/plain\r\n\r\ny\r\n", False),
        (b"Content-Transfer-Encoding: base64\r\n\r\ny\r\n", False),
        (b"Content-Transfer-Encoding: 7bit\r\nContent-Transfer-Encoding: base64\r\n\r\ny\r\n", False),
        (b"Content-Disposition: attachment\r\n\r\ny\r\n", False),
        (b"Content-Type : multipart/mixed\r\n\r\ny\r\n", False),
        (b"Content-\0Type: multipart/mixed\r\n\r\ny\r\n", False),
        (b"Con\0tent-Type: multipart/mixed\r\n\r\ny\r\n", False),
        (b"Subject: x\rContent-Type: multipart/mixed\r\n\r\ny\r\n", False),
        (b"Subject: x\r\n\r\nbegin 644 x.exe\r\n", False),
        (b"Subject: x\r\n\r\nbegin-base64 644 x.exe\r\n", False),
        (b"Subject: x\r\n\r\n=ybegin line=128 size=3 name=x.exe\r\n", False),
        (b"Subject: x\r\n\r\n(This file must be converted with BinHex 4.0)\r\n", False),
        (b"Subject: x\r\n\r\nlet us begin \r\n", True),
        (b"Subject: x\r\n\r\n--a\r\nContent-Type: x/y\r\n", False),
        (b"Subject: x\r\n\r\n" + b"y" * 70000, False),
    ],
)
def test_c1_what_is_plainly_one_text(octets: bytes, plain: bool) -> None:
    assert is_plain(Text(b"Received: x\r\n" + octets)) is plain
