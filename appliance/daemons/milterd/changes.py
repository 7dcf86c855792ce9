"""Edits of a decision as edits that a milter asks its MTA for, over the header as the MTA has it.

Contract: pure. The result of the MTA's edits is what mail.apply makes of the same edits, whichever of the two index rules
the MTA has (protocol.milter.fields): deletions and changes first, from the last field of a name up, then what is put
between fields, then what is added at the end, then what goes on top, below the MTA's own Received. Where an MTA without
the shifting rule has fields deleted above, a field that is put between others may stand some places too low.
What failure means for the mail: nothing fails here.
"""

from collections.abc import Callable, Iterable, Sequence
from typing import NamedTuple

from appliance.mail import apply
from appliance.mail.apply import folded
from appliance.mail.edits import Edit
from appliance.protocol.milter.packets import (
    AddHeader,
    AddRecipient,
    ChangeHeader,
    ChangeSender,
    DeleteRecipient,
    InsertHeader,
    Modification,
    ReplaceBody,
)

#: Writes a value as it goes over the wire.
Writer = Callable[[bytes], bytes]

#: Edits that need no look at the fields that are there: a new one on top, and what is not about the header.
_NO_LOOK = frozenset({"prepend", "body", "sender", "add_recipient", "delete_recipient"})


class Seen(NamedTuple):
    """A field as the MTA told it: `value` is all behind the colon, lines ended by LF; it stands at [start, end) of the
    content that was judged."""

    name: bytes
    value: bytes
    start: int
    end: int


class _Entry:
    """A field on its way through the edits. `origin`: its place among those seen, -1 for a new one, None for the field
    that is ours alone (the trace field on top of the judged content)."""

    __slots__ = ("name", "origin", "touched", "value")

    def __init__(self, name: bytes, value: bytes, origin: int | None, touched: bool = False) -> None:
        self.name, self.value, self.origin, self.touched = name, value, origin, touched


def of_header(seen: Sequence[Seen], top: bytes, edits: Sequence[Edit], leading_space: bool) -> list[Modification]:
    """What to ask for so that the header becomes what `edits` make of it. `top`: name of the field of ours above it."""

    def written(value: bytes) -> bytes:
        return value if leading_space else value.removeprefix(b" ")

    if all(edit.op in _NO_LOOK for edit in edits):  # nearly always; a look at thousands of fields would keep the loop
        on_top = [edit for edit in edits if edit.op == "prepend"]
        return [InsertHeader(1, _octets(edit.name), written(_value(edit))) for edit in on_top]
    entries = [_Entry(top, b"", None), *(_Entry(one.name, one.value, at) for at, one in enumerate(seen))]
    between: dict[int, list[tuple[bytes, bytes]]] = {}
    for edit in edits:
        if edit.op == "splice":
            _splice(entries, seen, edit, between)
        else:
            _edit(entries, edit)
    new = [entry.origin == -1 for entry in entries]
    first = next((at for at, is_new in enumerate(new) if not is_new), len(new))
    tops, ends = entries[:first], _put_between(entries[first:], between)
    kept = {entry.origin: entry for entry in entries if entry.origin is not None and entry.origin >= 0}
    asked: list[Modification] = [*_changed(seen, kept, written)]
    asked += _inserted(seen, kept, between, written)
    asked += [AddHeader(entry.name, written(entry.value)) for entry in ends]
    asked += [InsertHeader(1, entry.name, written(entry.value)) for entry in reversed(tops)]
    return asked


def _put_between(entries: Sequence[_Entry], between: dict[int, list[tuple[bytes, bytes]]]) -> list[_Entry]:
    """New fields that stand above one of the MTA's go `between`; the others, at the end, are given."""
    ends: list[_Entry] = []
    inside: list[tuple[int, _Entry]] = []
    below = None
    for entry in reversed(entries):
        if entry.origin is not None and entry.origin >= 0:
            below = entry.origin
        elif entry.origin == -1 and below is None:
            ends.append(entry)
        elif entry.origin == -1 and below is not None:
            inside.append((below, entry))
    for at, entry in reversed(inside):
        between.setdefault(at, []).append((entry.name, entry.value))
    return ends[::-1]


def _changed(seen: Sequence[Seen], kept: dict[int, _Entry], written: Writer) -> Iterable[ChangeHeader]:
    """Deletions and changes, from the last field up."""
    counts: dict[bytes, int] = {}
    numbers = []
    for one in seen:
        name = one.name.lower()
        counts[name] = counts.get(name, 0) + 1
        numbers.append(counts[name])
    for at in range(len(seen) - 1, -1, -1):
        entry = kept.get(at)
        if entry is None:
            yield ChangeHeader(numbers[at], seen[at].name, b"")
        elif entry.touched:
            yield ChangeHeader(numbers[at], entry.name, written(entry.value) or b" ")


def _inserted(
    seen: Sequence[Seen],
    kept: dict[int, _Entry],
    between: dict[int, list[tuple[bytes, bytes]]],
    written: Writer,
) -> Iterable[InsertHeader]:
    """Fields between others, the lowest first, so that none moves the place of another."""
    for at in sorted(between, reverse=True):
        place = 1 + sum(index in kept for index in range(at))
        for name, value in reversed(between[at]):
            yield InsertHeader(place, name, written(value))


def _edit(entries: list[_Entry], edit: Edit) -> None:
    """As mail.apply does it."""
    if edit.op == "prepend":
        entries.insert(0, _new(edit))
    elif edit.op == "insert":
        entries.insert(edit.index, _new(edit))
    elif edit.op == "append":
        entries.append(_new(edit))
    elif edit.op in ("change", "delete"):
        places = _places(entries, _octets(edit.name.lower()))
        if edit.op == "delete":
            for at in reversed(places if edit.index == 0 else places[edit.index - 1 : edit.index]):
                if entries[at].origin is not None:
                    del entries[at]
        elif len(places) >= max(edit.index, 1):
            entry = entries[places[max(edit.index, 1) - 1]]
            entry.name, entry.value, entry.touched = _octets(edit.name), _value(edit), True
        else:
            entries.append(_new(edit))


def _splice(
    entries: list[_Entry], seen: Sequence[Seen], edit: Edit, between: dict[int, list[tuple[bytes, bytes]]]
) -> None:
    """Octets of the judged content, cut out or put in. What touches a field that an edit has changed is too late."""
    start, end, octets = edit.index, edit.index + edit.length, apply.octets(edit.value, edit.encoding)
    if not edit.length:
        at = next((at for at, one in enumerate(seen) if one.start == start), None)
        if at is not None and (field := _field(octets)):
            between.setdefault(at, []).append(field)
        return
    for entry in [one for one in entries if one.origin is not None and one.origin >= 0]:
        one = seen[entry.origin or 0]
        if entry.touched or not (one.start < end and start < one.end):
            continue
        raw = one.name + b":" + one.value + b"\n"
        rest = _without(raw, one, start, end) if (start > one.start or end < one.end) else octets
        field = _field(rest)
        if field is None:
            entries.remove(entry)
        elif field[0].lower() != one.name.lower():  # a milter cannot give a field another name
            entries.remove(entry)
            between.setdefault(entry.origin or 0, []).append(field)
        else:
            entry.name, entry.value, entry.touched = *field, True


def _without(raw: bytes, one: Seen, start: int, end: int) -> bytes:
    """A field of which a part is cut out. The judged content has CRLF where the MTA has LF."""
    judged = raw.replace(b"\n", b"\r\n")
    return judged[: max(0, start - one.start)] + judged[max(0, end - one.start) :]


def _field(octets: bytes) -> tuple[bytes, bytes] | None:
    """(name, value) of one whole field; None if nothing of that kind is left."""
    name, colon, value = octets.replace(b"\r\n", b"\n").removesuffix(b"\n").partition(b":")
    return (name.rstrip(b" \t"), value) if colon and name.strip() else None


def _places(entries: Sequence[_Entry], name: bytes) -> list[int]:
    if name.endswith(b"*"):
        return [at for at, entry in enumerate(entries) if entry.name.lower().startswith(name[:-1])]
    return [at for at, entry in enumerate(entries) if entry.name.lower() == name]


def _new(edit: Edit) -> _Entry:
    return _Entry(_octets(edit.name), _value(edit), -1)


def _value(edit: Edit) -> bytes:
    return (b"" if edit.tight else b" ") + apply.octets(folded(edit.value).replace("\r\n", "\n"), edit.encoding)


def _octets(text: str) -> bytes:
    return text.encode("utf-8", "surrogateescape")


def of_envelope(
    edits: Iterable[Edit], written: Iterable[tuple[str, bytes]], arguments: bool = True
) -> list[Modification]:
    """Sender and recipients. `written`: recipients, each as the MTA told it, which is how it knows it again. `arguments`:
    it takes some with a recipient."""
    told = [(address.lower(), octets) for address, octets in written]
    asked: list[Modification] = []
    for edit in edits:
        address = b"<" + _octets(edit.value.removeprefix("<").removesuffix(">")) + b">"
        if edit.op == "sender":
            asked.append(ChangeSender(address, _octets(edit.name) or None))
        elif edit.op == "add_recipient":
            asked.append(AddRecipient(address, (_octets(edit.name) or None) if arguments else None))
        elif edit.op == "delete_recipient":
            gone = edit.value.removeprefix("<").removesuffix(">").lower()
            asked = [
                one for one in asked if not (isinstance(one, AddRecipient) and one.address[1:-1].lower() == gone.encode())
            ]
            asked += [DeleteRecipient(octets) for known, octets in told if known == gone]
    return asked


def touches_body(edits: Iterable[Edit], start: int) -> bool:
    """Do any edits change what stands from `start` of the content on?"""
    return any(edit.op == "body" or (edit.op == "splice" and edit.index >= start) for edit in edits)


def of_body(edited: bytes) -> list[Modification]:
    """The new body out of a whole edited message."""
    return [ReplaceBody(edited.partition(b"\r\n\r\n")[2])]
