"""When a client took too long or made too many errors: which limit that is, and what it is told (threats B6, B7).

Contract: called by the session behind each answer and by the watch; each limit that trips is counted and logged under
its own name. What failure means for the mail: the session ends with 421, and what was not answered is not kept.
"""

from collections.abc import Awaitable
from typing import TYPE_CHECKING

from appliance.daemons.smtpd import record
from appliance.daemons.smtpd.body import DataReceiver
from appliance.daemons.smtpd.limits import hit
from appliance.daemons.smtpd.wire import Step

if TYPE_CHECKING:
    from appliance.daemons.smtpd.session import Session


async def behind(session: "Session", step: Awaitable[None]) -> None:
    """Await the answer to a command, then look at the client as behind one that came at once."""
    await step
    if not session.lost and (penalty := erring(session)) is not None:
        await penalty


def erring(session: "Session") -> Step:
    """Behind each answer: errors over the limits slow the client down, then end the session."""
    limits = session.rules.limits
    if session.junk != session.junk_judged:
        session.junk_judged = session.junk
        if session.junk > limits.junk_commands:
            session.errors += 1
            if session.junk == limits.junk_commands + 1:
                hit("junk_commands", f"{session.who} after {session.verb}")
    if session.closing or session.errors <= min(limits.errors_soft, limits.errors_hard):
        return None
    if session.errors <= limits.errors_hard:
        if not session.slowed:
            session.slowed = True
            hit("errors_soft", f"{session.who} is answered slowly after {session.verb}")
        return session.front.penalty()
    hit("errors", f"{session.who} after {session.verb}")
    session.dismiss(f"421 4.7.0 {session.rules.hostname} Error: too many errors", "errors")
    return None


def expired(session: "Session", now: float) -> None:
    """The deadline of the session is passed at `now` (seconds of its loop)."""
    host, receiver = session.rules.hostname, session.receiving
    if session.closing or session.choked:
        if not session.closing:
            hit("timeout_write", f"{session.who} does not read our replies")
            session.end = "timeout"
        session.cut()
    elif isinstance(receiver, DataReceiver) and receiver.pseudo_end:
        record.protocol_error(session, "content without CRLF", b".")
        session.dismiss(f"550 5.5.2 {host} Error: bare <LF> received", "bare_lf")
    else:
        hit(_limit(session, now), f"{session.who} after {session.stage}")
        session.dismiss(f"421 4.4.2 {host} Error: timeout exceeded", "timeout")


def _limit(session: "Session", now: float) -> str:
    """Which time is over."""
    if now >= session.life:
        return "session_life"
    if session.receiving is None:
        return "timeout_command"
    return "timeout_data" if now - session.heard > session.rules.limits.timeout_data / 2 else "data_rate"


def latest(session: "Session") -> float:
    """Until when content may come at the least data rate, in seconds of the loop (Postfix: smtpd_min_data_rate)."""
    transaction, limits = session.transaction, session.rules.limits
    if transaction is None or not limits.data_rate:
        return float("inf")
    return transaction.data_since + limits.timeout_data + transaction.octets() / limits.data_rate
