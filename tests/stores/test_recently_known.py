"""What stated called known is not asked about again for a moment; nothing else is remembered."""

import asyncio
import inspect

from appliance.mail.greylisting import GreylistAnswer, GreylistAsk
from appliance.stores import known
from appliance.stores.known import RecentlyKnown


class State:
    def __init__(self) -> None:
        self.state, self.asked = "known", 0

    async def step(self, ask: GreylistAsk) -> GreylistAnswer:
        self.asked += 1
        return GreylistAnswer(state=self.state, first=1.0, attempts=2, key=ask.keys[0])


def ask(recipient: str = "r@x", keys: tuple[str, ...] = ("net:192.0.2.0/24",)) -> GreylistAsk:
    more = {"delay": 90.0, "window": 1.0, "remember": 1.0, "auto_accept": 0}
    return GreylistAsk(keys=keys, sender="s@x", recipient=recipient, client="192.0.2.1", now=0.0, **more)  # type: ignore[arg-type]


def test_only_the_known_are_remembered_and_not_for_long() -> None:
    now, state = [100.0], State()
    greylist = RecentlyKnown(state, lambda: now[0])

    async def step(**more: object) -> str:
        answer = greylist.step(ask(**more))  # type: ignore[arg-type]
        return (await answer if inspect.isawaitable(answer) else answer).state  # type: ignore[union-attr]

    async def play() -> None:
        assert await step() == "known" and state.asked == 1
        assert isinstance(greylist.step(ask()), GreylistAnswer), "at once"
        assert await step(recipient="other@x") == "known" and state.asked == 2
        assert await step(keys=("id:example.org", "net:192.0.2.0/24")) == "known" and state.asked == 3
        now[0] += known.KEPT + 0.1
        state.state = "new"
        assert await step() == "new" and await step() == "new" and state.asked == 5
        for word in ("early", "passed", "auto", "loop"):
            state.state = word
            before = state.asked
            assert await step(recipient=word) == word and await step(recipient=word) == word
            assert state.asked == before + 2, word

    asyncio.run(play())


def test_memory_is_bounded() -> None:
    state = State()
    greylist = RecentlyKnown(state, lambda: 0.0)

    async def play() -> None:
        for number in range(known.MOST + 10):
            answer = greylist.step(ask(f"r{number}@x"))
            assert not isinstance(answer, GreylistAnswer)
            await answer

    asyncio.run(play())
    assert len(greylist._known) <= known.MOST
