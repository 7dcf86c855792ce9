"""A resolver from a dictionary, for checks that ask DNS."""

from collections.abc import Mapping, Sequence

from appliance.protocol.dns import Answer
from appliance.protocol.errors import Unavailable


class Dns:
    """`records` maps "name TYPE" to its records; names in `away` have no answer; those in `known` are at hand."""

    def __init__(
        self, records: Mapping[str, Sequence[str]] = {}, away: Sequence[str] = (), known: Sequence[str] = ()
    ) -> None:
        self.records, self.away, self.known = records, away, known
        self.asked: list[str] = []

    def _answer(self, name: str, rtype: str) -> Answer:
        found = self.records.get(f"{name} {rtype}", ())
        return Answer(name, rtype, tuple(found), 300, bool(found))

    def cached(self, name: str, rtype: str) -> Answer | None:
        return self._answer(name, rtype) if name in self.known or "*" in self.known else None

    async def query(self, name: str, rtype: str) -> Answer:
        self.asked.append(f"{name} {rtype}")
        if name in self.away:
            raise Unavailable(f"{name}: timed out")
        return self._answer(name, rtype)

    async def query_all(self, questions: Sequence[tuple[str, str]]) -> list[Answer | Unavailable]:
        found: list[Answer | Unavailable] = []
        for name, rtype in questions:
            try:
                found.append(await self.query(name, rtype))
            except Unavailable as error:
                found.append(error)
        return found
