"""From accept to the banner: who is it, may it come in, did it wait (threats B5, B6, B12).

Contract: a peer in a listener's `proxy` networks must begin with a PROXY header, else the connection ends without a word;
nobody else's is looked at. Counts over all workers are stated's and fail open; those of this worker always hold. The
client's name is asked for meanwhile and awaited before the first question. What failure means for the mail: 421, later.
"""

from typing import TYPE_CHECKING

import msgspec

from appliance.daemons.smtpd import record
from appliance.daemons.smtpd.limits import hit
from appliance.daemons.smtpd.questions import ask, refused
from appliance.mail.ports import Unavailable
from appliance.mail.verdict import Decision
from appliance.protocol import proxy
from appliance.protocol.errors import ProtocolError

if TYPE_CHECKING:
    from appliance.daemons.smtpd.session import Session

_BUSY = "421 4.3.2 {host} All server ports are busy"
_TOO_MANY = "421 4.7.0 {host} Error: too many connections from {address}"


async def greet(session: "Session", early: bool) -> None:
    """Everything before the first command. `early`: octets were there before anybody could have seen our banner."""
    if session.facts.proxy and not await _behind_proxy(session):
        return
    address, rules = session.client.address, session.rules
    session.naming = session.front.name_of(session)
    record.connected(session)
    if text := await _no_place(session):
        session.dismiss(text.format(host=rules.hostname, address=address), "limit", linger=False)
        return
    if not rules.delay_reject:
        step = ask(session, ("connect",), session.context, lambda decision: _welcome(session, decision))
        if step is not None:
            await step
    else:
        session.out.append(rules.banner)
    if (early and not session.facts.proxy) or session.waiting:
        session.signs |= {"early_talk"}
        record.early(session)


def _welcome(session: "Session", decision: Decision) -> None:
    if refused(session, decision, "CONNECT"):
        session.dismiss("", "policy")
    else:
        session.out.append(session.rules.banner)


async def _no_place(session: "Session") -> str:
    """The text for a client that may not come in now, or ""."""
    front, limits, address = session.front, session.rules.limits, session.client.address
    front.connections.enter(address)
    session.counted = address
    if front.connections.full(front.connections.known_good(address) or session.facts.trusted_relay):
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
        session.ahead = session.ahead[length:]
        if info.address:
            session.facts = session.door.facts(info.address)._replace(proxy=True)
            session.client = msgspec.structs.replace(
                session.client, address=info.address, port=info.port, trusted_relay=session.facts.trusted_relay
            )
        return True
    session.cut()
    return False
