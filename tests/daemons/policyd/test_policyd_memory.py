"""Whole answers that are remembered: with and without the memory every request is answered, counted and written alike."""

import asyncio
import json
import math
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from appliance.config.snapshot import Snapshot
from appliance.daemons.policyd import likeness, memory, record, saying, texts
from appliance.daemons.policyd.cutting import Cut, Knife, Leads
from appliance.daemons.policyd.facts import Facts, Who
from appliance.daemons.policyd.rules import Rules
from appliance.engine import asking
from appliance.engine.exceptions import end_of
from appliance.mail.greylisting import GreylistAnswer
from appliance.observe import events
from appliance.observe.text import clean
from appliance.protocol.policy import RequestReader, encode_answer
from tests.daemons.policyd.whole import ENDS, PLAIN, Composed, Server, build, request


def cut(octets: bytes) -> Cut | None:
    return Knife().cut(octets)


@pytest.fixture(scope="module")
def snapshots(tmp_path_factory: pytest.TempPathFactory) -> list[Snapshot]:
    """Two configurations that treat the same requests differently."""
    folder = tmp_path_factory.mktemp("memory")
    other = 'tables = ["inline:{user@example.com=ok}"]\ncallahead = false\n'
    both = 'tables = ["inline:{u2@example.com=ok, @example.com=ok}"]\ncallahead = false\n'
    plain = [PLAIN, PLAIN | {"recipient": other}, PLAIN | {"recipient": both}]
    return [
        build(folder / "one"),
        build(folder / "two", recipient=other),
        *(build(folder / f"plain{number}", **policies) for number, policies in enumerate(plain)),
    ]


def _log_to(found: list[Any], patch: pytest.MonkeyPatch) -> None:
    """Log lines as they are written; who writes them himself has to make them fit."""
    patch.setattr(record.maillog, "log", lambda text: found.append(clean(text)))
    patch.setattr(record.maillog, "prefix", lambda: "<")
    patch.setattr(record.maillog, "written", lambda lines: found.extend(lines[1:-1].split("\n<")))


@pytest.fixture
def told(monkeypatch: pytest.MonkeyPatch) -> Iterator[list[Any]]:
    """Events and log lines."""
    found: list[Any] = []

    def line(octets: bytes) -> None:
        found.append(json.loads(octets))

    monkeypatch.setattr(events, "emit_line", line)
    monkeypatch.setattr(events, "emit_lines", lambda lines: list(map(line, lines)))
    monkeypatch.setattr(events, "emit", found.append)
    _log_to(found, monkeypatch)
    yield found


def _settle() -> None:
    """All is counted."""
    asking._verdicts.settle()
    texts.requests.settle()


_asks = st.fixed_dictionaries(
    {
        "protocol_state": st.sampled_from(["RCPT"] * 20 + ["DATA", "END-OF-MESSAGE", "MAIL", "CONNECT"]),
        "client_address": st.sampled_from(["192.0.2.7"] * 4 + ["192.0.2.9"]),
        "sender": st.sampled_from(
            ["a@example.org"] * 4 + ["friend@example.org", "warn@example.org", "hold@example.org", ""]
        ),
        "recipient": st.sampled_from(
            ["user@example.com"] * 3
            + ["odd@example.com", "watch@example.com", "free@example.com", "u@elsewhere.example", "new@example.com"]
        ),
        "size": st.sampled_from(["0"] * 5 + ["99999999"]),
    }
)
#: Recipients: plain ones, those of whom a check says something else, and odd ones.
_LOCALS = ["u1", "u2", "u3", "u4", "odd", "free", "user", "postmaster", "abuse", "away", "broken"]
_LOCALS += ["U2+x", "Upper", "a!b", '"a b"', "a..b", "x" * 65, "\u00fc", "50%off", "p=q", "a.b-c_d"]
#: A step: what is done; over which connection, which of three requests is made, and what differs from time to time: each
#: is nearly always about a message of its own (-1); how much time passes; which configuration comes into force.
_steps = st.lists(
    st.tuples(
        st.sampled_from(["ask"] * 20 + ["pass", "pass", "reload"]),
        st.integers(0, 1),
        st.sampled_from([0, 0, 1, 2]),
        st.sampled_from([-1] * 8 + [0, 1, 2]),
        st.sampled_from(["1001"] * 3 + ["1002", "1003", "", "x"]),
        st.sampled_from(["", "4AB", "4AB\x1b[0m", "4" * 2100]),
        st.sampled_from([""] * 3 + _LOCALS),
        st.sampled_from([0.1, 0.1, 2.0, 5.5]),
    ),
    min_size=10,
    max_size=60,
)


@settings(max_examples=150, deadline=None)
@given(asks=st.lists(_asks, min_size=3, max_size=3), steps=_steps)
@pytest.mark.parametrize("at_once", [False, True], ids=["asked", "told"])
@pytest.mark.parametrize("first", [0, 2, 3], ids=["exceptions", "plain", "both"])
def test_with_and_without_the_memory_everything_is_the_same(
    snapshots: list[Snapshot], first: int, at_once: bool, asks: list[dict[str, str]], steps: list[Any]
) -> None:
    async def play(remembers: bool) -> Any:
        server, said = Server(snapshots[first : first + 2], remembers, at_once), []
        _settle()
        before = dict(asking._outcomes), dict(record._counts)
        for place, (what, number, which, instance, port, queue_id, local, seconds) in enumerate(steps):
            if what == "ask":
                about = str(instance if instance >= 0 else 100 + place)
                differs = {"instance": about, "client_port": port, "queue_id": queue_id}
                differs |= {"recipient": f"{local}@example.com"} if local else {}
                said.append((await server.ask(number, request(**asks[which] | differs)), list(told)))
                told.clear()
            elif what == "pass":
                server.passes(seconds)
            else:
                server.reload(number)
        server.front._timer.cancel()
        _settle()
        after = asking._outcomes, record._counts
        counted = [{k: n - old.get(k, 0) for k, n in new.items()} for old, new in zip(before, after, strict=True)]
        return said, counted, server.remembered()

    told: list[Any] = []
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(likeness, "BEFORE", 0)
        patch.setattr(events, "emit_line", lambda octets: told.append(json.loads(octets)))
        patch.setattr(events, "emit_lines", lambda lines: told.extend(map(json.loads, lines)))
        patch.setattr(events, "emit", told.append)
        _log_to(told, patch)
        with_it, without = asyncio.run(play(True)), asyncio.run(play(False))
    assert with_it[0] == without[0]
    for mine, theirs in zip(with_it[1], without[1], strict=True):
        assert {k: n for k, n in mine.items() if n} == {k: n for k, n in theirs.items() if n}
    assert with_it[2] == without[2]


async def _known(server: Server) -> None:
    """The triplet of RCPT has come back."""
    assert (await server.ask(0, request(instance="first"))).startswith("action=DEFER_IF_PERMIT")
    assert await server.ask(0, request(instance="second", client_port="2")) == "action=DUNNO\n\n"
    assert server.memory() == 1


def test_what_is_remembered_asks_no_check_and_is_written_all_the_same(
    snapshots: list[Snapshot], told: list[Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    async def play() -> None:
        server = Server(snapshots, True)
        server.front.rules.ends = ()
        await _known(server)
        told.clear()
        engine = server.front.rules.engine
        monkeypatch.setattr(engine, "ask", lambda ctx: pytest.fail(f"asked at {ctx.stage}"))
        for number in range(3):
            assert (
                await server.ask(1, request(instance=f"n{number}", client_port=f"7{number}", queue_id="x"))
                == "action=DUNNO\n\n"
            )
        assert [event["action"] for event in told] == ["DUNNO"] * 3 and told[0]["recipient"] == "user@example.com"
        monkeypatch.undo()
        assert await server.ask(1, request(instance="n0", protocol_state="DATA", recipient="")) == "action=DUNNO\n\n"
        message = server.front.messages.find("n0", "192.0.2.7", 0.0)
        assert message is not None and [v.check for v in message.trail if v.stage == "rcpt"][-1] == "greylist"
        server.front._timer.cancel()

    asyncio.run(play())


def test_it_ends_with_time_with_a_reload_and_with_an_exception(snapshots: list[Snapshot], told: list[Any]) -> None:
    async def play() -> None:
        server = Server(snapshots, True)
        await _known(server)
        asked = server.composed.state.asked
        server.passes(memory.KEPT - 0.1)  # past the end of an exception: judged, stated is not asked about it
        assert await server.ask(0, request(instance="3")) == "action=DUNNO\n\n" and server.composed.state.asked == asked
        kept = next(iter(server.front.rules.doors["policy"].memory._kept.values()))
        assert (kept.since, kept.ends) == (end_of(ENDS), math.inf)
        assert math.isclose(kept.until, memory.KEPT), "no longer than stated's answer"
        server.passes(0.2)
        assert await server.ask(0, request(instance="4")) == "action=DUNNO\n\n"
        assert server.composed.state.asked == asked + 1
        server.reload(1)
        assert server.memory() == 0
        server.front._timer.cancel()

    asyncio.run(play())


def test_a_table_that_is_asked_over_a_wire_or_by_chance_switches_it_off(tmp_path: Path) -> None:
    access = 'sender = ["randmap:{OK, DUNNO}"]\n'
    assert not Rules(build(tmp_path / "chance", access=access), Composed()).steady
    access = 'sender = ["tcp:127.0.0.1:9"]\n'
    assert not Rules(build(tmp_path / "wire", access=access), Composed()).steady


def test_what_has_no_instance_is_not_cut() -> None:
    knife = Knife()
    assert knife.cut(request(instance="")) is None
    assert knife.cut(request(instance="1")) is not None and knife.cut(request(instance="")) is None


def test_only_one_whole_usual_request_is_cut() -> None:
    octets = request(instance="1", client_port="2", queue_id="3")
    one = cut(octets)
    assert one is not None and (one.port, one.instance) == ("2", "1")
    assert one == cut(octets) and cut(request(instance="9", client_port="8", queue_id="7")).key == one.key  # type: ignore[union-attr]
    assert cut(request(instance="1", sender="other@example.org")).key != one.key  # type: ignore[union-attr]
    others = octets[:-1], octets + octets, octets.replace(b"\n", b"\r\n"), request(instance=""), octets + b"x" * 5000
    assert [cut(other) for other in others] == [None] * 5
    assert cut(request(protocol_state="DATA")) is None
    assert cut(octets.replace(b"\nclient_port=", b"\nclient_p=")) is None


def test_an_attribute_that_is_said_twice_is_not_remembered(snapshots: list[Snapshot], told: list[Any]) -> None:
    async def play() -> None:
        server = Server(snapshots, True)
        twice = request(instance="1").replace(b"\nsize=", b"\nhelo_name=again.example.org\nsize=")
        for number in range(3):
            await server.ask(0, twice.replace(b"instance=1", b"instance=%d" % number))
        assert server.memory() == 0
        server.front._timer.cancel()

    asyncio.run(play())


_pieces = st.sampled_from(
    [b"\n", b"\n\n", b"\r", b"=", b"", b"x", b"\nrecipient=", b"\nqueue_id=", b"\ninstance=", b"\nclient_port=", b"1"]
)


@given(
    others=st.lists(
        st.tuples(st.integers(0, 3), st.integers(0, 800), st.integers(0, 3), _pieces), min_size=1, max_size=12
    )
)
def test_what_stays_sharp_cuts_as_what_is_new(others: list[tuple[int, int, int, bytes]]) -> None:
    """A request is cut the same whatever the connection brought before: usual ones, and those with odd pieces in them."""
    knife, usual = Knife(), [request(instance="1"), request(queue_id="4X"), request(recipient="", instance="22")]
    for which, place, gone, piece in others:
        octets = usual[which % 3]
        for one in (octets, octets[:place] + piece + octets[place + gone :], octets[: -2 - gone] + piece + b"\n\n"):
            assert knife.cut(one) == cut(one)


@pytest.mark.parametrize("name", [b"client_port", b"recipient", b"queue_id", b"instance"])
@pytest.mark.parametrize("other", [b"", b"x", b"same length"])
def test_one_of_those_names_that_is_another_is_not_cut(name: bytes, other: bytes) -> None:
    """Not behind a usual request either, of which the place of each is known."""
    usual, knife = request(instance="1", queue_id="3"), Knife()
    put = b"y" * len(name) if other == b"same length" else other
    odd = usual.replace(b"\n%b=" % name, b"\n%b=" % put)
    assert knife.cut(usual) is not None and odd != usual
    assert knife.cut(odd) is None and cut(odd) is None
    assert knife.cut(usual) == cut(usual)


@pytest.mark.parametrize("name", ["client_port", "recipient", "queue_id", "instance"])
@pytest.mark.parametrize("odd", [b"\r", b"\xc3\xbc", b"\xff"])
def test_what_is_no_plain_text_is_never_cut_otherwise_behind_a_usual_request(name: str, odd: bytes) -> None:
    knife = Knife()
    assert knife.cut(request(instance="1")) is not None
    octets = request(**{"instance": "2", name: "MARK"}).replace(b"MARK", b"1%b1" % odd)
    assert knife.cut(octets) == cut(octets)
    assert (cut(octets) is None) == (odd == b"\r")


#: HELOs as they may come over the wire, and queue ids.
_ODD = [b"h\x1b[31m", "h\u202ex\u2028".encode(), b"h" * 1950, b"\xc2\x85\x7f", b"100%(id)s", b"h\xff"]
_IDS = [b"4AB", b"\xff", b"4\x1b[0m", b"x" * 65, b"warning", b'"\\', "4\u2028".encode()]


@pytest.mark.parametrize("at_once", [False, True], ids=["asked", "told"])
@pytest.mark.parametrize("helo", [b"mail.example.org", *_ODD])
def test_odd_octets_in_log_lines_of_strangers(
    snapshots: list[Snapshot], told: list[Any], monkeypatch: pytest.MonkeyPatch, helo: bytes, at_once: bool
) -> None:
    monkeypatch.setattr(likeness, "BEFORE", 0)

    async def play(remembers: bool) -> Any:
        server = Server(snapshots[2:], remembers, at_once)
        said = []
        for number, ident in enumerate([b"", b"", b"", *_IDS, b""]):
            octets = request(
                instance=f"m{number}", recipient=f"u{number}@example.com", queue_id="IDENT", helo_name="HELO"
            )
            said.append(await server.ask(0, octets.replace(b"IDENT", ident).replace(b"HELO", helo)))
        server.front._timer.cancel()
        lines, told[:] = list(told), []
        return said, lines

    assert asyncio.run(play(True)) == asyncio.run(play(False))


def test_a_form_is_made_of_two_log_lines() -> None:
    def made(*texts_: str) -> texts.Form:
        like = GreylistAnswer(state="new", first=1.0, attempts=1)
        return texts.Form(texts_, ["TO", "ID", "NOW"], "example.com", like, ([0], [0]))  # type: ignore[arg-type]

    form = made("DEFER [ID]", "one\ntwo\n", "event")
    assert form.fit and form.action("4X") == "DEFER [4X]" and form.octets("DEFER [4X]") == b"action=DEFER [4X]\n\n"
    assert not made("DEFER", "one\n" + "x" * 2001 + "\n", "event").fit and not made("DEFER", "\x1b\ntwo\n", "event").fit
    for odd in ("\x1b[0m ID", " ID", "ID "):
        action = made(odd, "one\ntwo\n", "event").action("4X")
        assert made(odd, "one\ntwo\n", "event").octets(action) == encode_answer(action)
    with pytest.raises(ValueError, match="line feed"):
        made("DEFER", "one\ntwo\nthree\n", "event")
    with pytest.raises(ValueError, match="more than the id"):
        made("DEFER TO ID", "one\ntwo\n", "event")


async def test_strangers_with_a_form_are_forgotten_like_others(snapshots: list[Snapshot], told: list[Any]) -> None:
    server = Server(snapshots[2:], True, at_once=True)
    server.front.messages.most = 100
    for number in range(300):
        await server.ask(0, request(instance=f"m{number}", recipient=f"u{number}@example.com"))
    assert len(server.front.messages) == 100 and server.front.messages.forgotten == 200
    server.front._timer.cancel()


_values = st.fixed_dictionaries(
    {
        name: st.text(st.characters(exclude_characters="\n\r", codec="utf-8"), max_size=12)
        for name in ("client_port", "recipient", "queue_id", "helo_name", "sender", "sasl_username", "size")
    }
    | {"instance": st.text(st.sampled_from("0123456789abcdef."), min_size=1, max_size=20)}
)


@given(first=_values, second=_values)
def test_what_is_read_by_a_request_before_is_what_would_have_been_read(
    first: dict[str, str], second: dict[str, str]
) -> None:
    facts = Facts(Who("192.0.2.7", "", "", "none", "inbound", False), None, "inbound", None)
    leads: Leads[None] = Leads()
    for changes in (first, second, first | {"recipient": second["recipient"]}, second | {"queue_id": "4X"}):
        octets, read = request(**changes), []
        RequestReader().feed(octets, read)
        one = cut(octets)
        assert one is not None
        known = leads.known.get(one.rest)
        assert known is None or known.attributes(one) == read[0]
        leads.learn(one, read[0], facts)
        again = leads.known.get(one.rest)
        assert again is not None and again.attributes(one) == read[0]


@pytest.mark.parametrize("at_once", [False, True], ids=["asked", "told"])
def test_a_stranger_who_writes_to_many_is_not_judged_anew(
    snapshots: list[Snapshot], told: list[Any], monkeypatch: pytest.MonkeyPatch, at_once: bool
) -> None:
    async def play() -> None:
        server = Server(snapshots[2:], True, at_once)
        for number in range(2):
            await server.ask(0, request(instance=f"m{number}", recipient=f"u{number}@example.com"))
        told.clear()
        engine = server.front.rules.engine
        monkeypatch.setattr(engine, "ask", lambda ctx: pytest.fail(f"asked at {ctx.stage}"))
        later, by_form = saying.later, []
        monkeypatch.setattr(saying, "later", lambda *given: by_form.append(given[1].recipient) or later(*given))
        for number in range(2, 9):
            answer = await server.ask(0, request(instance=f"m{number}", recipient=f"u{number}@example.com"))
            assert answer.startswith("action=DEFER_IF_PERMIT 4.7.1 Greylisted")
        monkeypatch.undo()
        lines, events_ = [one for one in told if isinstance(one, str)], [one for one in told if isinstance(one, dict)]
        assert len(lines) == 14 and "to=<u8@example.com>" in lines[-2] and "defer by greylist:early" in lines[-1]
        names = [f"u{number}@example.com" for number in range(2, 9)]
        assert [event["recipient"] for event in events_] == names
        assert by_form == names[likeness.BEFORE + 1 :], "a form is made when it will be used"
        assert {event["verdicts"][-1]["evidence"]["recipient"] for event in events_} == set(names)
        again = await server.ask(0, request(instance="m8", recipient="u8@example.com"))
        assert again == answer, "the same message is told the same"
        server.front._timer.cancel()

    asyncio.run(play())


def test_a_mistake_of_ours_about_what_is_alike_is_the_default_answer(
    snapshots: list[Snapshot], told: list[Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    async def play() -> None:
        server = Server(snapshots[2:], True)
        for number in range(2):
            await server.ask(0, request(instance=f"a{number}", recipient=f"a{number}@example.com"))
        errors: list[BaseException] = []
        monkeypatch.setattr(likeness.Likeness, "ask", lambda *_: 1 / 0)
        monkeypatch.setattr(record, "internal", lambda peer, state, error, action: errors.append(error))
        said = await server.ask(0, request(instance="m1", recipient="u1@example.com"))
        assert said.startswith("action=DEFER_IF_PERMIT 4.3.0") and len(errors) == 1
        monkeypatch.undo()
        said = await server.ask(0, request(instance="m2", recipient="u2@example.com"))
        assert said.startswith("action=DEFER_IF_PERMIT 4.7.1"), "the connection goes on"
        server.front._timer.cancel()

    asyncio.run(play())
