"""Strangers whom a worker knows by the filters of stated: as the machine answers, told once, lost never; in a memory that
nobody else can write."""

import asyncio
import mmap
import os
import socket
import struct
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import msgspec
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from appliance.mail.greylisting import GreylistAnswer, GreylistAsk
from appliance.mail.ports import Unavailable
from appliance.mail.promise import Promise
from appliance.stores import remote, strangers, wire
from appliance.stores.greylist import Origin
from appliance.stores.remote import StateClient
from appliance.stores.seen import Filter, absent, room
from appliance.stores.state import State
from appliance.stores.steps import Steps
from appliance.stores.strangers import FULL, MOST, SIZE, Board, Group, News
from tests.stores.test_state_greylist import Memory
from tests.stores.test_state_steps import KEYS, Disk


def step_ask(
    sender: str = "a@example.org", recipient: str = "b@example.com", keys: tuple[str, ...] = ("net:1",), **more: Any
) -> GreylistAsk:
    knobs: dict[str, Any] = {"delay": 90.0, "window": 172_800.0, "remember": 3_110_400.0, "auto_accept": 5}
    given_ = {"keys": keys, "sender": sender, "recipient": recipient, "client": "192.0.2.1", "now": 7.0, **knobs, **more}
    return GreylistAsk(**given_)


def swept(board: Board) -> Steps:
    """Nothing is known, and that is known."""
    steps = Steps(lambda table, key: None, board)
    for shelf in (steps.triplets, steps.origins, steps.pairs):
        shelf.look_through()
        shelf.looked_through(True)
    return steps


class Worker(News):
    """Keeps what goes into the next frame, and counts how often that was large enough to go."""

    def __init__(self) -> None:
        self.posted: list[wire.Strangers] = []
        self.large = 0
        super().__init__(self.posted.append, self._large)

    def _large(self) -> None:
        self.large += 1

    def first(self, ask: GreylistAsk) -> wire.Strangers | None:
        """The message that tells of this stranger."""
        return self.posted[-1] if Group(self, ask).first(ask.recipient) else None


def seen_by(board: Board) -> Worker:
    news = Worker()
    news.see(strangers.look(board.fd))
    return news


def told_of(ask: GreylistAsk) -> wire.Strangers:
    message = wire.strangers_of(ask)
    message.recipients.append(ask.recipient)
    return message


# ---------------------------------------------------------------------------------------------------- the memory


def test_nobody_else_writes_or_cuts_the_board() -> None:
    board = Board()
    with pytest.raises(OSError):
        mmap.mmap(board.fd, SIZE)
    with pytest.raises(OSError):
        os.pwrite(board.fd, b"\1", 0)
    for size in (0, SIZE - 1, SIZE + 1):
        with pytest.raises(OSError):
            os.ftruncate(board.fd, size)
    memory = strangers.look(board.fd)
    assert memory is not None and memory.readonly
    board.pairs[5] = 1
    assert memory[5] == 1
    board.close()
    board.pairs[6] = 1
    assert memory[6] == 1, "who has it looks on"


def test_what_is_no_board_is_not_looked_at(tmp_path: Path) -> None:
    with (tmp_path / "file").open("w+b") as file:
        file.truncate(SIZE)
        assert strangers.look(file.fileno()) is None, "it could be cut under our eyes"
    for size in (SIZE, 5):
        fd = os.memfd_create("x", os.MFD_ALLOW_SEALING)
        os.ftruncate(fd, size)
        assert strangers.look(fd) is None
        os.close(fd)


def test_without_such_memory_there_is_no_board(monkeypatch: pytest.MonkeyPatch) -> None:
    def refused(*_: object) -> int:
        raise OSError(38, "Function not implemented")

    monkeypatch.setattr(os, "memfd_create", refused)
    assert strangers.board() is None


def test_a_filter_is_looked_at_in_memory_round_by_round() -> None:
    memory = bytearray(room(1 << 10))
    one = Filter("a", slots=1 << 10, memory=memory)
    assert not absent(memory, 1 << 10, "stranger"), "nobody vouches yet"
    one.begin("a")
    one.meet("old")
    one.note("put between")
    assert not absent(memory, 1 << 10, "stranger")
    one.end("a", True)
    assert [absent(memory, 1 << 10, key) for key in ("old", "put between", "stranger")] == [False, False, True]
    one.note("new")
    one.begin("a")
    one.note("newer")
    assert not absent(memory, 1 << 10, "new") and not absent(memory, 1 << 10, "newer"), "the round before goes on"
    one.end("a", True)
    assert absent(memory, 1 << 10, "old") and absent(memory, 1 << 10, "new") and not absent(memory, 1 << 10, "newer")
    one.begin("a")
    one.end("a", True)
    assert absent(memory, 1 << 10, "newer"), "the half that was used before begins empty"
    one.begin("a")
    one.end("a", False)
    assert not absent(memory, 1 << 10, "stranger"), "a round that failed vouches for nothing"


# ---------------------------------------------------------------------------------------------------- who is one


def test_a_stranger_is_known_once_until_stated_has_noted_him() -> None:
    board = Board()
    steps, news = swept(board), seen_by(board)
    stranger = news.first(step_ask())
    assert stranger is not None and (stranger.keys, stranger.delay) == (("net:1",), 90.0)
    assert news.first(step_ask()) is None and news.first(step_ask(keys=("net:2",))) is None, "the same pair"
    news.sent()
    assert news.first(step_ask()) is None, "he is under way"
    steps.told(stranger, 7.0)
    assert steps.outcomes == {"new": 1}
    news.heard()
    assert news.first(step_ask()) is None, "the board has him"
    assert news.first(step_ask("other@example.org")) is not None


def test_an_origin_that_may_be_accepted_is_asked_about() -> None:
    board = Board()
    steps, news = swept(board), seen_by(board)
    steps.origins.put("net:1", Origin(5, 0.0, 0.0), 1e9)
    assert news.first(step_ask()) is None
    assert news.first(step_ask(auto_accept=0)) is not None, "nobody is accepted"
    assert news.first(step_ask("c@example.org", shared=True)) is not None, "nor who is shared"
    assert news.first(step_ask("d@example.org", keys=("net:2",))) is not None


def test_without_a_board_or_before_the_first_sweep_nobody_is_a_stranger() -> None:
    assert Worker().first(step_ask()) is None
    board = Board()
    Steps(lambda table, key: None, board)
    assert seen_by(board).first(step_ask()) is None


def test_of_so_many_only_the_first_are_told() -> None:
    board = Board()
    swept(board)
    news = seen_by(board)
    first = [news.first(step_ask(f"s{number}@example.org")) is not None for number in range(MOST + 1)]
    assert first == [True] * MOST + [False]
    assert news.large == MOST - FULL + 1, "it is said until they have gone"


def test_strangers_of_a_group_share_a_message_until_it_has_gone() -> None:
    board = Board()
    steps, news = swept(board), seen_by(board)
    one, other = Group(news, step_ask()), Group(news, step_ask(keys=("net:2",)))
    assert [one.first("x@example.com"), other.first("y@example.com"), one.first("z@example.com")] == [True] * 3
    assert [one.first("y@example.com"), other.first("x@example.com")] == [False] * 2, "the pair is on its way"
    first = list(news.posted)
    assert [message.recipients for message in first] == [["x@example.com", "z@example.com"], ["y@example.com"]]
    news.sent()
    assert one.first("late@example.com") and news.posted[2:] == [told_of(step_ask(recipient="late@example.com"))]
    assert first[0].recipients == ["x@example.com", "z@example.com"], "what has gone is not touched"
    for message in first:
        steps.told(message, 7.0)
    news.heard()
    assert not one.first("z@example.com") and not other.first("y@example.com")
    news.lost()
    news.see(strangers.look(board.fd))
    assert one.first("behind@example.com") and len(news.posted) == 4
    assert news.again() == news.posted[2:], "each message once"
    news.drop(news.posted[2], lambda _: False)
    assert news.posted[2].recipients == [] and one.first("late@example.com")
    assert list(news.next.values()) == [news.posted[3]] * 2


def test_a_message_that_could_not_be_posted_tells_nobody() -> None:
    board = Board()
    swept(board)
    news = seen_by(board)
    one, post = Group(news, step_ask()), news.post

    def broken(message: wire.Strangers) -> None:
        raise RuntimeError("no loop")

    news.post = broken
    with pytest.raises(RuntimeError):
        one.first("x@example.com")
    news.post = post
    assert one.first("x@example.com") and [message.recipients for message in news.posted] == [["x@example.com"]]


def test_who_is_told_of_while_a_sweep_is_under_way_is_known_behind_it() -> None:
    board = Board()
    steps, news = swept(board), seen_by(board)
    for shelf in (steps.triplets, steps.pairs):
        shelf.look_through()
    steps.told(told_of(step_ask()), 7.0)
    for shelf in (steps.triplets, steps.pairs):
        shelf.looked_through(True)
    assert news.first(step_ask()) is None and news.first(step_ask("other@example.org")) is not None


def test_of_an_accepted_origin_no_stranger_is_put_off_behind_our_back() -> None:
    board = Board()
    steps = swept(board)
    steps.origins.put("net:1", Origin(5, 0.0, 0.0), 1e9)
    message = told_of(step_ask())
    message.recipients.append("c@example.com")
    steps.told(message, 7.0)
    assert steps.outcomes == {"auto": 2}
    steps.told(told_of(step_ask("b@example.org", keys=("net:2",))), 7.0)
    assert steps.outcomes == {"auto": 2, "new": 1}


def test_strangers_of_a_message_are_counted_each() -> None:
    steps = swept(Board())
    message = told_of(step_ask())
    message.recipients.extend(["c@example.com", "d@example.com"])
    steps.told(message, 7.0)
    assert steps.outcomes == {"new": 3}


def test_stated_counts_each_stranger_as_an_ask(tmp_path: Path) -> None:
    state = State(tmp_path / "db")
    message = told_of(step_ask())
    message.recipients.append("c@example.com")
    assert state.answer([message, wire.step_of(step_ask("b@example.org"))], {})[0] is None
    assert state.asks == 3
    state.database.close()


def test_what_stated_did_not_confirm_is_told_again() -> None:
    board = Board()
    swept(board)
    news = seen_by(board)
    one, two, three = (news.first(step_ask(f"{name}@example.org")) for name in ("a", "b", "c"))
    news.sent()
    news.heard()
    four = news.first(step_ask("d@example.org"))
    news.sent()
    five = news.first(step_ask("e@example.org"))
    news.lost()
    assert news.again() == [four, five] and news.first(step_ask("f@example.org")) is None
    assert None not in (one, two, three)
    news.see(strangers.look(board.fd))
    assert news.first(step_ask("e@example.org")) is None and news.first(step_ask("f@example.org")) is not None


@pytest.mark.parametrize("is_swept", [True, False])
def test_who_is_told_of_twice_did_not_come_back(is_swept: bool) -> None:
    board = Board()
    steps, news = swept(board), seen_by(board)
    if not is_swept:
        steps.met.seen = None
    stranger = told_of(step_ask())
    steps.told(stranger, 0.0)
    steps.told(stranger, 500.0)  # stated took the step, died, and came back behind the delay
    assert steps.origins.get("net:1") is None
    answer = steps.step(wire.step_of(step_ask()), 500.0, 0.0)
    assert (answer[0], answer[1], answer[2]) == ("passed", 0.0, 2), "the first attempt counts, and this one"
    other = told_of(step_ask(keys=("net:2",)))
    steps.told(other, 501.0)
    assert steps.triplets.get("net:2\x1fa@example.org\x1fb@example.com") is not None, "another address is another triplet"
    late = told_of(step_ask("late@example.org"))
    steps.told(late, 0.0)
    steps.told(late, 172_801.0)
    assert steps.step(wire.step_of(step_ask("late@example.org")), 172_802.0, 0.0)[:2] == ("early", 172_801.0), (
        "what means nothing any more is new again"
    )
    assert news.first(step_ask("late@example.org")) is None


class Shared(Disk):
    """The tables, with filters on a board."""

    def __init__(self) -> None:
        super().__init__(1000)
        self.board = Board()
        self.steps = Steps(self.read, self.board)
        self.shelves = [self.steps.triplets, self.steps.origins, self.steps.pairs]  # type: ignore[list-item]


_asks = st.tuples(
    st.just("ask"),
    st.sampled_from([0.0, 0.0, 1.0, 95.0, 4000.0, 180_000.0, 3_200_000.0]),
    st.integers(0, 4),
    st.integers(0, 3),
)
_work = st.tuples(st.sampled_from(["write", "send", "hear", "whole"]), st.just(0.0), st.just(0), st.just(0))


@settings(max_examples=150, deadline=None)
@given(st.lists(st.one_of(_asks, _asks, _work), max_size=50), st.sampled_from([0, 1, 2]))
def test_whoever_is_called_a_stranger_is_one(history: list[tuple[str, float, int, int]], accept: int) -> None:
    disk, memory = Shared(), Memory()
    news = seen_by(disk.board)
    groups: dict[tuple[int, int], Group] = {}
    under_way: list[wire.Strangers] = []

    def send() -> None:
        under_way[:] = news.posted
        news.posted.clear()
        news.sent()

    def tell() -> None:
        for _ in range(2):
            for message in under_way:
                disk.steps.told(message, disk.now)
            send()

    for what, gap, keys, who in history:
        if gap:  # what is told is told within milliseconds
            tell()
        disk.now += gap
        if what == "write":
            disk.write()
        elif what == "whole":
            disk.sweep(100)
        elif what == "send":
            if not under_way:
                send()
        elif what == "hear":
            tell()
            news.heard()
        else:
            sender, client = f"s{who}@example.org", f"192.0.2.{keys}"
            named = {"keys": KEYS[keys], "sender": sender, "client": client, "auto_accept": accept, "shared": who == 3}
            expected = memory.step(disk.now, **named)
            ask = step_ask(now=disk.now, **named)
            if groups.setdefault((keys, who), Group(news, ask)).first(ask.recipient):
                assert (expected.state, expected.attempts, expected.wait, expected.key) == ("new", 1, 90.0, ask.keys[0])
            else:
                tell()
                state, first, _, passes, wait, key = disk.steps.step(wire.step_of(ask), disk.now, 0.0)
                assert (state, first, passes, wait, key) == (
                    expected.state, expected.first, expected.passes, expected.wait, expected.key,
                )  # fmt: skip
    disk.board.close()


# ---------------------------------------------------------------------------------------------------- over the wire


class Stated:
    """Greets with its board, keeps each frame until it is told to answer."""

    def __init__(self) -> None:
        self.board = Board()
        self.steps = swept(self.board)
        self.frames: asyncio.Queue[tuple[int, list[Any]]] = asyncio.Queue()
        self.writer: asyncio.StreamWriter | None = None

    async def serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self.writer = writer
        payload = msgspec.msgpack.encode((0, [wire.HELLO]))
        with socket.socket(fileno=os.dup(writer.get_extra_info("socket").fileno())) as raw:
            socket.send_fds(raw, [struct.pack(">IB", len(payload), 1) + payload], [self.board.fd])
        try:
            while True:
                length, _ = struct.unpack(">IB", await reader.readexactly(5))
                self.frames.put_nowait(wire.decode_asks(await reader.readexactly(length)))
        except asyncio.IncompleteReadError:
            writer.close()

    async def next(self) -> tuple[int, list[Any]]:
        return await asyncio.wait_for(self.frames.get(), 5)

    def answer(self, frame: tuple[int, list[Any]]) -> None:
        """Take the steps, tell what came of them."""
        sequence, asks = frame
        answers = [
            self.steps.told(ask, 0.0) if type(ask) is wire.Strangers else self.steps.step(ask, 0.0, 0.0)  # type: ignore[func-returns-value]
            for ask in asks
        ]
        payload = msgspec.msgpack.encode((sequence, answers))
        assert self.writer is not None
        self.writer.write(struct.pack(">IB", len(payload), 0) + payload)


@pytest.fixture
async def both(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> AsyncIterator[tuple[StateClient, Stated]]:
    monkeypatch.chdir(tmp_path)  # a short path
    stated = Stated()
    server = await asyncio.start_unix_server(stated.serve, "s")
    client = StateClient("s")
    client.start()
    assert await client.wait_ready(5)
    yield client, stated
    client.close()
    server.close()
    stated.board.close()


async def test_a_stranger_has_his_answer_at_once_and_stated_hears_of_him(both: tuple[StateClient, Stated]) -> None:
    client, stated = both
    assert client.step(step_ask()) == GreylistAnswer(state="new", first=7.0, attempts=1, wait=90.0, key="net:1")
    assert isinstance(client.step(step_ask("x@example.org")), GreylistAnswer)
    again = client.step(step_ask())
    assert isinstance(again, Promise), "he is on his way to stated: the next step is behind him"
    frame = await stated.next()
    assert [type(ask) for ask in frame[1]] == [wire.Strangers, wire.Strangers, wire.Step]
    stated.answer(frame)
    assert (await again).state == "early"
    assert isinstance(client.step(step_ask()), Promise), "stated knows him"


async def test_a_stranger_alone_is_told_soon(both: tuple[StateClient, Stated]) -> None:
    client, stated = both
    assert isinstance(client.step(step_ask()), GreylistAnswer)
    assert [ask.sender for ask in (await stated.next())[1]] == ["a@example.org"]


async def test_many_strangers_go_at_once(both: tuple[StateClient, Stated], monkeypatch: pytest.MonkeyPatch) -> None:
    client, stated = both
    monkeypatch.setattr(remote, "LINGER_NEWS", 3600.0)
    for number in range(FULL):
        assert isinstance(client.step(step_ask(f"s{number}@example.org")), GreylistAnswer)
    assert len((await stated.next())[1]) == FULL


async def test_strangers_whom_stated_did_not_confirm_are_told_again(both: tuple[StateClient, Stated]) -> None:
    client, stated = both
    assert isinstance(client.step(step_ask()), GreylistAnswer)
    await stated.next()
    assert isinstance(client.step(step_ask("next@example.org")), GreylistAnswer)
    assert stated.writer is not None
    stated.writer.close()
    while client.ready:
        await asyncio.sleep(0)
    assert await client.wait_ready(5)
    frame = await stated.next()
    assert [ask.sender for ask in frame[1]] == ["a@example.org", "next@example.org"]
    assert {type(ask) for ask in frame[1]} == {wire.Strangers}
    stated.answer(frame)
    early = client.step(step_ask())
    assert isinstance(early, Promise)
    stated.answer(await stated.next())
    assert (await early).state == "early"


async def test_what_cannot_be_encoded_costs_itself_only(both: tuple[StateClient, Stated]) -> None:
    client, stated = both
    bad = step_ask("\udcff@example.org")
    assert isinstance(client.step(step_ask()), GreylistAnswer) and isinstance(client.step(bad), GreylistAnswer)
    again, worse = client.step(step_ask()), client.step(bad)
    assert isinstance(again, Promise) and isinstance(worse, Promise)
    frame = await stated.next()
    assert [ask.sender for ask in frame[1]] == ["a@example.org"] * 2
    with pytest.raises(Unavailable, match="cannot be asked"):
        await worse
    stated.answer(frame)
    assert (await again).state == "early" and client.ready
    assert isinstance(client.step(bad), GreylistAnswer), "it is not told again and again"
    assert isinstance(client.step(step_ask("x@example.org")), GreylistAnswer)
    assert [ask.sender for ask in (await stated.next())[1]] == ["x@example.org"]


async def test_of_a_group_only_whom_stated_cannot_be_told_of_is_left_out(both: tuple[StateClient, Stated]) -> None:
    client, stated = both
    group = client.strangers(step_ask())
    assert group.first("b@example.com") and group.first("\udcff@example.com") and group.first("c@example.com")
    frame = await stated.next()
    assert [ask.recipients for ask in frame[1]] == [["b@example.com", "c@example.com"]]
    assert set(client._news.told) == {"a@example.org\x1fb@example.com", "a@example.org\x1fc@example.com"}
    stated.answer(frame)
    early = client.step(step_ask(recipient="c@example.com"))
    assert isinstance(early, Promise)
    stated.answer(await stated.next())
    assert (await early).state == "early" and client.ready


async def test_a_stated_that_hangs_is_left_and_strangers_hear_so(
    both: tuple[StateClient, Stated], monkeypatch: pytest.MonkeyPatch
) -> None:
    client, stated = both
    monkeypatch.setattr(remote, "DEADLINE", 0.1)
    assert isinstance(client.step(step_ask()), GreylistAnswer)
    await stated.next()
    while client.ready:
        await asyncio.sleep(0.01)
    assert client.why == "no answer in time"
    with pytest.raises(Unavailable):
        client.step(step_ask("b@example.org"))
