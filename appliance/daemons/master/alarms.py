"""What is degraded, as it begins and ends: a log line and a number for Prometheus.

Contract: each thing is logged once when it comes and once when it goes, however its counts change meanwhile; what the
daemons say is asked with every pulse.
"""

from collections.abc import Mapping
from typing import Any

from appliance.observe import metrics, oplog, trouble

log = oplog.get("master")


class Alarms:
    """Remembers what was degraded at the last look."""

    def __init__(self, registry: metrics.Registry) -> None:
        self._known: frozenset[str] = frozenset()
        self._count = registry.gauge("postgate_degraded", "How many things are degraded; `postgate status` names them.")

    def update(self, said: Mapping[str, Mapping[str, Any]]) -> None:
        """All that is degraded now, as observe.trouble.merged has it."""
        now = frozenset(said)
        for what in sorted(now - self._known):
            log.warning("degraded", what=trouble.words(said[what]))
        for text in sorted(self._known - now):
            log.info("no longer degraded", what=text)
        self._known = now
        self._count.set(len(now))
