"""Sources of recipients that break their protocol in every way: the old list stays, in bounded time, and says why."""

import asyncio
import os
import shutil
import signal
import subprocess
import sys
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import msgspec
import pytest

from appliance.tables.known import Origin, keep, launch
from appliance.tables.known.keep import Order, known
from tests.peers.hostile import FAULTS, Good, Hostile, trickles, two_answers

OLD = {f"old{number}@example.com" for number in range(20)}
BODY = b'["old1@example.com", "new@example.com"]'
HTTP = b"HTTP/1.1 200 OK\r\nContent-Type: application/json\r\nContent-Length: %d\r\n\r\n%s" % (len(BODY), BODY)


def ber(tag: int, *parts: bytes) -> bytes:
    body = b"".join(parts)
    assert len(body) < 128
    return bytes((tag, len(body))) + body


def text(value: str) -> bytes:
    return ber(4, value.encode())


def found(address: str) -> bytes:
    """A search result entry (RFC 4511) that answers message 2."""
    attributes = ber(0x30, ber(0x30, text("mail"), ber(0x31, text(address))))
    return ber(0x30, ber(2, b"\2"), ber(0x64, text("cn=x"), attributes))


BOUND = ber(0x30, ber(2, b"\1"), ber(0x61, ber(10, b"\0"), text(""), text("")))
DONE = ber(0x30, ber(2, b"\2"), ber(0x65, ber(10, b"\0"), text(""), text("")))
LDAP = found("old1@example.com") + found("new@example.com") + DONE


async def http_question(reader: asyncio.StreamReader, _: asyncio.StreamWriter) -> None:
    await reader.readuntil(b"\r\n\r\n")


async def ldap_message(reader: asyncio.StreamReader) -> None:
    head = await reader.readexactly(2)
    length = head[1]
    if length & 0x80:
        length = int.from_bytes(await reader.readexactly(length & 0x7F), "big")
    await reader.readexactly(length)


async def ldap_question(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    """The bind, answered; the search."""
    await ldap_message(reader)
    writer.write(BOUND)
    await ldap_message(reader)


KINDS: dict[str, tuple[Good, dict[str, Any]]] = {
    "http": (Good(http_question, HTTP), {"addresses": ("[]",)}),
    "ldap": (Good(ldap_question, LDAP), {"base": ("dc=x",), "bind_dn": "cn=reader"}),
}
#: Part of what is said, where it is not only that there was no end in time.
SAID = {
    ("http", "absent"): "refused",
    ("ldap", "absent"): "refused",
    ("http", "garbage"): "127.0.0.1",
    ("http", "half_an_answer"): "no JSON",
    ("http", "another_protocol"): "220 mx.example.com ESMTP",
}


class Asking:
    """An old list, and a source on a port."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder / "recipients"
        self.folder.mkdir()
        keep.written(self.folder / "x", sorted(OLD), "from a test", "sync")
        self.before = (self.folder / "x").read_bytes()

    def order(self, origin: Origin, timeout: float = 1.0, force: bool = True) -> Order:
        return Order(
            name="x", folder=str(self.folder), origin=origin, secret="pass", domains=("example.com",), timeout=timeout,
            force=force,
        )  # fmt: skip

    def unchanged(self) -> bool:
        names = {path.name for path in self.folder.iterdir()}
        return (self.folder / "x").read_bytes() == self.before and names <= {"x", ".x.json"}


@pytest.fixture
async def asking(tmp_path: Path) -> AsyncIterator[Asking]:
    yield Asking(tmp_path)


def origin(kind: str, port: int) -> Origin:
    return Origin(kind=kind, source=(f"{kind}://127.0.0.1:{port}/",), **KINDS[kind][1])


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("fault", FAULTS)
async def test_a_source_that_breaks_its_protocol(asking: Asking, kind: str, fault: str) -> None:
    late = fault.startswith("hangs_") or fault in ("endless", "too_late", "dies_in_the_body")
    async with Hostile(KINDS[kind][0], FAULTS[fault]) as peer:
        order = asking.order(origin(kind, peer.port), timeout=1.0 if late else 10.0)
        outcome = await asyncio.wait_for(launch.run(order), 30)
        assert peer.connections or fault == "absent"
    if FAULTS[fault] is two_answers:
        assert outcome.problem == "", "what follows a whole answer is nobody's question"
        return
    assert SAID.get((kind, fault), "") in outcome.problem and outcome.problem.isprintable()
    assert outcome.problem and outcome.count == len(OLD) and asking.unchanged()
    assert keep.account(asking.folder, "x").problem == outcome.problem


@pytest.mark.parametrize(
    ("kind", "step", "said"),
    [
        ("ldap", 0, "the bind"),
        ("ldap", 1, "the search in dc=x, 0 entries so far"),
        ("ldap", 2, "the search in dc=x, 0 entries so far"),
        ("http", 0, "waiting for its answer"),
        ("http", 1, "its answer, 10 octets so far"),
    ],
)
async def test_who_hangs_is_named_with_its_step(asking: Asking, kind: str, step: int, said: str) -> None:
    """Of two servers the first is away."""

    async def hangs(good: Good, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        if kind == "ldap":
            if step:
                await ldap_message(reader)
                writer.write(BOUND)
            if step == 2:
                await ldap_message(reader)
                writer.write(found("old1@example.com"))
        elif step:
            await http_question(reader, writer)
            writer.write(HTTP[: HTTP.index(BODY) + 10])
        await asyncio.Event().wait()

    async with Hostile(KINDS[kind][0], hangs) as peer, Hostile(KINDS[kind][0], FAULTS["absent"]) as away:
        asked = origin(kind, peer.port)
        if kind == "ldap":
            asked = msgspec.structs.replace(asked, source=(f"ldap://127.0.0.1:{away.port}/", *asked.source))
        outcome = await launch.run(asking.order(asked, timeout=1.5))
    start = "the source has not ended within 1.5 s: "
    assert outcome.problem.startswith(start), outcome.problem
    assert outcome.problem.endswith(f"{kind}://127.0.0.1:{peer.port}/: {said}"), outcome.problem
    if kind == "ldap":
        assert outcome.problem.removeprefix(start).startswith(f"ldap://127.0.0.1:{away.port}/: ")
    assert asking.unchanged()


@pytest.mark.parametrize("kind", KINDS)
async def test_one_octet_at_a_time_is_an_answer(asking: Asking, kind: str) -> None:
    async with Hostile(KINDS[kind][0], trickles) as peer:
        outcome = await launch.run(asking.order(origin(kind, peer.port), timeout=20))
    assert (outcome.problem, outcome.count) == ("", 2)


async def test_an_answer_without_end(asking: Asking) -> None:
    async def endless(good: Good, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await good.read(reader, writer)
        writer.write(b"HTTP/1.1 200 OK\r\n\r\n[")
        while True:
            writer.write(b'"someone@example.com",' * 4096)
            await writer.drain()

    async with Hostile(KINDS["http"][0], endless) as peer:
        outcome = await asyncio.wait_for(launch.run(asking.order(origin("http", peer.port), timeout=60)), 60)
    assert "no end after" in outcome.problem and asking.unchanged()


def test_more_addresses_than_a_list_may_have(asking: Asking, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "export.csv"
    path.write_text("".join(f"u{number}@example.com\n" for number in range(2000)))
    monkeypatch.setattr(keep, "MOST", 1000)
    outcome = keep.sync(asking.order(Origin(kind="csv", source=(str(path),)), timeout=60))
    assert "no end after 1001 recipients" in outcome.problem and asking.unchanged()


def test_ten_million_lines(asking: Asking, tmp_path: Path) -> None:
    path = tmp_path / "export.csv"
    path.write_bytes(b"x@y.z\n" * 10_000_000)
    outcome = launch.run_here(asking.order(Origin(kind="csv", source=(str(path),)), timeout=2))
    assert outcome.problem == f"the source has not ended within 2 s: {path}: reading" and asking.unchanged()
    os.truncate(path, 200_000_000)
    outcome = launch.run_here(asking.order(Origin(kind="csv", source=(str(path),)), timeout=60))
    assert "more than 134217728 octets" in outcome.problem and asking.unchanged()


async def test_an_answer_that_no_memory_holds(asking: Asking) -> None:
    """Within the octets that it may have, but as values many times as much."""
    body = b"[" + b"[]," * 22_000_000 + b"[]]"

    async def many(good: Good, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await good.read(reader, writer)
        writer.write(b"HTTP/1.1 200 OK\r\nContent-Length: %d\r\n\r\n" % len(body))
        writer.write(body)
        await writer.drain()

    async with Hostile(KINDS["http"][0], many) as peer:
        outcome = await launch.run(asking.order(origin("http", peer.port), timeout=60))
    assert outcome.problem == "the source has more than 1024 MB of memory can hold" and asking.unchanged()


def test_a_file_that_is_being_written(asking: Asking, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "export.csv"
    path.write_text("new@example.com\n")
    real = os.fstat
    sizes = iter((4, 16))

    def growing(fd: int) -> Any:
        seen = real(fd)
        if not os.readlink(f"/proc/self/fd/{fd}").endswith("export.csv"):
            return seen
        return os.stat_result((*seen[:6], next(sizes), *seen[7:]))

    monkeypatch.setattr("appliance.tables.known.files.os.fstat", growing)
    outcome = keep.sync(asking.order(Origin(kind="csv", source=(str(path),))))
    assert "is being written" in outcome.problem and asking.unchanged()


@pytest.mark.parametrize(
    ("data", "said"),
    [
        (b"\xff\xfe\x00", "is neither UTF-8 nor UTF-16"),
        (b"mail\nJos\xe9@example.com\n", "octet 8 is neither UTF-8 nor UTF-16: export it as UTF-8"),
        (b'mail;x\n"' + b"a" * 200_000, "field larger than field limit"),
        (b"\x00\x01\x02", "no recipient of ours"),
        (b"<html><body>please log in</body></html>", "no recipient of ours"),
        (b"", "no recipient of ours (no address at all: is the right column"),
    ],
)
def test_a_file_that_is_no_list(asking: Asking, tmp_path: Path, data: bytes, said: str) -> None:
    (tmp_path / "export.csv").write_bytes(data)
    outcome = keep.sync(asking.order(Origin(kind="csv", source=(str(tmp_path / "export.csv"),))))
    assert said in outcome.problem and asking.unchanged()


def test_what_is_no_file(asking: Asking, tmp_path: Path) -> None:
    for path in (tmp_path, tmp_path / "none", Path("/dev/zero")):
        outcome = keep.sync(asking.order(Origin(kind="csv", source=(str(path),)), timeout=10))
        assert str(path) in outcome.problem and asking.unchanged()


@pytest.mark.fault
def test_killed_while_it_writes(asking: Asking, tmp_path: Path) -> None:
    """Killed at each step of the writing: the old list is whole, or the new one is."""
    path = tmp_path / "export.csv"
    new = OLD | {"new@example.com"}
    path.write_text("".join(f"{address}\n" for address in sorted(new)))
    order = asking.order(Origin(kind="csv", source=(str(path),)))
    for step in ("os.fdopen", "os.fsync", "os.fchmod", "Path.replace", "_durable", "account_path"):
        pid = os.fork()
        if pid == 0:
            _die_at(step)
            keep.sync(order)
            os._exit(7)
        status = os.waitpid(pid, 0)[1]
        assert os.WIFSIGNALED(status) and os.WTERMSIG(status) == signal.SIGKILL, step
        assert known(asking.folder / "x") == (new if step in ("_durable", "account_path") else OLD), step
    assert keep.sync(order).problem == ""
    assert {path.name for path in asking.folder.iterdir()} == {"x", ".x.json"}, "nothing is left behind"


def _die_at(step: str) -> None:
    def die(*_about: object, **_more: object) -> None:
        os.kill(os.getpid(), signal.SIGKILL)

    place: Any = keep
    *way, name = step.split(".")
    for part in way:
        place = getattr(place, part)
    setattr(place, name, die)


@pytest.mark.fault
@pytest.mark.skipif(os.geteuid() != 0 or not shutil.which("mount"), reason="needs root to mount a small disk")
def test_a_full_disk(tmp_path: Path) -> None:
    small = tmp_path / "small"
    small.mkdir()
    if subprocess.run(["mount", "-t", "tmpfs", "-o", "size=64k", "none", str(small)], capture_output=True).returncode:
        pytest.skip("may not mount here")
    try:
        asking = Asking(small)
        path = tmp_path / "export.csv"
        path.write_text("".join(f"u{number}@example.com\n" for number in range(20_000)))
        outcome = launch.run_here(asking.order(Origin(kind="csv", source=(str(path),))))
        assert "No space left on device" in outcome.problem and outcome.count == len(OLD) and asking.unchanged()
        (small / "fill").write_bytes(b"x" * 20_000)
        path.write_text("".join(f"{address}\n" for address in sorted(OLD)[1:]))
        outcome = launch.run_here(asking.order(Origin(kind="csv", source=(str(path),))))
        assert (outcome.problem, outcome.count) == ("", 19), "it goes on when there is room"
    finally:
        subprocess.run(["umount", str(small)], check=True)


def test_two_syncs_at_once_take_turns(asking: Asking, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "export.csv"
    path.write_text("new@example.com\n")
    monkeypatch.setattr(keep, "PATIENCE", 0.3)
    with keep._alone(asking.folder, 0):
        outcome = keep.sync(asking.order(Origin(kind="csv", source=(str(path),))))
    assert "another sync is under way" in outcome.problem and asking.unchanged()
    assert keep.sync(asking.order(Origin(kind="csv", source=(str(path),)))).problem == ""


def test_a_list_that_came_meanwhile_stays(asking: Asking, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Whoever began earlier and ends later does not put the older list back."""
    (tmp_path / "export.csv").write_text("earlier@example.com\n")
    order = asking.order(Origin(kind="csv", source=(str(tmp_path / "export.csv"),)))
    fetched, later = keep._fetched, keep.Outcome(name="x")

    def slowly(asked: Order) -> Any:
        nonlocal later
        keys = fetched(asked)
        monkeypatch.setattr(keep, "_fetched", fetched)
        (tmp_path / "export.csv").write_text("later@example.com\n")
        later = keep.sync(order)
        return keys

    monkeypatch.setattr(keep, "_fetched", slowly)
    outcome = keep.sync(order)
    assert later.problem == "" and "another sync has ended meanwhile" in outcome.problem and outcome.soon
    assert known(asking.folder / "x") == {"later@example.com"} and outcome.count == 1
    assert keep.account(asking.folder, "x").at == later.at


def test_a_sync_that_fails_forgets_nothing_of_one_that_ends_then(asking: Asking, monkeypatch: pytest.MonkeyPatch) -> None:
    """How it failed is written beside what the other has found out, or not at all."""
    order = asking.order(Origin(kind="csv", source=(str(asking.folder / "none.csv"),)))
    written, at_it = keep.replaced, []

    def watched(path: Path, data: bytes) -> None:
        with pytest.raises(keep.Failed), keep._alone(asking.folder, 0):
            pass
        at_it.append(path.name)
        written(path, data)

    monkeypatch.setattr(keep, "replaced", watched)
    assert "none.csv" in keep.sync(order).problem and at_it == [".x.json"]
    assert "none.csv" in keep.account(asking.folder, "x").problem
    monkeypatch.setattr(keep, "BRIEF", 0.0)
    keep.account_path(asking.folder, "x").unlink()
    with keep._alone(asking.folder, 0):
        assert "none.csv" in keep.sync(order).problem
    assert keep.account(asking.folder, "x") == keep.Account()


async def test_given_up_the_process_ends(asking: Asking) -> None:
    children = Path(f"/proc/self/task/{os.getpid()}/children")
    before = children.read_text()
    async with Hostile(KINDS["http"][0], FAULTS["hangs_at_once"]) as peer:
        task = asyncio.get_running_loop().create_task(launch.run(asking.order(origin("http", peer.port), timeout=600)))
        while not peer.open:
            await asyncio.sleep(0.01)
        assert children.read_text() != before
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task
        assert children.read_text() == before
    assert asking.unchanged()


@pytest.mark.parametrize("here", [False, True])
async def test_a_process_that_ends_by_no_alarm_is_killed(
    here: bool, asking: Asking, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A library that waits where no signal reaches it: the daemon, and the command, go on."""
    monkeypatch.setattr(launch, "BEYOND", 0.5)
    deaf = "import signal; signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGALRM}); signal.sigwait({signal.SIGUSR1})"
    monkeypatch.setattr(launch, "_argv", lambda: [sys.executable, "-c", deaf])
    children = Path(f"/proc/self/task/{os.getpid()}/children")
    before, order = children.read_text(), asking.order(Origin(kind="csv", source=("x",)), timeout=0.5)
    async with asyncio.timeout(10):
        outcome = await (asyncio.to_thread(launch.run_here, order) if here else launch.run(order))
    assert outcome.problem == "killed after 1 s" and asking.unchanged()
    assert children.read_text() == before
