"""delivery: the queue and the way to the next hops. `create(birth)` is what the skeleton calls."""

from appliance.daemons.delivery.daemon import create

__all__ = ["create"]
