"""Questions to the engine: asked in order, answered at once where nothing has to wait, turned into replies.

Contract: `then` gets the first decision that does not accept, else the last one; it is not called for a client that is
gone. Before the first question the client's name is awaited. What failure means for the mail: an exception is the
session's `on_error` (451); the engine turns what checks could not find out into `temperror` itself.
"""

from collections.abc import Awaitable, Callable, Mapping, Sequence
from typing import TYPE_CHECKING, Protocol

from appliance.daemons.smtpd import record
from appliance.daemons.smtpd.wire import Step
from appliance.mail.context import Context, Stage
from appliance.mail.verdict import ACCEPT, Decision

if TYPE_CHECKING:
    from appliance.daemons.smtpd.session import Session
    from appliance.protocol.smtp.command import Command


class Plug(Protocol):
    """A conversation with a content filter that follows the session's commands (hooks.Plug)."""

    #: The session's table of commands.
    verbs: "Mapping[str, Callable[[Session, Command], Step]]"

    async def ask(self, ctx: Context) -> Decision | None:
        """Its objection to what the engine has accepted, or what it changed in a message, or None."""

    async def hello(self, session: "Session") -> None:
        """Answer EHLO or HELO."""

    async def outside(self, verb: str, *arguments: object) -> None:
        """Answer a command that is no part of a transaction."""

    async def quit(self) -> None:
        """Answer QUIT."""

    async def secured(self) -> bool:
        """Is TLS, which has just begun, good enough?"""

    async def proxied(self, header: bytes) -> bool:
        """May the connection come in that a load balancer hands over with this header?"""


Make = Callable[[Stage], Context]
Then = Callable[[Decision], Step]


def ask(session: "Session", stages: Sequence[Stage], make: Make, then: Then) -> Step:
    """Put the questions of `stages`; `make` gives each its Context."""
    if session.plugged is not None:
        return _ask_all(session, stages, make, then)
    decision, engine, standing = ACCEPT, session.rules.engine, session.door.standing
    for index, stage in enumerate(stages):
        if stage not in standing:
            continue
        if session.naming is not None:
            return _ask_all(session, stages[index:], make, then)
        answer = engine.ask(make(stage), session.talks)
        if not isinstance(answer, Decision):
            return _ask_all(session, stages[index:], make, then, answer)
        decision = answered(session, stage, answer)
        if decision.verb != "accept":
            break
    return then(decision)


async def _ask_all(
    session: "Session", stages: Sequence[Stage], make: Make, then: Then, first: Awaitable[Decision] | None = None
) -> None:
    decision, standing = ACCEPT, session.door.standing
    for stage in stages:
        if stage in standing:
            await named(session)
            answer = first if first is not None else session.rules.engine.ask(make(stage), session.talks)
            first = None
            decision = answered(session, stage, answer if isinstance(answer, Decision) else await answer)
        if session.plugged is not None and decision.verb == "accept":
            decision = await session.plugged.ask(make(stage)) or decision
        if decision.verb != "accept":
            break
    if not session.lost and (step := then(decision)) is not None:
        await step


async def named(session: "Session") -> None:
    """Wait for the client's name."""
    if session.naming is not None:
        naming, session.naming = session.naming, None
        session.named(await naming)


def answered(session: "Session", stage: Stage, decision: Decision) -> Decision:
    """Keep what was found."""
    if decision.notes:
        record.notes(session, stage, decision)
    if stage == "connect" or stage == "helo":
        session.asked |= {stage}
        session.trail += decision.verdicts
    elif session.transaction is not None:
        session.transaction.trail += decision.verdicts
        session.transaction.identity = decision.identity or session.transaction.identity
    return decision


def refused(session: "Session", decision: Decision, stage: str, recipient: str = "") -> bool:
    """Answer a decision that does not accept; False: it does, and nothing was said."""
    if decision.verb == "discard":
        record.decided(session, decision)
    if decision.verb in ("accept", "discard"):
        return False
    reply = decision.reply or f"451 4.7.1 Service unavailable [{session.id}]"
    record.rejected(session, stage, reply, recipient)
    record.decided(session, decision)
    if decision.verb == "disconnect" or reply.startswith(("421", "521")):
        session.dismiss(reply, "policy")
    else:
        session.refuse(reply)
    return True
