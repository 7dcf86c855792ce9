"""Who offers what, and who chooses what of it (milter protocol, packet `O`).

Contract: a choice never goes beyond the offer; a version below 2, or a choice that does, is ProtocolError. What failure
means for the mail: without an agreement nothing is judged, and the MTA's default for this filter applies.
"""

from collections.abc import Mapping
from typing import NamedTuple

from appliance.protocol.errors import ProtocolError
from appliance.protocol.milter.packets import Negotiate
from appliance.protocol.milter.words import (
    ACTIONS_OF,
    DECLINES,
    HIGHEST,
    LOWEST,
    QUIETS,
    SINCE,
    STEPS_OF,
    Actions,
    Event,
    Steps,
)


class Want(NamedTuple):
    """What a filter would like. `needs`: actions without which it cannot do its work; `likes`: those that help.
    `declines` and `quiet`: events it does not want, and to which it would not answer. `features`: SKIP, LEADING_SPACE,
    REFUSED_RECIPIENTS. `macros` names what it wants to know at which event."""

    needs: Actions = Actions(0)
    likes: Actions = Actions(0)
    declines: frozenset[Event] = frozenset()
    quiet: frozenset[Event] = frozenset()
    features: Steps = Steps(0)
    macros: Mapping[int, tuple[str, ...]] = {}


class Agreement(NamedTuple):
    """What holds on a connection. `kept_away`: events that the MTA does not send; `quiet`: no answer belongs to them."""

    version: int
    actions: Actions
    steps: Steps
    kept_away: frozenset[Event]
    quiet: frozenset[Event]
    macros: Mapping[int, tuple[str, ...]] = {}

    def may(self, action: Actions) -> bool:
        """May a filter ask for this?"""
        return action in self.actions

    @property
    def skips(self) -> bool:
        return Steps.SKIP in self.steps

    @property
    def leading_space(self) -> bool:
        """Do header values have their first blank?"""
        return Steps.LEADING_SPACE in self.steps


def offer(version: int = HIGHEST) -> Negotiate:
    """All that an MTA of this version can offer, but for recipients that it refused itself."""
    return Negotiate(version, ACTIONS_OF[version], STEPS_OF[version] & ~Steps.REFUSED_RECIPIENTS)


def choose(offered: Negotiate, want: Want) -> tuple[Negotiate, Agreement]:
    """A filter's answer to an offer, and what holds then. An event that cannot be declined, or answered by silence, is
    answered. Raises ProtocolError where the offer has not what the filter needs."""
    if offered.version < LOWEST:
        raise ProtocolError(f"the MTA speaks version {offered.version}, {LOWEST} is the lowest that is understood")
    version = min(HIGHEST, offered.version)
    actions = Actions(offered.actions & ACTIONS_OF[HIGHEST])
    if missing := want.needs & ~actions:
        raise ProtocolError(f"the MTA does not offer {missing.name}")
    chosen = (want.needs | want.likes) & actions
    wished = _bits(DECLINES, want.declines) | _bits(QUIETS, want.quiet) | want.features
    steps = wished & Steps(offered.steps & STEPS_OF[HIGHEST])
    macros = want.macros if Actions.MACRO_LISTS in actions else {}
    if macros:
        chosen |= Actions.MACRO_LISTS
    answer = Negotiate(version, int(chosen), int(steps), macros)
    return answer, agreed(offered, answer)


def agreed(offered: Negotiate, chosen: Negotiate) -> Agreement:
    """What holds for an MTA that offered and got this answer. Raises ProtocolError."""
    if not LOWEST <= chosen.version <= offered.version:
        raise ProtocolError(f"the filter speaks version {chosen.version}, {LOWEST} to {offered.version} were offered")
    if beyond := chosen.actions & ~offered.actions:
        raise ProtocolError(f"the filter asks for actions that were not offered: {beyond:#x}")
    if beyond := chosen.steps & ~offered.steps:
        raise ProtocolError(f"the filter asks for steps that were not offered: {beyond:#x}")
    steps = Steps(chosen.steps & STEPS_OF[HIGHEST])
    later = {event for event, since in SINCE.items() if chosen.version < since}
    return Agreement(
        chosen.version,
        Actions(chosen.actions & ACTIONS_OF[HIGHEST]),
        steps,
        frozenset(later | {event for event, bit in DECLINES.items() if bit in steps}),
        frozenset(event for event, bit in QUIETS.items() if bit in steps),
        chosen.macros,
    )


def _bits(table: Mapping[Event, Steps], events: frozenset[Event]) -> Steps:
    found = Steps(0)
    for event in events:
        found |= table[event]
    return found
