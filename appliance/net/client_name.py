"""The forward-confirmed reverse name of a client (RFC 8601 section 3 "iprev"): PTR, then the address of each name.

Contract: never raises; what DNS could not answer is `temperror`, never `none` and never `fail`. At most 5 PTR
names are tried.
"""

import asyncio
import ipaddress
import re
from collections.abc import Awaitable, Callable
from typing import Literal, NamedTuple

from appliance.net.records import reverse_name
from appliance.protocol.dns import Answer
from appliance.protocol.errors import Unavailable

_MAX_NAMES = 5
_HOST = re.compile(r"(?=.{1,253}\Z)[a-z0-9_]([a-z0-9_-]{0,62})(\.[a-z0-9_]([a-z0-9_-]{0,62}))*\Z")
Proof = Literal["pass", "fail", "none", "temperror", "unknown"]
Query = Callable[[str, str], Awaitable[Answer]]


class ClientName(NamedTuple):
    """`name`: confirmed, or "unknown". `reverse`: what PTR says, or "unknown". `proof`: see mail.context.NameProof."""

    name: str
    reverse: str
    proof: Proof


_NOT_ASKED = ClientName("unknown", "unknown", "unknown")


async def confirm(query: Query, address: str) -> ClientName:
    """Ask for the name of `address`. An address that is none (a unix socket) has proof `unknown`."""
    try:
        pointer = reverse_name(address)
    except ValueError:
        return _NOT_ASKED
    try:
        answer = await query(pointer, "PTR")
    except Unavailable:
        return ClientName("unknown", "unknown", "temperror")
    names = [name for name in answer.records if _HOST.match(name)][:_MAX_NAMES]
    if not names:
        return ClientName("unknown", "unknown", "none")
    proofs = await asyncio.gather(*(_leads_back(query, name, address) for name in names))
    for name, proof in zip(names, proofs, strict=True):
        if proof == "pass":
            return ClientName(name, name, "pass")
    return ClientName("unknown", names[0], "temperror" if "temperror" in proofs else "fail")


async def _leads_back(query: Query, name: str, address: str) -> Proof:
    wanted = ipaddress.ip_address(address)
    try:
        answer = await query(name, "AAAA" if wanted.version == 6 else "A")
    except Unavailable:
        return "temperror"
    return "pass" if any(ipaddress.ip_address(record) == wanted for record in answer.records) else "fail"
