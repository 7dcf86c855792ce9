"""The greylist machine: its rules one by one, and against a plain model under random histories."""

import dataclasses

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from appliance.mail.greylisting import GreylistAnswer, GreylistAsk
from appliance.stores.greylist import Known, Origin, Pair, Triplet, decide

DELAY, WINDOW, REMEMBER = 90.0, 172800.0, 3110400.0


class Memory:
    """The three kinds of records in dictionaries."""

    def __init__(self) -> None:
        self.triplets: dict[tuple[str, str, str], Triplet] = {}
        self.origins: dict[str, Origin] = {}
        self.pairs: dict[tuple[str, str], Pair] = {}

    def step(self, now: float, **more: object) -> GreylistAnswer:
        given_ = {
            "keys": ("net:192.0.2.0/24",),
            "sender": "a@example.org",
            "recipient": "b@example.com",
            "client": "192.0.2.1",
            "now": now,
            "delay": DELAY,
            "window": WINDOW,
            "remember": REMEMBER,
            "auto_accept": 5,
        }
        ask = GreylistAsk(**{**given_, **more})  # type: ignore[arg-type]
        rest = (ask.sender, ask.recipient)
        known = Known(
            [self.triplets.get((key, *rest)) for key in ask.keys],
            [self.origins.get(key) for key in ask.keys],
            self.pairs.get(rest),
        )
        step = decide(ask, now, known)
        if step.triplet is not None:
            self.triplets.update({(key, *rest): step.triplet for key in ask.keys})
        self.origins.update({k: o for k, o in zip(ask.keys, step.origins, strict=False) if o is not None})
        if step.pair is not None:
            self.pairs[rest] = step.pair
        return step.answer


def test_first_attempt_waits_and_a_retry_after_the_delay_passes() -> None:
    memory = Memory()
    assert (memory.step(0).state, memory.step(0).wait) == ("new", DELAY)
    passed = memory.step(DELAY)
    assert (passed.state, passed.first, passed.attempts) == ("passed", 0, 3)
    assert memory.step(DELAY + 1).state == "known"


def test_too_early_retry_never_resets_the_clock() -> None:
    memory = Memory()
    memory.step(0)
    early = [memory.step(t) for t in (10, 50, 89.9)]
    assert [answer.state for answer in early] == ["early"] * 3
    assert [answer.wait for answer in early] == pytest.approx([80, 40, 0.1])
    assert memory.step(90).state == "passed"


def test_retry_behind_the_window_is_a_first_attempt() -> None:
    memory = Memory()
    memory.step(0)
    assert memory.step(WINDOW + 1).state == "new"
    assert memory.step(WINDOW + 1 + DELAY).state == "passed"


def test_retry_at_the_end_of_the_window_passes() -> None:
    memory = Memory()
    memory.step(0)
    assert memory.step(WINDOW).state == "passed"


def test_known_is_remembered_since_its_last_use() -> None:
    memory = Memory()
    memory.step(0)
    memory.step(DELAY)
    day = 86400.0
    assert [memory.step(n * 30 * day).state for n in (1, 2, 3)] == ["known"] * 3
    assert memory.step(3 * 30 * day + REMEMBER + 3601).state == "new"


def test_identity_and_network_are_both_read_and_both_written() -> None:
    memory = Memory()
    both = ("id:example.org", "net:192.0.2.0/24")
    memory.step(0, keys=both)
    # DNS fails: only the network is known; the clock goes on
    assert memory.step(DELAY, keys=("net:192.0.2.0/24",)).state == "passed"
    # the identity is there again, from another network
    assert memory.step(DELAY + 5, keys=("id:example.org", "net:198.51.100.0/24"), client="198.51.100.1").state == "passed"
    # and that network was written too
    assert memory.step(DELAY + 6, keys=("net:198.51.100.0/24",), client="198.51.100.1").state == "known"


def test_one_identity_from_a_hundred_addresses_is_one_sender() -> None:
    memory = Memory()
    for n in range(100):
        keys = ("id:example.org", f"net:10.{n}.0.0/24")
        state = memory.step(n * 1.0, keys=keys, client=f"10.{n}.0.1").state
        assert state == ("new" if n == 0 else "early" if n < 90 else "passed" if n == 90 else "known"), n


def test_a_pool_of_networks_passes_at_its_third_late_attempt() -> None:
    memory = Memory()
    states = [
        memory.step(now, keys=(f"net:10.{n}.0.0/24",), client=f"10.{n}.0.1").state
        for n, now in enumerate((0, 30, 90, 200, 300, 400))
    ]
    # 0 and 30 came before the delay; 90, 200, 300 are the three late ones
    assert states == ["new", "new", "new", "new", "loop", "known"]


def test_late_attempts_of_one_address_are_one() -> None:
    memory = Memory()
    memory.step(0, keys=("net:10.0.0.0/24",), client="10.0.0.1")
    for now in (100, 110, 120, 130):
        assert memory.step(now, keys=("net:10.1.0.0/24",), client="10.1.0.1").state in ("new", "early")


def test_origin_is_accepted_after_five_passes_counted_once_an_hour() -> None:
    memory = Memory()
    now = 0.0
    for n in range(4):
        memory.step(now, sender=f"s{n}@example.org")
        assert memory.step(now + DELAY, sender=f"s{n}@example.org").passes == n + 1
        memory.step(now, sender=f"t{n}@example.org")
        assert memory.step(now + DELAY, sender=f"t{n}@example.org").passes == n + 1  # within the hour: not counted
        now += 3600 + DELAY
    assert memory.step(now, sender="x@example.org").state == "new"
    assert memory.step(now + DELAY, sender="x@example.org").passes == 5
    auto = memory.step(now + DELAY + 1, sender="never-seen@example.org", recipient="c@example.com")
    assert (auto.state, auto.passes) == ("auto", 5)
    assert memory.step(now + DELAY + 2, sender="y@example.org", auto_accept=0).state == "new"


def test_automatic_acceptance_ends_without_use() -> None:
    memory = Memory()
    memory.origins["net:192.0.2.0/24"] = Origin(5, 0, 0)
    assert memory.step(REMEMBER - 1).state == "auto"
    assert memory.step(2 * REMEMBER - 1, sender="z@example.org").state == "auto"
    assert memory.step(3 * REMEMBER + 3602, sender="z2@example.org").state == "new"


def test_known_senders_cost_no_write() -> None:
    triplet = Triplet(0, 1000, 2, 90)
    ask = GreylistAsk(
        keys=("n",), sender="s", recipient="r", client="c", now=0, delay=DELAY, window=WINDOW, remember=REMEMBER,
        auto_accept=5,
    )  # fmt: skip
    assert decide(ask, 1500, Known([triplet], [None])).triplet is None
    assert decide(ask, 1000 + 3601, Known([triplet], [None])).triplet == Triplet(0, 4601, 2, 90)


def test_record_from_the_future_waits_at_most_the_delay() -> None:
    """A clock that was set back must not make anybody wait for years."""
    memory = Memory()
    memory.triplets["net:192.0.2.0/24", "a@example.org", "b@example.com"] = Triplet(10_000, 10_000, 1)
    assert memory.step(100).wait <= DELAY
    assert memory.step(100 + DELAY).state == "passed"


@dataclasses.dataclass
class Model:
    """One triplet by the words of the rules: when it was first seen, and when it was last of use after it passed."""

    first: float | None = None
    used: float | None = None

    def step(self, now: float) -> str:
        if self.used is not None and now > self.used + REMEMBER:
            self.first = self.used = None
        if self.used is not None:
            self.used = now
            return "known"
        if self.first is None or now > self.first + WINDOW:
            self.first = now
            return "new"
        if now - self.first < DELAY:
            return "early"
        self.used = now
        return "passed"


GAPS = st.one_of(
    st.floats(0, 200),
    st.floats(0, 2 * WINDOW),
    # far enough from the edge that the coarse `last` of known triplets does not matter
    st.floats(0, REMEMBER - 4000),
    st.floats(REMEMBER + 4000, 2 * REMEMBER),
)


@settings(max_examples=300, deadline=None)
@given(st.lists(st.tuples(GAPS, st.integers(0, 2)), min_size=1, max_size=30))
def test_machine_follows_the_model(history: list[tuple[float, int]]) -> None:
    memory, models, now = Memory(), [Model(), Model(), Model()], 0.0
    for gap, who in history:
        now += gap
        answer = memory.step(now, sender=f"s{who}@example.org", auto_accept=0)
        assert answer.state == models[who].step(now)


@settings(max_examples=200, deadline=None)
@given(st.lists(st.tuples(st.floats(0, 300), st.integers(0, 9)), min_size=1, max_size=40))
def test_nobody_passes_before_the_delay_whatever_the_addresses(history: list[tuple[float, int]]) -> None:
    memory, now = Memory(), 0.0
    first = history[0][0]
    for gap, n in history:
        now += gap
        answer = memory.step(now, keys=(f"net:10.{n}.0.0/24",), client=f"10.{n}.0.1")
        if now - first < DELAY:
            assert answer.state in ("new", "early")
        if answer.state in ("new", "early"):
            assert 0 < answer.wait <= DELAY
