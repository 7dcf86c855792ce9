"""The entry format: what is whole is found, what is not is never taken for a message."""

import os
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from appliance.queue import entry
from appliance.queue.entry import HEADER, Damaged, Found, Header, Torn
from appliance.queue.ids import QueueIds, base, valid
from tests.queue.queue_rig import trailer

SALT = bytes.fromhex("00112233445566ff")


def scan(data: bytes, path: Path, end: int | None = None, start: int = 0) -> list:
    path.write_bytes(data)
    fd = os.open(path, os.O_RDONLY)
    try:
        return list(entry.iterate(fd, SALT, start, end))
    finally:
        os.close(fd)


def one(content: bytes = b"Subject: x\r\n\r\nbody\r\n", salt: bytes = SALT) -> bytes:
    return b"".join(entry.encode_entry(content, trailer(len(content)), salt))


def test_header_has_40_octets_and_survives() -> None:
    header = Header(SALT, 1 << 40, 77, 1, 2, 3)
    assert len(entry.pack_header(header)) == HEADER == 40
    assert entry.unpack_header(entry.pack_header(header), SALT) == header
    assert entry.unpack_header(entry.pack_header(header), bytes(8)) is None


def test_every_entry_is_found_with_its_content(tmp_path: Path) -> None:
    big = os.urandom(entry.INLINE + 1)
    parts = [one(b"a"), one(b""), one(big), one(b"b" * 1000)]
    found = scan(b"".join(parts), tmp_path / "f")
    assert [type(f) for f in found] == [Found] * 4
    assert [f.content for f in found] == [b"a", b"", None, b"b" * 1000]
    assert found[-1].end == sum(map(len, parts))


def test_cut_at_every_octet_gives_whole_entries_and_one_torn(tmp_path: Path) -> None:
    """The writer died: everything before the cut is found, the half entry is dropped and nothing is called damaged."""
    first, second = one(b"x" * 50), one(b"y" * 50)
    for cut in range(len(first), len(first + second)):
        found = scan((first + second)[:cut], tmp_path / "f")
        assert isinstance(found[0], Found)
        assert found[1:] == ([Torn(len(first), cut)] if cut > len(first) else [])


def test_cut_before_an_announced_end_is_damage(tmp_path: Path) -> None:
    first, second = one(), one()
    whole = len(first + second)
    found = scan((first + second)[:-5], tmp_path / "f", whole)
    assert isinstance(found[0], Found)
    assert isinstance(found[1], Damaged)
    assert (found[1].offset, found[1].end) == (len(first), whole)


@pytest.mark.parametrize("bit", [0, 3, 7])
def test_a_flipped_bit_anywhere_damages_one_entry_only(tmp_path: Path, bit: int) -> None:
    first, second, third = one(b"1" * 30), one(b"2" * 30), one(b"3" * 30)
    whole = first + second + third
    for at in range(len(first), len(first + second)):
        data = bytearray(whole)
        data[at] ^= 1 << bit
        found = scan(bytes(data), tmp_path / "f", len(whole))
        assert [type(f) for f in found] == [Found, Damaged, Found], f"octet {at}"
        assert [f.content for f in found if isinstance(f, Found)] == [b"1" * 30, b"3" * 30]
        assert (found[1].offset, found[1].end) == (len(first), len(first + second))


def test_lost_octets_in_the_middle_do_not_hide_what_follows(tmp_path: Path) -> None:
    first, second, third = one(b"1" * 300), one(b"2" * 300), one(b"3" * 300)
    data = first + second[:100] + second[150:] + third
    found = scan(data, tmp_path / "f")
    assert [type(f) for f in found] == [Found, Damaged, Found]
    assert found[2].content == b"3" * 300


def test_an_entry_inside_a_message_is_never_found(tmp_path: Path) -> None:
    """Threat: a message contains the octets of an entry; its own header is damaged; the scan looks for the next one."""
    inner = one(b"smuggled", salt=bytes(8))
    outer = bytearray(one(b"x" * 10 + inner + b"y" * 10))
    outer[20] ^= 0xFF
    after = one(b"good")
    found = scan(bytes(outer) + after, tmp_path / "f")
    assert [type(f) for f in found] == [Damaged, Found]
    assert found[1].content == b"good"


def test_zeros_at_the_end_are_a_tail_that_was_taken_back(tmp_path: Path) -> None:
    first = one()
    assert scan(first + bytes(5000), tmp_path / "f")[1:] == [Torn(len(first), len(first) + 5000)]
    assert isinstance(scan(first + bytes(50) + b"!" * 50, tmp_path / "f")[1], Damaged)


def test_a_draft_is_known_by_its_empty_header(tmp_path: Path) -> None:
    for data, draft in [(bytes(HEADER) + b"draft", True), (b"", True), (one(), False), (bytes(39) + b"!", False)]:
        (tmp_path / "f").write_bytes(data)
        fd = os.open(tmp_path / "f", os.O_RDONLY)
        assert entry.is_draft(fd) is draft
        os.close(fd)


def test_unknown_version_is_set_aside(tmp_path: Path) -> None:
    import zlib

    data = bytearray(one())
    data[4] = 9
    data[36:40] = zlib.crc32(bytes(data[:36])).to_bytes(4, "big")
    assert isinstance(scan(bytes(data), tmp_path / "f")[0], Damaged)


def test_header_across_the_window_of_the_search(tmp_path: Path) -> None:
    wanted = one(b"here")
    for before in range((1 << 20) - 3, (1 << 20) + 2):
        found = scan(b"\1" * before + wanted, tmp_path / "f")
        assert isinstance(found[-1], Found)
        assert found[-1].offset == before


def test_ids_are_unique_sorted_and_plain() -> None:
    moments = iter([5_000_000_000_000_000_000] * 50 + [4_000_000_000_000_000_000] * 50)
    ids = QueueIds(3, lambda: next(moments))
    made = [next(ids) for _ in range(100)]
    assert len(set(made)) == 100
    assert made == sorted(made)  # also over a clock that steps back
    assert all(valid(queue_id) and queue_id.isalnum() and queue_id[10] == "z" for queue_id in made)


@given(
    st.lists(st.integers(0, 8_000) | st.integers(0, 3_000_000), max_size=30),
    st.just(1_999_999_997_000_000) | st.integers(10**15, 2 * 10**15),
)
def test_ids_say_their_microsecond(steps: list[int], begin: int) -> None:
    """Over blocks of 2704 of them, and seconds; steps back are outrun."""
    moments = [begin + step for step in [*steps, 2_900, 3_100, 999_999, 1_000_000]]
    clock = iter([moment * 1000 for moment in moments])
    ids, last = QueueIds(3, lambda: next(clock)), 0
    for moment in moments:
        made, last = next(ids), max(moment, last + 1)
        assert made[:10] == base(last // 1_000_000, 52, 6) + base(last % 1_000_000, 52, 4)


def test_ids_of_workers_and_restarts_differ_in_the_same_microsecond() -> None:
    assert len({next(QueueIds(worker, lambda: 10**18)) for worker in range(64) for _ in range(2)}) == 128


@pytest.mark.parametrize("bad", ["", "..", "a/b", "a\n", "a.b", "x" * 41, "ä"])
def test_what_is_no_id_is_never_a_file_name(bad: str) -> None:
    assert not valid(bad)
