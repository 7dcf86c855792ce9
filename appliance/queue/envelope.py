"""What the queue knows of a message besides its octets: the trailer of an entry, and the notices between the processes.

Contract: a Trailer is written once, with the content, before the 250; afterwards only per-recipient states change (they
live in marks and state logs, never in the trailer). All times are wall-clock seconds.
"""

from typing import Any, Literal

import msgspec

from appliance.mail.edits import Edit

Keep = Literal["deliver", "hold", "quarantine"]


class QueuedRecipient(msgspec.Struct, frozen=True, array_like=True, gc=False):
    """One recipient as it will be relayed: external form without <>, its domain (exactly what was judged), DSN facts."""

    address: str
    domain: str
    notify: str = ""
    orcpt: str = ""
    original: str = ""


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
    be sent as it stands. `verdicts` are plain dicts (check, outcome, reason, action) for quarantine, log and explain.
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
    verdicts: tuple[dict[str, Any], ...] = ()
    policy: str = ""
    plain: bool = False


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
    """smtpd -> delivery: this entry is on disk at [`offset`, `end`) of file `name`. `content` rides along when small."""

    name: str
    offset: int
    trailer: Trailer
    content: bytes | None = None
    end: int = 0


class Announced(msgspec.Struct, frozen=True, tag="committed"):
    """Committed as it is sent: the trailer is packed already, for the disk."""

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
