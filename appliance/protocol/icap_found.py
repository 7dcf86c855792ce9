"""What an ICAP answer says of the content: infection fields of the usual vendors, a blocked page, or nothing.

Contract: a field that names something found counts whatever else stands beside it; without one a content that came back
as it was sent, or 204, is clean; a refusal of the HTTP answer inside is "blocked"; another content is "changed". Any
other ICAP status is ProtocolError. What failure means for the mail: ProtocolError is "not scanned", never clean.
"""

import re
from typing import Literal, NamedTuple

from appliance.protocol.errors import ProtocolError
from appliance.protocol.http import Head
from appliance.protocol.icap import Answer

Kind = Literal["clean", "virus", "policy", "container", "blocked", "changed"]

#: `Type=0; Resolution=2; Threat=Name;` (draft-stecher-icap-subid).
_INFECTION = re.compile(
    r"Type[ \t]*=[ \t]*(\d)[ \t]*;[ \t]*Resolution[ \t]*=[ \t]*\d[ \t]*;[ \t]*Threat[ \t]*=[ \t]*([^;]*)", re.I
)
_TYPES: dict[str, Kind] = {"0": "virus", "1": "policy", "2": "container"}
#: Fields whose value is a name of what was found, and values that say that nothing was.
_NAMES = (
    *("x-virus-id", "x-virus-name", "x-virus", "x-threat-name", "x-infection-name", "x-blocked-infection"),
    "x-fsecure-infection-name",
)
#: Fields that say it in a word, whatever the rest of the answer is.
_STATES = ("x-response-info", "x-fsecure-scan-result")
_BAD = re.compile(r"(?:blocked|infected|suspect|suspected|virus found)\b", re.I)
_NOTHING = frozenset({"", "-", "0", "none", "no", "clean", "no virus", "no threats", "not infected", "unknown"})
_POLICY = ("x-blocked-reason", "x-block-reason", "x-block-result")
_LONGEST, _MOST = 200, 20
#: c-icap's virus_scan makes its ISTag of what its engines say of their signatures: this is the MD5 of nothing.
_NO_ENGINE = "1B2M2Y8AsgTpgAmY7PhCfg"


class Found(NamedTuple):
    """`names` of what was found, in the service's words."""

    kind: Kind
    names: tuple[str, ...] = ()


def found(answer: Answer) -> Found:
    """Raises ProtocolError."""
    named = _named(answer.head)
    if named is not None and answer.code in (200, 201, 204, 206, 403):
        return named
    if (state := _state(answer.head)) and answer.code in (200, 201, 204, 206, 403):
        return Found("blocked", (state,))
    if answer.code == 204:
        return Found("clean")
    if answer.code not in (200, 201):
        raise ProtocolError(f"the service answered {answer.code} {answer.reason}")
    if answer.status >= 300:
        return Found("blocked", (f"HTTP {answer.status}",))
    if answer.unchanged is None:
        raise ProtocolError(f"the service answered {answer.code} without a content")
    return Found("clean" if answer.unchanged else "changed")


def blind(answer: Answer) -> bool:
    """Is it the answer of a c-icap that found no engine when it started? It says 204 to everything."""
    return _NO_ENGINE in answer.head.get("istag")


def _named(head: Head) -> Found | None:
    """What infection fields say, the worst first; None: they say nothing."""
    said: dict[Kind, list[str]] = {}
    for value in head.every("x-infection-found"):
        match = _INFECTION.search(value)
        kind = _TYPES.get(match[1], "virus") if match else "virus"
        name = (match[2] if match else value).strip()
        if name.lower() not in _NOTHING or match:
            said.setdefault(kind, []).append(name or "unnamed")
    for value in head.every("x-violations-found"):
        said.setdefault("virus", []).extend(_violations(value))
    for field in _NAMES:
        values = [value.strip('" ') for value in head.every(field)]
        said.setdefault("virus", []).extend(value for value in values if value.lower() not in _NOTHING)
    for field in _POLICY:
        said.setdefault("policy", []).extend(value for value in head.every(field) if value.lower() not in _NOTHING)
    for kind in ("virus", "policy", "container"):
        if names := said.get(kind):
            return Found(kind, tuple(dict.fromkeys(_printable(name) for name in names))[:_MOST])
    return None


def _state(head: Head) -> str:
    """What a field says that names nothing, "" if it is nothing bad."""
    return next((_printable(value) for field in _STATES for value in head.every(field) if _BAD.match(value)), "")


def _violations(value: str) -> list[str]:
    """`n`, then of each the file, the threat, a number, what was done: each on a line of its own."""
    count, *lines = [item.strip() for item in value.split("\t") if item.strip()]
    if not count.isdigit() or int(count) == 0:
        return [] if count in _NOTHING or count.isdigit() else [count]
    return lines[1::4] or ["unnamed"]


def _printable(text: str) -> str:
    return "".join(char if " " <= char <= "~" else "?" for char in text)[:_LONGEST]
