"""A shelf asks the database for what may be there, and for hardly anything else."""

import msgspec
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from appliance.stores.greylist import Triplet
from appliance.stores.keeper import Keeper
from appliance.stores.seen import Filter, Seen
from appliance.stores.shelf import Shelf, rows

RECORD = Triplet(1.0, 2.0, 3)


class Table:
    """The database's table, in a dictionary."""

    def __init__(self) -> None:
        self.rows: dict[str, bytes] = {}
        self.reads = 0

    def read(self, _table: str, key: str) -> bytes | None:
        self.reads += 1
        return self.rows.get(key)

    def write(self, shelf: Shelf[Triplet]) -> None:
        for key, raw, _ in rows(shelf.take_batch()):
            if raw is None:
                self.rows.pop(key, None)
            else:
                self.rows[key] = raw
        shelf.written()


def shelf_of(table: Table, cap: int = 5) -> Shelf[Triplet]:
    return Shelf("triplet", Triplet, table.read, hot_cap=cap)


def test_what_is_seen_is_never_missed_and_little_else_is() -> None:
    seen = Seen(bytearray(1 << 22))
    for number in range(100_000):
        seen.add(f"key {number}")
    assert all(f"key {number}" in seen for number in range(100_000))
    assert sum(f"other {number}" in seen for number in range(100_000)) < 1000


_steps = st.lists(
    st.tuples(st.sampled_from(["put", "get", "get", "delete", "write", "begin", "page", "end"]), st.integers(0, 30)),
    max_size=120,
)


@settings(max_examples=200, deadline=None)
@given(_steps)
def test_a_shelf_forgets_nothing_whenever_it_is_looked_through(steps: list[tuple[str, int]]) -> None:
    table, expected = Table(), set[str]()
    shelf = shelf_of(table)
    after: str | None = None
    for step, number in steps:
        key = f"k{number:02}"
        if step == "put":
            shelf.put(key, RECORD, 9.0)
            expected.add(key)
        elif step == "delete":
            shelf.delete(key)
            expected.discard(key)
        elif step == "write":
            table.write(shelf)
        elif step == "begin":
            shelf.look_through()
            after = ""
        elif after is not None:  # a page of three rows, as the keeper's sweep walks
            page = sorted(one for one in table.rows if one > after)[:3]
            keeper = Keeper.__new__(Keeper)
            keeper.clock, keeper.expired = _Clock(), 0  # type: ignore[assignment]
            keeper.sweep_page(shelf, [(one, table.rows[one], 9.0) for one in page], warm=False)
            after = page[-1] if page else None
            if after is None:
                shelf.looked_through(True)
        assert (shelf.get(key) == RECORD) == (key in expected)
    assert {f"k{n:02}" for n in range(31) if shelf.get(f"k{n:02}")} == expected


class _Clock:
    def now(self) -> float:
        return 0.0


def test_strangers_cost_no_reads_once_the_table_was_looked_through() -> None:
    table = Table()
    table.rows = {f"old {number}": msgspec.msgpack.encode(RECORD) for number in range(50)}
    shelf = shelf_of(table)
    assert shelf.get("stranger") is None and table.reads == 1
    shelf.look_through()
    for key in table.rows:
        shelf.met(key)
    shelf.looked_through(True)
    for number in range(200):
        assert shelf.get(f"stranger {number}") is None
    assert table.reads < 10
    assert shelf.get("old 7") == RECORD
    shelf.look_through()
    shelf.looked_through(False)
    before = table.reads
    assert shelf.get("stranger 1") is None and table.reads == before + 1, "a sweep that failed vouches for nothing"


def test_who_is_new_drives_nobody_out_and_is_found_all_the_same() -> None:
    table = Table()
    shelf = shelf_of(table, cap=2)
    shelf.put("a", RECORD, 9.0)
    shelf.complete = True
    for key in ("b", "c", "d"):
        shelf.filter.note(key)
        shelf.put_new(key, (RECORD, 9.0))
    assert set(shelf.hot) == {"a", "b"} and shelf.evicted == 2
    assert shelf.get("d") == RECORD, "it waits to be written"
    table.write(shelf)
    assert shelf.get("c") == RECORD and table.reads == 1


def test_who_is_new_is_kept_in_memory_while_the_disk_takes_nothing() -> None:
    shelf = Shelf("triplet", Triplet, Table().read, hot_cap=2, dirty_cap=1)
    for key in ("a", "b", "c"):
        shelf.put_new(key, (RECORD, 9.0))
    assert set(shelf.dirty) == {"a"} and shelf.dropped == 2
    assert [shelf.get(key) for key in ("a", "b", "c")] == [RECORD] * 3


@pytest.mark.parametrize("hot", [1, 3, 5])
@pytest.mark.parametrize("dirty", [1, 3, 5])
@pytest.mark.parametrize("before", [0, 1, 2])
def test_many_who_are_new_are_put_as_one_by_one(hot: int, dirty: int, before: int) -> None:
    shelves = [Shelf("triplet", Triplet, Table().read, hot_cap=hot, dirty_cap=dirty) for _ in range(2)]
    for shelf in shelves:
        shelf.complete = True
        for number in range(before):
            shelf.put_new(f"before{number}", (RECORD, 9.0))
    for keys in (["a", "b"], [], ["c"]):
        shelves[0].put_all_new(keys, (RECORD, 9.0))
        for key in keys:
            shelves[1].put_new(key, (RECORD, 9.0))
        mine, theirs = ((s.hot, s.dirty, s.complete, s.evicted, s.dropped) for s in shelves)
        assert mine == theirs


def test_a_filter_of_two_tables_is_of_use_when_both_were_swept() -> None:
    both = Filter("a", "b", slots=1 << 10)
    both.begin("a")
    both.meet("old a")
    both.end("a", True)
    both.note("put between")
    assert both.seen is None
    both.begin("b")
    both.meet("old b")
    both.end("b", True)
    assert both.seen is not None and both.seeing is None
    assert all(key in both.seen for key in ("old a", "put between", "old b")) and "stranger" not in both.seen
    both.begin("a")
    both.end("a", True)
    both.begin("a")  # b was left out: the round begins anew
    both.meet("old a")
    both.end("a", True)
    assert "old b" in both.seen, "the last round's goes on being asked"
    both.begin("b")
    both.end("b", False)
    assert both.seen is None, "one sweep failed: the round vouches for nothing"


def test_a_sweep_that_began_before_the_round_is_no_part_of_it() -> None:
    both = Filter("a", "b", slots=1 << 10)
    both.begin("b")
    both.meet("old b")
    both.begin("a")
    both.begin("a")  # anew: what b met is forgotten
    both.end("b", True)
    both.end("a", True)
    assert both.seen is None and both.seeing is not None
    both.begin("b")
    both.meet("old b")
    both.end("b", True)
    assert both.seen is not None and "old b" in both.seen
