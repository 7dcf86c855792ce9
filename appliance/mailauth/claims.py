"""Authentication-Results that others wrote, as far as a sealed chain vouches for them (RFC 8601, RFC 8617).

Contract: pure, total, linear, no recursion (authres recurses into comments). Nothing is believed by itself: `vouched`
says which listed sealer claims that the author's domain passed, and only a chain that verifies as a whole is asked.
"""

import re
from collections.abc import Callable, Mapping

import msgspec

from appliance.mail.auth import ArcReport

#: Octets of a field that are read, results that are looked at.
MOST = 16384
MANY = 50

_TOKEN = re.compile(r'"((?>(?:[^"\\]|\\.)*))"|([()])|(\\.)|(;)|([^"();\\]+)|(.)', re.DOTALL)
_EQUALS = re.compile(r"[ \t\r\n]*=[ \t\r\n]*")
_METHOD = re.compile(r"([A-Za-z0-9-]+)(?:/\d+)?=([A-Za-z]+)\Z")


class Claim(msgspec.Struct, frozen=True):
    """One result: "dmarc", "pass", {"header.from": "example.org"}."""

    method: str
    result: str
    properties: Mapping[str, str] = {}


def read(text: str) -> tuple[Claim, ...]:
    """The results in the payload of an Authentication-Results field (with or without an instance tag)."""
    return tuple(claim for part in _parts(text[:MOST])[:MANY] if (claim := _claim(part)) is not None)


def _parts(text: str) -> list[str]:
    """What stands between semicolons, comments taken out, quotes off."""
    parts, depth = [""], 0
    for found in _TOKEN.finditer(text):
        quoted, bracket, _, semicolon, plain, other = found.groups()
        if bracket:
            depth = depth + 1 if bracket == "(" else max(0, depth - 1)
        elif depth:
            continue
        elif semicolon:
            parts.append("")
        elif quoted is not None:
            parts[-1] += re.sub(r"\s", "_", quoted)
        else:
            parts[-1] += plain or other or ""
    return parts if depth == 0 else parts[:-1]


def _claim(part: str) -> Claim | None:
    words = _EQUALS.sub("=", part).split()
    found = _METHOD.match(words[0]) if words else None
    if found is None:
        return None
    properties: dict[str, str] = {}
    for word in words[1:]:
        name, equals, value = word.partition("=")
        if equals:
            properties.setdefault(name.lower(), value)
    return Claim(found[1].lower(), found[2].lower(), properties)


def vouched(report: ArcReport, author: str, listed: Callable[[str], bool]) -> str:
    """The listed sealer whose sealed results say that the author's domain passed, "" if none does.

    The whole chain must verify, and from that instance on every sealer must be listed: each later one could have changed
    what the message says."""
    if report.result != "pass" or not report.sealers or len(report.claims) != len(report.sealers):
        return ""
    for sealer, text in zip(reversed(report.sealers), reversed(report.claims), strict=True):
        if not listed(sealer):
            return ""
        if any(_passes(claim, author) for claim in read(text)):
            return sealer
    return ""


def _passes(claim: Claim, author: str) -> bool:
    """`dmarc=pass` for the very domain, or `dkim=pass` of it."""
    if claim.result != "pass":
        return False
    names = {"dmarc": ("header.from",), "dkim": ("header.d", "header.i")}.get(claim.method, ())
    return any(claim.properties.get(name, "").rpartition("@")[2].lower().rstrip(".") == author for name in names)
