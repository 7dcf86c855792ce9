"""Commands of a session whose listener has a handler, where the handler has a hook for them: RSET, NOOP, VRFY, QUIT, and
the end of STARTTLS.

Contract: a table of commands in place of the usual one, so that other listeners' sessions know nothing of hooks. What a
hook says is the answer. A session that handle_STARTTLS found not secure enough is refused all but QUIT. What failure
means for the mail: 451; a failed handle_STARTTLS is 451 from then on, as nobody knows whether it is secure.
"""

from collections.abc import Awaitable, Mapping
from typing import TYPE_CHECKING

from appliance.daemons.smtpd import commands, privileged, record
from appliance.daemons.smtpd.wire import Step
from appliance.protocol.smtp.address import AddressError, parse_path
from appliance.protocol.smtp.command import BAD_ADDRESS, Command

if TYPE_CHECKING:
    from appliance.daemons.smtpd.session import Session

NOT_SECURE = "554 5.7.0 Command refused due to lack of security"
FAILED = "451 4.3.0 Error: internal error, please try again later"


def verbs(handler: object) -> Mapping[str, commands.Run]:
    """The table for sessions with `handler`."""
    hooked = {verb: run for verb, run in _HOOKED.items() if hasattr(handler, f"handle_{verb}")}
    return commands.VERBS | hooked


def _plain(session: "Session", command: Command) -> Step:
    """RSET and NOOP."""
    session.junk += 1
    if command.verb == "RSET":
        session.reset()
    assert session.plugged is not None
    return session.plugged.outside(command.verb, *([command.argument or None] if command.verb == "NOOP" else []))


def _vrfy(session: "Session", command: Command) -> Step:
    session.junk += 1
    try:
        address, rest, _ = parse_path(command.argument.encode("ascii"), utf8=True)
    except AddressError:
        rest = b"?"
    if rest or not address.text:
        session.refuse(BAD_ADDRESS["RCPT"])
        return None
    assert session.plugged is not None
    return session.plugged.outside("VRFY", address.text)


def _quit(session: "Session", command: Command) -> Step:
    assert session.plugged is not None
    return session.plugged.quit()


def _starttls(session: "Session", command: Command) -> Step:
    upgrade = privileged.starttls(session, command)
    return None if upgrade is None else _secured(session, upgrade)


async def _secured(session: "Session", upgrade: Awaitable[None]) -> None:
    await upgrade
    if session.client.tls is None or session.lost or session.plugged is None:
        return
    try:
        secure = await session.plugged.secured()
    except Exception as error:  # nothing may be said now: it is the client's turn
        record.internal(session, error)
        session.verbs = _refusing(FAILED)
        return
    if not secure:
        record.log.info("handle_STARTTLS finds the session not secure enough", client=session.who, id=session.id)
        session.verbs = _refusing(NOT_SECURE)


def _refusing(text: str) -> Mapping[str, commands.Run]:
    """All but QUIT get `text`."""

    def refuse(session: "Session", command: Command) -> Step:
        session.reject(text)
        return None

    return dict.fromkeys(commands.VERBS, refuse) | {"QUIT": commands.VERBS["QUIT"]}


_HOOKED: dict[str, commands.Run] = {"RSET": _plain, "NOOP": _plain, "VRFY": _vrfy, "QUIT": _quit, "STARTTLS": _starttls}
