"""Edits put into force while a message is sent: the content itself is never rewritten on disk.

Contract: pure and byte-exact: what no edit names leaves as it came. Edits act in list order, each on the header as
the ones before left it; splices act on what is left of the content as received: fields that an edit wrote are not theirs,
nor is a body that was replaced, and of those that overlap the first counts. The envelope's edits (sender, add_recipient,
delete_recipient) are in the trailer already when a message is queued and mean nothing here. A header without an end (over
1 MB, or no empty line) is edited as far as it is a header. What failure means for the mail: nothing fails; a change of a
field that is not there adds it (milter convention).
"""

import re
from collections import deque
from collections.abc import Iterable, Iterator, Sequence
from itertools import accumulate, chain

from appliance.mail.edits import Edit

#: More than this is not looked at for the end of the header.
MAX_HEADER = 1 << 20
_ONE = rb"[!-9;-~]++[ \t]*+:[^\r\n]*+(?>(?:\r?\n[ \t][^\r\n]*+)*)(?:\r?\n|\Z)"
_FIELD = re.compile(_ONE)
_FIELDS = re.compile(b"(?>(?:" + _ONE + b")*)")
_FIELD_NAME = re.compile(rb"[!-9;-~]+")
_END = re.compile(rb"\r?\n\r?\n|\A\r?\n")


def split(content: bytes) -> tuple[bytes, bytes]:
    """(header, all the rest: the empty line and the body). The header ends where a line is no field any more."""
    found = _FIELDS.match(content)
    end = found.end() if found else 0
    return content[:end], content[end:]


def reach(start: bytes) -> int:
    """Octets of the header that edits see: as far as it is one, of a header over MAX_HEADER whole fields only."""
    if len(start) <= MAX_HEADER:
        return len(split(start)[0])
    block = split(start[:MAX_HEADER])[0]
    if len(block) < MAX_HEADER:
        return len(block)
    end = block.rfind(b"\n") + 1
    while end > 0 and start[end : end + 1] in (b" ", b"\t"):
        end = block.rfind(b"\n", 0, end - 1) + 1
    return end


def field(edit: Edit) -> bytes:
    """The header field that `edit` writes, CRLF at its end."""
    return octets(f"{edit.name}:{'' if edit.tight else ' '}{folded(edit.value)}\r\n", edit.encoding)


def folded(text: str) -> str:
    """`text` so that it can neither end the header nor begin a new field."""
    lines = [line for line in text.replace("\r\n", "\n").replace("\r", "\n").split("\n") if line.strip()]
    return "\r\n".join([*lines[:1], *(line if line[0] in " \t" else f"\t{line}" for line in lines[1:])])


def header(block: bytes, edits: Sequence[Edit]) -> bytes:
    """The header fields `block` (no empty line at its end) with `edits` in force."""
    spliced = [edit for edit in edits if edit.op == "splice" and edit.index <= len(block)]
    found = fields(block, edits)
    return b"".join(_spliced(found, spliced) if spliced else (octets for octets, _ in found))


def fields(block: bytes, edits: Sequence[Edit]) -> list[tuple[bytes, int]]:
    """The fields of a header `block` with all edits but splices in force; each with where it stood in the content as
    received, -1 for those that edits wrote."""
    raw: list[bytes] = _FIELD.findall(block)
    found = list(zip(raw, accumulate(map(len, raw), initial=0), strict=False))
    if raw and not raw[-1].endswith(b"\n"):
        found[-1] = raw[-1] + b"\r\n", found[-1][1]
    for edit in edits:
        _edit(found, edit)
    return found


def _spliced(fields: Sequence[tuple[bytes, int]], edits: Sequence[Edit]) -> Iterator[bytes]:
    """The fields, those as received with what is put before them or in their place. What was to stand before one that an
    edit took out stands before the next one that is left, or at the end."""
    waiting = deque(sorted((edit for edit in edits if not edit.length), key=lambda edit: edit.index))
    replaced = {edit.index: edit for edit in reversed(edits) if edit.length}
    for raw, start in fields:
        while start >= 0 and waiting and waiting[0].index <= start:
            put_in = waiting.popleft()
            yield octets(put_in.value, put_in.encoding)
        edit = replaced.get(start)
        yield raw if edit is None else octets(edit.value, edit.encoding)
    yield from (octets(edit.value, edit.encoding) for edit in waiting)


def octets(text: str, encoding: str = "utf-8") -> bytes:
    """Text of an edit as it is sent."""
    return text.encode(encoding, "surrogateescape")


def _edit(fields: list[tuple[bytes, int]], edit: Edit) -> None:
    """`fields`: each with where it stood in the content as received, -1 for those that edits wrote."""
    if edit.op == "prepend":
        fields.insert(0, (field(edit), -1))
    elif edit.op == "append":
        fields.append((field(edit), -1))
    elif edit.op == "insert":
        fields.insert(edit.index, (field(edit), -1))
    elif edit.op in ("change", "delete"):
        places = _places(fields, octets(edit.name.lower()))
        if edit.op == "delete":
            for number in reversed(places if edit.index == 0 else places[edit.index - 1 : edit.index]):
                del fields[number]
        elif len(places) >= max(edit.index, 1):
            fields[places[max(edit.index, 1) - 1]] = field(edit), -1
        else:
            fields.append((field(edit), -1))


def _places(fields: Sequence[tuple[bytes, int]], name: bytes) -> list[int]:
    if name.endswith(b"*"):
        return [number for number, (raw, _) in enumerate(fields) if named(raw).startswith(name[:-1])]
    return [number for number, (raw, _) in enumerate(fields) if named(raw) == name]


def named(raw: bytes) -> bytes:
    """The name of a field in lower case, b"" for what is none."""
    found = _FIELD_NAME.match(raw)
    return found[0].lower() if found else b""


def _body(edits: Sequence[Edit]) -> bytes | None:
    """The new body, CRLF line ends, one behind the last line, too, or None."""
    bodies = [edit for edit in edits if edit.op == "body"]
    if not bodies:
        return None
    text = bodies[-1].value.replace("\r\n", "\n").replace("\r", "\n").replace("\n", "\r\n")
    text += "" if not text or text.endswith("\n") else "\r\n"
    return octets(text, bodies[-1].encoding)


def on_top(edits: Sequence[Edit]) -> bytes | None:
    """The octets to put before the content if that is all that `edits` do (the usual case), else None."""
    top = b""
    for edit in edits:
        if edit.op == "prepend":
            top = field(edit) + top
        elif edit.op in ("append", "insert", "change", "delete", "body", "splice"):
            return None
    return top


def whole(content: bytes, edits: Sequence[Edit]) -> bytes:
    """A message in memory with `edits` in force."""
    top = on_top(edits)
    return b"".join(_edited(content, (), edits)) if top is None else top + content


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
    yield from _edited(start, rest, edits)


def _edited(start: bytes, rest: Iterable[bytes], edits: Sequence[Edit]) -> Iterator[bytes]:
    """`start` has the header."""
    end = reach(start)
    block, behind = start[:end], start[end:]
    yield header(block, edits)
    body = _body(edits)
    if body is not None:
        yield b"\r\n" + body
        return
    yield from _splice(chain((behind,), rest), edits, len(block))


def _splice(chunks: Iterable[bytes], edits: Sequence[Edit], start: int) -> Iterator[bytes]:
    """`chunks`, which begin at `start` of the content as received, with the splices from there on in force."""
    # What is put in right behind the last field stands there already.
    behind = (e for e in edits if e.op == "splice" and (e.index > start or (e.index == start and e.length)))
    waiting = deque(sorted(behind, key=lambda e: e.index))
    at = free = start  # what stands before `free` is cut out
    for chunk in chunks:
        done, end = at, at + len(chunk)
        pieces = []
        while waiting and waiting[0].index < end:
            edit = waiting.popleft()
            if edit.index < free:
                continue
            pieces += [chunk[max(done, free) - at : edit.index - at], octets(edit.value, edit.encoding)]
            done, free = edit.index, edit.index + edit.length
        yield b"".join((*pieces, chunk[max(done, free) - at :])) if pieces or free > at else chunk
        at = end
    yield from (octets(edit.value, edit.encoding) for edit in waiting)
