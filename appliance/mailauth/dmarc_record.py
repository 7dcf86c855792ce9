"""DMARC policy records (RFC 9989 sections 4.7 and 4.8): the text of one, and which of several counts.

Contract: pure, total, linear. A text that does not begin with `v=DMARC1` is no record (None); two records at one name are
none. Unknown tags are ignored, so are pct, rf and ri of RFC 7489: nothing is sampled. A value that is wrong means the
default; a wrong p, sp or np makes the record `broken`: it counts as p=none if it says where reports go, else not at all.
"""

import re
from collections.abc import Sequence
from functools import lru_cache
from typing import Literal, cast

import msgspec

Policy = Literal["none", "quarantine", "reject"]

_VERSION = re.compile(r"v[ \t]*=[ \t]*DMARC1[ \t]*(?:;|\Z)")
_TAG = re.compile(r"[ \t]*([A-Za-z]{1,32})[ \t]*=[ \t]*([ -:<-~]*?)[ \t]*\Z")
_POLICIES = frozenset({"none", "quarantine", "reject"})
_URI = re.compile(r"[A-Za-z][A-Za-z0-9+.-]*:[^\s,;]+")
#: A record longer than this is no record; more tags than this are not read.
MOST = 4096
MOST_TAGS = 40


class Record(msgspec.Struct, frozen=True, kw_only=True):
    """One record. `p` is what stands there or "none"; `sp` and `np` are "" where they are absent. `psd`: y, n or u."""

    text: str
    p: Policy = "none"
    sp: Policy | Literal[""] = ""
    np: Policy | Literal[""] = ""
    adkim: Literal["r", "s"] = "r"
    aspf: Literal["r", "s"] = "r"
    psd: Literal["y", "n", "u"] = "u"
    testing: bool = False
    fo: str = ""
    rua: tuple[str, ...] = ()
    broken: bool = False


def parse(text: str) -> Record | None:
    """The record that `text` is, or None."""
    return _parse(text) if len(text) <= MOST and _VERSION.match(text) else None


@lru_cache(maxsize=2048)
def _parse(text: str) -> Record:
    tags: dict[str, str] = {}
    for part in text.split(";", MOST_TAGS + 1)[1 : MOST_TAGS + 1]:
        if found := _TAG.match(part):
            tags.setdefault(found[1].lower(), found[2])
    asked = {name: tags[name].lower() for name in ("p", "sp", "np") if name in tags}
    valid = {name: word for name, word in asked.items() if word in _POLICIES}
    return Record(
        text=text,
        p=cast(Policy, valid.get("p", "none")),
        sp=cast(Policy, valid.get("sp", "")),
        np=cast(Policy, valid.get("np", "")),
        adkim="s" if tags.get("adkim", "").lower() == "s" else "r",
        aspf="s" if tags.get("aspf", "").lower() == "s" else "r",
        psd=cast(Literal["y", "n", "u"], psd) if (psd := tags.get("psd", "").lower()) in ("y", "n") else "u",
        testing=tags.get("t", "").lower() == "y",
        fo=tags.get("fo", ""),
        rua=tuple(uri for part in tags.get("rua", "").split(",") if (uri := part.strip()) and _URI.fullmatch(uri)),
        broken=len(valid) != len(asked),
    )


def choose(texts: Sequence[str]) -> Record | None:
    """The one record among the TXT records of a name; several are none (RFC 9989 4.10)."""
    if len(texts) == 1:
        return parse(texts[0])
    found = [record for text in texts if (record := parse(text))]
    return found[0] if len(found) == 1 else None
