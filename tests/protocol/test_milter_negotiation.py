"""Offers and choices: every bit of both tables, every version, and what an MTA may not be asked for."""

import pytest

from appliance.protocol.errors import ProtocolError
from appliance.protocol.milter.negotiation import Want, agreed, choose, offer
from appliance.protocol.milter.packets import Negotiate
from appliance.protocol.milter.words import ACTIONS_OF, DECLINES, QUIETS, STEPS_OF, Actions, Event, Steps

EVERYTHING = Want(
    likes=Actions(0x1FF),
    declines=frozenset(DECLINES),
    quiet=frozenset(QUIETS),
    features=Steps.SKIP | Steps.LEADING_SPACE | Steps.REFUSED_RECIPIENTS,
    macros={0: ("j",)},
)


def test_the_bits_are_those_of_the_protocol() -> None:
    """protocols.md 4.4, cell by cell."""
    assert [action.value for action in Actions] == [1, 2, 4, 8, 0x10, 0x20, 0x40, 0x80, 0x100]
    assert {event.name: bit.value for event, bit in DECLINES.items()} == {
        "CONNECT": 1, "HELO": 2, "MAIL": 4, "RCPT": 8, "BODY": 0x10, "HEADER": 0x20, "END_OF_HEADER": 0x40,
        "UNKNOWN": 0x100, "DATA": 0x200,
    }  # fmt: skip
    assert {event.name: bit.value for event, bit in QUIETS.items()} == {
        "HEADER": 0x80, "CONNECT": 0x1000, "HELO": 0x2000, "MAIL": 0x4000, "RCPT": 0x8000, "DATA": 0x10000,
        "UNKNOWN": 0x20000, "END_OF_HEADER": 0x40000, "BODY": 0x80000,
    }  # fmt: skip
    assert (Steps.SKIP, Steps.REFUSED_RECIPIENTS, Steps.LEADING_SPACE) == (0x400, 0x800, 0x100000)


@pytest.mark.parametrize("version", [2, 3, 4, 5, 6])
def test_a_choice_stays_within_the_offer(version: int) -> None:
    offered = offer(version)
    assert (offered.actions, offered.steps) == (ACTIONS_OF[version], STEPS_OF[version] & ~0x800)
    answer, agreement = choose(offered, EVERYTHING)
    assert answer.version == version and not answer.actions & ~offered.actions and not answer.steps & ~offered.steps
    assert agreement == agreed(offered, answer)
    assert (Event.DATA in agreement.kept_away) and (Event.UNKNOWN in agreement.kept_away)  # declined, or not there yet
    assert agreement.skips == agreement.leading_space == bool(agreement.macros) == (version == 6)


@pytest.mark.parametrize("bit", list(Steps))
def test_each_step_bit_is_chosen_only_if_it_is_offered(bit: Steps) -> None:
    every = int(STEPS_OF[6])
    assert choose(Negotiate(6, 0x1FF, every), EVERYTHING)[0].steps == every
    assert choose(Negotiate(6, 0x1FF, every & ~bit), EVERYTHING)[0].steps == every & ~bit
    with pytest.raises(ProtocolError, match="not offered"):
        agreed(Negotiate(6, 0x1FF, every & ~bit), Negotiate(6, 0, int(bit)))


@pytest.mark.parametrize("bit", list(Actions))
def test_each_action_is_chosen_only_if_it_is_offered(bit: Actions) -> None:
    assert choose(Negotiate(6, 0x1FF & ~bit, 0), EVERYTHING)[0].actions == 0x1FF & ~bit
    with pytest.raises(ProtocolError, match=bit.name):
        choose(Negotiate(6, 0x1FF & ~bit, 0), Want(needs=bit))
    with pytest.raises(ProtocolError, match="not offered"):
        agreed(Negotiate(6, 0x1FF & ~bit, 0), Negotiate(6, int(bit), 0))


def test_what_is_not_wanted_is_not_chosen() -> None:
    assert choose(offer(), Want())[0] == Negotiate(6, 0, 0)
    assert choose(offer(), Want(needs=Actions.QUARANTINE))[0].actions == Actions.QUARANTINE


@pytest.mark.parametrize(("offered", "chosen"), [(6, 7), (6, 1), (6, 0), (2, 6), (4, 5)])
def test_a_filter_never_speaks_more_than_was_offered(offered: int, chosen: int) -> None:
    with pytest.raises(ProtocolError, match="version"):
        agreed(Negotiate(offered, 0, 0), Negotiate(chosen, 0, 0))


def test_an_mta_from_the_future_and_one_from_the_past() -> None:
    assert choose(Negotiate(9, 0xFFFFFFFF, 0xFFFFFFFF), EVERYTHING)[0] == Negotiate(6, 0x1FF, 0x1FFFFF, {0: ("j",)})
    with pytest.raises(ProtocolError, match="version 1"):
        choose(Negotiate(1, 0xF, 0x3F), Want())
