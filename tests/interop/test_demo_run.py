"""`postgate run` without --config, as a new user does it: what it prints works as printed, it ends whole, however it is
ended; and the messages of a start that cannot be."""

import contextlib
import fcntl
import os
import pwd
import re
import shlex
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from tests.peers.gateway import POSTGATE, ROOT, Gateway
from tests.peers.inner import Inner
from tests.peers.policies import plain
from tests.peers.ports import free_port, greets, wait_for
from tests.peers.process import Process

PORT = 2525
pytestmark = [pytest.mark.peer, pytest.mark.xdist_group("port 2525"), pytest.mark.timeout(180)]


class Demo:
    """The demo in an empty folder of `user`'s."""

    def __init__(self, folder: Path, user: str) -> None:
        self.folder, self.user = folder, user
        site = Path(pytest.__file__).parents[1]
        self.env = {"PYTHONPATH": f"{ROOT}:{site}", "HOME": str(folder), "PYTHONDONTWRITEBYTECODE": "1"}
        self.log = Path(tempfile.mkstemp(prefix="demo-log")[1])
        self.process: Process | None = None
        self.postgate = POSTGATE

    def reachable(self) -> bool:
        """Find a Python that the user may run: the one of the tests, or the system's of the same version."""
        for python in (sys.executable, "/usr/bin/python3"):
            self.postgate = [python, *POSTGATE[1:]]
            with contextlib.suppress(OSError):
                same = self.cli(python, "-c", "import sys; print(sys.version_info[:2])").stdout
                if same.strip() == str(sys.version_info[:2]) and not self.cli(*self.postgate, "check").returncode:
                    return True
        return False

    @property
    def identity(self) -> dict[str, object]:
        if self.user == "root" or os.geteuid():
            return {}
        entry = pwd.getpwnam(self.user)
        return {"user": entry.pw_uid, "group": entry.pw_gid, "extra_groups": []}

    def start(self, wait: bool = True) -> float:
        """Seconds until it greets."""
        self.log.write_text("")
        begin = time.monotonic()
        self.process = Process([*self.postgate, "run"], self.log, self.env, cwd=self.folder, **self.identity)
        if wait:
            wait_for(lambda: "To put it in front of" in self.text() or self.over(), 20, "the demo")
            assert not self.over(), self.text()
        return time.monotonic() - begin

    def over(self) -> bool:
        return self.process is None or not self.process.running()

    def text(self) -> str:
        return self.log.read_text(errors="replace")

    def cli(self, *words: str, **more: object) -> subprocess.CompletedProcess[str]:
        return subprocess.run(  # type: ignore[call-overload,no-any-return]
            words,
            cwd=self.folder,
            env={**os.environ, **self.env},
            capture_output=True,
            text=True,
            timeout=60,
            check=False,
            **{**self.identity, **more},
        )

    def printed(self, program: str) -> list[str]:
        """The line that the demo says to try."""
        [line] = [line for line in self.text().splitlines() if re.match(rf"^  (\S*/)?{program}", line)]
        return shlex.split(line)

    def family(self) -> list[int]:
        """The processes of its group."""
        assert self.process
        return [pid for pid in map(int, filter(str.isdigit, os.listdir("/proc"))) if group(pid) == self.process.pid]

    def stop(self) -> None:
        if self.process:
            self.process.stop()
        self.log.unlink()


def group(pid: int) -> int:
    """Its process group, 0 for the dead and the zombies."""
    try:
        state, _, number = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[:3]
    except OSError:
        return 0
    return 0 if state in "ZX" else int(number)


@pytest.fixture(params=["root", "nobody"])
def demo(request: pytest.FixtureRequest) -> Iterator[Demo]:
    """Under /tmp: another user cannot walk into pytest's folders."""
    if os.geteuid() and request.param == "root":
        pytest.skip("not root")
    with open(Path(tempfile.gettempdir()) / "postgate-test-port-2525", "w") as alone:
        fcntl.flock(alone, fcntl.LOCK_EX)  # the port is one, the processes that run tests are several
        yield from prepare(request.param)


def port_is_free() -> bool:
    with contextlib.closing(socket.socket()) as sock:
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        with contextlib.suppress(OSError):
            sock.bind(("127.0.0.1", PORT))
            return True
    return False


def prepare(user: str) -> Iterator[Demo]:
    try:
        wait_for(port_is_free, 20, "the port")
    except TimeoutError:
        pytest.skip(f"port {PORT} of the demo is taken on this machine")
    folder = Path(tempfile.mkdtemp(prefix="postgate-demo"))
    made = Demo(folder, user)
    if made.identity:
        os.chown(folder, pwd.getpwnam("nobody").pw_uid, -1)
        if not made.reachable():
            shutil.rmtree(folder)
            pytest.skip("another user cannot reach this Python or this checkout")
    yield made
    made.stop()
    shutil.rmtree(folder)


def mails(demo: Demo) -> list[bytes]:
    return [path.read_bytes() for path in (demo.folder / "run" / "inbox" / "new").glob("*")]


def test_what_it_prints_works_as_printed(demo: Demo) -> None:
    assert demo.start() < 10
    sent = demo.cli("sh", "-c", shlex.join(demo.printed("(python|postgate).*send-test")))
    assert sent.returncode == 0, sent.stdout + sent.stderr
    wait_for(lambda: len(mails(demo)) == 1, 10, "the mail in the Maildir")
    if shutil.which("swaks"):
        sent = demo.cli(*demo.printed("swaks"))
        assert sent.returncode == 0, sent.stdout
        wait_for(lambda: len(mails(demo)) == 2, 10, "the second mail in the Maildir")
    listed = demo.cli(*demo.printed("ls"))
    assert listed.returncode == 0, listed.stderr
    assert len(listed.stdout.split()) == len(mails(demo))
    assert all(b"by mx.example.com" in mail for mail in mails(demo))
    status = demo.cli(*demo.printed("(python|postgate).*status"))
    degraded = status.stdout.partition("Degraded\n")[2].splitlines()
    # The inbox takes every address, and call-ahead says so; nothing else may be wrong in a fresh demo.
    assert not [line for line in degraded if "accepts every address" not in line], status.stdout + status.stderr
    for words in (["check"], ["queue", "list"], ["quarantine", "list"], ["greylist", "list"]):
        done = demo.cli(*demo.postgate, *words)
        assert done.returncode == 0, (words, done.stdout, done.stderr)
    for off in ("clamd", "spamd", "Redis", "separation of users"):
        assert off in demo.text(), off
    assert "error:" not in demo.text(), demo.text()
    assert not {path.name for path in demo.folder.iterdir()} - {"run"}


def test_a_second_start_is_quick_and_greets_at_once(demo: Demo) -> None:
    first = demo.start()
    assert demo.process
    assert demo.process.stop() == 0
    assert demo.start() < 2 * first + 5
    begin = time.monotonic()
    assert greets(PORT)
    assert time.monotonic() - begin < 5


@pytest.mark.parametrize("how", ["SIGTERM", "SIGINT", "SIGTERM to the group", "SIGINT to the group", "SIGKILL"])
def test_it_ends_whole(demo: Demo, how: str) -> None:
    demo.start()
    family = demo.family()
    assert len(family) >= 6
    assert demo.process
    number = getattr(signal, how.split()[0])
    begin = time.monotonic()
    (demo.process.signal_group if "group" in how else demo.process.signal)(number)
    code = demo.process.popen.wait(10)
    wait_for(lambda: not [pid for pid in family if group(pid)], 5, "its children to end")
    assert time.monotonic() - begin < 10
    assert code == (-signal.SIGKILL if how == "SIGKILL" else 0), demo.text()
    assert "Traceback" not in demo.text(), demo.text()


def test_a_taken_port_is_said_in_words(demo: Demo) -> None:
    with socket.create_server(("127.0.0.1", PORT)):
        demo.start(wait=False)
        assert demo.process
        assert demo.process.popen.wait(15) == 1
    assert f"127.0.0.1:{PORT}" in demo.text()
    assert "in use" in demo.text()
    assert "Traceback" not in demo.text()


@pytest.fixture
def prepared(tmp_path: Path, inner: Inner) -> Callable[..., Gateway]:
    """A gateway that is not started."""
    return lambda name="g", **more: Gateway(tmp_path / name, inner.port, policies=plain(), workers=1, **more)


def refused(made: Gateway, *said: str, code: int = 1) -> str:
    """Start what cannot start; its words."""
    made.start(wait=False)
    assert made.process
    assert made.process.popen.wait(20) == code, made.log()
    for text in said:
        assert text in made.log(), made.log()
    assert "Traceback" not in made.log(), made.log()
    return made.log()


def test_two_gateways_on_one_state_folder(prepared: Callable[..., Gateway], inner: Inner) -> None:
    first, second = prepared("one"), prepared("two")
    first.start()
    try:
        text = second.config.read_text()
        second.config.write_text(text.replace('"state"', f'"{first.root / "state"}"'))
        assert first.process
        refused(second, "another gateway runs on this state folder", f"master process {first.process.pid}")
        assert greets(first.port)
        assert {worker["restarts"] for worker in first.status()["workers"]} == {0}
    finally:
        first.stop()


def test_a_port_in_use_is_named(prepared: Callable[..., Gateway]) -> None:
    made = prepared()
    with socket.create_server(("127.0.0.1", made.port)):
        refused(made, f"127.0.0.1:{made.port}", "in use", "public")


def test_a_file_that_is_not_there_or_not_readable(prepared: Callable[..., Gateway], tmp_path: Path) -> None:
    made = prepared()
    made.config = tmp_path / "nowhere.toml"
    refused(made, f"{made.config}: No such file")
    done = made.cli("status", check=False)
    assert done.returncode == 2
    assert "no such file" in (done.stdout + done.stderr).lower()
    made.config = tmp_path
    refused(made, str(tmp_path), "directory", code=2)


def broken(made: Gateway) -> Path:
    path = made.root / "policies" / "size.toml"
    path.write_text('mode = "enforced"\nlimt = 5\n[on]\nover = "explode"\n')
    return path


def test_a_broken_file_at_a_cold_start(prepared: Callable[..., Gateway]) -> None:
    made = prepared()
    path = broken(made)
    said = refused(made, f"{path}:1:", f"{path}:2:", f"{path}:4:")
    assert "did you mean limit" in said.replace('"', "").replace("'", "").replace("`", "")
    path.unlink()
    made.start()
    running = made.status()["running"]
    made.stop()
    broken(made)
    try:
        made.start()
        assert "last good" in made.log()
        assert f"{path}:2:" in made.log()
        status = made.status()
        assert status["running"] == running
        assert not status["on_disk"]["same"]
        assert any("last good" in text for text in status["degraded"])
        assert made.cli("status", check=False).returncode == 1
    finally:
        made.stop()


def test_a_broken_file_at_a_reload(prepared: Callable[..., Gateway]) -> None:
    made = prepared().start()
    try:
        running = made.status()["running"]
        path = broken(made)
        done = made.cli("reload", check=False)
        assert done.returncode == 1
        for place in (f"{path}:1:", f"{path}:2:", f"{path}:4:"):
            assert place in done.stdout + done.stderr
        status = made.status()
        assert (status["running"], status["on_disk"]["same"]) == (running, False)
        shown = made.cli("status", check=False).stdout
        assert running in shown
        assert "postgate reload" in shown
        path.write_text("limit = 5000000\n")
        done = made.cli("reload")
        status = made.status()
        assert status["running"] != running
        assert status["on_disk"]["same"]
        assert status["running"] in done.stdout
    finally:
        made.stop()


def test_commands_without_a_gateway_say_how_to_start_it(prepared: Callable[..., Gateway]) -> None:
    made = prepared()
    for words in (["status"], ["queue", "list"], ["reload"], ["stop"], ["greylist", "list"]):
        done = made.cli(*words, check=False)
        said = done.stdout + done.stderr
        assert done.returncode in (1, 2), words
        assert "no gateway is running" in said, words
        assert str(made.config) in said, words
        assert "Traceback" not in said, words


def test_send_test_tells_when_nobody_is_there() -> None:
    argv = [*POSTGATE, "send-test", "--server", f"127.0.0.1:{free_port()}"]
    done = subprocess.run(argv, capture_output=True, text=True, timeout=30, check=False, cwd=ROOT)
    assert done.returncode == 1
    assert "cannot talk to" in done.stdout + done.stderr
