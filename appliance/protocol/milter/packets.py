"""Packets of the milter protocol as values, both directions.

Contract: frozen values without behaviour; `LETTERS` names the event that each packet from the MTA is. Header values have
LF where a field is folded, never CR; names of macros are without braces; addresses have their brackets.
"""

from collections.abc import Mapping
from typing import NamedTuple

from appliance.protocol.milter.words import Event, Word


class Negotiate(NamedTuple):
    """Offer and choice alike; `macros` (stage number -> names) stands in a filter's answer only."""

    version: int
    actions: int
    steps: int
    macros: Mapping[int, tuple[str, ...]] = {}


class Macros(NamedTuple):
    """`of` is the event that they belong to."""

    of: str
    values: Mapping[str, str]


class Connect(NamedTuple):
    """`family`: "U" (nothing known), "L" (a unix socket), "4", "6". `hostname` is "[address]" where it has no name."""

    hostname: bytes
    family: str = "U"
    port: int = 0
    address: bytes = b""


class Helo(NamedTuple):
    name: bytes


class Mail(NamedTuple):
    """`address` with its brackets."""

    address: bytes
    parameters: tuple[bytes, ...] = ()


class Rcpt(NamedTuple):
    """`address` with its brackets."""

    address: bytes
    parameters: tuple[bytes, ...] = ()


class Data(NamedTuple):
    pass


class Header(NamedTuple):
    """`value` as on the wire: whether its first blank is there was negotiated."""

    name: bytes
    value: bytes


class EndOfHeader(NamedTuple):
    pass


class Body(NamedTuple):
    chunk: bytes


class EndOfMessage(NamedTuple):
    """`chunk`: a last piece of body (Sendmail)."""

    chunk: bytes = b""


class Abort(NamedTuple):
    pass


class Quit(NamedTuple):
    pass


class QuitNc(NamedTuple):
    """The end of an SMTP connection; the next one comes over this same connection."""


class Unknown(NamedTuple):
    line: bytes


class Reply(NamedTuple):
    """The answer that ends a step; `text` ("550 5.7.1 ...") belongs to REPLY_CODE."""

    word: Word
    text: bytes = b""


class Progress(NamedTuple):
    pass


class AddHeader(NamedTuple):
    name: bytes
    value: bytes


class InsertHeader(NamedTuple):
    position: int
    name: bytes
    value: bytes


class ChangeHeader(NamedTuple):
    """`position` counts from 1 among the fields of this name; an empty value deletes."""

    position: int
    name: bytes
    value: bytes


class ReplaceBody(NamedTuple):
    chunk: bytes


class AddRecipient(NamedTuple):
    """`arguments` (ESMTP) are None in the form that has none."""

    address: bytes
    arguments: bytes | None = None


class DeleteRecipient(NamedTuple):
    address: bytes


class ChangeSender(NamedTuple):
    address: bytes
    arguments: bytes | None = None


class Quarantine(NamedTuple):
    reason: bytes


FromMta = (
    Negotiate
    | Macros
    | Connect
    | Helo
    | Mail
    | Rcpt
    | Data
    | Header
    | EndOfHeader
    | Body
    | EndOfMessage
    | Abort
    | Quit
    | QuitNc
    | Unknown
)
Modification = (
    AddHeader | InsertHeader | ChangeHeader | ReplaceBody | AddRecipient | DeleteRecipient | ChangeSender | Quarantine
)
FromFilter = Negotiate | Reply | Progress | Modification

#: The letter of each event.
LETTERS: dict[type, Event] = {
    Negotiate: Event.NEGOTIATE,
    Macros: Event.MACROS,
    Connect: Event.CONNECT,
    Helo: Event.HELO,
    Mail: Event.MAIL,
    Rcpt: Event.RCPT,
    Data: Event.DATA,
    Header: Event.HEADER,
    EndOfHeader: Event.END_OF_HEADER,
    Body: Event.BODY,
    EndOfMessage: Event.END_OF_MESSAGE,
    Abort: Event.ABORT,
    Quit: Event.QUIT,
    QuitNc: Event.QUIT_NC,
    Unknown: Event.UNKNOWN,
}
