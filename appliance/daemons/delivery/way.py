"""From a destination to an open session: next hops in order, their MX and addresses, the first that talks to us.

Contract: `open` gives a session, or raises NoWay with the text for log and queue. `skip` leaves out places that were
tried for this message already. What failure means for the mail: `site` failures make the destination rest, `final`
ones (the domain of a mail address does not exist or takes no mail) fail the recipient; the rest is tried again.
"""

import ssl
from collections.abc import AsyncIterator, Collection, Mapping
from typing import Any

from appliance.config.values import SERVERS, Endpoint, NextHop
from appliance.connectors import smtp
from appliance.connectors.fixed import FixedSession
from appliance.connectors.pipe import PipeSession
from appliance.connectors.session import SmtpSession
from appliance.connectors.target import ConnectFailed, Target, Timeouts
from appliance.daemons.delivery.programs import Programs
from appliance.daemons.delivery.routing import Destination
from appliance.net import tls
from appliance.net.local import is_local
from appliance.net.mx import MailHosts, NoPlace
from appliance.protocol.errors import Unavailable

#: Places tried for one message (Postfix: smtp_mx_address_limit).
MAX_TRIES = 5


#: Who takes a message.
Session = SmtpSession | PipeSession | FixedSession


class NoWay(Exception):
    """No session. `status` is an enhanced code; `final` says that no later try can help; `tried`: was anybody asked?"""

    def __init__(self, text: str, status: str, *, final: bool = False, relay: str = "none") -> None:
        super().__init__(text)
        self.status, self.final, self.relay = status, final, relay


class Ways:
    """What it takes to connect. `contexts` maps TLS levels to contexts; `own`: where we listen ourselves."""

    def __init__(
        self,
        hosts: MailHosts,
        hostname: str,
        contexts: Mapping[str, ssl.SSLContext | None],
        timeouts: Timeouts,
        programs: Programs,
        own: Collection[Endpoint] = (),
    ) -> None:
        self._programs, self._own = programs, own
        self._hosts, self._hostname, self._contexts, self.timeouts = hosts, hostname, contexts, timeouts

    def resolver_health(self) -> dict[str, Any]:
        """Facts of the resolver, for status."""
        return self._hosts.health()

    async def open(self, destination: Destination, skip: frozenset[str] = frozenset()) -> Session:
        """The first place of `destination`, not in `skip`, that gives a session. Raises NoWay."""
        first = destination.hops[0][0] if destination.hops else None
        if first is not None and first.kind not in SERVERS:
            return self._piped(first) if first.kind == "pipe" else FixedSession(first.kind, first.host, first.path)
        last: NoWay | None = None
        tries = 0
        timeouts = Timeouts.each(destination.timeout) if destination.timeout else self.timeouts
        async for target, level in self._targets(destination):
            if isinstance(target, NoWay):
                last = target
                continue
            if str(target) in skip or tries >= MAX_TRIES:
                continue
            if not destination.filtering and self._is_own(target):
                last = _loop(destination)
                continue
            tries += 1
            try:
                return await smtp.connect(target, self._hostname, level, self._contexts[level], timeouts)
            except ConnectFailed as error:
                reached = not str(error).startswith("connect to ")
                last = NoWay(str(error), error.status, relay=str(target) if reached else "none")
        if last is None:
            last = NoWay(destination.lacks or "no next hop is configured for this recipient", "4.3.5")
        raise last

    def _is_own(self, target: Target) -> bool:
        """Is that place a listener of ours?"""
        for own in self._own:
            if own.path or target.path:
                if own.path == target.path:
                    return True
            elif own.port == target.port and own.host in (target.address, "0.0.0.0", "::"):
                return own.host == target.address or is_local(target.address)
        return False

    def _piped(self, hop: NextHop) -> PipeSession:
        try:
            return self._programs.open(hop)
        except KeyError:
            raise NoWay(f'no filter is called "{hop.host}"', "4.3.5") from None

    async def _targets(self, destination: Destination) -> AsyncIterator[tuple[Target | NoWay, tls.Level]]:
        for hop, level in destination.hops:
            if hop.path:
                yield Target(host=hop.path.rpartition("/")[2], path=hop.path, lmtp=hop.kind == "lmtp"), level
                continue
            try:
                places = await self._hosts.places(hop.host, hop.mx)
            except Unavailable as error:
                yield _unavailable(hop, error), level
            except NoPlace as error:
                yield _no_place(hop, error, destination.outward), level
            else:
                for place in places:
                    lmtp = hop.kind == "lmtp"
                    yield Target(host=place.host, address=place.address, port=hop.port, lmtp=lmtp), level


def service(session: Session) -> str:
    """Who logs what it answered, if neither smtp nor lmtp."""
    if isinstance(session, FixedSession):
        return "discard" if session.service == "discard" else "error"  # who answers retry: is error(8) too
    return "pipe" if isinstance(session, PipeSession) else ""


def _loop(destination: Destination) -> NoWay:
    status = "5.4.6" if destination.outward else "4.4.6"
    return NoWay(f"mail for {destination.name} loops back to myself", status, final=destination.outward)


def _unavailable(hop: NextHop, error: Unavailable) -> NoWay:
    kind = "MX" if hop.mx else "A"
    return NoWay(f"Name service error for name={hop.host} type={kind}: Host not found, try again ({error})", "4.4.3")


def _no_place(hop: NextHop, error: NoPlace, outward: bool) -> NoWay:
    """A configured next hop that DNS does not know is a mistake of the configuration: mail waits until it is mended."""
    return NoWay(str(error), error.status if outward else f"4{error.status[1:]}", final=outward)
