"""Filters before the queue as the connector wants them: those that listeners name, and those that rules name.

Contract: pure. What failure means for the mail: a filter that nobody knows raises ValueError; the mail is put off.
"""

from appliance.config.filters import Filters
from appliance.config.snapshot import Snapshot
from appliance.connectors.proxy_filter import Settings
from appliance.mail.policy_service import Place


def proxy_settings(snapshot: Snapshot, place: str) -> Settings:
    """The filter that `place` names in the wiring of this snapshot. Raises ValueError."""
    proxy = Filters(snapshot.wiring).proxy(place)
    places = tuple(Place(hop.path, hop.host, hop.port) for hop in proxy.hops)
    return Settings(proxy.name, places, proxy.ehlo, proxy.concurrency, proxy.timeout, proxy.total_timeout)


def wanted_proxies(snapshot: Snapshot) -> list[Settings]:
    """Each that a listener names, once."""
    places = dict.fromkeys(listen.proxy_filter for listen in snapshot.wiring.listen if listen.proxy_filter)
    return [proxy_settings(snapshot, place) for place in places]
