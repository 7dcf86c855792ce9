"""The content as a milter sees it, and what a milter wants done to it, as edits.

Contract: a milter sees the message as the edits before it have left it, but for our own Received field. Which field of
a name it means counts in what it saw, where it puts a field counts ours, too (Postfix's rules, protocols 4.7). An edit
that would not be a header field, or no address, is ProtocolError. What failure means for the mail: the milter's default.
"""

import re
from collections.abc import Iterable, Iterator, Sequence
from itertools import chain
from typing import NamedTuple

from appliance.mail import apply
from appliance.mail.edits import Edit, text
from appliance.mail.ports import Content
from appliance.protocol.errors import ProtocolError
from appliance.protocol.milter.packets import (
    AddHeader,
    AddRecipient,
    ChangeHeader,
    ChangeSender,
    DeleteRecipient,
    InsertHeader,
    Modification,
    Quarantine,
    ReplaceBody,
)
from appliance.protocol.milter.words import MAX_CHUNK
from appliance.protocol.smtp.address import AddressError, parse_address

_NAME = re.compile(rb"[!-9;-~]{1,998}\Z")
_FIELD = re.compile(rb"([!-9;-~]+)[ \t]*:([^\r\n]*(?:\r?\n[ \t][^\r\n]*)*)(?:\r?\n|\Z)")
_END = re.compile(rb"\r?\n\r?\n|\A\r?\n")


class Field(NamedTuple):
    """`value`: all behind the colon, folds as they stand."""

    name: bytes
    value: bytes


class Seen(NamedTuple):
    """`fields` without our own (Received), which stood below the first `above` of them (-1: nowhere), `twins` of the same
    name. `body`: what is behind the empty line, in pieces for one packet each."""

    fields: list[Field]
    above: int
    twins: int
    body: Iterator[bytes]


def seen(content: Content, edits: Sequence[Edit]) -> Seen:
    """The message with `edits` in force. Only the header is kept in memory."""
    rest = apply.streamed(content.chunks(MAX_CHUNK), edits)
    start = b""
    for chunk in rest:
        start += chunk
        if len(start) > apply.MAX_HEADER or _END.search(start):
            break
    end = apply.reach(start)
    behind = start[end:]
    behind = behind[2:] if behind.startswith(b"\r\n") else behind.removeprefix(b"\n")
    fields = [Field(found[1], found[2]) for found in _FIELD.finditer(start[:end])]
    ours = _FIELD.match(content.header)
    at = next((at for at, field in enumerate(fields) if ours and field == (ours[1], ours[2])), -1)
    twins = 0
    if at >= 0:
        twins = sum(field.name.lower() == fields[at].name.lower() for field in fields[:at])
        del fields[at]
    return Seen(fields, at, twins, _pieces(behind, rest))


def _pieces(first: bytes, rest: Iterable[bytes]) -> Iterator[bytes]:
    for chunk in chain((first,), rest):
        yield from (chunk[at : at + MAX_CHUNK] for at in range(0, len(chunk), MAX_CHUNK))


# ---------------------------------------------------------------------- what it wants


class Wanted(NamedTuple):
    """`quarantine`: why it wants the message kept, "" if it does not."""

    edits: tuple[Edit, ...] = ()
    quarantine: str = ""


def wanted(said: Sequence[Modification], seen: Seen, *, leading_space: bool, utf8: bool) -> Wanted:
    """Modifications as edits, in their order. Raises ProtocolError."""
    edits: list[Edit] = []
    body: list[bytes] = []
    kept = ""
    for one in said:
        if isinstance(one, ReplaceBody):
            body.append(one.chunk)
        elif isinstance(one, Quarantine):
            kept = one.reason.decode("utf-8", "replace").strip() or "quarantined"
        elif isinstance(one, AddHeader | InsertHeader | ChangeHeader):
            edits.append(_of_header(one, seen, leading_space))
            seen = _moved(seen, edits[-1])
        else:
            edits.append(_of_envelope(one, utf8))
    if body:
        value, encoding = text(b"".join(body))
        edits.append(Edit("body", value=value, encoding=encoding))
    return Wanted(tuple(edits), kept)


def _of_header(one: AddHeader | InsertHeader | ChangeHeader, seen: Seen, leading_space: bool) -> Edit:
    if not _NAME.match(one.name) or one.name.endswith(b"*"):
        raise ProtocolError(f"{one.name[:80]!r} is no name of a header field")
    name = one.name.decode("ascii")
    value, encoding = text(one.value.removeprefix(b" ") if leading_space else one.value)
    tight = leading_space and not one.value.startswith(b" ")  # it is the filter that writes the blank, or does not
    if isinstance(one, AddHeader):
        return Edit("append", name, value, encoding=encoding, tight=tight)
    if isinstance(one, InsertHeader):
        return Edit("insert", name, value, _place(one.position, seen.above), encoding=encoding, tight=tight)
    position = max(one.position, 1)
    if seen.above >= 0 and name.lower() == "received" and position > seen.twins:
        position += 1
    if not one.value:
        return Edit("delete", name, index=position)
    return Edit("change", name, value, position, encoding=encoding, tight=tight)


def _place(position: int, above: int) -> int:
    """Among all fields: 0 is above all, 1 below the first one, ours if that is on top. Where there is none of ours, 1 is
    above all that the milter saw."""
    return position if above >= 0 else max(position - 1, 0)


def _moved(seen: Seen, edit: Edit) -> Seen:
    """Where our own field stands once `edit` is in force."""
    twin = edit.name.lower() == "received"
    if edit.op == "insert" and edit.index <= seen.above:
        return seen._replace(above=seen.above + 1, twins=seen.twins + twin)
    if edit.op == "delete" and twin and edit.index <= seen.twins:
        return seen._replace(above=seen.above - 1, twins=seen.twins - 1)
    return seen


def _of_envelope(one: AddRecipient | DeleteRecipient | ChangeSender, utf8: bool) -> Edit:
    bare = one.address.strip().removeprefix(b"<").removesuffix(b">")
    try:
        address = parse_address(bare, utf8=utf8)[0].text if bare else ""
    except AddressError as error:
        raise ProtocolError(f"{one.address[:80]!r} is no address: {error}") from None
    if isinstance(one, DeleteRecipient):
        return Edit("delete_recipient", value=address)
    arguments = (one.arguments or b"").decode("utf-8", "replace")
    if isinstance(one, ChangeSender):
        return Edit("sender", arguments, address)
    if not address:
        raise ProtocolError("an empty recipient")
    return Edit("add_recipient", arguments, address)
