"""scand with its real nursery: what kills a reader kills nothing else (threats C2, C5, C6, D1)."""

import asyncio
import base64
import contextlib
import gc
import io
import os
import signal
import socket
import weakref
import zipfile
from collections.abc import AsyncIterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from appliance.config.terms import Terms
from appliance.connectors.inspector import BASE, RATE, Inspector
from appliance.connectors.source import Octets
from appliance.daemons.scand import daemon, hatchery
from appliance.daemons.scand.daemon import Scand
from appliance.mail.inspection import Inspection, Job, Report
from appliance.mail.ports import Unavailable
from appliance.net.channel import connect
from appliance.protocol.mime import LIMITS, Limits

MIXED = b'Received: x\r\nContent-Type: multipart/mixed; boundary="x"\r\n\r\n'
PART = b"--x\r\n\r\na\r\n"
#: Takes a reader seconds.
SLOW = MIXED + b"--\n" * 9_000_000


class Rig:
    """scand, and an inspector as a worker has one."""

    def __init__(self, folder: Path, children: int) -> None:
        self.path = str(folder / "scand.sock")
        self.listening = socket.socket(socket.AF_UNIX)
        self.listening.bind(self.path)
        self.listening.listen(50)
        birth: Any = SimpleNamespace(listening={"unix:scand": [self.listening]}, terms=terms(children))
        self.scand = Scand(birth)
        self.inspector = Inspector(self.path)

    async def read(self, content: bytes, limits: Limits = LIMITS) -> Report:
        return (await self.inspector.inspect(Octets(content), limits)).report

    @property
    def nursery(self) -> int:
        process = self.scand._hatchery._process
        assert process is not None
        return process.pid


def terms(children: int, rules: dict[str, bytes] | None = None) -> Terms:
    return Terms(hash="h", host="mx.example.com", facility="mail", level="info", scand=children, rules=rules or {})


def children_of(pid: int) -> list[int]:
    return [int(word) for word in Path(f"/proc/{pid}/task/{pid}/children").read_text().split()]


async def child_of(pid: int) -> int:
    async with asyncio.timeout(10):
        while not (found := children_of(pid)):
            await asyncio.sleep(0.005)
    return found[0]


@pytest.fixture
async def rig(tmp_path: Path) -> AsyncIterator[Rig]:
    made = Rig(tmp_path, 2)
    await made.scand.start()
    yield made
    made.inspector.close()
    await made.scand.drain(0.0)
    made.listening.close()


async def test_a_structure(rig: Rig) -> None:
    content = MIXED + b'--x\r\nContent-Disposition: attachment; filename="a; rm -rf /"\r\n\r\n' + PART
    report = await rig.read(content)
    assert (report.count, report.depth) == (3, 1)
    assert [part.names for part in report.parts if part.names] == [("a; rm -rf /",)]
    assert (await rig.read(b"")).count == 1
    assert rig.scand.health()["read"] == 2


@pytest.mark.parametrize(
    ("content", "over"),
    [
        (b"".join(b"Content-Type: multipart/x; boundary=b%d\r\n\r\n--b%d\r\n" % (n, n) for n in range(90)), "depth"),
        (MIXED + PART * 10000, "parts"),
        (b"X: " + b"a" * 600_000 + b"\r\n\r\n", "header"),
        (b"X: a\r\n" * 20000 + b"\r\n", "fields"),
    ],
)
async def test_c2_bombs_are_an_outcome(rig: Rig, content: bytes, over: str) -> None:
    assert (await rig.read(content)).over == over
    assert (await rig.read(content + b"x")).over == over


async def test_the_limits_are_the_askers(rig: Rig) -> None:
    assert (await rig.read(MIXED + PART * 5, Limits(parts=3))).over == "parts"


async def test_c6_a_killed_child_costs_its_own_message_only(rig: Rig) -> None:
    slow = asyncio.create_task(rig.read(SLOW))
    os.kill(await child_of(rig.nursery), signal.SIGSEGV)
    with pytest.raises(Unavailable, match="SIGSEGV"):
        await slow
    assert (await rig.read(MIXED + PART)).count == 2
    assert rig.scand.health()["not read"] == 1


async def test_c6_a_killed_nursery_comes_back(rig: Rig) -> None:
    slow = asyncio.create_task(rig.read(SLOW))
    child = await child_of(rig.nursery)
    os.kill(rig.nursery, signal.SIGKILL)
    with pytest.raises(Unavailable, match="died"):
        await slow
    assert rig.scand.health()["degraded"] != []
    assert (await rig.read(MIXED + PART)).count == 2, "what comes meanwhile waits"
    assert rig.scand.health()["degraded"] == []
    async with asyncio.timeout(10):  # the death signal
        while Path(f"/proc/{child}").exists() and "Z" not in Path(f"/proc/{child}/stat").read_text():
            await asyncio.sleep(0.01)


async def test_c2_content_that_takes_too_long_is_over_the_limit_of_time(rig: Rig) -> None:
    assert await rig.read(MIXED)
    with contextlib.suppress(PermissionError):  # its limit is of CPU, the job's of time: beside others it needs its CPU
        os.setpriority(os.PRIO_PROCESS, rig.nursery, -15)
    content = Octets(MIXED + b"--q\n" * 18_000_000)
    channel = connect(rig.path)
    answers: asyncio.Queue[bytes] = asyncio.Queue()
    channel.attach(asyncio.get_running_loop(), lambda data, fds: answers.put_nowait(data))
    fd = content.open_fd()
    channel.send(Job(7, 0, content.size, 6.0, LIMITS), (fd,))
    os.close(fd)
    async with asyncio.timeout(20):
        assert b"\xa4time" in await answers.get()
    channel.close()


async def test_d1_a_stopped_child_is_killed_too(rig: Rig) -> None:
    hasty = Inspector(rig.path, base=1.0 - len(SLOW) / 2097152)
    slow = asyncio.create_task(hasty.inspect(Octets(SLOW), LIMITS))
    os.kill(await child_of(rig.nursery), signal.SIGSTOP)
    with pytest.raises(Unavailable, match="took too long"):
        await slow
    assert children_of(rig.nursery) == []
    hasty.close()
    assert (await rig.read(MIXED + PART)).count == 2


async def test_only_so_many_children_the_others_wait(rig: Rig) -> None:
    rig.scand.commit(terms(1))
    most, done = 0, False

    async def watch() -> None:
        nonlocal most
        while not done:
            most = max(most, len(children_of(rig.nursery)))
            await asyncio.sleep(0)

    watching = asyncio.create_task(watch())
    found = await asyncio.gather(*(rig.read(MIXED + PART * number) for number in range(1, 21)))
    done = True
    await watching
    assert [report.count for report in found] == list(range(2, 22))
    assert most == 1


async def test_waiting_is_not_charged_to_content(rig: Rig, monkeypatch: pytest.MonkeyPatch) -> None:
    rig.scand.commit(terms(1))
    given: list[float] = []
    run = rig.scand._hatchery.run

    def noted(job: Job, fds: Any, seconds: float, done: Any) -> None:
        given.append(seconds)
        run(job, fds, seconds, done)

    monkeypatch.setattr(rig.scand._hatchery, "run", noted)
    first, second = asyncio.create_task(rig.read(SLOW)), asyncio.create_task(rig.read(MIXED + PART))
    os.kill(await child_of(rig.nursery), signal.SIGKILL)
    with pytest.raises(Unavailable):
        await first
    assert (await second).count == 2
    assert given[1] == BASE + len(MIXED + PART) / RATE


async def test_a_full_queue_is_said_at_once(rig: Rig, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(daemon, "QUEUE", 1)
    rig.scand.commit(terms(1))
    slow = [asyncio.create_task(rig.read(SLOW)) for _ in range(2)]
    await child_of(rig.nursery)
    await asyncio.sleep(0.1)
    with pytest.raises(Unavailable, match="wait already"):
        await rig.read(MIXED)
    for task in slow:
        task.cancel()
    await asyncio.gather(*slow, return_exceptions=True)


async def test_c6_what_a_reader_may_not_do(rig: Rig) -> None:
    refused = rig.scand._hatchery.refused
    if Path("/proc/sys/kernel/seccomp").exists():
        assert {"network", "processes"} <= set(refused)
    assert rig.scand.health()["confined"] == (", ".join(refused) or "no")
    slow = asyncio.create_task(rig.read(SLOW))
    child = await child_of(rig.nursery)
    async with asyncio.timeout(10):  # confined before it reads, not at its first breath
        while "Max file size             0 " not in Path(f"/proc/{child}/limits").read_text():
            await asyncio.sleep(0.005)
    status = Path(f"/proc/{child}/status").read_text()
    assert "NoNewPrivs:\t1" in status
    limits = Path(f"/proc/{child}/limits").read_text().splitlines()
    memory = next(line for line in limits if line.startswith("Max address space")).split()
    assert int(memory[3]) <= 512 * 1024 * 1024 + 3 * len(SLOW) + 65536
    assert not [path for path in Path(f"/proc/{child}/fd").iterdir() if "stated" in os.readlink(path)]
    slow.cancel()
    await asyncio.gather(slow, return_exceptions=True)


@pytest.mark.parametrize("answer", [b"", b"\xc1", b"\x94\xff\x00\xa0\x90", b"rubbish"])
async def test_c6_a_child_is_believed_nothing_but_a_shape(answer: bytes, monkeypatch: pytest.MonkeyPatch) -> None:
    nursery = hatchery.Hatchery(lambda: None)
    pipe, end = os.pipe()
    os.set_blocking(pipe, False)
    os.write(end, answer)
    os.close(end)
    heard: list[tuple[object, str]] = []
    nursery._readings[1] = hatchery._Reading(pipe, lambda shape, why: heard.append((shape, why)))
    nursery._end(1, "")
    assert heard[0][0] is None and "rubbish" in heard[0][1]


async def test_rubbish_from_a_worker_costs_its_own_connection(rig: Rig) -> None:
    gone = asyncio.Event()
    channel = connect(rig.path)
    channel.attach(asyncio.get_running_loop(), lambda data, fds: None, gone.set)
    channel.send("rubbish")
    async with asyncio.timeout(10):
        await gone.wait()
    assert (await rig.read(MIXED + PART)).count == 2


async def test_no_descriptor_is_left_behind(rig: Rig) -> None:
    await rig.read(MIXED + PART)
    before = len(os.listdir("/proc/self/fd"))
    await asyncio.gather(*(rig.read(MIXED + PART) for _ in range(20)))
    assert len(os.listdir("/proc/self/fd")) <= before


async def test_without_scand_there_is_no_structure(tmp_path: Path) -> None:
    inspector = Inspector(str(tmp_path / "nobody.sock"))
    with pytest.raises(Unavailable, match="scand"):
        await inspector.inspect(Octets(MIXED), LIMITS)
    assert inspector.health()["degraded"] != []


async def test_d1_a_scand_that_hangs_or_dies_is_unavailable(tmp_path: Path) -> None:
    listening = socket.socket(socket.AF_UNIX)
    listening.bind(str(tmp_path / "s.sock"))
    listening.listen()
    inspector = Inspector(str(tmp_path / "s.sock"), base=0.1)
    with pytest.raises(Unavailable, match="no answer within"):
        await inspector.inspect(Octets(MIXED), LIMITS)
    patient = Inspector(str(tmp_path / "s.sock"))
    asked = asyncio.create_task(patient.inspect(Octets(MIXED), LIMITS))
    await asyncio.sleep(0.05)
    for _ in range(2):
        listening.accept()[0].close()
    with pytest.raises(Unavailable, match="hung up"):
        await asked
    listening.close()


def with_zip(name: str, octets: bytes) -> bytes:
    out = io.BytesIO()
    with zipfile.ZipFile(out, "w", zipfile.ZIP_DEFLATED) as file:
        file.writestr(name, octets)
    head = b"--x\r\nContent-Type: application/zip; name=a.zip\r\nContent-Transfer-Encoding: base64\r\n\r\n"
    return MIXED + head + base64.encodebytes(out.getvalue()) + b"--x--\r\n"


async def test_c4_archives_are_read_in_the_confined_child(rig: Rig) -> None:
    """With libarchive, libmagic and olefile, which were loaded before; names in other scripts need no file either."""
    report = await rig.read(with_zip("d\u00e9/\u65e5\u672c.exe", b"MZ\x90\0" + bytes(300)))
    assert report.missing == () and report.unread == ()
    member = report.parts[-1]
    assert member.path == "1!d\u00e9/\u65e5\u672c.exe" and member.detected == "application/x-dosexec"
    other = await rig.read(MIXED + b"--x\r\nContent-Type: image/x; name=x\r\n\r\nRIFF\x24\0\0\0WAVEfmt " + bytes(40))
    assert other.parts[-1].detected == "audio/x-wav"
    koi8 = "\u043f http://host.example/".encode("koi8-r")
    text = await rig.read(MIXED + b"--x\r\nContent-Type: text/plain; charset=koi8-r\r\n\r\n" + koi8)
    assert text.hosts == ("host.example",)


async def test_decoded_parts_come_through_the_memory_file(rig: Rig) -> None:
    octets = os.urandom(300_000)
    part = b"--x\r\nContent-Type: a/b; name=c\r\nContent-Transfer-Encoding: base64\r\n\r\n" + base64.encodebytes(octets)
    inspection = await rig.inspector.inspect(Octets(MIXED + part + b"--x--\r\n"))
    found = inspection.report.parts[-1]
    assert inspection.body(found) == b"".join(inspection.chunks(found, 1000)) == octets
    assert inspection.header(found).startswith(b"Content-Type: a/b")


async def test_one_job_for_all_who_ask_about_a_content(rig: Rig) -> None:
    content, limits = Octets(MIXED + PART), Limits(parts=9)
    asked = [
        rig.inspector.inspect(content),
        rig.inspector.bound(LIMITS).inspect(content),
        rig.inspector.inspect(content, LIMITS),
    ]
    first, *others = await asyncio.gather(*asked)
    assert all(other is first for other in others) and rig.inspector.jobs == 1
    assert await rig.inspector.inspect(content, limits) is not first
    assert rig.inspector.jobs == 2
    inspections = weakref.ref(first)
    del first, others, asked, content
    gc.collect()
    assert inspections() is None, "it ends with the content"


async def test_who_is_cancelled_ends_nothing_for_others(rig: Rig) -> None:
    content = Octets(MIXED + PART)
    gone, stays = (asyncio.create_task(rig.inspector.inspect(content)) for _ in range(2))
    await asyncio.sleep(0)
    gone.cancel()
    assert (await stays).report.count == 2 and gone.cancelled()


async def test_what_scand_lacks_is_told(rig: Rig, monkeypatch: pytest.MonkeyPatch) -> None:
    async def lacking(content: object, limits: object) -> Inspection:
        return Inspection(Report(1, missing=("libarchive13",)))

    monkeypatch.setattr(rig.inspector, "_ask", lacking)
    await rig.inspector.inspect(Octets(MIXED))
    assert rig.inspector.health()["degraded"] == ["attachments are not looked into: libarchive13 is not installed"]


async def test_the_end_of_a_connection_is_no_news_to_who_asks_over_the_next(rig: Rig) -> None:
    assert (await rig.read(b"")).count == 1
    channel = rig.inspector._channel
    assert channel is not None
    asking = asyncio.ensure_future(rig.inspector._ask(Octets(b"a"), LIMITS))
    channel.close()  # that it is gone is told behind the next question
    assert (await asking).report.count == 1
