"""Greylist steps over shelves answer what the machine answers over dictionaries, whatever is in RAM, written or seen."""

from hypothesis import given, settings
from hypothesis import strategies as st

from appliance.stores import wire
from appliance.stores.keeper import Keeper
from appliance.stores.seen import Seen
from appliance.stores.shelf import Shelf, rows
from appliance.stores.steps import Steps, pair_of
from tests.stores.test_state_greylist import Memory

KEYS = (("id:a", "net:1"), ("net:1",), ("net:2",), ("net:3",), ("id:a", "net:3"))


class Disk:
    """The tables in dictionaries, and the keeper's work on them."""

    def __init__(self, cap: int) -> None:
        self.tables: dict[str, dict[str, tuple[bytes, float]]] = {"triplet": {}, "origin": {}, "pair": {}}
        self.reads, self.now = 0, 0.0
        self.steps = Steps(self.read)
        self.shelves: list[Shelf[object]] = [self.steps.triplets, self.steps.origins, self.steps.pairs]  # type: ignore[list-item]
        for shelf in self.shelves:
            shelf._hot_cap, shelf.filter._slots = cap, 64  # few slots: what is not there often seems to be
        self._keeper = Keeper.__new__(Keeper)
        self._keeper.clock, self._keeper.expired = _Clock(self), 0  # type: ignore[assignment]
        self._sweeps: dict[str, str] = {}

    def read(self, table: str, key: str) -> bytes | None:
        self.reads += 1
        found = self.tables[table].get(key)
        return found[0] if found else None

    def write(self, done: bool = True) -> None:
        for shelf in self.shelves:
            for key, raw, expires in rows(shelf.take_batch()):
                if raw is None:
                    self.tables[shelf.table].pop(key, None)
                else:
                    self.tables[shelf.table][key] = raw, expires
            if done:
                shelf.written()

    def sweep(self, pages: int) -> None:
        """Go on with the sweep of each table by some pages of three rows; one that is over begins anew."""
        for shelf in self.shelves:
            if shelf.table not in self._sweeps:
                shelf.look_through()
                self._sweeps[shelf.table] = ""
            for _ in range(pages):
                after, table = self._sweeps[shelf.table], self.tables[shelf.table]
                page = sorted(key for key in table if key > after)[:3]
                if not page:
                    shelf.looked_through(True)
                    del self._sweeps[shelf.table]
                    break
                self._keeper.sweep_page(shelf, [(key, *table[key]) for key in page], warm=False)
                self._sweeps[shelf.table] = page[-1]


class _Clock:
    def __init__(self, disk: Disk) -> None:
        self._disk = disk

    def now(self) -> float:
        return self._disk.now


_asks = st.tuples(
    st.just("ask"),
    st.sampled_from([0.0, 1.0, 40.0, 95.0, 4000.0, 180_000.0, 3_200_000.0]),
    st.integers(0, 4),
    st.integers(0, 3),
)
_work = st.tuples(st.sampled_from(["write", "half", "sweep", "sweep", "whole"]), st.just(0.0), st.just(0), st.just(0))


@settings(max_examples=400, deadline=None)
@given(st.lists(st.one_of(_asks, _asks, _work), max_size=60), st.sampled_from([0, 1, 2]), st.sampled_from([2, 1000]))
def test_steps_are_what_the_machine_says(history: list[tuple[str, float, int, int]], accept: int, cap: int) -> None:
    disk, memory = Disk(cap), Memory()
    for what, gap, keys, who in history:
        disk.now += gap
        if what == "write":
            disk.write()
        elif what == "half":  # the disk took it, but that was not heard
            disk.write(False)
        elif what in ("sweep", "whole"):
            disk.sweep(1 if what == "sweep" else 100)
        else:
            sender, client = f"s{who}@example.org", f"192.0.2.{keys}"
            knobs = (90.0, 172_800.0, 3_110_400.0, accept, who == 3)
            ask = wire.Step(KEYS[keys], sender, "b@example.com", client, *knobs)
            state, first, _, passes, wait, key = disk.steps.step(ask, disk.now, 0.0)
            named = {"keys": KEYS[keys], "sender": sender, "client": client, "auto_accept": accept, "shared": who == 3}
            expected = memory.step(disk.now, **named)
            assert (state, first, passes, wait, key) == (
                expected.state, expected.first, expected.passes, expected.wait, expected.key,
            )  # fmt: skip


def test_a_stranger_is_not_looked_for_once_all_was_seen() -> None:
    disk = Disk(1000)
    disk.sweep(1)
    for shelf in disk.shelves:
        assert shelf.filter.seen is not None
        shelf.filter.seen = Seen(bytearray(1 << 16))
    for number in range(50):
        ask = wire.Step(("net:1",), f"s{number}@example.org", "b@example.com", "192.0.2.1", 90.0, 1e5, 1e6, 5)
        assert disk.steps.step(ask, 7.0, 100.0) == ("new", 107.0, 1, 0, 90.0, "net:1")
    assert disk.reads == 0 and len(disk.steps.triplets.dirty) == len(disk.steps.pairs.dirty) == 50
    assert disk.steps.outcomes == {"new": 50}


def test_what_the_disk_never_took_is_seen_all_the_same() -> None:
    disk = Disk(1000)
    for shelf in disk.shelves:
        shelf._dirty_cap = 0
    disk.sweep(1)
    ask = wire.Step(("net:1",), "s@example.org", "b@example.com", "192.0.2.1", 90.0, 1e5, 1e6, 5)
    assert disk.steps.step(ask, 0.0, 0.0)[0] == "new"
    disk.sweep(1)
    assert disk.steps.step(ask, 1.0, 0.0)[0] == "early"
    disk.sweep(1)
    assert disk.steps.step(ask, 90.0, 0.0)[0] == "passed"


def test_the_pair_of_a_triplet() -> None:
    assert pair_of("net:2001:db8::/64\x1fa@example.org\x1fb@example.com") == "a@example.org\x1fb@example.com"


def step_of(sender: str, origin: str = "net:1", accept: int = 0) -> wire.Step:
    return wire.Step((origin,), sender, "b@example.com", "192.0.2.1", 90.0, 1e5, 1e6, accept)


def test_strangers_of_an_accepted_origin_pass_and_so_do_those_an_operator_lets_pass() -> None:
    disk = Disk(1000)
    disk.sweep(1)
    disk.steps.let_pass(wire.PassGreylist("friend", "b@example.com", 1e6), 1.0)
    assert disk.steps.step(step_of("friend"), 1.0, 0.0)[0] == "known"
    states = [disk.steps.step(step_of("a", accept=1), now, 0.0)[0] for now in (1.0, 91.0)]
    assert states == ["new", "passed"]
    assert disk.steps.step(step_of("b", accept=1), 92.0, 0.0)[0] == "auto"
    assert disk.steps.step(step_of("b", "net:2", accept=1), 92.0, 0.0)[0] == "new"


def test_a_stranger_that_comes_behind_the_sweeps_back_is_seen() -> None:
    disk = Disk(2)
    for number in range(9):
        disk.steps.step(step_of(f"m{number}"), 0.0, 0.0)
    disk.write()
    disk.sweep(10)
    assert disk.steps.met.seen is not None
    disk.sweep(1)  # the next one is beyond a0 now
    assert disk.steps.step(step_of("a0", "net:0"), 1.0, 0.0)[0] == "new"
    disk.write()
    for number in range(9):  # a0 leaves the RAM
        disk.steps.step(step_of(f"m{number}"), 2.0, 0.0)
    disk.write()
    disk.sweep(10)
    assert disk.steps.met.seeing is None and disk.steps.met.seen is not None
    assert disk.steps.step(step_of("a0", "net:0"), 91.0, 0.0)[0] == "passed"


def test_what_passed_is_known_when_its_pair_is_gone() -> None:
    disk = Disk(1000)
    disk.sweep(10)
    assert [disk.steps.step(step_of("a"), now, 0.0)[0] for now in (1.0, 91.0)] == ["new", "passed"]
    disk.now = 200_000.0
    for _ in range(4):  # the pair is found to be over, and then not found any more
        disk.write()
        disk.sweep(10)
    assert not disk.tables["pair"] and disk.tables["triplet"]
    assert disk.steps.step(step_of("a"), disk.now, 0.0)[0] == "known"
