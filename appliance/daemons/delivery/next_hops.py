"""How the next hops fare, as deliveries find them, and which messages they put off: for `postgate status` and metrics.

Contract: known from real traffic only. A next hop is in trouble from the first message that it put off for no reason of
that message's own, or for which it was not reached, until it takes one, or answers further than where it failed; and as
long as mail waits for it. Hosts found by the MX of a mail address are strangers: they are told only while they are dead
for the schedule. Content filters tell themselves (filtering.py). What failure means for the mail: none; this only tells.
"""

import time
from collections.abc import Callable, Sequence
from typing import Any

from appliance.daemons.delivery.routing import NOWHERE, Destination
from appliance.daemons.delivery.way import NoWay
from appliance.observe import metrics, oplog, trouble
from appliance.observe.contact import Contacts
from appliance.observe.text import clean, counted
from appliance.protocol.smtp.outgoing import Result, is_of_host, worded
from appliance.queue.item import Item
from appliance.queue.schedule import Schedule

log = oplog.get("delivery")
_degraded = metrics.gauge("postgate_next_hop_degraded", "1 while a next hop fails.", ["next_hop"])
#: How far a dialogue came, by the command that was answered.
_STEPS = {"": 0, "MAIL FROM": 1, "RCPT TO": 2, "DATA": 3, "BDAT": 4, "end of DATA": 5}
#: Strangers that are told at once; characters of what a server said.
_STRANGERS, _LONG = 20, 300


class NextHops:
    """All of one delivery process, by the names of their destinations."""

    def __init__(self, schedule: Schedule, clock: Callable[[], float] = time.monotonic) -> None:
        self._schedule = schedule
        self.contacts = Contacts()
        self._ours, self._strangers = trouble.Touched(clock), trouble.Touched(clock)
        self._step: dict[str, int] = {}

    # ------------------------------------------------------------------ what deliveries find

    def not_reached(self, destination: Destination, item: Item, error: NoWay, seconds: float) -> None:
        """There was no session, `seconds` after it was wanted. A domain that does not exist is nobody's trouble."""
        why = clean(str(error), _LONG)
        self.contacts.of(destination.name).failed(why)
        if not error.final:
            self._fails(destination, item, why, 0, seconds)

    def answered(
        self, destination: Destination, item: Item, answers: Sequence[Result], peer: str, seconds: float
    ) -> None:
        """What it said of a message, and how long that took."""
        contact = self.contacts.of(destination.name)
        blamed = None
        if not any(answer.kind == "delivered" for answer in answers):
            blamed = next((answer for answer in answers if is_of_host(answer)), None)
        if blamed is not None:
            why = clean(worded(blamed, peer), _LONG)
            contact.failed(why)
            self._fails(destination, item, why, _STEPS.get(blamed.command, 0), seconds)
            return
        contact.answered()
        if self._step and any(_passes(answer, self._step.get(destination.name, 0)) for answer in answers):
            self._well(destination)

    def _fails(self, destination: Destination, item: Item, why: str, step: int, seconds: float) -> None:
        if not destination.filtering and not destination.lacks:  # filters, and tables of routes, tell themselves
            if destination.name not in self._step and not destination.outward:
                took = f"{seconds:.2f}"
                log.error("next hop fails", next_hop=destination.name, id=item.queue_id, seconds=took, why=why)
            self._step[destination.name] = step
            self._book(destination).note(destination.name, why, item.queue_id)

    def _well(self, destination: Destination) -> None:
        if self._step.pop(destination.name, None) is None:
            return
        book = self._book(destination)
        book.well(destination.name)
        if not destination.outward:
            told = book.told(destination.name, "")
            log.warning("next hop well again", next_hop=destination.name, messages_touched=told["touched"])

    def _book(self, destination: Destination) -> trouble.Touched:
        return self._strangers if destination.outward else self._ours

    # ------------------------------------------------------------------ what is told of it

    def degraded(self) -> list[trouble.Said]:
        """Which fail now."""
        sites = self._schedule.sites
        strangers = [one for one in self._strangers.degraded(sites) if (site := sites.get(one["what"])) and site.dead]
        return [self._said(one) for one in (*self._ours.degraded(sites), *strangers[:_STRANGERS])]

    def _said(self, one: dict[str, Any]) -> trouble.Said:
        name, why = one["what"], one["why"]
        if site := self._schedule.sites.get(name):
            why = f"{why}; {counted(site.jobs, 'message waits', 'messages wait')} for it"
        what = f"next hop {name} fails" if name != NOWHERE.name else "mail waits that has no next hop"
        return trouble.said(what, why, one["touched"], one["last"])

    def facts(self) -> dict[str, dict[str, Any]]:
        """For status: all that were tried."""
        found = self.contacts.facts()
        for name, text in (self._ours.facts() | self._strangers.facts()).items():
            found.setdefault(name, {})["put off"] = text
        return found

    def measure(self) -> None:
        """Once a second, for metrics; trouble that has become old without an answer is forgotten."""
        sites = self._schedule.sites
        failing = {one["what"] for one in self._ours.degraded(sites)}
        for name in self._ours.facts():
            _degraded.labels(name).set(int(name in failing))
        failing |= {one["what"] for one in self._strangers.degraded(sites)}
        for name in self._step.keys() - failing:
            del self._step[name]
            self._ours.well(name)
            self._strangers.well(name)


def _passes(answer: Result, step: int) -> bool:
    """Did this one get so far that what failed at `step` fails no more?"""
    return answer.kind == "delivered" or (not is_of_host(answer) and _STEPS.get(answer.command, 0) >= step)
