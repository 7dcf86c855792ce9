"""Token buckets against a model; client counts."""

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from appliance.stores.rates import AskedRate, Buckets, Clients


def test_a_bucket_is_used_up_and_refills() -> None:
    buckets = Buckets()
    ask = AskedRate("k", 1, 2, 60)
    assert [buckets.take([ask], 0)[0] for _ in range(3)] == [1, 0, -1]
    assert buckets.take([ask], 29)[0] < 0
    assert buckets.take([ask], 31)[0] >= 0


def test_if_one_bucket_is_over_nothing_is_taken() -> None:
    buckets = Buckets()
    small, large = AskedRate("small", 1, 1, 60), AskedRate("large", 1, 10, 60)
    buckets.take([small], 0)
    left = buckets.take([small, large], 0)
    assert left == [-1, 9]
    assert buckets.take([large], 0) == [9]


def test_two_asks_on_one_bucket_add_up() -> None:
    buckets = Buckets()
    ask = AskedRate("k", 1, 1, 60)
    assert buckets.take([ask, ask], 0) == [0, -1]
    assert buckets.take([ask], 0) == [0]


def test_charged_costs_count_and_are_forgotten_with_time() -> None:
    buckets = Buckets()
    for _ in range(5):
        buckets.charge("errors", 1, 0)
    assert buckets.take([AskedRate("errors", 0, 3, 60)], 0) == [-2]
    assert buckets.take([AskedRate("errors", 0, 3, 60)], 61)[0] >= 0


def test_the_least_recently_used_bucket_goes_first() -> None:
    buckets = Buckets(cap=2)
    for key in ("a", "b", "a", "c"):
        buckets.take([AskedRate(key, 1, 10, 60)], 0)
    assert buckets.take([AskedRate("a", 0, 10, 60)], 0) == [8]
    assert buckets.take([AskedRate("b", 0, 10, 60)], 0) == [10]


@settings(max_examples=200, deadline=None)
@given(
    st.integers(1, 20),
    st.sampled_from([60.0, 3600.0]),
    st.lists(st.tuples(st.floats(0, 100), st.integers(1, 5)), min_size=1, max_size=60),
)
def test_never_more_than_the_limit_and_the_refill(limit: int, period: float, history: list[tuple[float, int]]) -> None:
    """What is let through in any stretch of time is at most the limit and what flowed in meanwhile; and whoever fits is
    let through: the model keeps the tokens themselves."""
    buckets, tokens, now, taken = Buckets(), float(limit), 0.0, 0
    for gap, cost in history:
        now += gap
        tokens = min(float(limit), tokens + gap * limit / period)
        [left] = buckets.take([AskedRate("k", cost, limit, period)], now)
        assert left == pytest.approx(tokens - cost, abs=1e-6)
        if left >= 0:
            tokens -= cost
            taken += cost
    assert taken <= limit + now * limit / period + 1e-6


def test_connections_are_counted_by_client_and_in_total() -> None:
    clients = Clients()
    assert clients.connect("192.0.2.1", 0, 60) == (1, 1, 1)
    assert clients.connect("192.0.2.1", 1, 60) == (2, 2, 2)
    assert clients.connect("192.0.2.2", 1, 60) == (1, 1, 3)
    clients.disconnect("192.0.2.1")
    assert clients.connect("192.0.2.1", 2, 60) == (2, 3, 3)
    assert clients.connect("192.0.2.1", 62, 60) == (3, 1, 4)  # a new period


def test_ipv6_clients_are_one_by_their_64() -> None:
    clients = Clients()
    clients.connect("2001:db8::1", 0, 60)
    assert clients.connect("2001:db8::2", 0, 60)[0] == 2
    assert clients.connect("2001:db8:0:1::1", 0, 60)[0] == 1


def test_a_disconnect_too_many_does_no_harm() -> None:
    clients = Clients()
    clients.disconnect("192.0.2.1")
    clients.connect("192.0.2.1", 0, 60)
    clients.disconnect("192.0.2.1", 5)
    assert (clients.total, clients.connect("192.0.2.1", 0, 60)[0]) == (0, 1)


def test_clients_with_open_connections_are_not_forgotten() -> None:
    clients = Clients(cap=3)
    clients.connect("192.0.2.1", 0, 60)
    for n in range(10):
        clients.messages(f"198.51.100.{n}", 1, 0, 60)
    assert clients.connect("192.0.2.1", 0, 60)[0] == 2


def test_message_and_recipient_counts() -> None:
    clients = Clients()
    assert [clients.messages("192.0.2.1", 1, 0, 60) for _ in range(3)] == [1, 2, 3]
    assert clients.recipients("192.0.2.1", 50, 1, 60) == 50
    assert clients.recipients("192.0.2.1", 1, 61, 60) == 1
