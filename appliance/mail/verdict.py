"""What a check found (Verdict), what the operator's file makes of it (Action), what is done (Decision)."""

import math
from enum import StrEnum
from typing import Any, Literal

import msgspec

from appliance.mail.edits import Edit
from appliance.mail.identity import Identity


class Action(StrEnum):
    """The words of access(5) and ours; an operator writes them in `[on]`.

    `mark` delivers with a header that says what was found and counts as suspicion. `defer_if_permit` defers unless
    something later in the stage refuses for good; `defer_if_reject` turns a later refusal into a deferral.
    """

    ACCEPT = "accept"
    DUNNO = "dunno"
    MARK = "mark"
    WARN = "warn"
    INFO = "info"
    PREPEND = "prepend"
    BCC = "bcc"
    REDIRECT = "redirect"
    FILTER = "filter"
    HOLD = "hold"
    QUARANTINE = "quarantine"
    DISCARD = "discard"
    DEFER_IF_REJECT = "defer_if_reject"
    DEFER_IF_PERMIT = "defer_if_permit"
    DEFER = "defer"
    REJECT = "reject"
    DISCONNECT = "disconnect"


#: `until` of what depends on nothing but what was asked, the policies and the tables.
ALWAYS = math.inf


class Verdict(msgspec.Struct, frozen=True, kw_only=True, gc=False):
    """One check's finding.

    `outcome` is a word that the check declares (`temperror` always exists: what could not be checked is neither
    passed nor failed). `reason` is for our log, never for the peer. `reply` ("554 5.7.1 text"), where set, replaces
    the policy's reply: only operators' own texts (access tables) go there. `argument` belongs to actions that need
    one (prepend, bcc, redirect, filter). `recipient` names the recipient a verdict is about, "" = the whole message;
    `stage` is where it was asked (the engine fills both in).
    `shared`: it was found for one recipient, but concerns the whole message.
    `authres` are results for our Authentication-Results field (mail.authres writes each). `identity`, where set, is who
    sends from here on: the Context of what is asked after it has it.
    `more` is what else the check found, each judged as a verdict of its own behind this one.
    `until`: up to when (monotonic seconds; ALWAYS) whoever asks the same, at another moment, for another message or from
    another port, is told the same, as long as policies and tables stand. 0: nobody knows.
    `evidence` is what decided it: records with TTL, table and line, store values before and after, scanner answers.
    """

    check: str
    outcome: str
    reason: str = ""
    score: float = 0.0
    reply: str = ""
    argument: str = ""
    recipient: str = ""
    edits: tuple[Edit, ...] = ()
    authres: tuple[str, ...] = ()
    evidence: dict[str, Any] = {}
    identity: Identity | None = None
    stage: str = ""
    shared: bool = False
    more: tuple["Verdict", ...] = ()
    until: float = 0.0


#: What the asking daemon must do. `accept` = go on (or take the message).
Verb = Literal["accept", "defer", "reject", "discard", "disconnect"]


class Decision(msgspec.Struct, frozen=True, kw_only=True, gc=False):
    """The judged outcome for one recipient (stages before message) or one recipient group (stage message).

    `reply` is the full SMTP reply without CRLF ("550 5.1.1 ... [id]"), "" where the daemon's own words do.
    `deciding` is the verdict that decided, or that keeps the message back (None = nothing objected). `keep` is where an
    accepted message goes: deliver, hold (an operator or an alarm keeps it) or quarantine (its content does). `marks` are
    "check:outcome" pairs that become header fields through `edits`. `verdicts` are those found by this very question, in
    list order: the caller appends them to its trail (`deciding` may be an earlier one, from the trail). `identity` is
    what a check found out about the sender; the caller puts it into its later Contexts. `if_reject`: the reply in
    place of a refusal that comes from elsewhere, where a check asked for that ("" = none did).
    """

    verb: Verb
    reply: str = ""
    deciding: Verdict | None = None
    action: Action | None = None
    keep: Literal["deliver", "hold", "quarantine"] = "deliver"
    keep_reason: str = ""
    marks: tuple[str, ...] = ()
    edits: tuple[Edit, ...] = ()
    redirect: str = ""
    bcc: tuple[str, ...] = ()
    filter: str = ""
    notes: tuple[str, ...] = ()
    verdicts: tuple[Verdict, ...] = ()
    identity: Identity | None = None
    if_reject: str = ""


ACCEPT = Decision(verb="accept")


def in_millis(moment: float) -> float:
    """A moment as evidence tells it: to the millisecond (round(moment, 3) costs ten times as much)."""
    return round(moment * 1000.0) / 1000.0
