"""What does not fit in the wiring, as the checks of `cross` say it, and what several of them must know.

Contract: pure values.
"""

from typing import NamedTuple

from appliance.config import values
from appliance.config.model import Listen
from appliance.config.positions import Path


class Odd(NamedTuple):
    """One thing that does not fit: where in the file, and whether the key or the value is shown."""

    path: Path
    text: str
    fatal: bool = True
    at_key: bool = False


def same(hop: values.NextHop, listener: Listen) -> bool:
    """Does mail for `hop` come to this listener? Known for addresses of this machine only."""
    endpoint = values.parse_listen_address(listener.address)
    if hop.kind not in values.SERVERS:
        return False
    if hop.path or endpoint.path:
        return hop.path == endpoint.path
    host = "127.0.0.1" if hop.host == "localhost" else hop.host
    everywhere = endpoint.host in ("0.0.0.0", "::") and (host.startswith("127.") or host == "::1")
    return hop.port == endpoint.port and (host == endpoint.host or everywhere)
