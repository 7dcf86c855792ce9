"""A cap on DNS questions for one piece of work (one message, one evaluation): threat rows A1 and D4.

Contract: a Resolver in front of a Resolver. What is at hand (zone file, cache) costs nothing; every question that must go
to a name server counts, and the one over the cap raises Unavailable without being asked. No IO and no clock of its own.
What failure means for the mail: temperror of whoever asked, never "no record".
"""

from collections.abc import Sequence

from appliance.mail.ports import Resolver
from appliance.protocol.dns import Answer
from appliance.protocol.errors import Unavailable


class Budget:
    """Implements mail.ports.Resolver. `asked` counts the questions that were not at hand, those over the cap included."""

    __slots__ = ("_resolver", "asked", "cached", "questions")

    def __init__(self, resolver: Resolver, questions: int) -> None:
        self._resolver, self.questions = resolver, questions
        self.asked = 0
        self.cached = resolver.cached

    @property
    def spent(self) -> bool:
        """A question was over the cap."""
        return self.asked > self.questions

    def _over(self) -> Unavailable | None:
        self.asked += 1
        return Unavailable(f"more than {self.questions} DNS questions for one message") if self.spent else None

    async def query(self, name: str, rtype: str) -> Answer:
        """As the Resolver behind it, and raises Unavailable over the cap."""
        if answer := self.cached(name, rtype):
            return answer
        if over := self._over():
            raise over
        return await self._resolver.query(name, rtype)

    async def query_all(self, questions: Sequence[tuple[str, str]]) -> list[Answer | Unavailable]:
        """As the Resolver behind it; those over the cap, the last ones of the list, are Unavailable."""
        found: list[Answer | Unavailable | None] = [self.cached(*question) or self._over() for question in questions]
        open_ones = [question for question, answer in zip(questions, found, strict=True) if answer is None]
        asked = iter(await self._resolver.query_all(open_ones) if open_ones else ())
        return [next(asked) if answer is None else answer for answer in found]
