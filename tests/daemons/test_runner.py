"""runner and its asking end: programs over content, restricted and ended; files lent; faults of either side."""

import asyncio
import contextlib
import os
import socket
import stat
import sys
import tempfile
import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import uvloop

from appliance.config.blob import read
from appliance.config.filter_entry import FilterEntry
from appliance.config.mistakes import ConfigError
from appliance.config.snapshot import Snapshot, build
from appliance.connectors.conversation import Server
from appliance.connectors.dialects import Inside
from appliance.connectors.runner import Runner as Asking
from appliance.connectors.scanner import Scanner, Settings
from appliance.connectors.source import Source
from appliance.daemons.runner import jobs, verdict
from appliance.daemons.runner.daemon import Peer, Runner
from appliance.daemons.skeleton import Birth
from appliance.mail.piping import Facts, Whom
from appliance.mail.programs import PROGRAMS
from appliance.mail.running import Ask, Done, Pipe
from appliance.net.channel import Channel, connect
from tests.connectors.scanner_peer import MAIL, Message, context
from tests.connectors.test_scanner_answers import Large

PYTHON = sys.executable


def script(text: str, *words: str) -> list[str]:
    return [PYTHON, "-I", "-S", "-c", text, *words]


def snapshot(tmp_path: Path, **scanners: dict[str, Any]) -> Snapshot:
    lines = []
    for name, keys in scanners.items():
        keys = {"kind": "command", "exit_codes": {"0": "clean", "1": "infected"}, "timeout": "5s"} | keys
        lines.append(f"[scanners.{name}]")
        for key, value in keys.items():
            if isinstance(value, dict):
                value = "{" + ", ".join(f'"{k}" = "{v}"' for k, v in value.items()) + "}"
            elif isinstance(value, list):
                value = "[" + ", ".join(literal(word) for word in value) + "]"
            elif isinstance(value, str):
                value = literal(value)
            lines.append(f"{key} = {value}")
    (tmp_path / "c.toml").write_text('[relay]\ndomains = "example.com"\n' + "\n".join(lines) + "\n")
    return build(read(str(tmp_path / "c.toml")))


def literal(text: str) -> str:
    return "'''" + text + "'''"


class Stage:
    """A runner on a socket, and scanners that ask it."""

    def __init__(self, tmp_path: Path, **scanners: dict[str, Any]) -> None:
        self.path, self.root = tmp_path / "r", tmp_path / "scans"
        self.snapshot = snapshot(tmp_path, **scanners)
        listening = socket.socket(socket.AF_UNIX)
        listening.bind(str(self.path))
        listening.listen()
        birth = Birth(
            service="runner", index=0, snapshot=self.snapshot, listening={"unix:runner": [listening]},
            rendezvous={}, state_dir=tmp_path, certificates={},
        )  # fmt: skip
        self.runner, self.asking, self._listening = Runner(birth), Asking(str(self.path)), listening

    def scanner(self, name: str = "x", timeout: float = 5.0) -> Scanner:
        settings = Settings(name, "command", (Server(path=str(self.path)),), timeout)
        return Scanner(settings, inside=Inside(self.asking))

    async def __aenter__(self) -> "Stage":
        await self.runner.start()
        return self

    async def __aexit__(self, *_: object) -> None:
        self.asking.close()
        await self.runner.drain(1.0)
        self._listening.close()


async def until(condition: Callable[[], object]) -> None:
    async with asyncio.timeout(10):
        while not condition():
            await asyncio.sleep(0.01)


FIND = "import sys\nif b'EVIL' in sys.stdin.buffer.read(): print('stdin: Evil.A FOUND'); sys.exit(1)"
FIND_FILE = "import sys\nif b'EVIL' in open(sys.argv[1], 'rb').read(): print('x: Evil.A FOUND'); sys.exit(1)"


@pytest.mark.parametrize("command", [script(FIND), script(FIND_FILE, "{file}")])
async def test_content_on_standard_input_or_as_a_file(tmp_path: Path, command: list[str]) -> None:
    async with Stage(tmp_path, x={"command": command, "pattern": ": (.+) FOUND$"}) as stage:
        scanner = stage.scanner()
        assert (await scanner.scan(Message(), context())).kind == "clean"
        found = await scanner.scan(Message(MAIL + b"EVIL"), context())
        assert (found.kind, found.names, found.why) == ("infected", ("Evil.A",), "Evil.A")
        large = MAIL + b"x" * 2_000_000
        assert (await scanner.scan(Large(large), context())).kind == "clean"
        assert (await scanner.scan(Large(large + b"EVIL"), context())).kind == "infected"
        await until(lambda: not list(stage.root.iterdir()))


async def test_exactly_the_message_is_shown(tmp_path: Path) -> None:
    """The file behind the descriptor may hold more: entries of the queue."""
    show = "import sys, hashlib; print(hashlib.sha256(open(sys.argv[1], 'rb').read()).hexdigest(), 'FOUND'); sys.exit(1)"

    class Inner(Large):
        def open_fd(self) -> int:
            fd = os.memfd_create("x")
            os.write(fd, b"HEAD" * 100 + self.octets + b"TRAILER")
            os.lseek(fd, 400, os.SEEK_SET)
            return fd

    import hashlib

    octets = MAIL + b"y" * 100_000
    async with Stage(tmp_path, x={"command": script(show, "{file}"), "pattern": "(.+) FOUND$"}) as stage:
        found = await stage.scanner().scan(Inner(octets), context())
    assert found.names == (hashlib.sha256(octets).hexdigest(),)


async def test_what_a_program_may_and_knows(tmp_path: Path) -> None:
    text = (
        "import os, sys, resource\n"
        "flags = dict(l.split(':', 1) for l in open('/proc/self/status') if ':' in l)\n"
        "print(sorted(os.environ), flags['NoNewPrivs'].strip(), resource.getrlimit(resource.RLIMIT_CORE)[1],\n"
        " resource.getrlimit(resource.RLIMIT_AS)[0], len(os.listdir('/proc/self/fd')) - 1, os.getcwd(),\n"
        " oct(os.stat(sys.argv[1]).st_mode), os.getsid(0) == os.getpid(), sep='|'); sys.exit(1)"
    )
    more = {"command": script(text, "{file}"), "pattern": "^(.+)$", "memory": 1 << 30}
    async with Stage(tmp_path, x=more) as stage:
        (said, *more) = (await stage.scanner().scan(Message(), context())).names
        env, no_new, core, memory, fds, cwd, mode, leader = said.split("|")
        async with asyncio.timeout(10):  # it is removed behind the answer
            while Path(cwd).exists():
                await asyncio.sleep(0.005)
    assert not more
    assert env == "['HOME', 'LANG', 'PATH', 'TMPDIR']" or "LC_CTYPE" in env
    assert (no_new, core, memory, fds, mode, leader) == ("1", "0", str(1 << 30), "3", "0o100400", "True")
    assert cwd.startswith(str(stage.root))


@pytest.mark.parametrize(
    ("text", "why"),
    [
        ("import sys; print('no signatures'); sys.exit(2)", "exit code 2: no signatures"),
        ("import os, signal; os.kill(os.getpid(), signal.SIGSEGV)", "SIGSEGV"),
        ("import time; time.sleep(60)", "did not end within 0.5 s"),
        ("import os\nif os.fork(): os._exit(0)\nos.setpgid(0, 0)", ""),
        ("while True: print('x' * 65536)", "did not end"),
        ("import os; os.close(1); os.close(2)", ""),
        ("bytearray(1 << 33)", "exit code 1: MemoryError"),
        ("while True: pass", "did not end"),
    ],
)
async def test_a_program_that_fails(tmp_path: Path, text: str, why: str) -> None:
    more = {"command": script(text), "timeout": "1s", "memory": 1 << 30, "exit_codes": {"0": "clean"}}
    async with Stage(tmp_path, x=more) as stage:
        # a duration is written in whole seconds; who ends by himself has longer than a busy machine stands still
        stage.runner._entries["x"].__dict__["timeout"] = 0.5 if "did not end" in why else 20.0
        found = await stage.scanner(timeout=5.0 if "did not end" in why else 30.0).scan(Message(), context())
        assert found.kind == ("error" if why else "clean") and why in found.why, found
        assert found.seconds < 8
        assert bool(stage.runner.health()["degraded"]) is bool(why)
    assert not running(stage.root)


def running(root: Path) -> list[str]:
    """Processes that work below a folder."""
    found = []
    for entry in Path("/proc").iterdir():
        try:
            if entry.name.isdigit() and str(root) in os.readlink(entry / "cwd"):
                found.append((entry / "cmdline").read_text())
        except OSError:
            continue
    return found


@pytest.mark.parametrize("command", [["/nowhere/scanner"], ["/etc/passwd"], [str(Path(__file__).parent)]])
async def test_a_program_that_is_not_there(tmp_path: Path, command: list[str]) -> None:
    async with Stage(tmp_path, x={"command": command}) as stage:
        found = await stage.scanner().scan(Message(), context())
    assert found.kind == "error" and f"cannot run {command[0]}" in found.why


async def test_who_goes_away_ends_the_program_and_all_it_started(tmp_path: Path) -> None:
    sleep = "import time; time.sleep(60)"
    text = f"import subprocess, sys\nsubprocess.Popen([sys.executable, '-c', '{sleep}'])\n{sleep}"
    async with Stage(tmp_path, x={"command": script(text), "timeout": "60s"}) as stage:
        scan = asyncio.create_task(stage.scanner(timeout=60.0).scan(Message(), context()))
        await until(lambda: len(running(stage.root)) >= 2)
        scan.cancel()
        await until(lambda: not running(stage.root) and not list(stage.root.iterdir()))
        scan = asyncio.create_task(stage.scanner(timeout=60.0).scan(Message(), context()))
        await until(lambda: len(running(stage.root)) >= 2)
        stage.asking.close()  # the worker died
        await until(lambda: not running(stage.root))
        scan.cancel()


@pytest.mark.parametrize("kind", ["scan", "pipe"])
async def test_who_goes_while_the_content_is_copied_leaves_nothing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, kind: str
) -> None:
    """The thread copies on: from its file, not from what has that descriptor by then, and its folder goes."""
    begun, go_on, pread, inodes = threading.Event(), threading.Event(), os.pread, list[int]()

    def slow(fd: int, count: int, at: int) -> bytes:
        if threading.current_thread() is threading.main_thread():
            return pread(fd, count, at)
        octets = pread(fd, count, at)
        begun.set()
        go_on.wait(5)
        inodes.append(os.fstat(fd).st_ino)
        return octets

    async with Stage(tmp_path, x={"command": script("pass")}) as stage:
        monkeypatch.setattr(os, "pread", slow)
        with tempfile.TemporaryFile(buffering=0) as file:
            file.write(MAIL)
            fd, inode = os.dup(file.fileno()), os.fstat(file.fileno()).st_ino
        peer = Peer(Channel(socket.socket()))
        if kind == "scan":
            serving = stage.runner._serve(peer, Ask(1, "x", 0, len(MAIL)), fd)
        else:
            stage.runner._pipes._entries = {"f": FilterEntry(command=("/bin/true",))}
            facts = Facts(sender="a@example.net", recipients=(Whom("b@example.com", ""),))
            serving = stage.runner._pipe(peer, Pipe(1, "f", 0, len(MAIL), facts), fd)
        task = asyncio.create_task(serving)
        await asyncio.to_thread(begun.wait, 5)
        for _ in range(2):  # the worker, then the end of the process
            task.cancel()
            await asyncio.wait((task,), timeout=0.05)
        with open(os.devnull) as other:  # gets the descriptor if it is free
            go_on.set()
            await asyncio.wait((task,))
            await until(lambda: inodes)
            assert inodes == [inode], other
        assert task.cancelled() and not list(stage.root.iterdir())


async def test_only_so_many_at_a_time(tmp_path: Path) -> None:
    text = (
        f"import os, time, pathlib\np = pathlib.Path('{tmp_path}/n')\np.mkdir(exist_ok=True)\n"
        "own = p / str(os.getpid())\n"
        "own.touch()\nn = len(list(p.iterdir()))\ntime.sleep(0.1)\nown.unlink()\nraise SystemExit(0 if n <= 2 else 1)"
    )
    async with Stage(tmp_path, x={"command": script(text), "concurrency": 2}) as stage:
        scanner = stage.scanner()
        scans = [scanner.scan(Message(MAIL + b"%d" % number), context()) for number in range(6)]
        assert {found.kind for found in await asyncio.gather(*scans)} == {"clean"}


async def test_the_runner_away_hung_and_back(tmp_path: Path) -> None:
    stage = Stage(tmp_path, x={"command": script("pass")})
    scanner = stage.scanner(timeout=0.3)
    found = await scanner.scan(Message(), context())
    assert found.kind == "error" and found.seconds < 5, "it hangs: connected, nobody serves"
    async with stage:
        async with asyncio.timeout(5):
            while (await stage.scanner().scan(Message(), context())).kind != "clean":
                await asyncio.sleep(0.01)
    found = await stage.scanner().scan(Message(MAIL + b"2"), context())
    assert found.kind == "error" and "away" in found.why


async def test_rubbish_from_either_side_costs_the_connection(tmp_path: Path) -> None:
    async with Stage(tmp_path, x={"command": script("pass")}) as stage:
        with socket.socket(socket.AF_UNIX) as sock:
            sock.connect(str(stage.path))
            sock.sendall(b"\0\0\0\3\0abc")
            await asyncio.sleep(0)
            await until(lambda: not stage.runner._peers)
        assert (await stage.scanner().scan(Message(), context())).kind == "clean"
        source = await Source.of(Message())
        outcome = await stage.asking.run("y", source)
        assert outcome.kind == "error" and "no scanner 'y'" in outcome.why


async def test_what_an_earlier_life_left_is_removed(tmp_path: Path) -> None:
    old = tmp_path / "scans" / f"{jobs.PREFIX}0123"
    old.mkdir(parents=True)
    (old / "email.txt").touch()
    (tmp_path / "scans" / "other").mkdir()
    async with Stage(tmp_path, x={"command": script("pass")}):
        assert [path.name for path in (tmp_path / "scans").iterdir()] == ["other"]


async def test_in_a_folder_that_others_use_only_what_is_ours_is_removed(tmp_path: Path) -> None:
    """Another gateway of this machine, that of a self-test among them, lends files there."""
    shared, lent = tmp_path / "amavis", []
    for state in ("ours", "theirs"):
        (tmp_path / state).mkdir()
        (tmp_path / state / "f").write_bytes(MAIL)
        with (tmp_path / state / "f").open("rb") as file:
            shared.mkdir(exist_ok=True)
            lent.append(jobs.make(shared, file.fileno(), 0, len(MAIL), shared=True, prefix=jobs.prefix(tmp_path / state)))
    (shared / "postgate-selftest-x").mkdir()
    text = f'[scanners.x]\nkind = "amavis"\nfolder = "{shared}"\naddress = "127.0.0.1:1"\n'
    stage = Stage(tmp_path / "ours", y={"command": script("pass")})
    (tmp_path / "c.toml").write_text(text)
    lending = build(read(str(tmp_path / "c.toml")))
    stage.runner.prepare(lending)
    stage.runner.commit(lending)
    async with stage:
        assert {path.name for path in shared.iterdir()} == {lent[1].name, "postgate-selftest-x"}


@pytest.mark.parametrize("size", [1, 2, 3, 5, 1 << 20])
def test_lines_of_a_file_that_is_lent_end_as_in_a_file(
    size: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Whatever pieces it is copied in; a CR that ends no line stays. A program of ours gets the octets."""
    monkeypatch.setattr(jobs, "_PIECE", size)
    octets = b"A: b\r\n\r\na\rb\r\r\nc\nd\r\n\r"
    (tmp_path / "f").write_bytes(b"before" + octets + b"behind")
    for shared, found in ((True, b"A: b\n\na\rb\r\nc\nd\n\r"), (False, octets)):
        with (tmp_path / "f").open("rb") as file:
            folder = jobs.make(tmp_path, file.fileno(), 6, len(octets), shared=shared)
        assert (folder / jobs.FILE).read_bytes() == found


async def test_a_file_is_lent_as_long_as_it_is_needed(tmp_path: Path) -> None:
    shared = tmp_path / "amavis"
    shared.mkdir()
    text = f'[relay]\ndomains = "example.com"\n[scanners.x]\nkind = "amavis"\nfolder = "{shared}"\n'
    text += 'address = "127.0.0.1:1"\n'
    stage = Stage(tmp_path, y={"command": script("pass")})
    (tmp_path / "c.toml").write_text(text)
    lending = build(read(str(tmp_path / "c.toml")))
    stage.runner.prepare(lending)
    stage.runner.commit(lending)
    async with stage:
        source = await Source.of(Message())
        async with stage.asking.lend("x", source) as folder:
            file = Path(folder) / "email.txt"
            assert file.read_bytes() == MAIL.replace(b"\r\n", b"\n") and file.parent.parent == shared
            assert stat.S_IMODE(file.stat().st_mode) == 0o660 and stat.S_IMODE(file.parent.stat().st_mode) == 0o2770
            (Path(folder) / "parts").mkdir()
        await until(lambda: not list(shared.iterdir()))


@pytest.mark.parametrize(
    ("program", "code", "output", "kind", "names"),
    [
        ("clamscan", 1, "/x/email.txt: Win.Test.EICAR_HDB-1 FOUND\n", "infected", ("Win.Test.EICAR_HDB-1",)),
        ("clamscan", 2, "LibClamAV Error: no database\n", "error", ()),
        ("clamdscan", 0, "/x: OK\n", "clean", ()),
        ("savscan", 3, ">>> Virus 'EICAR-AV-Test' found in file /x\n", "infected", ("EICAR-AV-Test",)),
        ("savscan", 2, "Password protected file\n", "unscannable", ()),
        ("uvscan", 13, "/x\n   Found the EICAR test file virus\n", "infected", ("EICAR test file",)),
        ("fsav", 3, "/x: Infected: EICAR_Test_File [AVP]\n", "infected", ("EICAR_Test_File [AVP]",)),
        ("fsav", 8, "/x: Suspected: X [AVP]\n", "suspicious", ("X [AVP]",)),
        ("esets_scan", 50, 'name="/x", threat="Eicar test file", action=""\n', "infected", ("Eicar test file",)),
        ("odscan", 10, "", "unscannable", ()),
        ("scan", 1, "/x\tEICAR Test-NOT virus!!!\n", "infected", ("EICAR Test-NOT virus!!!",)),
        ("drweb", 1, "/x infected with EICAR\n", "infected", ("EICAR",)),
        ("fpscan", 65, "[Found virus] <EICAR_Test_File (exact)> \t/x\n", "infected", ("EICAR_Test_File",)),
        ("fpscan", 9, "[Found virus] <EICAR_Test_File (exact)> \t/x\n", "infected", ("EICAR_Test_File",)),
        ("fpscan", 10, "[Found possible virus] <W32/X> \t/x\n", "suspicious", ("W32/X",)),
        ("fpscan", 72, "", "unscannable", ()),
        ("fpscan", 36, "", "error", ()),
        ("unheard-of", 0, "", "error", ()),
        ("clamscan", 77, "", "error", ()),
        ("clamscan", -11, "", "error", ()),
    ],
)
def test_what_usual_programs_say(program: str, code: int, output: str, kind: str, names: tuple[str, ...]) -> None:
    found = verdict.judge(verdict.Rules.of(f"/usr/bin/{program}", {}, ""), code, output.encode())
    assert found[:2] == (kind, names) and bool(found[2]) is (kind != "clean")


def test_every_known_program_has_a_clean_code_and_a_pattern() -> None:
    for name, program in PROGRAMS.items():
        assert program.codes["0"] == "clean" and "infected" in program.codes.values(), name
        verdict.Rules.of(name, {}, "")


def test_c3_a_pattern_that_explodes_is_cut_off() -> None:
    rules = verdict.Rules.of("x", {"1": "infected"}, r"^(a+)+$")
    begin = time.monotonic()
    assert verdict.judge(rules, 1, b"a" * 60 + b"!")[:2] == ("infected", ())
    assert time.monotonic() - begin < 10, "whole, it would not end in years"


def test_names_are_bounded_and_printable() -> None:
    rules = verdict.Rules.of("x", {"1": "infected"}, r"^(.+)$")
    _, names, _ = verdict.judge(rules, 1, b"\x1b[31m" + b"x" * 500 + b"\n" + b"".join(b"n%d\n" % n for n in range(50)))
    assert len(names) == 20 and names[0].startswith("?[31m") and len(names[0]) == 200


def test_under_uvloop(tmp_path: Path) -> None:
    async def play() -> None:
        async with Stage(tmp_path, x={"command": script(FIND), "pattern": ": (.+) FOUND$"}) as stage:
            assert (await stage.scanner().scan(Message(MAIL + b"EVIL"), context())).names == ("Evil.A",)
            slow = stage.scanner(timeout=0.2)
            assert slow.kind == "command"

    with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
        runner.run(play())


@pytest.mark.parametrize(
    ("keys", "why"),
    [
        ('kind = "command"', 'needs "command"'),
        ('kind = "command"\ncommand = "clamscan"', "whole path"),
        ('kind = "command"\ncommand = "/usr/bin/x"', "exit codes"),
        ('kind = "command"\ncommand = "/usr/bin/clamscan"\npattern = "("', "no regular expression"),
        ('kind = "command"\ncommand = "/usr/bin/x"\nexit_codes = {"256" = "clean"}', "no exit code"),
        ('kind = "command"\ncommand = "/usr/bin/x"\nexit_codes = {"0" = "good"}', "clean"),
        ('kind = "command"\ncommand = "/usr/bin/clamscan"\naddress = "127.0.0.1:1"', "address is of kind"),
        ('kind = "clamd"', 'needs "address"'),
        ('kind = "clamd"\naddress = "127.0.0.1:1"\ncommand = "/x"', "command is of kind command"),
        ('kind = "icap"\naddress = "127.0.0.1:1344"\nuser = "x"', "user is of kind rspamd"),
        ('kind = "amavis"\naddress = "127.0.0.1:1"', 'needs "folder"'),
        ('kind = "amavis"\naddress = "127.0.0.1:1"\nfolder = "x"', "whole path"),
    ],
)
def test_what_does_not_fit_together(tmp_path: Path, keys: str, why: str) -> None:
    (tmp_path / "c.toml").write_text(f'[relay]\ndomains = "example.com"\n[scanners.x]\n{keys}\n')
    with pytest.raises(ConfigError) as caught:
        build(read(str(tmp_path / "c.toml")))
    assert any(why in str(mistake) and "c.toml:" in str(mistake) for mistake in caught.value.mistakes), caught.value


async def test_what_is_put_in_force_is_what_was_said_whatever_was_looked_at_last(tmp_path: Path) -> None:
    """Configurations are compiled in threads: one that was given up may be done behind the next one."""
    async with Stage(tmp_path, x={"command": script("pass")}) as stage:
        (tmp_path / "late").mkdir()
        late, runner = snapshot(tmp_path / "late", y={"command": script("pass")}), stage.runner
        runner.prepare(stage.snapshot)
        runner.prepare(late)
        runner.commit(stage.snapshot)
        assert runner.health()["scanners"] == ["x"]
        runner.prepare(late)
        runner.commit(late)
        assert runner.health()["scanners"] == ["y"]


async def test_the_end_of_a_connection_is_no_news_to_who_asks_over_the_next(tmp_path: Path) -> None:
    async with Stage(tmp_path, x={"command": script("pass")}) as stage:
        source = await Source.of(Message())
        assert (await stage.asking.run("x", source)).kind == "clean"
        channel = stage.asking._channel
        assert channel is not None
        channel.close()  # that it is gone is told with the next turn of the loop
        assert (await stage.asking.run("x", source)).kind == "clean"


async def test_what_is_given_up_before_it_has_begun_leaves_no_descriptor(tmp_path: Path) -> None:
    """The end of a long order, and Done, are read in one turn."""
    whom = tuple(Whom(f"{number:04}{'x' * 90}@example.com", f"{'y' * 90}@example.com") for number in range(400))
    async with Stage(tmp_path, x={"command": script("pass")}) as stage:
        channel = connect(str(stage.path))
        channel.attach(asyncio.get_running_loop(), lambda _payload, _fds: None)
        reading, writing = os.pipe()
        channel.send(Pipe(1, "f", 0, 1, Facts(sender="a@example.net", recipients=whom)), (writing,))
        channel.send(Done(1))
        os.close(writing)
        os.set_blocking(reading, False)

        def ended() -> bool:
            with contextlib.suppress(BlockingIOError):
                return os.read(reading, 1) == b""
            return False

        await until(ended)
        os.close(reading)
        channel.close()
