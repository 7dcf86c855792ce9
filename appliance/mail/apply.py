"""Edits put into force while a message is sent: the content itself is never rewritten on disk.

Contract: pure and byte-exact: what no edit names leaves as it came. Edits act in list order, each on the header as
the ones before left it. The envelope's edits (sender, add_recipient, delete_recipient) are in the trailer already
when a message is queued and mean nothing here. A header without an end (over 1 MB, or no empty line) is edited as far
as it is a header. What failure means for the mail: nothing fails; a change of a field that is not there adds it
(milter convention).
"""

import re
from collections.abc import Iterable, Iterator, Sequence

from appliance.mail.edits import Edit

#: More than this is not looked at for the end of the header.
MAX_HEADER = 1 << 20
_ONE = rb"[!-9;-~]++[ \t]*+:[^\r\n]*+(?:\r?\n[ \t][^\r\n]*+)*+(?:\r?\n|\Z)"
_FIELD = re.compile(_ONE)
_FIELDS = re.compile(b"(?:" + _ONE + b")*+")
_FIELD_NAME = re.compile(rb"[!-9;-~]+")
_END = re.compile(rb"\r?\n\r?\n|\A\r?\n")


def split(content: bytes) -> tuple[bytes, bytes]:
    """(header, all the rest: the empty line and the body). The header ends where a line is no field any more."""
    found = _FIELDS.match(content)
    end = found.end() if found else 0
    return content[:end], content[end:]


def field(edit: Edit) -> bytes:
    """The header field that `edit` writes, CRLF at its end. A value can neither end the header nor begin a new field."""
    lines = [line for line in edit.value.replace("\r\n", "\n").replace("\r", "\n").split("\n") if line.strip()]
    folded = [line if line[0] in " \t" else f"\t{line}" for line in lines[1:]]
    text = "\r\n".join([f"{edit.name}: {lines[0] if lines else ''}", *folded])
    return text.encode("utf-8", "surrogateescape") + b"\r\n"


def header(block: bytes, edits: Iterable[Edit]) -> bytes:
    """The header fields `block` (no empty line at its end) with `edits` in force."""
    fields: list[bytes] = _FIELD.findall(block)
    if fields and not fields[-1].endswith(b"\n"):
        fields[-1] += b"\r\n"
    for edit in edits:
        _edit(fields, edit)
    return b"".join(fields)


def _edit(fields: list[bytes], edit: Edit) -> None:
    if edit.op == "prepend":
        fields.insert(0, field(edit))
    elif edit.op == "append":
        fields.append(field(edit))
    elif edit.op in ("change", "delete"):
        name = edit.name.lower().encode("utf-8", "surrogateescape")
        places = [number for number, raw in enumerate(fields) if _named(raw) == name]
        if edit.op == "delete":
            for number in reversed(places if edit.index == 0 else places[edit.index - 1 : edit.index]):
                del fields[number]
        elif len(places) >= max(edit.index, 1):
            fields[places[max(edit.index, 1) - 1]] = field(edit)
        else:
            fields.append(field(edit))


def _named(raw: bytes) -> bytes:
    found = _FIELD_NAME.match(raw)
    return found[0].lower() if found else b""


def _body(edits: Sequence[Edit]) -> bytes | None:
    """The new body, CRLF line ends, or None."""
    bodies = [edit.value for edit in edits if edit.op == "body"]
    if not bodies:
        return None
    text = bodies[-1].replace("\r\n", "\n").replace("\r", "\n").replace("\n", "\r\n")
    return text.encode("utf-8", "surrogateescape")


def on_top(edits: Sequence[Edit]) -> bytes | None:
    """The octets to put before the content if that is all that `edits` do (the usual case), else None."""
    top = b""
    for edit in edits:
        if edit.op == "prepend":
            top = field(edit) + top
        elif edit.op in ("append", "change", "delete", "body"):
            return None
    return top


def whole(content: bytes, edits: Sequence[Edit]) -> bytes:
    """A message in memory with `edits` in force."""
    top = on_top(edits)
    if top is not None:
        return top + content
    block, rest = split(content)
    body = _body(edits)
    return header(block, edits) + (rest if body is None else b"\r\n" + body)


def streamed(chunks: Iterable[bytes], edits: Sequence[Edit]) -> Iterator[bytes]:
    """The same for a message that comes in pieces; of those only the header is kept in memory."""
    top = on_top(edits)
    rest = iter(chunks)
    if top is not None:
        if top:
            yield top
        yield from rest
        return
    start = b""
    for chunk in rest:
        start += chunk
        if _END.search(start) or len(start) > MAX_HEADER:
            break
    yield whole(start, edits)
    if _body(edits) is None:
        yield from rest
