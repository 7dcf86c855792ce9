"""A Decision in the words of access(5), as Postfix carries them out.

Contract: pure. What accepts is DUNNO, never OK: later restrictions of the client's own are not skipped. An answer holds
one action: a refusal, else the most urgent one; what is left is for the next request about the message. Texts are one
line. What failure means for the mail: nothing here can fail.
"""

from collections.abc import Iterable

from appliance.engine.marks import mark_edits
from appliance.mail import authres
from appliance.mail.ports import Site
from appliance.mail.replies import CLASS
from appliance.mail.verdict import Action, Decision, Verdict

DUNNO = "DUNNO"
#: States in which Postfix takes actions on the message; before MAIL it has none, behind its end no header can be added.
ON_MESSAGE = frozenset({"RCPT", "DATA", "END-OF-MESSAGE"})

#: Postfix puts this before every text of a list that is asked at RCPT.
_CLASS = f"{CLASS['recipient']} rejected: "


def refusal(decision: Decision) -> str:
    """What refuses, puts off or throws away; "" where the decision accepts. Greylisting and what could not be found out
    become DEFER_IF_PERMIT, so that a later refusal of the client's own is final."""
    verb = decision.verb
    if verb == "accept":
        return ""
    reply = decision.reply.replace(_CLASS, "", 1)
    if verb == "discard":
        return f"DISCARD {why(decision.deciding)}"
    if verb == "disconnect" and not reply.startswith(("421", "521")):
        return f"421 4.7.0 {_text(reply)}"
    if decision.action is Action.DEFER_IF_PERMIT:
        return f"DEFER_IF_PERMIT {reply[4:]}"
    return reply or "DEFER Service unavailable"


def effects(decision: Decision, site: Site, inbound: bool, results: Iterable[str] = ()) -> list[str]:
    """Actions beside an acceptance, the most urgent first: what an operator asked for before what we have to tell.
    `results` are for Authentication-Results. Postfix puts the field that it hears of first on top."""
    found = []
    if decision.keep != "deliver":
        found.append(f"HOLD {decision.keep_reason}".rstrip())
    if decision.redirect:
        found.append(f"REDIRECT {decision.redirect}")
    if decision.filter:
        found.append(f"FILTER {decision.filter}")
    found += [f"BCC {address}" for address in decision.bcc]
    edits = [edit for edit in reversed(decision.edits) if edit.op == "prepend"]
    if inbound:
        listed = tuple(dict.fromkeys(results))
        edits += [authres.field(site.authserv_id or site.hostname, listed)] if listed else []
        edits += reversed(mark_edits(decision.marks))
    found += [f"PREPEND {edit.name}: {' '.join(edit.value.split())}" for edit in edits]
    return found


def notices(decision: Decision) -> list[str]:
    """What the client's log may hear where nothing else is to be said."""
    known = {"warn": "WARN", "info": "INFO"}
    return [
        f"{known[kind]} {text}" for kind, _, text in (note.partition(": ") for note in decision.notes) if kind in known
    ]


def deferred(reject: str) -> str:
    """A refusal of the client's own that comes later is a deferral ("451 4.7.1 Text")."""
    return f"DEFER_IF_REJECT {reject[4:]}" if reject else ""


def why(verdict: Verdict | None) -> str:
    """For the client's log."""
    return f"{verdict.check}:{verdict.outcome} {verdict.reason}".rstrip() if verdict else "by policy"


def _text(reply: str) -> str:
    """The words of a reply behind its codes."""
    parts = reply.split(" ", 2)
    return parts[2] if len(parts) == 3 else "Service unavailable, closing connection"
