"""Whether a client's address stands in a list of networks."""

import ipaddress
from collections.abc import Iterable

from appliance.config.fields import Network


def listed(address: str, networks: Iterable[Network]) -> bool:
    """A client on a unix socket is matched as 127.0.0.1; what is no address stands nowhere."""
    try:
        found = ipaddress.ip_address("127.0.0.1" if address == "local" else address)
    except ValueError:
        return False
    if isinstance(found, ipaddress.IPv6Address) and found.ipv4_mapped:
        found = found.ipv4_mapped
    return any(found in network for network in networks)
