"""What comes back from a scanner, and what is made of it: threats C7, C9, D1, D2, D3."""

import asyncio
import os
import tempfile

import pytest

from appliance.connectors import conversation
from appliance.connectors.conversation import Server
from tests.connectors.scanner_peer import FOUND, MAIL, Message, Peer, context, hangs, hangs_up, make, says
from tests.peers.good_scanners import CLEAN, HAM


@pytest.mark.parametrize(
    ("answer", "kind"),
    [
        (CLEAN, "clean"),
        (FOUND, "infected"),
        (b"stream: OK", "error"),
        (b"stream: OKAY\0", "error"),
        (b"OK\0", "error"),
        (b"\0", "error"),
        (b"", "error"),
        (CLEAN + FOUND, "error"),
        (FOUND + CLEAN, "error"),
        (b"stream: Can't allocate memory ERROR\0", "error"),
        (b"INSTREAM size limit exceeded. ERROR\0", "oversize"),
        (b"HTTP/1.1 200 OK\r\n\r\nstream: OK\0", "error"),
        (b"x" * 100000, "error"),
    ],
)
async def test_d2_only_exact_words_are_an_answer(answer: bytes, kind: str) -> None:
    async with Peer(says(answer)) as peer:
        result = await make(peer.server).scan(Message(), context())
    assert result.kind == kind, result.why
    assert result.scanner == "av" and result.seconds > 0
    assert (kind == "clean") == (result.why == "")
    assert peer.heard[0] == MAIL


async def test_d1_one_octet_at_a_time() -> None:
    async def slowly(peer: Peer, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await reader.readuntil(b"\0\0\0\0")
        for octet in FOUND:
            writer.write(bytes((octet,)))
            await writer.drain()
            await asyncio.sleep(0)

    async with Peer(slowly) as peer:
        assert (await make(peer.server).scan(Message(), context())).names == ("Eicar-Test-Signature",)


async def test_d1_two_answers_one_after_the_other() -> None:
    async def twice(peer: Peer, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await reader.readuntil(b"\0\0\0\0")
        for answer in (CLEAN, FOUND):
            writer.write(answer)
            await writer.drain()
            await asyncio.sleep(0.02)

    async with Peer(twice) as peer:
        assert (await make(peer.server).scan(Message(), context())).kind == "error"


async def test_d1_an_answer_without_end_is_cut_off() -> None:
    async def endless(peer: Peer, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        while True:
            writer.write(b"stream: " * 100)
            await writer.drain()

    async with Peer(endless) as peer:
        result = await make(peer.server, timeout=30.0).scan(Message(), context())
    assert result.kind == "error" and "longer than" in result.why and result.seconds < 10


async def test_d1_a_peer_that_keeps_the_connection_open_has_answered(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(conversation, "GRACE", 0.05)

    async def stays(peer: Peer, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await reader.readuntil(b"\0\0\0\0")
        writer.write(CLEAN)
        await reader.read()

    async with Peer(stays) as peer:
        assert (await make(peer.server).scan(Message(), context())).kind == "clean"


@pytest.mark.parametrize("act", [hangs, hangs_up])
async def test_d1_no_answer_is_an_error(act: object) -> None:
    async with Peer(act) as peer:  # type: ignore[arg-type]
        result = await make(peer.server, timeout=0.2).scan(Message(), context())
    assert result.kind == "error" and result.seconds < 3
    assert "127.0.0.1" in result.why, "the log says where it stopped"


async def test_d1_one_deadline_for_all_not_one_for_each_read() -> None:
    async def trickles(peer: Peer, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        while True:
            writer.write(b"s")
            await writer.drain()
            await asyncio.sleep(0.05)

    async with Peer(trickles) as peer:
        result = await make(peer.server, timeout=1.5).scan(Message(), context())
    assert result.kind == "error" and "no answer within 1.5 s" in result.why


async def test_the_deadline_grows_with_the_size() -> None:
    scanner = make(Server(host="127.0.0.1", port=1), timeout=60.0)
    assert scanner.patience(0) == 60.0
    assert scanner.patience(50 * 1024 * 1024) == 110.0


async def test_d3_each_scan_has_a_connection_of_its_own() -> None:
    async with Peer(says(CLEAN)) as peer:
        scanner = make(peer.server)
        for number in range(3):
            await scanner.scan(Message(MAIL + b"%d" % number), context())
    assert peer.connections == 3


class Large(Message):
    """With a descriptor."""

    def open_fd(self) -> int:
        with tempfile.TemporaryFile() as file:
            file.write(self.octets)
            file.flush()
            fd = os.dup(file.fileno())
        os.lseek(fd, 0, os.SEEK_SET)
        return fd


@pytest.mark.parametrize(
    ("answer", "kind"), [(b"INSTREAM size limit exceeded. ERROR\0", "oversize"), (CLEAN, "error"), (FOUND, "error")]
)
async def test_d2_an_answer_given_while_we_still_send_is_read_but_is_no_result(answer: bytes, kind: str) -> None:
    async def early(peer: Peer, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await reader.readexactly(100)
        writer.write(answer)
        await writer.drain()
        writer.transport.abort() if peer.connections > 1 else writer.close()

    async with Peer(early) as peer:
        result = await make(peer.server).scan(Large(MAIL + b"x" * 5_000_000), context())
    assert result.kind == kind, result.why


async def test_c7_what_is_no_mail_is_not_sent_to_clamd() -> None:
    async with Peer(says(CLEAN)) as peer:
        result = await make(peer.server).scan(Message(b"Subject: x\r\n\r\nhello\r\n"), context())
    assert result.kind == "error" and "Received" in result.why
    assert peer.heard == []


async def test_c7_more_than_the_limit_is_not_clean() -> None:
    async with Peer(says(CLEAN)) as peer:
        scanner = make(peer.server, size_limit=len(MAIL) - 1)
        result = await scanner.scan(Message(), context())
        assert result.kind == "oversize" and peer.connections == 0
        scanner = make(peer.server, size_limit=len(MAIL))
        assert (await scanner.scan(Message(), context())).kind == "clean"


async def test_spamd_is_asked_in_its_own_way() -> None:
    async def spamd(peer: Peer, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        peer.heard.append(await reader.read())  # to the end: the sending side is shut
        writer.write(HAM)

    async with Peer(spamd) as peer:
        result = await make(peer.server, kind="spamd").scan(Message(), context())
    assert (result.kind, result.score, result.threshold, result.names) == ("clean", 1.5, 5.0, ("A", "B"))
    assert peer.heard == [b"SYMBOLS SPAMC/1.5\r\nContent-length: %d\r\n\r\n%s" % (len(MAIL), MAIL)]


@pytest.mark.parametrize("score", [b"nan / 5.0", b"1.5 / inf", b"1e9 / 5.0", b"15.0"])
async def test_c9_no_score_is_made_up(score: bytes) -> None:
    async def spamd(peer: Peer, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await reader.read()
        writer.write(HAM.replace(b"1.5 / 5.0", score))

    async with Peer(spamd) as peer:
        result = await make(peer.server, kind="spamd").scan(Message(), context())
    assert result.kind == "error" and result.score == 0.0


async def test_content_that_cannot_be_read_is_an_error_and_no_fault_of_the_scanner() -> None:
    async with Peer(says(CLEAN)) as peer:
        scanner = make(peer.server)
        result = await scanner.scan(Message(MAIL + b"x" * 100_000), context())
    assert result.kind == "error" and "cannot be read" in result.why
    assert scanner.condition.wrong == {} and peer.connections == 0
