"""`postgate run` without --config, as a new user does it: the printed lines work as printed."""

import fcntl
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.peers.ports import answers, greets, wait_for
from tests.peers.process import Process

PORT = 2525
POSTGATE = str(Path(sys.executable).with_name("postgate"))


@pytest.fixture
def demo(tmp_path: Path) -> Iterator[Process]:
    with open(Path(tempfile.gettempdir()) / "postgate-test-port-2525", "w") as alone:
        fcntl.flock(alone, fcntl.LOCK_EX)  # the port is one, the processes that run tests are several
        if answers(PORT):
            pytest.skip("somebody uses port 2525, the demo's own")
        began = time.monotonic()
        process = Process([POSTGATE, "run"], tmp_path / "out", cwd=tmp_path)
        try:
            wait_for(lambda: "Try, in another terminal" in process.output(), 20, "the demo's hints")
            assert greets(PORT)
            assert time.monotonic() - began < 10
            yield process
        finally:
            process.stop()


def printed(process: Process, word: str) -> list[str]:
    """The words of the hint in which `word` stands."""
    return next(
        line.split() for line in process.output().splitlines() if line.startswith("  ") and f"{word} --server" in line
    )


@pytest.mark.xdist_group("demo")
def test_the_demo_works_as_printed(demo: Process, tmp_path: Path) -> None:
    for off in ("clamd", "spamd", "Redis"):
        assert any(line.startswith("  off: ") and off in line for line in demo.output().splitlines()), off
    sent = subprocess.run(
        printed(demo, "send-test"), cwd=tmp_path, capture_output=True, text=True, timeout=30, check=False
    )
    assert sent.returncode == 0, sent.stdout + sent.stderr
    inbox = tmp_path / "run" / "inbox" / "new"
    wait_for(lambda: len(list(inbox.iterdir())) == 1, 10, "the mail in the demo inbox")
    kept = next(inbox.iterdir()).read_text()
    assert "dmarc=pass" in kept and "X-Postgate-Mark" not in kept
    status = subprocess.run([POSTGATE, "status"], cwd=tmp_path, capture_output=True, text=True, timeout=30, check=False)
    asked = [line for line in status.stdout.splitlines() if " dns: " in line]
    assert asked and all("not asked yet" in line for line in asked)  # it works without any name server, too
    if shutil.which("swaks"):
        again = subprocess.run(
            printed(demo, "swaks"), cwd=tmp_path, capture_output=True, text=True, timeout=30, check=False
        )
        assert again.returncode == 0, again.stdout
        wait_for(lambda: len(list(inbox.iterdir())) == 2, 10, "the second mail")
    told = subprocess.run([POSTGATE, "status"], cwd=tmp_path, capture_output=True, text=True, timeout=30, check=False)
    assert "Postgate" in told.stdout and "smtpd.0" in told.stdout
    began = time.monotonic()
    demo.signal(signal.SIGINT)
    assert demo.popen.wait(10) == 0
    assert time.monotonic() - began < 5
