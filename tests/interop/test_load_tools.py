"""swaks, smtp-source and pflogsumm, the postmaster's own tools."""

import re
import shutil
import subprocess
from collections.abc import Callable
from pathlib import Path

import pytest

from tests.faults.senders import message, talk
from tests.peers.gateway import Gateway
from tests.peers.inner import Inner
from tests.peers.policies import plain
from tests.peers.ports import wait_for

pytestmark = pytest.mark.peer


def needs(program: str) -> pytest.MarkDecorator:
    return pytest.mark.skipif(not shutil.which(program), reason=f"{program} is not installed (make packages)")


@needs("smtp-source")
@pytest.mark.parametrize("kept", [(), ("-d",)], ids=["new connections", "kept connections"])
def test_smtp_source(gateway: Callable[..., Gateway], inner: Inner, kept: tuple[str, ...]) -> None:
    made = gateway(policies=plain())
    argv = ["smtp-source", "-s", "10", "-m", "300", "-l", "3000", *kept, "-f", "a@example.org", "-t", "user@example.com"]
    subprocess.run([*argv, f"127.0.0.1:{made.port}"], check=True, timeout=60)
    assert len(inner.wait(300, 30)) == 300
    ids = {re.search(rb"(?m)^Message-Id: (.*)\r$", k.content)[1] for k in inner.messages}  # type: ignore[index]
    assert len(ids) == 300


@needs("swaks")
def test_swaks_with_pipelining_and_a_body_of_dots(gateway: Callable[..., Gateway], inner: Inner) -> None:
    made = gateway(policies=plain())
    argv = ["swaks", "--server", f"127.0.0.1:{made.port}", "--from", "a@example.org", "--to", "user@example.com"]
    done = subprocess.run(
        [*argv, "--pipeline", "--body", ".\\n..\\nend"], capture_output=True, text=True, timeout=60, check=False
    )
    assert done.returncode == 0, done.stdout
    [kept] = inner.wait(1)
    assert kept.content.rstrip().endswith(b"\r\n\r\n.\r\n..\r\nend")


@needs("pflogsumm")
def test_pflogsumm_reads_our_log(gateway: Callable[..., Gateway], inner: Inner, tmp_path: Path) -> None:
    made = gateway(policies=plain())
    for number in range(5):
        assert talk(made.port, message(number, 2000), "user@example.com")[0] == "accepted"
    for _ in range(3):
        assert talk(made.port, message(1, 2000), "user@example.net")[0] == "unsent"
    inner.wait(5)
    wait_for(lambda: made.log().count(": removed") == 5, 20, "all of them in the log")
    made.stop()
    done = subprocess.run(
        ["pflogsumm", "--syslog_name=postgate", str(tmp_path / "gateway0" / "gateway.log")],
        capture_output=True, text=True, check=True, timeout=60,
    )  # fmt: skip
    totals = {
        name: int(count)
        for count, name in re.findall(r"^ +(\d+)\s+(received|delivered|deferred|bounced|rejected)\b", done.stdout, re.M)
    }
    assert totals["received"] == 5, done.stdout
    assert totals["delivered"] == 5, done.stdout
    assert totals["rejected"] == 3, done.stdout
