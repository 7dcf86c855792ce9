"""What the queue knows of a message besides its octets: the trailer of an entry, and the notices between the processes.

Contract: a Trailer is written once, with the content, before the 250; afterwards only per-recipient states change (they
live in marks and state logs, never in the trailer). All times are wall-clock seconds.
"""

from typing import Any, Literal

import msgspec

from appliance.mail.edits import Edit

#: Behind the queue id in XFORWARD's IDENT, to a content filter: the sender of this message is authenticated. What comes
#: back on a listener of role reinject is not judged again, so that the filter's word is the only one that tells.
PROVEN = ".proven"
NO_VERDICTS = msgspec.Raw(b"\x90")
_pack = msgspec.msgpack.Encoder().encode
_unpack = msgspec.msgpack.Decoder(bytes | list[dict[str, Any]]).decode
_read = msgspec.json.Decoder(list[dict[str, Any]]).decode

Keep = Literal["deliver", "hold", "quarantine"]


class QueuedRecipient(msgspec.Struct, frozen=True, array_like=True, gc=False):
    """One recipient as it will be relayed: external form without <>, its domain (exactly what was judged), DSN facts.
    `owner`: of a list's member the envelope sender that it gets the mail from, "" for the message's own."""

    address: str
    domain: str
    notify: str = ""
    orcpt: str = ""
    original: str = ""
    owner: str = ""

    @property
    def copy(self) -> tuple[str, str, str, str, str]:
        """Equal for recipients who need one copy between them: the same address, reached by the same one, with the same
        wishes about reports (Postfix's duplicate filter where enable_original_recipient = yes), from the same sender."""
        original = (self.original or self.address).lower()
        return self.address.lower(), original, self.notify, self.orcpt.lower(), self.owner.lower()


class Expanded(msgspec.Struct, frozen=True, array_like=True, gc=False):
    """A recipient who is others now, and of whom the sender asked to hear (NOTIFY=SUCCESS): he is told so, instead of
    what becomes of them (RFC 3461 5.2.7). `action`: "delivered" of a list with an owner, "expanded" of others."""

    address: str
    orcpt: str
    action: Literal["expanded", "delivered"] = "expanded"


class Origin(msgspec.Struct, frozen=True, gc=False):
    """Where a message came from, for logs, XFORWARD and notices."""

    client_address: str = ""
    client_name: str = "unknown"
    client_port: int = 0
    helo: str = ""
    protocol: str = "ESMTP"
    listener: str = ""
    role: str = "inbound"
    tls: str = ""


class Trailer(msgspec.Struct, frozen=True, kw_only=True, gc=False):
    """Everything about an accepted message that is not its content.

    `sender` is "" for the null sender. `proven`: the sender is authenticated (SPF pass or aligned DKIM), so a DSN may be
    sent to it; else a message that cannot be delivered goes to hold with an alarm. `keep` says where the entry starts.
    `plain`: the content has CRLF line ends only, the last line's too, and no line that begins with a dot, so that it can
    be sent as it stands. `verdicts` are packed (see `pack_verdicts`, `found`), for quarantine and explain: delivery
    has no use for them. `filter`: the content filter (`transport:destination`) that gets it instead of the next hops;
    `filtered`: this is what a filter's command made of it. `told`: who gets the notices for a sender that is an alias of
    ours, by that sender: nobody carries mail to one of our own names. `expanded`: what the sender is told at once.
    """

    queue_id: str
    received: float
    sender: str
    recipients: tuple[QueuedRecipient, ...]
    size: int
    origin: Origin = Origin()
    body: str = ""
    smtputf8: bool = False
    ret: str = ""
    envid: str = ""
    message_id: str = ""
    keep: Keep = "deliver"
    keep_reason: str = ""
    proven: bool = False
    edits: tuple[Edit, ...] = ()
    verdicts: msgspec.Raw = NO_VERDICTS
    policy: str = ""
    plain: bool = False
    filter: str = ""
    filtered: bool = False
    told: dict[str, tuple[str, ...]] = {}
    expanded: tuple[Expanded, ...] = ()

    @property
    def handed_back(self) -> bool:
        """Does it come from a content filter?"""
        return self.filtered or self.origin.role == "reinject"

    def sender_of(self, index: int) -> str:
        """The envelope sender for this recipient: its list's owner, else that of the message."""
        return self.recipients[index].owner or self.sender

    def answerable(self, index: int) -> bool:
        """May that sender be told what becomes of it? The owner of a list is ours."""
        return bool(self.recipients[index].owner or (self.sender and self.proven))

    def sent_to(self, index: int) -> "Trailer":
        """The message as this recipient gets it."""
        owner = self.recipients[index].owner
        return msgspec.structs.replace(self, sender=owner, proven=True) if owner else self

    def found(self) -> list[dict[str, Any]]:
        """The verdicts as plain dicts (check, outcome, stage, reason, evidence). Raises msgspec.MsgspecError."""
        text = _unpack(self.verdicts)
        return _read(text) if isinstance(text, bytes) else text


def pack_verdicts(verdicts: bytes) -> msgspec.Raw:
    """What Trailer.verdicts holds: JSON, a list of objects, as the journal's event of the message has it, so that it is
    written once for both."""
    return msgspec.Raw(_pack(verdicts))


_decode = msgspec.msgpack.Decoder(Trailer).decode


def decode_trailer(packed: bytes | msgspec.Raw) -> Trailer:
    """A trailer that holds on to none of the octets it was read from. Raises msgspec.MsgspecError."""
    trailer = _decode(packed)
    msgspec.structs.force_setattr(trailer, "verdicts", trailer.verdicts.copy())
    return trailer


class Grant(msgspec.Struct, frozen=True, tag="grant"):
    """delivery -> smtpd, one descriptor with it: an empty file in the intake folder, its name already durable."""

    name: str
    purpose: Literal["segment", "large"]


class Want(msgspec.Struct, frozen=True, tag="want"):
    """smtpd -> delivery: please grant `segment` and `large` more files. `worker` names the asker ("smtpd.0")."""

    worker: str
    segment: int = 0
    large: int = 0


class Committed(msgspec.Struct, frozen=True, tag="committed"):
    """smtpd -> delivery: this entry is on disk at [`offset`, `end`) of file `name`. `trailer` is the
    one on disk, octet for octet (decode_trailer). `content` rides along when small."""

    name: str
    offset: int
    trailer: msgspec.Raw
    content: bytes | None = None
    end: int = 0


class Sealed(msgspec.Struct, frozen=True, tag="sealed"):
    """smtpd -> delivery: nothing more will be written to file `name`; valid entries end at `end` (what stands behind it
    was given up after a failed write or sync and must never be delivered)."""

    name: str
    end: int


class Returned(msgspec.Struct, frozen=True, tag="returned"):
    """smtpd -> delivery: the granted file `name` was not used for a message (refused, aborted): delete it."""

    name: str


class Space(msgspec.Struct, frozen=True, tag="space"):
    """delivery -> smtpd, on connection and at each change: may new messages come (`ok`)? `free`: octets left above the
    watermark. While not ok the worker answers 452 at MAIL; what is already under way is still taken."""

    ok: bool
    free: int = 0


Notice = Grant | Want | Committed | Sealed | Returned | Space
decode_notice = msgspec.msgpack.Decoder(Notice).decode
