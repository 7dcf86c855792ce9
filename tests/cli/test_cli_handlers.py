"""`postgate check` and handlers: by module and class or by entry point; each mistake with its place."""

import os
import subprocess
import sys
import textwrap
import time
from pathlib import Path

import pytest
from click.testing import CliRunner

from appliance.cli import handlers
from appliance.cli.check import command

ROOT = Path(__file__).parents[2]
HEAD = '[relay]\ndomains = "example.com"\n'
GOOD = """
class Good:
    def __init__(self, word="x"): self.word = word
    async def handle_DATA(self, server, session, envelope): return "250 OK"
"""


def package(folder: Path, text: str, points: str = "disclaimer = ours.filter:Good") -> Path:
    """What `pip install` leaves: the package, and its dist-info with entry points."""
    (folder / "ours").mkdir(parents=True)
    (folder / "ours" / "__init__.py").touch()
    (folder / "ours" / "filter.py").write_text(textwrap.dedent(text))
    info = folder / "ours-1.0.dist-info"
    info.mkdir()
    (info / "METADATA").write_text("Metadata-Version: 2.1\nName: ours\nVersion: 1.0\n")
    (info / "entry_points.txt").write_text(f"[postgate.filters]\n{points}\n")
    return folder


def write(folder: Path, handler: str, more: str = "") -> Path:
    wiring = folder / "gateway.toml"
    wiring.write_text(f'[[listen]]\nname = "public"\nhandler = "{handler}"\n{more}\n{HEAD}')
    return wiring


def check(folder: Path, handler: str, more: str = "", *also: Path) -> tuple[int, str]:
    """Here the command itself; the import has its own process in any case."""
    with pytest.MonkeyPatch.context() as patch:
        for one in (*also, folder):
            patch.syspath_prepend(str(one))
        done = CliRunner().invoke(command, ["--config", str(write(folder, handler, more))])
    assert done.exception is None or isinstance(done.exception, SystemExit), done.exception
    return done.exit_code, done.output


@pytest.mark.parametrize("handler", ["ours.filter:Good", "disclaimer"])
def test_a_good_handler_on_pythonpath(tmp_path: Path, handler: str) -> None:
    wiring = write(package(tmp_path, GOOD), handler, 'handler_args = ["word"]')
    argv = [sys.executable, "-m", "appliance.cli", "check", "--config", str(wiring)]
    env = os.environ | {"PYTHONPATH": f"{ROOT}:{tmp_path}"}
    done = subprocess.run(argv, env=env, capture_output=True, text=True, timeout=60)
    assert (done.returncode, done.stderr) == (0, "") and "\ngood: " in done.stdout, done


def test_what_the_import_does_stays_in_its_process(tmp_path: Path) -> None:
    package(tmp_path, "import os, sys\nos.environ['OURS'] = sys.modules['ours'].__file__" + GOOD)
    assert check(tmp_path, "disclaimer")[0] == 0
    assert "OURS" not in os.environ and "ours" not in sys.modules


@pytest.mark.parametrize(
    ("text", "handler", "says"),
    [
        (GOOD, "ours.filter:Bad", "AttributeError: module 'ours.filter' has no attribute 'Bad'"),
        (GOOD, "ours.nothing:Good", "ModuleNotFoundError: No module named 'ours.nothing'"),
        (GOOD, "nobody:Good", 'no package "nobody" is on the Python path: install it into this environment ('),
        (
            GOOD,
            "unknown",
            'no installed package has an entry point "unknown" in postgate.filters (there are: disclaimer)',
        ),
        (GOOD, "ours.filter.Good", 'a class is written "ours.filter:Good"'),
        ("class Good(: pass", "disclaimer", "SyntaxError"),
        ("import sys; sys.exit(3)", "disclaimer", "SystemExit: 3"),
        ("import os; os._exit(7)", "disclaimer", "importing it ends the process (with status 7)"),
        ("import os; os.kill(os.getpid(), 11)", "disclaimer", "importing it ends the process (by signal 11)"),
        ("1 / 0", "disclaimer", "ZeroDivisionError"),
        ("Good = 7", "disclaimer", "it is no class"),
        ("class Good: pass", "disclaimer", "it has none of handle_PROXY, handle_HELO"),
        (
            "class Good:\n    async def handle_RCPT(self, address): pass",
            "disclaimer",
            "handle_RCPT must take (self, server",
        ),
        (GOOD.replace("DATA", "DATE"), "disclaimer", "it has none of"),
        (GOOD + "    async def handle_RCTP(self): pass", "disclaimer", "no hook handle_RCTP (did you mean handle_RCPT?)"),
        (GOOD + "    handle_MAIL = 7", "disclaimer", "handle_MAIL cannot be called"),
        (GOOD + "    async def handle_NOOP(self, s, t, e): pass", "disclaimer", "handle_NOOP must take (self, server"),
        (GOOD + "    async def handle_RSET(self, s, t, e, f): pass", "disclaimer", "handle_RSET must take (self, server"),
        (GOOD + "    def handle_STARTTLS(self): pass", "disclaimer", "handle_STARTTLS must take (self, server"),
        (GOOD + "    async def handle_PROXY(self, s, t, e): pass", "disclaimer", "handle_PROXY must take (self, server"),
    ],
)
def test_mistakes_have_their_place(tmp_path: Path, text: str, handler: str, says: str) -> None:
    package(tmp_path, text)
    code, out = check(tmp_path, handler)
    assert code == 1
    (line,) = [line for line in out.splitlines() if says in line]
    assert line.startswith(f"{tmp_path}/gateway.toml:3:11: "), line


def test_arguments_that_do_not_fit(tmp_path: Path) -> None:
    package(tmp_path, GOOD)
    code, out = check(tmp_path, "disclaimer", 'handler_args = ["a", "b"]')
    assert code == 1 and "gateway.toml:4:16: handler disclaimer: handler_args do not fit: too many" in out


def test_an_import_that_hangs_holds_nothing_up(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    slow = tmp_path / "slow"
    text = f"import time, os, threading\nopen({str(slow)!r}, 'w').write(str(os.getpid()))\ntime.sleep(600)"
    package(tmp_path, text)
    for seconds in (2, 10, 30):  # until the import has come as far as that
        monkeypatch.setattr(handlers, "SECONDS", float(seconds))
        begun = time.monotonic()
        code, out = check(tmp_path, "disclaimer")
        assert code == 1 and f"importing it takes longer than {seconds} s" in out
        assert time.monotonic() - begun < seconds + 30
        if slow.exists() and slow.read_text():
            break
    assert not Path(f"/proc/{slow.read_text()}").exists()


def test_what_an_import_says_and_leaves_running_is_no_matter(tmp_path: Path) -> None:
    noise = (
        "import threading, time\nprint('hello from the import')\nthreading.Thread(target=time.sleep, args=(600,)).start()"
    )
    package(tmp_path, noise + GOOD)
    code, out = check(tmp_path, "disclaimer")
    assert code == 0 and "hello" not in out


def test_two_packages_of_one_name(tmp_path: Path) -> None:
    package(tmp_path, GOOD)
    other = package(tmp_path / "other", GOOD, "disclaimer = ours.filter:Other")
    (other / "ours-1.0.dist-info").rename(other / "theirs-1.0.dist-info")
    (other / "theirs-1.0.dist-info" / "METADATA").write_text("Metadata-Version: 2.1\nName: theirs\nVersion: 1.0\n")
    code, out = check(tmp_path, "disclaimer", "", other)
    assert code == 1 and "several packages have an entry point of this name: ours.filter:Good, ours.filter:Other" in out


def test_arguments_without_a_handler(tmp_path: Path) -> None:
    code, out = check(tmp_path, "", 'handler_args = ["a"]')
    assert code == 1 and "gateway.toml:4:1: handler_args without a handler" in out


# ---------------------------------------------------------------------- hooks that nobody calls


def warnings(out: str) -> list[str]:
    return [line for line in out.splitlines() if "warning: handler" in line]


@pytest.mark.parametrize(
    ("hook", "why"),
    [
        ("async def handle_AUTH(self, server, session, envelope, args): pass", "AUTH is not offered"),
        ("async def auth_LOGIN(self, server, args): pass", "AUTH is not offered"),
        ("async def handle_EXPN(self, server, session, envelope, arg): pass", "aiosmtpd has no such hook"),
        ("async def handle_LHLO(self, server, session, envelope, arg): pass", "LMTP is not served"),
    ],
)
def test_hooks_that_are_never_called_are_warned_of(tmp_path: Path, hook: str, why: str) -> None:
    package(tmp_path, f"{GOOD}    {hook}")
    name = hook.partition("(")[0].split()[-1]
    line = GOOD.count("\n") + 1
    code, out = check(tmp_path, "disclaimer")
    (told,) = warnings(out)
    assert code == 0 and "\ngood: " in out
    assert told == (
        f"{tmp_path}/gateway.toml:3:11: warning: handler disclaimer: {name} ({tmp_path}/ours/filter.py:{line})"
        f" is never called: {why}"
    )


def test_the_api_of_old_is_named_with_what_took_its_place(tmp_path: Path) -> None:
    old = "    def process_message(self, peer, mailfrom, rcpttos, data): pass"
    package(tmp_path, f"{GOOD.replace('DATA', 'QUIT')}{old}")
    (told,) = warnings(check(tmp_path, "disclaimer")[1])
    assert told.endswith("is never called: handle_DATA(self, server, session, envelope) took its place")
    (tmp_path / "ours" / "filter.py").write_text(f"{GOOD}{old}")
    assert not warnings(check(tmp_path, "disclaimer")[1])


@pytest.mark.parametrize(
    ("hook", "why", "listener"),
    [
        (
            "async def handle_PROXY(self, server, session, envelope, data): return True",
            "this listener names no load balancers (proxy)",
            'proxy = ["192.0.2.1"]',
        ),
        (
            "def handle_STARTTLS(self, server, session, envelope): return True",
            "this listener has no certificate (tls)",
            'tls = { certificate = "/nowhere.pem", key = "/nowhere.pem" }',
        ),
    ],
)
def test_hooks_that_wait_for_what_the_listener_does_not_do(tmp_path: Path, hook: str, why: str, listener: str) -> None:
    package(tmp_path, f"{GOOD}    {hook}")
    (told,) = warnings(check(tmp_path, "disclaimer")[1])
    assert told.endswith(f"is never called: {why}")
    assert not warnings(check(tmp_path, "disclaimer", listener)[1])


def test_mistakes_and_warnings_are_told_together(tmp_path: Path) -> None:
    package(tmp_path, f"{GOOD}    async def auth_LOGIN(self, server, args): pass\n", "disclaimer = ours.filter:Good")
    second = '[[listen]]\nname = "other"\naddress = "127.0.0.1:2526"\nhandler = "unknown"\n'
    code, out = check(tmp_path, "disclaimer", second)
    assert code == 1 and len(warnings(out)) == 1 and "gateway.toml:7:11: handler unknown: no installed" in out
    assert "1 mistake: this does not run" in out


@pytest.mark.parametrize(
    "hook",
    [
        "async def handle_RSET(self, server, session, envelope): return '250 OK'",
        "async def handle_NOOP(self, server, session, envelope, arg): return '250 OK'",
        "async def handle_VRFY(self, server, session, envelope, address): return '252 OK'",
        "async def handle_exception(self, error): return '451 later'",
        "def handle_attachment(self, part): pass",
        "auth_needed = True",
    ],
)
def test_what_is_called_or_is_no_hook_is_not_warned_of(tmp_path: Path, hook: str) -> None:
    package(tmp_path, f"{GOOD}    {hook}")
    code, out = check(tmp_path, "disclaimer")
    assert code == 0 and not warnings(out)
