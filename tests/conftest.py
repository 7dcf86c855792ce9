"""Options of the test run and the peers that interop and fault tests share."""

import compileall
import gc
import os
import shutil
import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from hypothesis import HealthCheck, settings

from appliance.observe import maillog, oplog
from tests import order
from tests.peers import postfix
from tests.peers.gateway import Gateway
from tests.peers.inner import Inner

#: The time that one example takes, and that examples take to be made, tell what else the machine does.
settings.register_profile("postgate", deadline=None, suppress_health_check=[HealthCheck.too_slow])
settings.load_profile("postgate")


def pytest_addoption(parser: pytest.Parser) -> None:
    parser.addoption("--long", action="store_true", help="the long form of fault and load tests (make siege)")


@pytest.hookimpl(tryfirst=True)
def pytest_configure(config: pytest.Config) -> None:
    """One short folder for all that tests write: the path of a unix socket has at most 107 octets, and the folder that
    pytest takes by itself grows longer with each run. Modules are compiled once for all processes."""
    if hasattr(config, "workerinput"):
        return
    # some environments keep interpreters from writing bytecode: each of hundreds of gateways would compile everything
    compileall.compile_dir(str(Path(__file__).parents[1] / "appliance"), quiet=2, workers=os.cpu_count() or 1)
    if config.option.basetemp is None:
        config.option.basetemp = config.stash[_FOLDER] = tempfile.mkdtemp(prefix="pg-")


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    workers = int(os.environ.get("PYTEST_XDIST_WORKER_COUNT", "1"))
    if workers > 1:
        items[:] = order.dealt(((item.nodeid, item) for item in items), workers)


def pytest_collection_finish() -> None:
    """Fourteen thousand tests and all modules stay to the end: without them a look for garbage, of which the tests that
    look for leaks take hundreds, costs milliseconds instead of a third of a second."""
    gc.collect()
    gc.freeze()


def pytest_unconfigure(config: pytest.Config) -> None:
    if folder := config.stash.get(_FOLDER, ""):
        shutil.rmtree(folder, ignore_errors=True)


_FOLDER = pytest.StashKey[str]()


@pytest.fixture(autouse=True)
def no_storm() -> None:
    """What other tests said in the last ten seconds does not make lines of this one be counted only."""
    oplog._seen.clear()
    maillog._windows.clear()


@pytest.fixture
def inner() -> Iterator[Inner]:
    server = Inner().start()
    yield server
    server.stop()


@pytest.fixture
def gateway(tmp_path: Path, inner: Inner) -> Iterator[Callable[..., Gateway]]:
    """Start a gateway before `inner`; keyword arguments as Gateway. All are stopped at the end."""
    started: list[Gateway] = []

    def start(**more: object) -> Gateway:
        root = tmp_path / f"gateway{len(started)}"
        made = Gateway(root, more.pop("inner", inner.port), **more)  # type: ignore[arg-type]
        started.append(made)
        return made.start()

    yield start
    for made in started:
        made.stop()


@pytest.fixture
def make_postfix(tmp_path: Path) -> Iterator[Callable[..., postfix.Postfix]]:
    """Start a real Postfix in a folder of its own."""
    if not postfix.available():
        pytest.skip("Debian package postfix is not installed (make packages)")
    started: list[postfix.Postfix] = []

    def start(**more: str) -> postfix.Postfix:
        made = postfix.Postfix(tmp_path / f"postfix{len(started)}", **more)
        started.append(made)
        return made.start()

    yield start
    for made in started:
        made.stop()


def pytest_terminal_summary(terminalreporter: pytest.TerminalReporter) -> None:
    """Counts that a test wants to be seen (record_property), also when it passed."""
    for report in terminalreporter.getreports("passed") + terminalreporter.getreports("failed"):
        for name, value in report.user_properties if report.when == "call" else ():
            terminalreporter.write_line(f"{name}: {value}")
