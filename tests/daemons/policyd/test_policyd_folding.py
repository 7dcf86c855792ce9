"""What is remembered of messages takes few octets once others came behind them, and says the same as before."""

import gc
import itertools
import tracemalloc
from pathlib import Path
from typing import Any

import pytest

from appliance.daemons.policyd import messages
from appliance.daemons.policyd.messages import Message, Messages, Session
from appliance.mail.identity import Identity
from appliance.mail.verdict import ALWAYS, Verdict
from tests.daemons.policyd.whole import PLAIN, Server, build, request

IDENTITY = Identity(name="x.example", proof="spf", evidence={"spf": ("pass", 1)})


def limits(number: int, what: str) -> dict[str, Any]:
    """As `ratelimit` says it."""
    return {
        f"{what}/{period}/{kind}:{number}": {"limit": float(period), "left": period - 1.5}
        for period, kind in itertools.product((60, 3600), ("net", "id", "from"))
    }


def found(number: int) -> tuple[Verdict, ...]:
    """As much as the shipped policies find at RCPT."""
    return (
        Verdict(check="access", outcome="dunno", stage="mail", until=ALWAYS),
        Verdict(check="identity", outcome="new", stage="mail", reason=f"x{number}", identity=IDENTITY),
        Verdict(check="dnsbl", outcome="clean", stage="mail", score=0.5, evidence={"asked": [f"client:{number}"]}),
        *(Verdict(check="ratelimit", outcome="within", evidence=limits(number, str(place))) for place in range(5)),
    )


def message(number: int, trail: tuple[Verdict, ...], session: Session | None = None) -> Message:
    made = Message(f"ID{number}", None, session or Session(("192.0.2.1", str(number), "helo")), 0.0)  # type: ignore[arg-type]
    made.identity, made.trail = IDENTITY, trail
    return made


def keep(known: Messages, made: Message) -> None:
    known.keep(made.id, "192.0.2.1", made)


def test_folded_it_says_the_same(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(messages, "AT_HAND", 1)
    known = Messages(100)
    for number in range(3):
        made = message(number, found(number))
        made.session.trail = found(number + 100)
        keep(known, made)
        del made
    first = known.find("ID0", "192.0.2.1", 1.0)
    assert first is not None and first.late is not None and first.session.late is not None  # it was folded
    assert first.trail == found(0)
    assert first.trail[1].identity is first.identity  # checks know it by the object
    assert [one.evidence for one in first.session.trail] == [one.evidence for one in found(100)]
    first.trail += found(7)
    keep(known, message(8, found(8)))
    keep(known, message(9, found(9)))
    assert first.trail == found(0) + found(7)
    first.session.trail = ()
    assert first.session.trail == ()


def test_a_session_stands_by_what_was_asked_and_found_folded_or_not() -> None:
    asked, session = frozenset({"connect"}), Session(("192.0.2.1", "1", "helo"))
    session.asked, session.trail = asked, found(1)[2:]
    for _ in range(2):
        assert not session.stands((frozenset(), found(1)[2:]))
        assert session.stands((asked, found(1)[2:])) and not session.stands((asked, ()))
        session.fold()
        assert session.late is not None


def test_what_others_have_as_well_stays(monkeypatch: pytest.MonkeyPatch) -> None:
    """Folding would make two of it. So it is with the session of a connection that is open."""
    monkeypatch.setattr(messages, "AT_HAND", 1)
    known, shared, session = Messages(100), found(0), Session(("192.0.2.1", "1", "helo"))
    session.trail = found(1)
    for number in range(3):
        keep(known, message(number, shared, session))
    first = known.find("ID0", "192.0.2.1", 1.0)
    assert first is not None and first.trail is shared
    assert session.late is None


def test_what_is_no_plain_data_is_kept_as_it_is(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(messages, "AT_HAND", 1)
    known = Messages(100)
    for number, odd in enumerate((object(), 1 << 70, "\udcff", None)):
        keep(known, message(number, (Verdict(check="c", outcome="o", evidence={"odd": odd}),)))
    keep(known, message(9, ()))
    for number in range(4):
        one = known.find(f"ID{number}", "192.0.2.1", 1.0)
        assert one is not None and one.trail[0].check == "c"
        assert "odd" in one.trail[0].evidence


def test_a_message_that_is_remembered_takes_few_octets() -> None:
    known = Messages(10_000)
    for number in range(messages.AT_HAND):
        keep(known, message(number, found(number)))
    gc.collect()
    tracemalloc.start()
    try:
        for number in range(1000):
            keep(known, message(number + messages.AT_HAND, found(number)))
        used = tracemalloc.get_traced_memory()[0] / 1000
    finally:
        tracemalloc.stop()
    # The latest AT_HAND are whole, as many were before: what grew is the others, folded.
    assert used < 8000, f"{used:.0f} octets a message"


@pytest.mark.parametrize("plain", [True, False], ids=["bound", "asked"])
async def test_later_requests_about_a_message_hear_what_they_heard_without_folding(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, plain: bool
) -> None:
    snapshot = build(tmp_path / "c", **(PLAIN if plain else {}))
    told = []
    for most in (1, 1000):
        monkeypatch.setattr(messages, "AT_HAND", most)
        server = Server([snapshot], remembers=True)
        answers = []
        for state in ("RCPT", "RCPT", "DATA"):
            for number in range(6):
                changes = {"instance": f"a{number}.1", "client_address": f"192.0.2.{number % 3 + 10}"}
                changes |= {"recipient": "free@example.com" if number % 2 else f"u{number}@example.com"}
                answers.append(await server.ask(number % 2, request(protocol_state=state, **changes)))
        told.append((answers, server.remembered()))
    assert told[0] == told[1]
