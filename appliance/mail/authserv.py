"""Who claims to have written an Authentication-Results field: its authserv-id (RFC 8601 2.2), read as lenient readers do.

Contract: pure, total, linear, no recursion. What cannot be read counts as ours: nobody needs it, and somebody behind us
may read it in his own way (threats A7).
"""

import re
from collections.abc import Iterable
from functools import lru_cache

from appliance.protocol.smtp.domain import AddressError, parse_domain

#: Octets in which the id must stand.
MOST = 2048
#: As nearly all are written.
_SIMPLE = re.compile(rb"[ \t\r\n]*([A-Za-z0-9.-]{1,255})[ \t\r\n]*;")
#: What some readers leave out and others end at.
_CONTROL = re.compile(rb"[\x00-\x08\x0b\x0c\x0e-\x1f\x7f]")
_TOKEN = re.compile(r'"((?>(?:[^"\\]|\\.)*))"|([()])|\\(.)|(;)|([^"();\\]+)|(.)', re.DOTALL)


def servers(value: bytes) -> tuple[str, ...]:
    """All that a reader may take for the id: the first word, and all words before the results put together. Empty if it
    cannot be read."""
    text, depth = "", 0
    for found in _TOKEN.finditer(value[:MOST].decode("utf-8", "replace")):
        quoted, bracket, escaped, semicolon, plain, other = found.groups()
        if bracket:
            depth += 1 if bracket == "(" else -1
            text += " "
        elif depth > 0:
            continue
        elif semicolon:
            break
        elif other or depth < 0:
            return ()
        else:
            text += re.sub(r"\\(.)", r"\1", quoted) if quoted is not None else escaped or plain or ""
    words = text.replace("/", " ").split()
    if depth or not words:
        return ()
    return tuple(dict.fromkeys(_plain(name) for name in (words[0], "".join(words), "".join(words[:-1]) or words[0])))


def claims_to_be(value: bytes, names: Iterable[str]) -> bool:
    """Does this field say that one of `names` wrote it, or cannot be read?"""
    if simple := _SIMPLE.match(value):
        return simple[1].decode("ascii").lower().rstrip(".") in map(_plain, names)
    found = () if _CONTROL.search(value, 0, MOST) else servers(value)
    return not found or any(name in found for name in map(_plain, names))


@lru_cache(maxsize=1024)
def _plain(name: str) -> str:
    """Lower case, A-labels, no final dot."""
    try:
        return parse_domain(name)[0]
    except AddressError:
        return name.lower().rstrip(".")
