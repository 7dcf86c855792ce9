"""All milters of one process, with their health.

Contract: one connection a session and milter (milter.Link); what is known of a milter outlives reloads as long as its
settings stay. What failure means for the mail: see milter.
"""

from collections.abc import Iterable
from typing import Any

from appliance.connectors.milter import Link
from appliance.connectors.milter_health import Health
from appliance.mail.milter import Milter


class Milters:
    """mail.milter.Milters: all milters of one process, with their health."""

    def __init__(self, hostname: str, octets: int) -> None:
        self.hostname, self.octets = hostname, octets
        self._known: dict[Milter, Health] = {}
        self._wanted: tuple[Milter, ...] = ()

    def link(self, milter: Milter) -> Link:
        """For one session."""
        health = self._known.get(milter)
        if health is None:
            health = self._known[milter] = Health(milter)
        return Link(health, self.hostname, self.octets)

    def follow(self, milters: Iterable[Milter], hostname: str, octets: int) -> None:
        """These are in force: told of in status. `octets`: of all edits of a message."""
        self.hostname, self.octets = hostname, octets
        self._wanted = tuple(milters)
        for milter in self._known.keys() - set(self._wanted):
            self._known.pop(milter).close()

    def health(self) -> dict[str, Any]:
        """For status."""
        known = [self._known[milter] for milter in self._wanted if milter in self._known]
        facts: dict[str, Any] = {health.milter.name: health.facts() for health in known}
        return {**facts, "degraded": [health.degraded for health in known if health.degraded]}

    def close(self) -> None:
        for health in self._known.values():
            health.close()
