"""Where a next hop really is: MX records, addresses, and whether it is ourselves (RFC 5321 section 5, RFC 7505).

Contract: gives the places to connect to, best first, at most MAX_PLACES; equal preferences in random order. Raises
Unavailable where DNS did not answer (try again later) and NoPlace where it did and there is no place; NoPlace is for
good only if the caller says that the name came from a mail address, and not from the operator's configuration.
"""

import ipaddress
import random
from collections.abc import Mapping
from typing import Any, NamedTuple, Protocol

from appliance.protocol.dns import Answer
from appliance.protocol.errors import Unavailable

#: Addresses tried for one delivery (Postfix: smtp_mx_address_limit).
MAX_PLACES = 5


class Resolver(Protocol):
    """What is needed of net.resolver.Resolver."""

    async def query(self, name: str, rtype: str) -> Answer: ...

    def health(self) -> dict[str, Any]: ...


class Place(NamedTuple):
    """A host by the name that its certificate must bear, and one of its addresses ("192.0.2.1", "2001:db8::1")."""

    host: str
    address: str


class NoPlace(Exception):
    """DNS answered: there is no server. `status` is an enhanced code of class 5."""

    def __init__(self, text: str, status: str) -> None:
        super().__init__(text)
        self.status = status


class MailHosts:
    """Looks places up. `hosts` is the hosts file; `ourselves` our own host name: mail is never handed to it by MX."""

    def __init__(self, resolver: Resolver, hosts: Mapping[str, tuple[str, ...]], ourselves: str) -> None:
        self._resolver, self._hosts, self._ourselves = resolver, hosts, ourselves.lower()

    def health(self) -> dict[str, Any]:
        """Facts of the resolver, for status."""
        return self._resolver.health()

    async def places(self, name: str, mx: bool) -> list[Place]:
        """The places of `name`: its MX hosts, or with `mx` False (and for an address) itself."""
        name = name.strip("[]").removeprefix("IPv6:").lower()
        try:
            return [Place(name, str(ipaddress.ip_address(name)))]
        except ValueError:
            pass
        found = await self._of_hosts(await self._mx(name) if mx else [name])
        if not found:
            raise NoPlace(
                f"Host or domain name not found. Name service error for name={name} type=A: Host not found", "5.4.4"
            )
        return found

    async def _mx(self, domain: str) -> list[str]:
        answer = await self._resolver.query(domain, "MX")
        if not answer.exists:
            raise NoPlace(
                f"Host or domain name not found. Name service error for name={domain} type=MX: Host not found", "5.4.4"
            )
        records = [(int(preference), host) for preference, _, host in (r.partition(" ") for r in answer.records)]
        if not records:
            return [domain]  # RFC 5321 5.1: the implicit MX
        if [host for _, host in records] == ["."]:
            raise NoPlace(f"Domain {domain} does not accept mail (nullMX)", "5.1.10")
        random.shuffle(records)
        records.sort(key=lambda record: record[0])
        names = [host for _, host in records]
        if self._ourselves in names:
            ours = min(preference for preference, host in records if host == self._ourselves)
            names = [host for preference, host in records if preference < ours]
        if not names:
            raise NoPlace(f"mail for {domain} loops back to myself", "5.4.6")
        return names

    async def _of_hosts(self, names: list[str]) -> list[Place]:
        found: list[Place] = []
        unavailable: Unavailable | None = None
        for name in names:
            if len(found) >= MAX_PLACES:
                break
            try:
                found += [Place(name, address) for address in await self._addresses(name)]
            except Unavailable as error:
                unavailable = error
        if not found and unavailable is not None:
            raise unavailable
        return found[:MAX_PLACES]

    async def _addresses(self, name: str) -> list[str]:
        """IPv4 first: inner networks are rarely reachable by IPv6 alone, and a dead family costs a connect time-out."""
        if name in self._hosts:
            return list(self._hosts[name])
        found: list[str] = []
        unavailable: Unavailable | None = None
        for rtype in ("A", "AAAA"):
            try:
                found += (await self._resolver.query(name, rtype)).records
            except Unavailable as error:
                unavailable = error
        if not found and unavailable is not None:
            raise unavailable
        return found
