"""EHLO: what a server offers, and what a client reads from it (RFC 5321 4.1.1.1, RFC 1869).

Contract: `offer` writes exactly the features it is given, in their order; `parse` never fails: a line that is no keyword
is not there. What failure means for the mail: an extension that was not understood is not used.
"""

import re
from collections.abc import Iterable, Sequence

_KEYWORD = re.compile(r"([A-Za-z0-9][A-Za-z0-9-]*)(?:[ =]+(.*))?")


def offer(hostname: str, features: Sequence[str]) -> bytes:
    """The reply to EHLO: `hostname`, then a line for each feature ("PIPELINING", "SIZE 52428800")."""
    *first, last = (hostname, *features)
    return "".join([*(f"250-{line}\r\n" for line in first), f"250 {last}\r\n"]).encode("ascii")


def parse(lines: Iterable[str]) -> dict[str, str]:
    """Keyword (upper case) to argument ("" if none) from the lines of a reply to EHLO; the first is the greeting.

    "AUTH=PLAIN" of old servers counts as "AUTH PLAIN"; of a keyword said twice the arguments are joined.
    """
    features: dict[str, str] = {}
    for line in list(lines)[1:]:
        if match := _KEYWORD.fullmatch(line.strip()):
            keyword = match[1].upper()
            before = features.get(keyword, "")
            features[keyword] = f"{before} {match[2] or ''}".strip()
    return features
