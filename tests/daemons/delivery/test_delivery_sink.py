"""Against Postfix's smtp-sink: real octets, all messages different, nothing lost, nothing doubled."""

import asyncio
import getpass
import re
import shutil
import socket
import subprocess
from collections import Counter
from pathlib import Path

import pytest

from tests.daemons.delivery.harness import delivery, mail_log, settings

SINK = shutil.which("smtp-sink", path="/usr/sbin:/usr/bin") or ""

pytestmark = [pytest.mark.peer, pytest.mark.skipif(not SINK, reason="smtp-sink is not installed")]


def free_port() -> int:
    with socket.create_server(("127.0.0.1", 0)) as sock:
        return sock.getsockname()[1]


async def listens(port: int) -> None:
    for _ in range(200):
        try:
            _, writer = await asyncio.open_connection("127.0.0.1", port)
        except OSError:
            await asyncio.sleep(0.02)
        else:
            writer.close()
            return
    raise AssertionError("smtp-sink does not listen")


@pytest.mark.parametrize("options", [[], ["-p"], ["-L"]], ids=["pipelining", "no pipelining", "lmtp"])
async def test_five_hundred_messages(tmp_path: Path, monkeypatch, options):
    port = free_port()
    dump = tmp_path / "dump"
    user = ["-u", "root"] if getpass.getuser() == "root" else []
    sink = subprocess.Popen([SINK, *user, *options, "-D", str(dump), f"127.0.0.1:{port}", "100"])
    try:
        await listens(port)
        kind = "lmtp" if "-L" in options else "smtp"
        with mail_log(monkeypatch) as log:
            async with delivery(tmp_path, settings(tmp_path, f"{kind}:[127.0.0.1]:{port}")) as running:
                for number in range(500):
                    content = b"Subject: n%d\r\n\r\n.dot\r\n%s\r\n" % (number, b"x" * (number % 977))
                    await running.put("a@example.com", content=content)
                await running.empty(30)
    finally:
        sink.terminate()
        sink.wait()
    subjects = Counter(re.findall(r"^Subject: (n\d+)$", dump.read_text(), re.M))
    assert subjects == Counter(f"n{number}" for number in range(500))
    assert len(log.of("status=sent")) == len(log.of("removed")) == 500
