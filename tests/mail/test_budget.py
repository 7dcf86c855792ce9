"""The cap on DNS questions: what is at hand is free, what is over the cap is Unavailable and is not asked."""

from collections.abc import Sequence

import pytest

from appliance.mail.budget import Budget
from appliance.protocol.dns import Answer
from appliance.protocol.errors import Unavailable


class Dns:
    """Knows `known` without asking; notes every question that came through."""

    def __init__(self, *known: str) -> None:
        self.known, self.asked = known, []

    def cached(self, name: str, rtype: str) -> Answer | None:
        return Answer(name, rtype, ("127.0.0.1",), 60) if name in self.known else None

    async def query(self, name: str, rtype: str) -> Answer:
        self.asked.append(name)
        if name == "away":
            raise Unavailable("away")
        return Answer(name, rtype, ("127.0.0.2",), 60)

    async def query_all(self, questions: Sequence[tuple[str, str]]) -> list[Answer | Unavailable]:
        return [Unavailable("away") if name == "away" else await self.query(name, rtype) for name, rtype in questions]


async def test_a1_the_question_over_the_budget_is_unavailable_and_not_asked() -> None:
    dns = Dns()
    budget = Budget(dns, 2)
    await budget.query("a", "A")
    await budget.query("b", "A")
    assert not budget.spent
    with pytest.raises(Unavailable, match="more than 2 DNS questions"):
        await budget.query("c", "A")
    assert (dns.asked, budget.asked, budget.spent) == (["a", "b"], 3, True)


async def test_what_is_at_hand_costs_nothing() -> None:
    budget = Budget(Dns("known"), 0)
    assert (await budget.query("known", "A")).records == ("127.0.0.1",)
    assert budget.cached("known", "A") is not None and budget.cached("b", "A") is None
    assert budget.asked == 0 and not budget.spent


async def test_questions_asked_together_share_the_budget_and_keep_their_order() -> None:
    dns = Dns("known")
    budget = Budget(dns, 2)
    asked = [("a", "A"), ("known", "A"), ("away", "A"), ("c", "A")]
    found = await budget.query_all(asked)
    assert [isinstance(one, Unavailable) for one in found] == [False, False, True, True]
    assert [one.name for one in found if isinstance(one, Answer)] == ["a", "known"]
    assert (dns.asked, budget.asked) == (["a"], 3)


async def test_a_failure_behind_it_counts_and_stays_unavailable() -> None:
    budget = Budget(Dns(), 3)
    with pytest.raises(Unavailable, match="away"):
        await budget.query("away", "A")
    assert budget.asked == 1
