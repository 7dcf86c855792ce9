"""Where a domain's DMARC policy stands and which domain is its organization's: by tree walk (RFC 9989 4.10) or by the
public suffix list (RFC 7489 3.2).

Contract: no IO but the `query` that is handed in; every name is asked once for one message. Raises Unavailable where DNS
did not answer: never "no record". At most eight questions for one walk, whatever the length of the name.
"""

from collections.abc import Awaitable, Callable
from typing import Literal

import msgspec

from appliance.mail.ports import Unavailable
from appliance.mailauth.dmarc_record import Record, choose
from appliance.mailauth.registrable import registrable
from appliance.protocol.dns import Answer

Query = Callable[[str, str], Awaitable[Answer]]
Discovery = Literal["treewalk", "psl"]
#: Labels of the first parent that is asked for a long name: eight questions in all.
LABELS = 7


class Found(msgspec.Struct, frozen=True):
    """The record in force for an author's domain: where it stands, and the organizational domain where that is known."""

    record: Record | None = None
    domain: str = ""
    organizational: str = ""


def targets(domain: str) -> list[str]:
    """The names of a walk: the domain, then its parents, of a long name those of at most seven labels."""
    labels = domain.split(".")
    first = max(1, len(labels) - LABELS)
    return [domain, *(".".join(labels[start:]) for start in range(first, len(labels)))]


class Tree:
    """The records met while one message is judged."""

    def __init__(self, query: Query, discovery: Discovery = "treewalk") -> None:
        self._query, self.discovery = query, discovery
        self._records: dict[str, Record | None] = {}
        self._away: dict[str, Unavailable] = {}
        self._organizational: dict[str, str] = {}

    async def record(self, domain: str) -> Record | None:
        """The record that stands at `domain`. Raises Unavailable."""
        if domain in self._away:
            raise self._away[domain]
        if domain not in self._records:
            try:
                answer = await self._query(f"_dmarc.{domain}", "TXT")
            except Unavailable as error:
                self._away[domain] = error
                raise
            self._records[domain] = choose(answer.records)
        return self._records[domain]

    async def policy(self, author: str) -> Found:
        """The record in force: at the author's domain, at its organizational domain, at the public suffix above it."""
        record = await self.record(author)
        if record is not None:
            return Found(record, author)
        organizational = await self.organizational(author)
        if record := await self.record(organizational):
            return Found(record, organizational, organizational)
        suffix = organizational.partition(".")[2]
        if self.discovery == "treewalk" and suffix and (above := await self.record(suffix)) and above.psd == "y":
            return Found(above, suffix, organizational)
        return Found(None, "", organizational)

    async def organizational(self, domain: str) -> str:
        """The organizational domain of `domain`. Raises Unavailable."""
        if domain not in self._organizational:
            found = registrable(domain) or domain if self.discovery == "psl" else await self._walk(domain)
            self._organizational[domain] = found
        return self._organizational[domain]

    def known(self, domain: str) -> str:
        """The organizational domain if it has been found out, else ""."""
        return self._organizational.get(domain, "")

    async def _walk(self, domain: str) -> str:
        shortest = domain
        for target in targets(domain):
            record = await self.record(target)
            if record is None:
                continue
            if record.psd == "n":
                return target
            if record.psd == "y" and target != domain:
                return _one_below(domain, target)
            shortest = target
            if record.psd == "y":  # the domain itself is a public suffix: the walk ends
                break
        return shortest

    async def exists(self, domain: str) -> bool:
        """Whether there is such a name at all (RFC 8020). Raises Unavailable."""
        return (await self._query(domain, "A")).exists


def _one_below(domain: str, parent: str) -> str:
    """The name one label below `parent` on the way to `domain`; `domain` itself if there is none."""
    if not domain.endswith(f".{parent}"):
        return domain
    return f"{domain[: -len(parent) - 1].rpartition('.')[2]}.{parent}"
