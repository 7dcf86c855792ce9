"""What status says of call-ahead: next hops that verify nothing, domains without one, and the messages whose recipients
were put off for it.

Contract: known from real questions only, and told for TOLD seconds after the last one that failed. A message counts where
its recipient stayed unverifiable; an older answer that still holds touches none. What failure means for the mail: none.
"""

from collections.abc import Collection, Iterable

from appliance.connectors.probing import TOLD, Destination
from appliance.observe import metrics, trouble
from appliance.protocol import quota

_degraded = metrics.gauge("postgate_callahead_degraded", "1 while a next hop verifies no recipient.", ["next_hop"])


def no_way(domain: str) -> str:
    """The source of what could not even be asked, as Door.name is of other answers."""
    return f"no next hop is found for {domain}"


class AheadStatus:
    """Of one Callahead."""

    def __init__(self) -> None:
        self._touched = trouble.Touched(recent=TOLD)

    def lost(self, domain: str, why: str) -> None:
        """Nobody could tell whom to ask."""
        self._touched.failed(f"call-ahead: {no_way(domain)}", why)

    def found(self, domain: str) -> None:
        """There is a way."""
        self._touched.well(f"call-ahead: {no_way(domain)}")

    def unverified(self, source: str, destinations: Iterable[Destination]) -> None:
        """The recipient of the message that is judged now is put off, for want of what `source` did not say."""
        message = quota.message()
        what = f"call-ahead: {source}"
        if not message or not source:
            return
        if self._touched.fails(what):
            self._touched.touch(what, message)
        elif any(one.is_away for one in destinations if one.name == source):
            self._touched.touch(_fails(source), message)

    def degraded(self, destinations: Collection[Destination]) -> list[trouble.Said]:
        """All that verifies nothing."""
        away = {one.name: one.trouble for one in destinations if one.is_away}
        for name in {one.name for one in destinations}:
            _degraded.labels(name).set(int(name in away))
        return [*(self._touched.told(_fails(name), why) for name, why in away.items()), *self._touched.degraded()]


def _fails(name: str) -> str:
    return f"call-ahead: next hop {name} fails"
