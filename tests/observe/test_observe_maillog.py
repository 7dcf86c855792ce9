"""The mail log never blocks and never loses quietly."""

import asyncio
import os
import socket
from collections.abc import Iterator
from pathlib import Path

import pytest

from appliance.observe import maillog, sink


@pytest.fixture(autouse=True)
def back_to_stderr() -> Iterator[None]:
    yield
    maillog.configure(2)


def opened(path: Path) -> int:
    return os.open(path, os.O_WRONLY | os.O_APPEND | os.O_CREAT, 0o600)


async def test_lines_of_a_turn_are_written_together_in_postfix_form(tmp_path: Path) -> None:
    fd = opened(tmp_path / "log")
    maillog.configure(fd, pid=77, service="smtpd", host="mx.example.com")
    maillog.log("connect from unknown[192.0.2.1]")
    maillog.log("ABC: removed", service="qmgr")
    assert (tmp_path / "log").read_text() == ""  # nothing before the turn is over
    maillog.flush()
    first, second = (tmp_path / "log").read_text().splitlines()
    assert first[3] == " " and first[15:] == " mx postgate/smtpd[77]: connect from unknown[192.0.2.1]"
    assert second.endswith(" mx postgate/qmgr[77]: ABC: removed")


async def test_lines_that_are_written_together_are_as_each_by_itself(tmp_path: Path) -> None:
    maillog.configure(opened(tmp_path / "log"))
    texts = ["one", "\u00fc"]
    for text in texts:
        maillog.log(text)
    maillog.written("".join(f"{maillog.prefix()}{text}\n" for text in texts))
    maillog.flush()
    written = [line.partition(": ")[2] for line in (tmp_path / "log").read_text().splitlines()]
    assert written == [*texts, *texts]


def test_without_a_loop_lines_are_written_at_once(tmp_path: Path) -> None:
    maillog.configure(opened(tmp_path / "log"))
    maillog.log("one\ntwo")
    assert (tmp_path / "log").read_text().count("\n") == 1


async def test_swap_sends_what_waits_to_the_old_file(tmp_path: Path) -> None:
    maillog.configure(opened(tmp_path / "old"))
    maillog.log("before")
    maillog.swap(opened(tmp_path / "new"))
    maillog.log("after")
    maillog.flush()
    assert "before" in (tmp_path / "old").read_text()
    assert "after" in (tmp_path / "new").read_text() and "before" not in (tmp_path / "new").read_text()


async def test_syslog_gets_a_datagram_a_line_with_priority_and_no_host(tmp_path: Path) -> None:
    with (
        socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as server,
        socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as ours,
    ):
        server.bind(str(tmp_path / "log"))
        server.settimeout(5)
        ours.connect(str(tmp_path / "log"))
        maillog.configure(ours.fileno(), pid=7, service="smtpd", host="mx", facility="mail")
        maillog.log("one")
        maillog.log("warning: two")
        maillog.written(f"{maillog.prefix()}three\n{maillog.prefix()}four\n")
        maillog.flush()
        first, second, third, fourth = (server.recv(4096).decode() for _ in range(4))
        maillog.configure(2)
    assert third.startswith("<22>") and third.endswith("]: three") and fourth.endswith("]: four")
    assert first.startswith("<22>") and first.endswith(" postgate/smtpd[7]: one")
    assert second.startswith("<20>") and " mx " not in second


async def test_a_reader_that_stands_still_never_blocks_us_and_gets_the_rest_later() -> None:
    reading, writing = os.pipe()
    maillog.configure(writing)
    for number in range(3000):  # far more than a pipe holds
        maillog.log(f"line {number} {'x' * 100}")
    maillog.flush()
    got = b""
    while got.count(b"\n") < 3000:
        got += await asyncio.get_running_loop().run_in_executor(None, os.read, reading, 65536)
        await asyncio.sleep(0.01)
    assert [int(line.split(b"line ")[1].split()[0]) for line in got.splitlines()] == list(range(3000))
    os.close(reading)


async def test_what_does_not_fit_is_dropped_and_counted(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sink, "BACKLOG", 10_000)
    reading, writing = os.pipe()
    before = sink._dropped._value.get()
    maillog.configure(writing)
    for _ in range(2000):
        maillog.log("x" * 200)
    assert sink._dropped._value.get() - before > 1000
    os.close(reading)
    maillog.flush()  # the reader is gone: that must not raise either
    maillog.log("and on")
    maillog.flush()


async def test_lines_that_came_as_one_are_counted_each_where_they_are_lost(monkeypatch: pytest.MonkeyPatch) -> None:
    reading, writing = os.pipe()
    maillog.configure(writing)
    before = sink._dropped._value.get()
    monkeypatch.setattr(sink, "BACKLOG", -1)
    maillog.written("a\nb\n")
    assert sink._dropped._value.get() - before == 2
    monkeypatch.setattr(sink, "BACKLOG", 10_000)
    os.close(reading)
    maillog.written("a\nb\n")
    maillog.flush()
    assert sink._dropped._value.get() - before == 4
    maillog.configure(2)
    os.close(writing)


async def test_what_a_pipe_does_not_take_undivided_is_not_put_as_one() -> None:
    reading, writing = os.pipe()
    maillog.configure(writing)
    for size in (2000, 2100):
        maillog.written(f"{'x' * size}\n" * 2)
    assert [line.count(b"\n") for line in maillog._State.sink._waiting] == [2, 1, 1]
    maillog.flush()
    assert len(os.read(reading, 10000)) == 2 * 2001 + 2 * 2101
    maillog.configure(2)
    os.close(reading)
    os.close(writing)


def test_a_closed_descriptor_does_not_raise() -> None:
    reading, writing = os.pipe()
    os.close(reading)
    maillog.configure(writing)
    os.close(writing)
    maillog.log("nobody hears this")


def test_p4_a_storm_of_one_cause_is_capped_and_the_next_line_says_how_many(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    now = [1000.0]
    monkeypatch.setattr("appliance.observe.maillog.time.monotonic", lambda: now[0])
    monkeypatch.setattr(maillog, "_windows", {})
    maillog.configure(opened(tmp_path / "log"))
    for number in range(maillog.MOST + 7):
        maillog.capped("rate", f"over {number}")
    maillog.capped("size", "another cause")
    lines = (tmp_path / "log").read_text().splitlines()
    assert len(lines) == maillog.MOST + 1
    assert lines[-1].endswith("another cause")
    now[0] += maillog.WINDOW
    maillog.capped("rate", "over again")
    maillog.capped("rate", "and again")
    lines = (tmp_path / "log").read_text().splitlines()
    assert lines[-2].endswith("over again (7 more of these were not written)")
    assert lines[-1].endswith("and again")


async def test_a_file_takes_many_lines_in_one_write_and_a_pipe_no_more_than_it_takes_undivided(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    sizes: list[int] = []
    write = os.write
    monkeypatch.setattr(sink.os, "write", lambda fd, data: (sizes.append(len(data)), write(fd, data))[1])
    lines = [b"%04d %b\n" % (number, b"x" * 94) for number in range(1000)]
    file = sink.Sink(opened(tmp_path / "log"))
    file.put_all(lines)
    file.flush()
    assert (tmp_path / "log").read_bytes() == b"".join(lines)
    assert sizes == [65500, 34500]
    sizes.clear()
    reader, writer = os.pipe()
    piped = sink.Sink(writer)
    piped.put_all(lines[:50])
    piped.flush()
    assert os.read(reader, 65536) == b"".join(lines[:50])
    assert sizes == [4000, 1000]
    os.close(reader)
    os.close(writer)


async def test_many_lines_are_dropped_and_counted_together(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sink, "BACKLOG", 10)
    before = sink._dropped._value.get()
    full = sink.Sink(opened(tmp_path / "log"))
    full.put_all([b"0123456789\n"])
    full.put_all([b"a\n", b"b\n"])
    full.flush()
    full.put_all([b"c\n"])
    full.flush()
    assert (tmp_path / "log").read_bytes() == b"0123456789\nc\n"
    assert sink._dropped._value.get() == before + 2
