"""A turned clock, and the ports over a State without a process between."""

from collections.abc import Sequence
from pathlib import Path

from appliance.mail.greylisting import GreylistAnswer, GreylistAsk
from appliance.mail.ports import RateAsk, Unavailable
from appliance.stores import wire
from appliance.stores.clock import SteadyClock
from appliance.stores.rates import AskedRate
from appliance.stores.state import State


class Time:
    """Wall and monotonic time under the test's hands."""

    def __init__(self, wall: float = 1_800_000_000.0) -> None:
        self.wall_now, self.mono_now = wall, 1000.0

    def wall(self) -> float:
        return self.wall_now

    def monotonic(self) -> float:
        return self.mono_now

    def pass_(self, seconds: float) -> None:
        self.wall_now += seconds
        self.mono_now += seconds

    def clock(self, saved: object = None, boot: str = "boot-1") -> SteadyClock:
        return SteadyClock(saved, wall=self.wall, monotonic=self.monotonic, boot=boot)  # type: ignore[arg-type]


def state_at(path: Path, time: Time) -> State:
    return State(path, time.clock(), time.monotonic)


class Direct:
    """mail.greylisting.Greylist and Rates over a State in this process."""

    def __init__(self, state: State) -> None:
        self.state = state

    async def step(self, ask: GreylistAsk) -> GreylistAnswer:
        [answer] = self.state.answer([wire.step_of(ask)], {})
        if isinstance(answer, dict):
            raise Unavailable(answer["error"])
        state, first, attempts, passes, wait, key = answer
        return GreylistAnswer(state=state, first=first, attempts=attempts, passes=passes, wait=wait, key=key)

    async def take(self, asks: Sequence[RateAsk], now: float) -> list[float]:
        asked = tuple(AskedRate(ask.key, ask.cost, ask.limit, ask.period) for ask in asks)
        [answer] = self.state.answer([wire.Take(asked)], {})
        return list(answer)
