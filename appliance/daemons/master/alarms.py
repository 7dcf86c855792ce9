"""What is degraded, as it begins and ends: a log line and a number for Prometheus.

Contract: each text is logged once when it comes and once when it goes; what the daemons say is asked with every pulse.
"""

from collections.abc import Iterable

from appliance.observe import metrics, oplog

log = oplog.get("master")


class Alarms:
    """Remembers what was degraded at the last look."""

    def __init__(self, registry: metrics.Registry) -> None:
        self._known: frozenset[str] = frozenset()
        self._count = registry.gauge("postgate_degraded", "How many things are degraded; `postgate status` names them.")

    def update(self, texts: Iterable[str]) -> None:
        """All that is degraded now."""
        now = frozenset(texts)
        for text in sorted(now - self._known):
            log.warning("degraded", what=text)
        for text in sorted(self._known - now):
            log.info("no longer degraded", what=text)
        self._known = now
        self._count.set(len(now))
