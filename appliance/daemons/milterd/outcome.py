"""Groups of recipients and their decisions to the one answer that a milter has for a message.

Contract: pure. What a milter cannot do for some recipients only, it does for all, in the order of caution: a message that
is refused for some and taken for others goes to the MTA's quarantine (`mixed` = "quarantine") or is put off; so does one
that is to be kept back for some. Marks and header edits of all groups are made. Recipients can be taken out and put in:
what is thrown away, redirected or copied for some is so for these alone. An action that the MTA does not offer is never
left out in silence: the message is put off. What failure means for the mail: put off.
"""

from collections.abc import Sequence
from typing import NamedTuple

from appliance.engine.pipeline import Combined, Group
from appliance.mail.edits import Edit
from appliance.protocol.milter import replycode
from appliance.protocol.milter.filter import NEEDS
from appliance.protocol.milter.negotiation import Agreement
from appliance.protocol.milter.packets import AddRecipient, DeleteRecipient, Modification, Quarantine, Reply
from appliance.protocol.milter.words import Word

CANNOT = "451 4.7.1 Service unavailable, please try again later"
CONTINUE, ACCEPT, DISCARD = Reply(Word.CONTINUE), Reply(Word.ACCEPT), Reply(Word.DISCARD)


class Outcome(NamedTuple):
    """`text` is the SMTP reply of a refusal, "" else. `edits` are for the header and the body; `more` for the envelope
    and
    the quarantine. `lacks`: why it was put off although the decision was another."""

    text: str = ""
    discard: bool = False
    edits: tuple[Edit, ...] = ()
    more: tuple[Modification, ...] = ()
    kept: str = ""
    lacks: str = ""

    @property
    def reply(self) -> Reply:
        """The answer to the end of the message."""
        if self.text:
            return refusal(self.text)
        return DISCARD if self.discard else ACCEPT


def refusal(text: str) -> Reply:
    """A refusal with its text. 421 and 521 end the SMTP session where the MTA can do that."""
    return Reply(Word.REPLY_CODE, replycode.text(text))


def conclude(
    combined: Combined, recipients: Sequence[bytes], thrown: Sequence[bytes], agreement: Agreement, mixed: str
) -> Outcome:
    """`recipients` and `thrown` (taken with 250 at RCPT, to be thrown away) as the MTA told them."""
    if combined.verb not in ("accept", "discard"):
        return Outcome(combined.reply or CANNOT)
    if combined.verb == "discard":
        return Outcome(discard=True)
    more = [DeleteRecipient(address) for address in thrown]
    edits: list[Edit] = []
    kept = ""
    changes: list[Modification] = []
    for group in combined.groups:
        decision = group.decision
        members = [recipients[index] for index in group.recipients]
        if decision.verb in ("reject", "disconnect"):
            if mixed == "tempfail":
                return Outcome(CANNOT, lacks="refused for some recipients, taken for others")
            kept = kept or f"refused for {len(members)} of {len(recipients)} recipients: {_why(group)}"
        elif decision.verb == "discard":
            more += map(DeleteRecipient, members)
        else:
            edits += [edit for edit in decision.edits if edit not in edits]
            changes += _envelope(group, members)
            if decision.keep != "deliver":
                kept = kept or f"{decision.keep}: {decision.keep_reason}"
            elif decision.filter:
                kept = kept or f"hold: a milter cannot send mail to the filter {decision.filter}"
    asked = [*more, *changes, *([Quarantine(_printable(kept))] if kept else [])]
    if missing := lacking(asked, agreement):
        return missing
    return Outcome(edits=tuple(edits), more=tuple(dict.fromkeys(asked)), kept=kept)


def _envelope(group: Group, members: Sequence[bytes]) -> list[Modification]:
    """Redirections and copies."""
    decision = group.decision
    added = [AddRecipient(f"<{address}>".encode()) for address in decision.bcc]
    if decision.redirect:
        return [*map(DeleteRecipient, members), AddRecipient(f"<{decision.redirect}>".encode()), *added]
    return [*added]


def _why(group: Group) -> str:
    deciding = group.decision.deciding
    return f"{deciding.check}:{deciding.outcome}" if deciding is not None else "refused"


def _printable(text: str) -> bytes:
    return "".join(letter if letter.isprintable() else "?" for letter in text)[:400].encode()


def lacking(asked: Sequence[Modification], agreement: Agreement) -> Outcome | None:
    """What becomes of the message if an action that is needed was not agreed on, None if all are."""
    missing = next((need for one in asked if not agreement.may(need := NEEDS[type(one)])), None)
    return None if missing is None else Outcome(CANNOT, lacks=f"the MTA does not offer {missing.name}")
