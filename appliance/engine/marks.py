"""Our own header fields: what a mark looks like, and how forged ones are taken out (threats A7).

Contract: `X-Postgate-Mark: check=outcome`, one field a mark. On arrival is removed, so that whoever reads ours behind the
gateway may believe it: every X-Postgate- field, and every Authentication-Results that says it is by us (case, folding,
comments, quotes, version, final dot, a blank before the colon) or cannot be read; from strangers also every Received-SPF
and the fields of `[gateway] strip_fields`. Wherever they stand: also behind a line that is no field, where some readers
go on, and however long the header is. Results of others and ARC sets stay as they are: seals cover those.
"""

import re
from collections.abc import Iterable, Sequence
from functools import lru_cache

from appliance.mail import apply
from appliance.mail.authserv import claims_to_be
from appliance.mail.context import Context
from appliance.mail.edits import Edit
from appliance.mail.ports import Content, Site

MARK_FIELD = "X-Postgate-Mark"
RESULTS = "authentication-results"
_RESULTS = RESULTS.encode()
#: All that is ours alone, and what strangers may not say of themselves.
FAMILY = "x-postgate-*"
OF_STRANGERS = ("received-spf",)
#: Fields that are taken out one by one; where there are more, all that are called so go.
MOST = 50
_EMPTY_LINE = re.compile(rb"\n\r?\n")


def mark_edits(marks: Iterable[str]) -> tuple[Edit, ...]:
    """Marks ("check:outcome") as header fields, the first of them topmost."""
    return tuple(Edit("prepend", MARK_FIELD, mark.replace(":", "=", 1)) for mark in reversed(list(marks)))


def strip_forged(ctx: Context, site: Site) -> tuple[Edit, ...]:
    """What takes the forged fields out of the message of `ctx`."""
    if ctx.content is None or ctx.role == "reinject":
        return ()
    stranger = ctx.role == "inbound" and not ctx.client.trusted_relay
    families = (FAMILY, *OF_STRANGERS, *site.strip_fields) if stranger else (FAMILY,)
    needles, quick, whole = _sought(families)
    header = ctx.content.header if ctx.content.header_complete else _whole_header(ctx.content)
    lower = header.lower()
    for needle in needles:
        if needle in lower:
            break
    else:  # nearly always; a generator costs more than all else here
        return ()
    served = (site.authserv_id or site.hostname, site.hostname)
    pattern = quick if header.count(b"\r") == header.count(b"\r\n") else whole
    forged = [
        (found[1].decode("ascii").lower(), found.start(1), _line_end(header, found.end()))
        for found in pattern.finditer(header)
        if found[1].lower() != _RESULTS or claims_to_be(found[2], served)
    ]
    reach = apply.reach(header) if forged else 0
    names = {name for name, start, _ in forged if start < reach}
    within = [(start, end) for name, start, end in forged if start < reach and name == RESULTS]
    behind = [(start, end) for _, start, end in forged if start >= reach]
    edits = [Edit("delete", family.lower()) for family in families if any(_is(name, family) for name in names)]
    return (*edits, *_cuts(within, behind))


def _cuts(within: Sequence[tuple[int, int]], behind: Sequence[tuple[int, int]]) -> list[Edit]:
    """Spans of the content as received, taken out: whole fields of the header, anything behind it."""
    if len(within) > MOST:
        edits = [Edit("delete", RESULTS)]
    else:
        edits = [Edit("splice", index=start, length=end - start) for start, end in within]
    joined: list[tuple[int, int]] = []
    for start, end in behind:
        if joined and start <= joined[-1][1]:
            start = joined.pop()[0]
        joined.append((start, end))
    if len(joined) > MOST:
        joined = [(joined[0][0], joined[-1][1])]
    return edits + [Edit("splice", index=start, length=end - start) for start, end in joined]


@lru_cache(maxsize=64)
def _sought(families: tuple[str, ...]) -> tuple[tuple[bytes, ...], re.Pattern[bytes], re.Pattern[bytes]]:
    """What to look for in a header in lower case, and the fields themselves, (name, value): behind a line's end, which is
    found fast and enough as long as no CR stands alone, and wherever any reader may see a field."""
    names = [family.lower().rstrip("*") for family in (*families, RESULTS)]
    parts = [
        re.escape(name.encode()) + (rb"[!-9;-~]*" if family.endswith("*") else b"")
        for name, family in zip(names, (*families, RESULTS), strict=True)
    ]
    field = rb"(" + b"|".join(parts) + rb")[\0-\x09\x0b\x0c\x0e-\x20]*(?:\r?\n[ \t]+)*:([^\r\n]*(?:\r?\n[ \t][^\r\n]*)*)"
    quick = re.compile(rb"\n" + field, re.IGNORECASE)
    return tuple(name.encode() for name in names), quick, re.compile(rb"(?:\A|(?<=[\r\n]))" + field, re.IGNORECASE)


def _line_end(header: bytes, at: int) -> int:
    """Behind the line end that stands at `at`."""
    return at + 2 if header.startswith(b"\r\n", at) else min(at + 1, len(header))


def _is(name: str, family: str) -> bool:
    family = family.lower()
    return name.startswith(family[:-1]) if family.endswith("*") else name == family


def _whole_header(content: Content) -> bytes:
    """All of a header that is longer than what is kept of it at hand."""
    read = bytearray()
    for chunk in content.chunks():
        begin = max(0, len(read) - 2)
        read += chunk
        if found := _EMPTY_LINE.search(read, begin):
            return bytes(read[: found.end()])
    return bytes(read)
