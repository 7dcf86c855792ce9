"""From accept to the banner: who is it, may it come in, did it wait (threats B5, B6, B12).

Contract: a peer in a listener's `proxy` networks must begin with a PROXY header, else the connection ends without a word;
nobody else's is looked at. Counts over all workers are stated's and fail open; those of this worker always hold. The
client's name is asked for meanwhile and awaited before the first question. With a greet delay (early_talker, `wait`) an
unknown client gets `220-` at once and `220 ` later: what it says in between is early talk; the loop waits for nobody.
What failure means for the mail: 421, later; while stated is away only this worker knows who waited before.
"""

import asyncio
import contextlib
import math
from collections import OrderedDict
from collections.abc import Sequence
from typing import TYPE_CHECKING, Protocol

import msgspec

from appliance.checks.early_talker import Policy as Manners
from appliance.daemons.smtpd import record
from appliance.daemons.smtpd.limits import hit
from appliance.daemons.smtpd.questions import Plug, ask, named, refused
from appliance.engine.rules import CheckPolicy
from appliance.mail.network import network
from appliance.mail.ports import Unavailable
from appliance.mail.verdict import Decision
from appliance.observe import metrics
from appliance.protocol import proxy
from appliance.protocol.errors import ProtocolError

if TYPE_CHECKING:
    from appliance.daemons.smtpd.session import Session

_BUSY = "421 4.3.2 {host} All server ports are busy"
#: When connections run out the wait is shorter by this factor.
STRESSED = 3.0
#: Clients that waited, in this worker's memory.
WAITED = 4096
_greeted = metrics.counter("postgate_smtpd_greet_delays_total", "Clients that had to wait for the greeting.", ["result"])
_waits = {result: _greeted.labels(result) for result in ("silent", "talked")}
_TOO_MANY = "421 4.7.0 {host} Error: too many connections from {address}"


class Senders(Protocol):
    """What is asked of stated about those who send (stores.asking.Senders); what is awaited raises Unavailable."""

    def accepted(self, keys: Sequence[str]) -> None: ...

    async def has_waited(self, address: str) -> bool: ...

    def waited(self, address: str, keep: float) -> None: ...


class Waited:
    """Clients that need not wait again, until when (seconds of the loop)."""

    def __init__(self) -> None:
        self._until: OrderedDict[str, float] = OrderedDict()

    def has(self, address: str, now: float) -> bool:
        return self._until.get(network(address, 32, 64), 0.0) > now

    def add(self, address: str, until: float) -> None:
        self._until[network(address, 32, 64)] = until
        if len(self._until) > WAITED:
            self._until.popitem(last=False)


async def greet(session: "Session", early: bool) -> None:
    """Everything before the first command. `early`: octets were there before anybody could have seen our banner."""
    if session.facts.proxy and not await _behind_proxy(session):
        return
    address, rules = session.client.address, session.rules
    session.naming = session.front.name_of(session)
    record.connected(session)
    if session.door.role == "inbound" and not (session.facts.trusted_relay or session.facts.xclient):
        session.front.insiders.note(address, session.door.name, session.loop.time())
    if text := await _no_place(session):
        session.dismiss(text.format(host=rules.hostname, address=address), "limit", linger=False)
        return
    if not rules.delay_reject:
        step = ask(session, ("connect",), session.context, lambda decision: _let_in(session, decision))
        if step is not None:
            await step
        if session.closing:
            return
    if (early and not session.facts.proxy) or session.waiting:
        _talked(session)
    elif session.door.manners is not None and (manners := await _delays(session, session.door.manners)):
        await _hold(session, manners)
    session.out.append(rules.banner)


def _let_in(session: "Session", decision: Decision) -> None:
    if refused(session, decision, "CONNECT"):
        session.dismiss("", "policy")


def _talked(session: "Session") -> None:
    session.signs |= {"early_talk"}
    record.early(session)


# ---------------------------------------------------------------------- greet delay


async def _delays(session: "Session", policy: CheckPolicy) -> Manners | None:
    """How the client is kept waiting; None for whom we know."""
    front, address = session.front, session.client.address
    if policy.exceptions:
        await named(session)
        policy = policy.under(session.context("connect"), None)
    manners = policy.knobs
    if not isinstance(manners, Manners) or policy.mode == "off" or not manners.wait:
        return None
    if session.facts.trusted_relay or session.facts.xclient or address == "local":
        return None
    if front.connections.known_good(address) or front.waited.has(address, session.loop.time()):
        return None
    if front.senders is not None:
        with contextlib.suppress(Unavailable):
            if await front.senders.has_waited(address):
                front.waited.add(address, session.loop.time() + manners.again_after)
                return None
    return manners


async def _hold(session: "Session", manners: Manners) -> None:
    """The first line of the greeting, and silence; who keeps it need not wait again."""
    front, address = session.front, session.client.address
    wait = manners.wait / STRESSED if front.connections.stressed else manners.wait
    session.out.append(session.rules.teaser)
    session.flush()
    session.deadline = math.inf  # this wait is ours
    silent = False
    try:
        async with asyncio.timeout(wait):
            await session.arrival()
    except TimeoutError:
        silent = True
    if session.waiting:
        _waits["talked"].inc()
        _talked(session)
    elif silent:
        _waits["silent"].inc()
        front.waited.add(address, session.loop.time() + manners.again_after)
        if front.senders is not None:
            front.senders.waited(address, manners.again_after)


async def _no_place(session: "Session") -> str:
    """The text for a client that may not come in now, or ""."""
    front, limits, address = session.front, session.rules.limits, session.client.address
    front.connections.enter(address)
    session.counted = address
    # Mail that a filter hands back ends the session that waits for the filter.
    known = session.facts.trusted_relay or session.door.role == "reinject"
    if front.connections.full(known or front.connections.known_good(address)):
        hit("connections", f"{front.connections.open} open: {session.who} is sent away")
        return _BUSY
    if session.facts.xclient:
        return ""
    if front.connections.of(address) > limits.connections_per_client > 0:
        hit("connections_per_client", session.who)
        return _TOO_MANY
    session.counted_by_state = True
    if not limits.connection_rate and front.connections.sparse(address):
        front.state.entered(address, limits)
        return ""
    try:
        over = (await front.state.connect(address, limits)).over
    except Unavailable:
        return ""
    if over:
        hit({"connections": "connections_per_client", "total": "connections"}.get(over, over), session.who)
        return _BUSY if over == "total" else _TOO_MANY
    return ""


async def _behind_proxy(session: "Session") -> bool:
    """Read the PROXY header; False: there was none, the connection is gone."""
    session.deadline = session.loop.time() + session.rules.limits.timeout_tls
    while not session.lost and not session.closing:
        try:
            info, length = proxy.parse(session.ahead)
        except ProtocolError as error:
            hit("proxy", f"{session.who}: {error}")
            break
        if info is None:
            await session.arrival()
            continue
        header, session.ahead = session.ahead[:length], session.ahead[length:]
        session.deadline = math.inf  # what is awaited now has deadlines of its own
        if info.address:
            session.facts = session.door.facts(info.address)._replace(proxy=True)
            session.client = msgspec.structs.replace(
                session.client,
                address=info.address,
                port=info.port,
                trusted_relay=session.facts.trusted_relay,
                server_address=info.destination,
                server_port=info.destination_port,
            )
        if session.plugged is None or await _consents(session, session.plugged, header):
            return True
        break
    session.cut()
    return False


async def _consents(session: "Session", plugged: Plug, header: bytes) -> bool:
    """Does the operator's handler take the connection?"""
    if await plugged.proxied(header):
        return not session.lost
    record.log.info("handle_PROXY refuses the connection", client=session.who, id=session.id)
    return False
