"""A reload: a message in progress goes on under the rules it began with, as a session of Postfix's smtpd does; messages
that nobody asks about any more do not hold on to old rules and their tables."""

import gc
import weakref
from pathlib import Path

import pytest

from appliance.config.snapshot import Snapshot
from appliance.daemons.policyd import messages
from appliance.daemons.policyd.rules import Rules
from tests.daemons.policyd.whole import PLAIN, Server, build, request

NOBODY = {"recipient": 'tables = ["inline:{only@example.com=ok}"]\ncallahead = false\n'}


@pytest.fixture
def snapshots(tmp_path: Path) -> list[Snapshot]:
    """In the second nobody but one is known."""
    return [build(tmp_path / "a", **PLAIN), build(tmp_path / "b", **(PLAIN | NOBODY))]


def turns(server: Server, count: int) -> None:
    """As often does the front look."""
    for _ in range(count):
        server.front._timer.cancel()
        server.front._look()
    server.front._timer.cancel()


async def test_a_message_in_progress_keeps_its_rules_and_a_later_one_has_the_new_ones(snapshots: list[Snapshot]) -> None:
    server = Server(snapshots, remembers=True)
    await server.ask(0, request(instance="old", recipient="free@example.com"))
    server.reload(1)
    server.passes(messages.IN_PROGRESS - 1)
    turns(server, 3)
    assert (await server.ask(0, request(instance="old", recipient="u@example.com"))).startswith("action=DEFER_IF_PERMIT")
    server.passes(messages.IN_PROGRESS - 1)  # that was heard of it just now
    turns(server, 3)
    assert (await server.ask(0, request(instance="old", recipient="v@example.com"))).startswith("action=DEFER_IF_PERMIT")
    assert (await server.ask(0, request(instance="new", recipient="v@example.com"))).startswith("action=550 5.1.1")


@pytest.mark.parametrize("at_once", [False, True], ids=["asked", "told"])
async def test_old_rules_are_let_go_once_their_messages_are_silent(snapshots: list[Snapshot], at_once: bool) -> None:
    server, twin = (Server(snapshots, True, at_once) for _ in range(2))
    number = 0
    for number in range(3 * messages.TURN):  # strangers by a form, among others
        address = "free@example.com" if number % 3 == 0 else f"u{number}@example.com"
        octets = request(instance=f"n{number}", recipient=address)
        assert await server.ask(0, octets) == await twin.ask(0, octets)
    known = server.front.messages.known.values()
    # what will be judged by the old tables, if anybody asks
    assert any(not isinstance(message, messages.Message) or message.late is not None for message in known)
    assert any(not isinstance(message, messages.Message) for message in known) == at_once
    old = weakref.ref(server.front.rules)
    server.reload(1)
    server.passes(messages.IN_PROGRESS + 1)
    turns(server, 2)
    gc.collect()
    assert isinstance(old(), Rules), "a few at a time"
    turns(server, 2)
    gc.collect()
    assert old() is None
    assert {message.rules for message in known} == {server.front.rules}
    assert all(message.late is None or message.late.func is messages._unfold for message in known)  # type: ignore[attr-defined]
    assert server.remembered() == twin.remembered()
    # who is asked about after all is judged by the rules in force
    again = request(instance=f"n{number}", recipient="w@example.com")
    assert (await server.ask(0, again)).startswith("action=550 5.1.1")


async def test_who_was_forgotten_meanwhile_gets_no_other_rules(snapshots: list[Snapshot]) -> None:
    server = Server(snapshots, remembers=True)
    for number in range(3):
        await server.ask(0, request(instance=f"n{number}", recipient=f"u{number}@example.com"))
    server.reload(1)
    server.front.messages.forget()
    server.passes(messages.IN_PROGRESS + 1)
    turns(server, 2)
    assert not len(server.front.messages)
