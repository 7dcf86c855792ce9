"""What is in trouble and what it touched: counted, remembered in bounds, merged over processes."""

from appliance.observe import trouble
from appliance.observe.trouble import MOST, RECENT, REMEMBERED, Touched, merged, said, words


class Clock:
    now = 1000.0

    def __call__(self) -> float:
        return self.now


def test_messages_are_named_once_and_the_last_stay() -> None:
    touched = Touched()
    for _ in range(3):
        touched.note("table x", "no answer", "A1")
    touched.note("table x", "refused", "A2")
    touched.note("table x", "refused")
    assert touched.degraded() == [said("table x", "refused", 3, ["A1", "A2"])]
    for number in range(100):
        touched.note("table x", "refused", f"B{number}")
    (one,) = touched.degraded()
    assert one["touched"] == 103 and len(one["last"]) == REMEMBERED and one["last"][-1] == "B99"


def test_trouble_ends_when_it_answers_or_nobody_asks_and_what_it_did_stays_known() -> None:
    clock = Clock()
    touched = Touched(clock)
    touched.note("table x", "no answer", "A1")
    touched.note("table y", "no answer", "A2")
    touched.well("table x")
    touched.well("table z")
    assert [one["what"] for one in touched.degraded()] == ["table y"]
    clock.now += RECENT
    assert touched.degraded() == []
    assert touched.facts() == {"table x": "1 (last: A1)", "table y": "1 (last: A2)"}


def test_it_is_bounded() -> None:
    touched = Touched()
    for number in range(MOST + 50):
        touched.note(f"table {number}", "away", "A")
    assert len(touched.facts()) == MOST


def test_what_several_processes_say_is_one_thing() -> None:
    of_proxymap = said("table x", "no answer within 10 s")
    of_one, of_two = said("table x", "proxymap: no answer", 2, ["A1", "A2"]), said("table x", "y", 3, ["A2", "A3", "A4"])
    found = merged(["disk full", of_proxymap, of_one, "disk full", of_two])
    assert list(found) == ["disk full", "table x"]
    assert [words(one) for one in found.values()] == [
        "disk full",
        "table x: no answer within 10 s; messages touched: 5, last: A1, A2, A3, A4",
    ]
    assert of_one["touched"] == 2, "what was said is not changed"
    many = [said("m", "w", 15, [f"{worker}{n}" for n in range(15)]) for worker in "ab"]
    assert len(merged(many)["m"]["last"]) == REMEMBERED and merged(many)["m"]["touched"] == 30


def test_one_book_of_tables_in_a_process() -> None:
    assert isinstance(trouble.tables, Touched)
