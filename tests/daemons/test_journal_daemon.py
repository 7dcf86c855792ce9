"""The journal daemon: events kept as they came, /metrics, trouble that costs no mail."""

import asyncio
import contextlib
import json
import os
import socket
from collections.abc import AsyncIterator
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from appliance.config import blob as blobs
from appliance.config import snapshot as config
from appliance.daemons.journal import Journal, printable, split
from appliance.daemons.skeleton import Birth
from appliance.observe import events, maillog, metrics
from appliance.observe.journal_files import files, search

TEXT = """\
[gateway]
hostname = "mx.example.com"
state_dir = "state"
policies = "policies"
[[listen]]
address = "127.0.0.1:2525"
[relay]
domains = ["example.com"]
next_hop = "smtp:[127.0.0.1]:9"
"""
STAGES = '[inbound]\nconnect = []\nhelo = []\nmail = []\nrcpt = ["relay", "recipient"]\ndata = []\nmessage = []\n'


def listening(path: Path) -> socket.socket:
    sock = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
    sock.bind(str(path))
    sock.listen(16)
    return sock


@pytest.fixture
async def journal(tmp_path: Path) -> AsyncIterator[Journal]:
    (tmp_path / "policies").mkdir()
    (tmp_path / "policies" / "stages.toml").write_text(STAGES)
    (tmp_path / "c.toml").write_text(TEXT)
    log = os.open(tmp_path / "log", os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o600)
    maillog.configure(log, service="journal")
    made = Journal(
        Birth(
            service="journal",
            index=0,
            snapshot=config.build(blobs.read(str(tmp_path / "c.toml"))),
            listening={"unix:journal": [listening(tmp_path / "j")], "metrics": [listening(tmp_path / "m")]},
            rendezvous={"control": str(tmp_path / "control")},
            state_dir=tmp_path,
            certificates={},
        )
    )
    await made.start()
    yield made
    events.configure("")
    await made.drain(0.1)
    maillog.configure(2)
    os.close(log)


async def until(true: object, seconds: float = 5.0) -> None:
    assert callable(true)
    async with asyncio.timeout(seconds):
        while not true():
            await asyncio.sleep(0.01)


async def test_events_are_kept_found_and_logged(journal: Journal, tmp_path: Path) -> None:
    events.configure(str(tmp_path / "j"))
    for number in range(500):
        events.emit({"id": f"q{number:03}", "subject": "line\nbreak \x9b \u202e end"})
    await until(lambda: len(list(search(tmp_path / "journal", "q499"))) == 1)
    (line,) = search(tmp_path / "journal", '"q007"')
    assert json.loads(line) == {"id": "q007", "subject": "line\nbreak \x9b \u202e end"}
    assert line.decode().rstrip("\n").isprintable()
    maillog.flush()
    logged = [text for text in (tmp_path / "log").read_text().splitlines() if "postgate/event[" in text]
    assert len(logged) == 500 and json.loads(logged[7].split("]: ", 1)[1])["id"] == "q007"


async def test_plain_lines_are_kept_as_they_are_and_others_are_escaped(journal: Journal, tmp_path: Path) -> None:
    journal._to_log = False
    journal.take(b'{"id":"a"}\n{"id":"b","x":"~ !"}')
    journal.take(b'{"id":"c"}\n\n{"id":"d"}')
    journal.take(b'{"id":"\x7f"}')
    journal.take('{"id":"ü"}\n{"id":"\x9b"}'.encode())
    kept = b"".join(path.read_bytes() for path in files(tmp_path / "journal"))
    assert kept.decode().splitlines() == [
        '{"id":"a"}',
        '{"id":"b","x":"~ !"}',
        '{"id":"c"}',
        '{"id":"d"}',
        '{"id":"\\u007f"}',
        '{"id":"ü"}',
        '{"id":"\\u009b"}',
    ]


async def test_the_log_has_each_line_that_is_kept(journal: Journal, tmp_path: Path) -> None:
    journal.take(b'{"id":"a"}\n{"id":"b"}')
    journal.take(b'{"id":"c"}\n\n{"id":"\x7f"}')
    journal.take(b"\n")
    maillog.flush()
    logged = (tmp_path / "log").read_text().splitlines()
    kept = b"".join(path.read_bytes() for path in files(tmp_path / "journal")).decode().splitlines()
    assert kept == ['{"id":"a"}', '{"id":"b"}', '{"id":"c"}', '{"id":"\\u007f"}']
    assert [line.split("]: ", 1)[1] for line in logged] == kept
    assert all(" postgate/event[" in line for line in logged)


async def test_a_sender_that_dies_in_mid_line_leaves_no_rubbish(journal: Journal, tmp_path: Path) -> None:
    _, writer = await asyncio.open_unix_connection(str(tmp_path / "j"))
    writer.write(b'{"id":"whole"}\n{"id":"half')
    await writer.drain()
    writer.close()
    await until(lambda: list(search(tmp_path / "journal", "whole")))
    await until(lambda: journal.health()["senders"] == 0)
    assert b"".join(path.read_bytes() for path in files(tmp_path / "journal")) == b'{"id":"whole"}\n'


async def test_a_sender_of_rubbish_is_hung_up_on(journal: Journal, tmp_path: Path) -> None:
    reader, writer = await asyncio.open_unix_connection(str(tmp_path / "j"))
    writer.write(b"x" * 3_000_000)
    async with asyncio.timeout(10):
        with contextlib.suppress(ConnectionError):
            assert await reader.read() == b""
    writer.close()
    assert journal.health()["senders"] == 0


async def test_a_full_disk_is_told_and_counted_and_passes(
    journal: Journal, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def full(_lines: bytes) -> None:
        raise OSError(28, "No space left on device")

    with monkeypatch.context() as patch:
        patch.setattr(journal._files, "append", full)
        journal.take(b'{"id":1}\n{"id":2}')
    assert "No space left" in journal.health()["degraded"][0]
    journal.take(b'{"id":3}')
    assert journal.health()["degraded"] == []


async def get(path: Path, request: bytes) -> bytes:
    reader, writer = await asyncio.open_unix_connection(str(path))
    writer.write(request)
    async with asyncio.timeout(10):
        answer = await reader.read()
    writer.close()
    return answer


async def test_metrics_are_what_the_master_merged(journal: Journal, tmp_path: Path) -> None:
    async def master(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        assert json.loads(await reader.readline()) == {"op": "metrics"}
        writer.write(json.dumps({"text": "postgate_x 1\n" * 20000}).encode() + b"\n")
        writer.close()

    server = await asyncio.start_unix_server(master, str(tmp_path / "control"))
    answer = await get(tmp_path / "m", b"GET /metrics HTTP/1.1\r\nHost: x\r\n\r\n")
    head, _, body = answer.partition(b"\r\n\r\n")
    assert head.startswith(b"HTTP/1.1 200 OK\r\n") and metrics.CONTENT_TYPE.encode() in head
    assert body == b"postgate_x 1\n" * 20000
    assert (await get(tmp_path / "m", b"POST /metrics HTTP/1.1\r\n\r\n")).startswith(b"HTTP/1.1 405 ")
    assert (await get(tmp_path / "m", b"GET /etc/passwd HTTP/1.1\r\n\r\n")).startswith(b"HTTP/1.1 404 ")
    server.close()


async def test_metrics_without_a_master_are_unavailable(journal: Journal, tmp_path: Path) -> None:
    assert (await get(tmp_path / "m", b"GET /metrics HTTP/1.1\r\n\r\n")).startswith(b"HTTP/1.1 503 ")


@given(st.text("a\n\r ").map(str.encode))
def test_lines_are_split_as_by_the_language(octets: bytes) -> None:
    assert split(octets) == octets.split(b"\n")


def test_printable_json_is_the_same_value() -> None:
    text = json.dumps("a\x7f\x9b\u2028\U000e0001ü", ensure_ascii=False)
    assert printable(text).isprintable()
    assert json.loads(printable(text)) == json.loads(text)
