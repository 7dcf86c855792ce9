"""Peers of a whole gateway that are killed while they are given a message (threats D1): an ICAP service that takes
requests, a content filter behind the queue. The mail is put off or kept, passes nowhere unchecked, and goes its way when
the peer is back; the log and the status name the peer and the message."""

import asyncio
import contextlib
import re
from collections.abc import AsyncIterator, Callable
from pathlib import Path

import pytest

from tests.peers.deaths import Death
from tests.peers.gateway import Gateway
from tests.peers.good_scanners import KINDS
from tests.peers.good_smtp import GOOD, SmtpQuestion, send
from tests.peers.hostile import Hostile, Question, Reader, Writer, answers, goes_on
from tests.peers.icap import blocked
from tests.peers.policies import plain
from tests.peers.ports import free_port
from tests.soak.judging import judged

pytestmark = [pytest.mark.fault, pytest.mark.timeout(120)]
MB = 1 << 20
LINE = b"a line of a message that no buffer of a connection holds\r\n"
MAIL = b"From: a@example.org\r\nSubject: large\r\n\r\n" + LINE * (12 * MB // len(LINE))
#: How much of it has come when the peer dies: octets.
REACHED = [1, 3 * MB]
FILTERED = b"X-Filtered: yes\r\n"


@contextlib.asynccontextmanager
async def running(made: Gateway) -> AsyncIterator[Gateway]:
    await asyncio.to_thread(made.start)
    try:
        yield made
    finally:
        await asyncio.to_thread(made.stop)


class Inside:
    """An inner server that is well, and what it got."""

    def __init__(self) -> None:
        self.got: list[bytes] = []
        self.peer = Hostile(lambda: SmtpQuestion("", self._says), goes_on)

    def _says(self, step: str, line: bytes) -> bytes:
        if step == "DOT":
            self.got.append(line)
        return GOOD.get(step, b"250 2.0.0 Ok\r\n")


async def until(true: Callable[[], object], what: str) -> None:
    try:
        async with asyncio.timeout(40):
            while not true():
                await asyncio.sleep(0.05)
    except TimeoutError:
        raise AssertionError(what) from None


async def degraded(gateway: Gateway) -> list[str]:
    found: list[str] = (await asyncio.to_thread(gateway.status))["degraded"]
    return found


SCANNER = (
    '[scanners.av]\nkind = "icap"\naddress = "127.0.0.1:{port}"\nmethod = "reqmod"\ntimeout = "5s"\nremember = "0s"\n'
)


@pytest.mark.parametrize("octets", REACHED)
async def test_d1_an_icap_service_that_dies_in_the_middle_of_a_request(tmp_path: Path, octets: int) -> None:
    inside, death = Inside(), Death(octets)
    good = judged(KINDS["icap"].good, KINDS["icap"].good.answer, blocked())
    scanner = Hostile(good, death.reqmod, limit=4096)
    policies = plain(message='["size", "antivirus"]', antivirus="parts_limit = 0\n")
    gateway = Gateway(tmp_path, inside.peer.port, workers=1, more=SCANNER.format(port=scanner.port), policies=policies)
    async with inside.peer, scanner, running(gateway):
        kind, reply = await send(gateway.port, "a@example.org", ["b@example.com"], MAIL)
        assert (kind, reply[:4]) == ("refused", "451 "), reply
        assert death.reached == octets, "it had a part of the content"
        transaction = re.findall(r"\[(\w+)\]", reply)[-1]
        (said,) = [one for one in await degraded(gateway) if transaction in one]
        assert "scanner av fails" in said and f":{scanner.port}" in said, said
        (line,) = [one for one in gateway.log().splitlines() if f"{transaction}: defer by antivirus:error" in one]
        assert f"av: 127.0.0.1:{scanner.port}: hung up" in line and "sending to" in line, line
        assert not inside.got, "nothing passes unchecked"
        await scanner.be(None)
        scanner.limit = 1 << 26
        await scanner.be(answers)
        while (sent := await send(gateway.port, "a@example.org", ["b@example.com"], MAIL))[0] != "accepted":
            assert sent[1].startswith("451 "), sent
            await asyncio.sleep(0.2)
        await until(lambda: inside.got, "it is back, and mail goes through")
        assert len(inside.got) == 1 and inside.got[0].endswith(LINE)
        assert not [one for one in await degraded(gateway) if transaction in one]


BACK = """\
[queue]
retry_min = "1s"
retry_max = "1s"
dead_probe = "1s"
[[listen]]
name = "back"
role = "reinject"
address = "127.0.0.1:{port}"
workers = 1
"""


@pytest.mark.parametrize("octets", REACHED)
async def test_d1_a_filter_behind_the_queue_that_dies_in_the_middle_of_a_message(tmp_path: Path, octets: int) -> None:
    inside, back = Inside(), free_port()

    async def hand_back(content: bytes) -> bytes:
        kind, reply = await send(back, "a@example.org", ["b@example.com"], FILTERED + content)
        return f"{reply}\r\n".encode() if kind == "accepted" else b"451 4.3.0 not handed on\r\n"

    def well(step: str, line: bytes) -> object:
        return hand_back(line) if step == "DOT" else GOOD.get(step, b"250 2.0.0 Ok\r\n")

    deaths: list[Death] = []

    async def dies(question: Question, reader: Reader, writer: Writer) -> None:
        deaths.append(Death(octets))
        await deaths[-1].smtp(question, reader, writer)

    filter_ = Hostile(lambda: SmtpQuestion("", well), dies, limit=4096)  # type: ignore[arg-type]
    gateway = Gateway(tmp_path, inside.peer.port, workers=1, more=BACK.format(port=back), policies=plain())
    text = gateway.config.read_text()
    gateway.config.write_text(text.replace("[relay]", f'content_filter = "smtp:[127.0.0.1]:{filter_.port}"\n[relay]', 1))
    async with inside.peer, filter_, running(gateway):
        kind, reply = await send(gateway.port, "a@example.org", ["b@example.com"], MAIL)
        assert kind == "accepted", reply
        queue_id = reply.rpartition(" ")[2]
        await until(lambda: f"{queue_id}: to=" in gateway.log(), "a line of the try")
        line = next(one for one in gateway.log().splitlines() if f"{queue_id}: to=<b@example.com>" in one)
        assert "status=deferred" in line and f":{filter_.port}" in line and "message body" in line, line
        assert deaths[0].reached == octets, "it had a part of the content"
        listed = (await asyncio.to_thread(gateway.cli, "queue", "list", "--json")).stdout
        assert queue_id in listed, "it is kept"
        (said,) = await degraded(gateway)
        assert f":{filter_.port}" in said and queue_id in said, said
        assert not inside.got, "nothing passes unfiltered"
        await filter_.be(None)
        filter_.limit = 1 << 26
        await filter_.be(goes_on)
        await until(lambda: inside.got, "it is back, and has the message")
        assert len(inside.got) == 1 and FILTERED in inside.got[0][:2000] and inside.got[0].endswith(LINE)
        await until(lambda: f"{queue_id}: removed" in gateway.log(), "the queue is empty")
        assert await degraded(gateway) == []
