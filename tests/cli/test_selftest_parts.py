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
from appliance.cli.selftest.earlier import Decided
from appliance.cli.selftest.expect import Expected, expect, off
from appliance.cli.selftest.play import Mail, Play, Scenario
from appliance.cli.selftest.plays_trouble import CLOSING, nothing_refused
from appliance.cli.selftest.result import UNPLAYED, Result
from appliance.cli.selftest.scripted import EICAR, has_eicar
from appliance.cli.selftest.stranger import Reply
from appliance.cli.selftest.table import Shown
from appliance.engine.judge import judge
from appliance.engine.policy import compile_policies
from appliance.engine.rules import PolicySet
from appliance.mail.verdict import Verdict

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


#: Actions of another class than the reply that is shipped with the outcome, or without any reply.
TURNED = [
    ("antispam", "error", "defer", 451),
    ("antispam", "high", "defer", 450),
    ("recipient", "unknown", "defer", 450),
    ("spf", "fail", "defer", 450),
    ("dmarc", "reject", "defer", 450),
    ("dmarc", "temperror", "reject", 550),
    ("antivirus", "infected", "defer", 450),
    ("antivirus", "infected", "defer_if_permit", 450),
    ("antivirus", "error", "reject", 550),
    ("antivirus", "error", "disconnect", 451),
    ("antispam", "error", "disconnect", 421),
    ("antispam", "error", "reject", 550),
    ("greylist", "early", "reject", 550),
    ("antivirus", "infected", "defer_if_reject", 0),
]


@pytest.mark.parametrize(("check", "outcome", "action", "code"), TURNED)
def test_the_code_is_of_the_class_of_the_action_as_the_engine_makes_it(
    check: str, outcome: str, action: str, code: int
) -> None:
    compiled = policies(**{check: {"on": {outcome: action}}})
    expected = expect(compiled, (check, outcome))
    kind = "deliver" if not code else "defer" if action.startswith("defer") else "refuse"
    assert (expected.kind, expected.code) == (kind, code)
    assert not code or expected.words == f"{code} {'put off' if kind == 'defer' else 'refused'}"
    judged = judge([(Verdict(check=check, outcome=outcome, stage="message"), compiled.checks[check].rulings[outcome])])
    assert judged.reply[:3] == (str(code) if code else "")


@pytest.mark.parametrize(
    ("files", "found", "words"),
    [
        (  # antivirus puts off only if nothing later in the stage refuses
            {"antispam": {"on": {"error": "reject"}}},
            [("antivirus", "error"), ("antispam", "error")],
            "550 refused",
        ),
        (  # but the end of the stage of spf comes before dmarc is asked
            {"spf": {"on": {"fail": "defer_if_permit"}}},
            [("spf", "fail"), ("dmarc", "reject")],
            "450 put off",
        ),
        (  # spf stands before own_domain
            {"spf": {"on": {"fail": "defer"}}, "own_domain": {"on": {"spoofed": "reject"}}},
            [("own_domain", "spoofed"), ("spf", "fail")],
            "450 put off",
        ),
    ],
)
def test_of_several_findings_that_decides_which_decides_in_the_engine(
    files: dict[str, dict[str, Any]], found: list[tuple[str, str]], words: str
) -> None:
    assert expect(policies(**files), *found).words == words


def playing(compiled: PolicySet, decided: Decided) -> Play:
    """A play whose gateway says what stopped a mail."""

    async def says(_reply: Reply) -> Decided:
        return decided

    scene = SimpleNamespace(policy_folders=["/nowhere"], theirs_named=str)
    parts = (scene, SimpleNamespace(policies=compiled), SimpleNamespace(decided=says), None, None, None)
    return Play(*(cast("Any", part) for part in parts))


@pytest.mark.parametrize(("check", "outcome", "action", "code"), [one for one in TURNED if one[3]])
async def test_who_is_stopped_by_the_check_itself_with_another_code_is_a_miss(
    check: str, outcome: str, action: str, code: int
) -> None:
    compiled = policies(**{check: {"on": {outcome: action}}})
    play = playing(compiled, Decided(check, outcome, ""))
    expected = expect(compiled, (check, outcome))
    assert (await play.compare(play.mail(), Reply(code, "told"), expected)).state == "ok"
    wrong = await play.compare(play.mail(), Reply(550 if code < 500 else 451, "told"), expected)
    assert (wrong.state, wrong.expected) == ("miss", expected.words)
    assert wrong.got.endswith(f"by {check}:{outcome}")


async def test_an_exception_that_fits_but_says_something_else_is_named_in_the_miss() -> None:
    strict = {"match": {"client_address": "192.0.2.0/24"}, "set": {"fail": "defer"}, "reason": "x"}
    other = {"match": {"client_address": "10.0.0.0/8"}, "set": {"fail": "reject"}, "reason": "somebody else's"}
    compiled = policies(spf={"exception": [other, strict]})
    play = playing(compiled, Decided("spf", "fail", ""))
    result = await play.compare(play.mail(), Reply(550, "told"), expect(compiled, ("spf", "fail")), "it may not")
    assert (result.state, result.why) == ("miss", "it may not; perhaps [[exception]] spf.toml (x)")


async def test_an_exception_that_says_so_is_why_and_no_miss() -> None:
    strict = {"match": {"client_address": "192.0.2.0/24"}, "set": {"fail": "reject"}, "reason": "x"}
    compiled = policies(spf={"exception": [strict]})
    play = playing(compiled, Decided("spf", "fail", ""))
    result = await play.compare(play.mail(), Reply(550, "told"), expect(compiled, ("spf", "fail")))
    assert (result.state, result.why) == ("skipped", "[[exception]] spf.toml (x) fits this stranger: 550 refused")
    wrong = await play.compare(play.mail(), Reply(451, "told"), expect(compiled, ("spf", "fail")))
    assert wrong.state == "miss", "it says something else"


async def test_who_is_stopped_first_by_what_the_configuration_wants_is_still_skipped() -> None:
    compiled = policies(dkim={"on": {"none": "reject"}})
    play = playing(compiled, Decided("dkim", "none", ""))
    result = await play.compare(play.mail(), Reply(550, "told"), expect(compiled, ("antivirus", "infected")))
    assert result.state == "skipped" and "dkim stops this stranger first" in result.why


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
    assert await ask(clamd, stream) == b"stream: Selftest-Signature FOUND\0"
    assert b"Spam: True ; 1000.0 / 5.0" in await ask(spamd, b"SYMBOLS SPAMC/1.5\r\n\r\n" + scripted.GTUBE, shut=True)
    clamd.mute = spamd.mute = True
    assert await ask(clamd, stream) == b"stream: OK\0"
    assert b"Spam: False" in await ask(spamd, b"SYMBOLS SPAMC/1.5\r\n\r\n" + scripted.GTUBE, shut=True)
    await clamd.down()
    await spamd.down()


async def test_what_is_to_be_dropped_may_not_arrive() -> None:
    play, made = Play(*(cast("Any", None) for _ in range(6))), list[Mail]()

    async def dropped(play: Play) -> Result:
        made.append(play.mail())
        return await play.compare(made[0], Reply(250, "Ok"), Expected("drop", "taken and dropped"))

    result, _ = await stage._played(play, Scenario("SPF fail", dropped), time.monotonic() + 10)
    assert result.state == "ok"
    [mail] = made
    play.inner = cast("Any", SimpleNamespace(mails=[mail.octets]))
    missed = await nothing_refused(play)
    assert (missed.state, missed.got) == ("miss", 'a mail of "SPF fail" was')
    play.inner.mails.clear()
    assert (await nothing_refused(play)).state == "ok"


async def test_who_is_late_is_not_played_but_for_what_costs_nothing(capsys: pytest.CaptureFixture[str]) -> None:
    async def fine(_play: Play) -> Result:
        return Result("ok", "-", "-")

    chosen = [Scenario("slow", fine), *(one for one in CLOSING)]
    play = Play(*(cast("Any", None) for _ in range(6)))
    play.inner = cast("Any", SimpleNamespace(mails=[]))
    await stage._scenarios(play, chosen, Shown(as_json=True), time.monotonic() - stage.ENOUGH - 1)
    rows = [json.loads(line) for line in capsys.readouterr().out.splitlines()]
    assert [(row["state"], row["got"] == UNPLAYED) for row in rows] == [("miss", True), ("ok", False)], (
        "it is no ok, either"
    )
