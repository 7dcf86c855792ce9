"""Parts of `postgate selftest`: TOML that reads back, expectations that follow the policies, scripted peers."""

import asyncio
import json
import struct
import time
import tomllib
from datetime import date
from types import SimpleNamespace
from typing import Any, cast

import pytest
from hypothesis import given
from hypothesis import strategies as st

from appliance.cli.selftest import scripted, stage, toml
from appliance.cli.selftest.expect import Expected, expect, off
from appliance.cli.selftest.play import Play, Result, Scenario
from appliance.cli.selftest.plays_trouble import TROUBLE, nothing_refused
from appliance.cli.selftest.scripted import EICAR, has_eicar
from appliance.cli.selftest.stranger import Reply
from appliance.cli.selftest.table import Shown
from appliance.engine.policy import compile_policies
from appliance.engine.rules import PolicySet

_PLAIN = st.one_of(
    st.booleans(),
    st.integers(-(2**60), 2**60),
    st.text(st.characters(exclude_categories=("Cs",)), max_size=20),
    st.dates(date(1000, 1, 1)),
    st.floats(allow_nan=False, allow_infinity=False),
)
_KEYS = st.text(st.characters(exclude_categories=("Cs",)), min_size=1, max_size=8)
_VALUES = st.recursive(
    _PLAIN, lambda inner: st.lists(inner, max_size=3) | st.dictionaries(_KEYS, inner, max_size=3), max_leaves=12
)


@given(st.dictionaries(_KEYS, _VALUES, max_size=5))
def test_what_is_dumped_reads_back(values: dict[str, Any]) -> None:
    assert tomllib.loads(toml.dump(values)) == values


def policies(**files: dict[str, Any]) -> PolicySet:
    compiled, complaints = compile_policies({f"{name}.toml": values for name, values in files.items()})
    assert not [complaint for complaint in complaints if complaint.fatal]
    return compiled


@pytest.mark.parametrize(
    ("files", "found", "kind", "words"),
    [
        ({}, [("spf", "fail")], "deliver", "delivered, marked spf=fail"),
        ({"spf": {"on": {"fail": "reject"}}}, [("spf", "fail")], "refuse", "550 refused"),
        ({"spf": {"mode": "off"}}, [("spf", "fail")], "skip", "spf is in mode off"),
        ({"spf": {"mode": "off"}}, [("spf", "fail"), ("dmarc", "reject")], "refuse", "550 refused"),
        ({}, [("spf", "temperror"), ("dmarc", "temperror")], "defer", "451 put off"),
        ({"antivirus": {"on": {"infected": "quarantine"}}}, [("antivirus", "infected")], "keep", "kept in quarantine"),
        ({"antivirus": {"on": {"infected": "discard"}}}, [("antivirus", "infected")], "drop", "taken and dropped"),
        (
            {"greylist": {"on": {"early": "dunno"}}},
            [("greylist", "early")],
            "deliver",
            "delivered though greylist:early",
        ),
        ({"stages": {"inbound": {"message": []}}}, [("dmarc", "reject")], "skip", "dmarc stands in no stage"),
        (
            {"stages": {"inbound": {"mail": ["size"], "message": []}}},  # it stands in outbound's
            [("own_domain", "spoofed")],
            "skip",
            "own_domain stands in no stage",
        ),
    ],
)
def test_expectations_follow_the_policies(
    files: dict[str, dict[str, Any]], found: list[tuple[str, str]], kind: str, words: str
) -> None:
    expected = expect(policies(**files), *found)
    assert (expected.kind, expected.words) == (kind, words)


@pytest.mark.parametrize(
    ("files", "found", "words", "loosened"),
    [
        (
            {"antivirus": {"on": {"infected": "accept"}}},
            [("antivirus", "infected")],
            "delivered though antivirus:infected",
            [("antivirus", '[on] infected = "accept"')],
        ),
        (
            {"antivirus": {"on": {"infected": "mark"}}},
            [("antivirus", "infected")],
            "delivered, marked antivirus=infected",
            [("antivirus", '[on] infected = "mark"')],
        ),
        (
            {"spf": {"on": {"temperror": "dunno"}}, "dmarc": {"mode": "off"}},
            [("spf", "temperror"), ("dmarc", "temperror")],
            "delivered though spf:temperror",
            [("spf", '[on] temperror = "dunno"')],
        ),
        ({"spf": {"on": {"fail": "dunno"}}}, [("spf", "fail"), ("dmarc", "reject")], "550 refused", []),
        ({"antivirus": {"on": {"infected": "quarantine"}}}, [("antivirus", "infected")], "kept in quarantine", []),
        ({}, [("spf", "fail")], "delivered, marked spf=fail", []),
    ],
)
def test_what_is_let_pass_unlike_as_shipped_is_told_with_its_line(
    files: dict[str, dict[str, Any]], found: list[tuple[str, str]], words: str, loosened: list[tuple[str, str]]
) -> None:
    expected = expect(policies(**files), *found)
    assert (expected.words, list(expected.loosened)) == (words, loosened)
    assert set(expected.found) <= set(found) and ("dmarc", "temperror") not in expected.found, "who is off finds nothing"


def test_a_watched_check_makes_nothing_happen() -> None:
    assert off(policies(spf={"mode": "monitor"}), "spf") == "spf is in mode monitor"
    assert not off(policies(), "spf")


@pytest.mark.parametrize(
    ("content", "found"),
    [
        (EICAR, True),
        (
            b"--b\r\n\r\nWDVPIVAlQEFQWzRcUFpYNTQoUF4pN0NDKTd9JEVJQ0FSLVNUQU5EQVJELUFOVElWSVJVUy1URVNU\r\nLUZJTEUhJEgrSCo=\r\n",
            True,
        ),
        (b"nothing\r\nTm90aGluZyBoZXJl\r\n", False),
        (b"AAAA\r\n" * 5, False),
    ],
)
def test_the_scripted_scanner_sees_eicar_plain_and_in_base64(content: bytes, found: bool) -> None:
    assert has_eicar(content) is found


async def ask(peer: scripted.Scanner, question: bytes, *, shut: bool = False) -> bytes:
    reader, writer = await asyncio.open_connection("127.0.0.1", peer.port)
    writer.write(question)
    if shut:
        writer.write_eof()
    answer = await asyncio.wait_for(reader.read(), 5)
    writer.close()
    return answer


async def test_the_scripted_scanners_speak_their_protocols() -> None:
    clamd, spamd = scripted.Scanner(scripted.clamd), scripted.Scanner(scripted.spamd)
    await clamd.up()
    await spamd.up()
    stream = b"zINSTREAM\0" + struct.pack("!I", len(EICAR)) + EICAR + b"\0\0\0\0"
    assert await ask(clamd, stream) == b"stream: Eicar-Selftest FOUND\0"
    assert b"Spam: True ; 1000.0 / 5.0" in await ask(spamd, b"SYMBOLS SPAMC/1.5\r\n\r\n" + scripted.GTUBE, shut=True)
    clamd.mute = spamd.mute = True
    assert await ask(clamd, stream) == b"stream: OK\0"
    assert b"Spam: False" in await ask(spamd, b"SYMBOLS SPAMC/1.5\r\n\r\n" + scripted.GTUBE, shut=True)
    await clamd.down()
    await spamd.down()


async def test_what_is_to_be_dropped_may_not_arrive() -> None:
    play = Play(*(cast("Any", None) for _ in range(6)))
    mail = play.mail()
    result = await play.compare(mail, Reply(250, "Ok"), Expected("drop", "taken and dropped"))
    assert result.state == "ok"
    play.inner = cast("Any", SimpleNamespace(mails=[mail.octets]))
    assert (await nothing_refused(play)).state == "miss"
    play.inner.mails.clear()
    assert (await nothing_refused(play)).state == "ok"


async def test_who_is_late_is_not_played_but_for_what_costs_nothing(capsys: pytest.CaptureFixture[str]) -> None:
    async def fine(_play: Play) -> Result:
        return Result("ok", "-", "-")

    chosen = [Scenario("slow", fine), *(one for one in TROUBLE if one.name == "nothing refused was delivered")]
    play = Play(*(cast("Any", None) for _ in range(6)))
    play.inner = cast("Any", SimpleNamespace(mails=[]))
    await stage._scenarios(play, chosen, Shown(as_json=True), time.monotonic() - stage.ENOUGH - 1)
    states = [json.loads(line)["state"] for line in capsys.readouterr().out.splitlines()]
    assert states == ["skipped", "ok"]
