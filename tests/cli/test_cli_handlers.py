"""`postgate check` and handlers: by module and class or by entry point; each mistake with its place."""

import os
import subprocess
import sys
import textwrap
import time
from pathlib import Path

import pytest

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


def check(folder: Path, handler: str, more: str = "", python: Path | None = None) -> tuple[int, str]:
    wiring = folder / "gateway.toml"
    wiring.write_text(f'[[listen]]\nname = "public"\nhandler = "{handler}"\n{more}\n{HEAD}')
    env = os.environ | {"PYTHONPATH": f"{ROOT}:{python or folder}"}
    argv = [sys.executable, "-m", "appliance.cli", "check", "--config", str(wiring)]
    done = subprocess.run(argv, env=env, capture_output=True, text=True, timeout=60)
    assert "Traceback" not in done.stderr, done.stderr
    return done.returncode, done.stdout


@pytest.mark.parametrize("handler", ["ours.filter:Good", "disclaimer"])
def test_a_good_handler(tmp_path: Path, handler: str) -> None:
    package(tmp_path, GOOD)
    assert check(tmp_path, handler, 'handler_args = ["word"]')[0] == 0


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
        ("class Good: pass", "disclaimer", "it has none of handle_HELO"),
        (
            "class Good:\n    async def handle_RCPT(self, address): pass",
            "disclaimer",
            "handle_RCPT must take (self, server",
        ),
        (GOOD.replace("DATA", "DATE"), "disclaimer", "it has none of"),
        (GOOD + "    async def handle_RCTP(self): pass", "disclaimer", "no hook handle_RCTP (did you mean handle_RCPT?)"),
        (GOOD + "    handle_MAIL = 7", "disclaimer", "handle_MAIL cannot be called"),
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


def test_an_import_that_hangs_holds_nothing_up(tmp_path: Path) -> None:
    slow = tmp_path / "slow"
    text = f"import time, os, threading\nopen({str(slow)!r}, 'w').write(str(os.getpid()))\ntime.sleep(600)"
    package(tmp_path, text)
    sitecustomize = "import appliance.cli.handlers as h; h.SECONDS = 2.0"
    (tmp_path / "sitecustomize.py").write_text(sitecustomize)
    begun = time.monotonic()
    code, out = check(tmp_path, "disclaimer")
    assert code == 1 and "importing it takes longer than 2 s" in out and time.monotonic() - begun < 30
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
    code, out = check(tmp_path, "disclaimer", python=Path(f"{tmp_path}:{other}"))
    assert code == 1 and "several packages have an entry point of this name: ours.filter:Good, ours.filter:Other" in out


def test_arguments_without_a_handler(tmp_path: Path) -> None:
    code, out = check(tmp_path, "", 'handler_args = ["a"]')
    assert code == 1 and "gateway.toml:4:1: handler_args without a handler" in out
