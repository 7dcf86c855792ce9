"""Tables of those who are trusted until a day: `name  until=2027-03-31 proof=name` (key, then words).

Contract: read strictly: an entry with a word that is not understood, without an end or without its proof, trusts nobody;
`postgate check` names it. A key is a domain as it is, or `.example.org` for all below it. Days end in UTC.
"""

import re
from collections.abc import Iterable, Sequence
from datetime import UTC, date, datetime
from typing import NamedTuple

from appliance.mail.later import answered
from appliance.mail.lookup import Found, opened
from appliance.mail.ports import Ports, TableUnavailable

_WORD = re.compile(r"([a-z]+)=(\S+)\Z")
_NAME = re.compile(r"[.]?[A-Za-z0-9_-]{1,63}(?:[.][A-Za-z0-9_-]{1,63})*\Z")
#: How a forwarder proves that it is who the key says: its forward-confirmed name, or an SPF pass of MAIL FROM's domain.
PROOFS = ("name", "spf")
WORDS = ("until", "proof")


class Trust(NamedTuple):
    """One entry: trusted up to and including `until`, by this `proof` ("" where a table needs none)."""

    until: date
    proof: str = ""


class Listed(NamedTuple):
    """An entry that was found: its key, whether its day has not passed, and where it stands."""

    key: str
    trust: Trust
    valid: bool
    place: str


def read(value: str, proof: bool) -> Trust:
    """The right-hand side of a table; `proof`: whether it needs one. Raises ValueError that says what is wrong."""
    words: dict[str, str] = {}
    for word in value.split():
        found = _WORD.match(word)
        if not found or found[1] not in WORDS or found[1] in words or (found[1] == "proof" and not proof):
            raise ValueError(f"{word} is not understood here: write until=2027-03-31{' proof=name' if proof else ''}")
        words[found[1]] = found[2]
    if "until" not in words:
        raise ValueError("until=YYYY-MM-DD is missing: trust needs an end")
    if proof and words.get("proof") not in PROOFS:
        raise ValueError("proof=name or proof=spf is missing")
    try:
        return Trust(date.fromisoformat(words["until"]), words.get("proof", ""))
    except ValueError as error:
        raise ValueError(f"until={words['until']} is no day: write YYYY-MM-DD") from error


def read_forwarder(value: str) -> Trust:
    """An entry of trusted forwarders."""
    return read(value, True)


def read_sealer(value: str) -> Trust:
    """An entry of trusted ARC sealers."""
    return read(value, False)


def read_names(value: str) -> tuple[str, ...]:
    """A list of domains as a table has it: `example.com, .example.net` or `*`. Raises ValueError for what is none."""
    listed = tuple(value.replace(",", " ").split())
    for name in listed:
        if name != "*" and not _NAME.match(name):
            raise ValueError(f'{name} is no domain: write example.com, .example.com for all below it, or "*"')
    return listed


def names_in(found: Found) -> tuple[str, ...]:
    """The domains of an entry that was found. Raises TableUnavailable for what is none: it would name nobody."""
    try:
        return read_names(found.value)
    except ValueError as error:
        raise TableUnavailable(found.place, f"{found.place}: {error}") from None


def keys(name: str) -> list[str]:
    """A domain as tables know it: itself, then `.parent` for each parent."""
    labels = name.lower().rstrip(".").split(".")
    return [".".join(labels), *("." + ".".join(labels[start:]) for start in range(1, len(labels)))]


async def find(specs: Sequence[str], name: str, ports: Ports, now: float, proof: bool) -> Listed | None:
    """The entry of `name`, or None (also for one that cannot be read). Raises Unavailable if a table is not open."""
    for table in opened(specs, ports):
        for key in keys(name):
            if found := await answered(table.get(key)):
                try:
                    trust = read(found[0], proof)
                except ValueError:
                    continue
                return Listed(key, trust, trust.until >= datetime.fromtimestamp(now, UTC).date(), found[1])
    return None


def names(listed: Iterable[str], name: str) -> bool:
    """Is the domain in a list of names (`example.com`, `.example.com` for what is below, `*`)?"""
    return any(entry == "*" or entry.lower() in keys(name) for entry in listed)
