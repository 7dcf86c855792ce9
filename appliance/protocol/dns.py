"""Values of the Resolver port (RFC 1035, 2308). SERVFAIL and timeout are not values: they raise, see mail.ports."""

from typing import NamedTuple


class Answer(NamedTuple):
    """`records` in presentation form without the trailing dot, lower case names: A/AAAA/PTR "host", MX "10 host",
    TXT the joined character strings. `exists` is False for NXDOMAIN (records are empty then and for NODATA).
    `ttl` in seconds; `stale` when served after its time because no server answered."""

    name: str
    rtype: str
    records: tuple[str, ...] = ()
    ttl: int = 0
    exists: bool = True
    stale: bool = False
