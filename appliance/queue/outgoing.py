"""A trailer as the SMTP client hands it over: envelope, parameters, and what XFORWARD tells of where it came from.

Contract: pure. What failure means for the mail: the client raises ValueError for an envelope that cannot be sent.
"""

from collections.abc import Sequence

from appliance.protocol.smtp.outgoing import Outgoing, OutgoingRecipient
from appliance.queue.envelope import PROVEN, Trailer


def outgoing(
    trailer: Trailer, indexes: Sequence[int], size: int, *, together: bool = False, filtering: bool = False
) -> Outgoing:
    """The message for these recipients. `size`: octets with the edits in force; `filtering`: it will come back."""
    recipients = trailer.recipients
    return Outgoing(
        trailer.sender,
        tuple(
            OutgoingRecipient(recipients[i].address, recipients[i].notify, recipients[i].orcpt, recipients[i].original)
            for i in indexes
        ),
        size,
        trailer.body,
        trailer.smtputf8,
        trailer.ret,
        trailer.envid,
        xforward(trailer, filtering),
        trailer.plain and not any(edit.op in ("body", "splice") or edit.name.startswith(".") for edit in trailer.edits),
        together,
    )


def xforward(trailer: Trailer, filtering: bool = False) -> dict[str, str]:
    """XFORWARD's attributes by name. `filtering`: it goes to a content filter, also one of a transport table."""
    origin = trailer.origin
    return {
        "NAME": origin.client_name,
        "ADDR": "" if origin.client_address == "local" else origin.client_address,
        "PORT": str(origin.client_port or ""),
        # The attribute knows these two words; with another one servers refuse all that stands in the same command.
        "PROTO": "SMTP" if origin.protocol == "SMTP" else "ESMTP",
        "HELO": origin.helo,
        "IDENT": trailer.queue_id + (PROVEN if (filtering or trailer.filter) and trailer.proven else ""),
        "SOURCE": "REMOTE",
    }


def estimate(trailer: Trailer) -> int:
    """About the octets that the message has with its edits: what SIZE says of one that is not in memory."""
    return trailer.size + sum(len(edit.value) + len(edit.name) + 4 for edit in trailer.edits)
