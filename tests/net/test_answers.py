"""The cache of answers with a clock that the test turns."""

import pytest

from appliance.net import answers
from appliance.net.answers import AnswerCache
from appliance.protocol.dns import Answer

KEY = ("example.com", "A")


def test_failures_live_five_to_thirty_seconds() -> None:
    cache, now = AnswerCache(), 1000.0
    lives = []
    for _ in range(5):
        cache.fail(KEY, "SERVFAIL", now)
        life = next(s for s in range(100) if not cache.failure(KEY, now + s))
        lives.append(life)
        now += life
    assert lives == [5, 10, 20, 30, 30]
    cache.put(KEY, Answer(*KEY, ("192.0.2.1",), 300), now)
    assert cache.failure(KEY, now) == ""
    cache.fail(KEY, "SERVFAIL", now)
    assert cache.failure(KEY, now + 4.9) and not cache.failure(KEY, now + 5)


@pytest.mark.parametrize(
    ("answer", "floor", "life"),
    [
        (Answer(*KEY, ("192.0.2.1",), 300), 0.0, 300),
        (Answer(*KEY, ("192.0.2.1",), 0), 0.0, 0),
        (Answer(*KEY, ("192.0.2.1",), 0), 60.0, 60),
        (Answer(*KEY, ("192.0.2.1",), 10**6), 0.0, 86400),
        (Answer(*KEY, (), 10**6, exists=False), 0.0, 10800),
        (Answer(*KEY, (), 0, exists=False), 60.0, 0),
    ],
)
def test_how_long_an_answer_lives(answer: Answer, floor: float, life: int) -> None:
    cache = AnswerCache(floor)
    cache.put(KEY, answer, 1000.0)
    found = cache.get(KEY, 1000.0)
    assert (found.ttl if found else 0) == life
    if life:
        assert cache.get(KEY, 1000.0 + life - 1) == answer._replace(ttl=1)
    assert cache.get(KEY, 1000.0 + life) is None


def test_stale_for_an_hour() -> None:
    cache = AnswerCache()
    cache.put(KEY, Answer(*KEY, ("192.0.2.1",), 300), 0.0)
    found = cache.stale(KEY, 300 + 3599.0)
    assert found is not None and found.stale and found.records == ("192.0.2.1",) and found.ttl == 30
    assert cache.stale(KEY, 300 + 3600.0) is None


def test_the_oldest_go_when_it_is_full(monkeypatch: pytest.MonkeyPatch) -> None:
    cache = AnswerCache(capacity=3)
    for number in range(5):
        cache.put((f"{number}.example.com", "A"), Answer("", "A", ("192.0.2.1",), 300), 0.0)
        cache.fail((f"bad{number}.example.com", "A"), "SERVFAIL", 0.0)
    assert [number for number in range(5) if cache.get((f"{number}.example.com", "A"), 1.0)] == [2, 3, 4]
    assert [number for number in range(5) if cache.failure((f"bad{number}.example.com", "A"), 1.0)] == [2, 3, 4]


def test_d4_big_records_of_strangers_do_not_fill_the_memory(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(answers, "MAX_OCTETS", 1000)
    cache = AnswerCache()
    for number in range(10):
        cache.put((f"{number}.example.com", "TXT"), Answer("", "TXT", ("x" * 300,), 300), 0.0)
    assert [number for number in range(10) if cache.get((f"{number}.example.com", "TXT"), 1.0)] == [7, 8, 9]
    for _ in range(10):  # the same one again and again counts once
        cache.put(("9.example.com", "TXT"), Answer("", "TXT", ("x" * 300,), 300), 0.0)
    assert len(cache) == 3
