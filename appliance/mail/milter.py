"""What a milter is asked and what it says, as values; and the port that talks with milters.

Contract: no IO. A link is one milter's side of one SMTP session: `ask` at each stage, in the order of SMTP (what was
left out is caught up with), `reset` behind each transaction, `close` at the end. What failure means for the mail: `Said`
has the word `failed`, for the rest of the transaction without another wait; what follows is the default action, which
the operator has set.
"""

from collections.abc import Sequence
from typing import Literal, Protocol

import msgspec

from appliance.mail.context import Context
from appliance.mail.edits import Edit
from appliance.mail.policy_service import Place

Word = Literal["continue", "reject", "tempfail", "discard", "shutdown", "failed"]


class Milter(msgspec.Struct, frozen=True, kw_only=True):
    """One milter as it is reached. Seconds: to connect and agree, for one step of the envelope, for the content (all of
    it, end of message included; progress begins it anew), and for all that it takes of one transaction. `protocol`: the
    highest version offered. `daemon_name`: the macro of this name ("": the host name)."""

    name: str
    place: Place
    protocol: int = 6
    connect_timeout: float = 5.0
    command_timeout: float = 10.0
    content_timeout: float = 120.0
    total_timeout: float = 200.0
    daemon_name: str = ""


class Said(msgspec.Struct, frozen=True, kw_only=True):
    """What a milter says to a stage. `reply`: its own words for the client ("550 5.7.1 text"). `quarantine`: why it wants
    the message kept. `why`: what went wrong (word `failed`)."""

    word: Word = "continue"
    reply: str = ""
    edits: tuple[Edit, ...] = ()
    quarantine: str = ""
    why: str = ""


class Link(Protocol):
    """One milter in one session."""

    async def ask(self, ctx: Context, edits: Sequence[Edit]) -> Said:
        """What it says at this stage; `edits` (at message): how the content is changed already. Never raises but for
        cancelling."""

    def reset(self) -> None:
        """The transaction is over."""

    def close(self) -> None:
        """The session is over."""


class Milters(Protocol):
    """Talks with milters."""

    def link(self, milter: Milter) -> Link: ...
