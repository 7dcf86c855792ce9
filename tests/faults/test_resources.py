"""Full disk, an fsync that fails, descriptors used up: 4xx while it lasts, nothing lost, recovery by itself."""

import contextlib
import os
import resource
import shutil
import socket
import subprocess
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from tests.faults.senders import Senders, message, reckon, talk
from tests.peers.gateway import Gateway
from tests.peers.inner import Inner
from tests.peers.policies import plain
from tests.peers.ports import wait_for

pytestmark = [pytest.mark.fault, pytest.mark.timeout(180)]
QUICK = '[queue]\nretry_min = "1s"\nretry_max = "2s"\ndead_probe = "1s"\n'
SMALL = "[smtp]\nsize_limit = 4000000\n"
needs_root = pytest.mark.skipif(os.geteuid() != 0, reason="needs root to mount a small file system or to trace")


@pytest.fixture
def small_disk(tmp_path: Path) -> Iterator[Path]:
    """A file system of 48 MB for the gateway's state."""
    folder = tmp_path / "gateway0" / "state"
    folder.mkdir(parents=True)
    made = subprocess.run(
        ["mount", "-t", "tmpfs", "-o", "size=48m", "tmpfs", str(folder)], capture_output=True, check=False
    )
    if made.returncode:
        pytest.skip("this machine does not let a test mount a tmpfs")
    yield folder
    subprocess.run(["umount", "-l", str(folder)], check=True)


def fill(path: Path, keep: int) -> None:
    """Write `path` until only `keep` octets are free (others write too: the disk may be full before)."""
    with path.open("wb", buffering=0) as sink, contextlib.suppress(OSError):
        while (free := shutil.disk_usage(path.parent).free - keep) > 0:
            sink.write(b"x" * min(free, 1 << 20))


@needs_root
def test_a_full_disk_puts_mail_off_at_mail_and_the_queue_drains(
    small_disk: Path, gateway: Callable[..., Gateway], inner: Inner
) -> None:
    made = gateway(policies=plain(), more=QUICK + SMALL)
    assert talk(made.port, message(1, 500), "user@example.com")[0] == "accepted"
    fill(small_disk / "filler", 5_000_000)
    wait_for(lambda: talk(made.port, message(2, 500), "user@example.com")[1].startswith("452 4.3.1"), 10, "452 at MAIL")
    inner.wait(1)
    (small_disk / "filler").unlink()
    wait_for(lambda: talk(made.port, message(3, 500), "user@example.com")[0] == "accepted", 10, "recovery")
    inner.wait(2)


@needs_root
def test_a_disk_that_fills_up_under_load_loses_nothing(
    small_disk: Path, gateway: Callable[..., Gateway], inner: Inner
) -> None:
    made = gateway(policies=plain(), more=QUICK + SMALL)
    senders = Senders(made.port, sizes=(2000, 100_000, 1_000_000)).start()
    try:
        for _ in range(4):
            wait_for(lambda start=senders.accepted: senders.accepted > start + 5, 20, "accepted mail")
            fill(small_disk / "filler", 0)
            time.sleep(1)  # the disk stays full for a while: this is the fault itself, not a wait for an event
            (small_disk / "filler").unlink()
    finally:
        senders.stop()
    wait_for(lambda: not reckon(senders.outcomes, list(inner.messages)).lost, 40, f"delivery\n{made.tail()}")
    result = reckon(senders.outcomes, list(inner.messages))
    assert not result.changed
    assert not result.ghosts


@needs_root
@pytest.mark.skipif(not shutil.which("strace"), reason="Debian package strace is not installed")
def test_a_sync_that_fails_refuses_and_never_delivers_what_it_refused(
    gateway: Callable[..., Gateway], inner: Inner
) -> None:
    made = gateway(workers=1, policies=plain(), more=QUICK)
    assert talk(made.port, message(999_999, 500), "user@example.com")[0] == "accepted"
    [worker] = made.children()["smtpd"]
    argv = ["strace", "-f", "-p", str(worker), "-e", "trace=fdatasync,fsync", "-o", "/dev/null"]
    tracer = subprocess.Popen([*argv, "-e", "inject=fdatasync,fsync:error=EIO:when=3+4"], stderr=subprocess.PIPE)
    assert tracer.stderr
    assert b"attached" in tracer.stderr.readline()
    senders = Senders(made.port, threads=2).start()
    try:
        wait_for(lambda: senders.accepted >= 60, 60, "accepted mail between failing syncs")
    finally:
        senders.stop()
        tracer.terminate()
        tracer.wait(10)
    refused = [o for o in senders.outcomes if o.kind == "refused"]
    assert refused
    assert all(o.reply.startswith(("451 4.3", "452 4.3")) for o in refused)
    wait_for(lambda: not reckon(senders.outcomes, list(inner.messages)[1:]).lost, 30, f"delivery\n{made.tail()}")
    result = reckon(senders.outcomes, list(inner.messages)[1:])
    assert not result.ghosts
    assert not result.changed


def test_descriptors_used_up_pause_accepting_and_recover(gateway: Callable[..., Gateway], inner: Inner) -> None:
    limits = "[limits]\nconnections_per_client = 1000\nconnections_reserve = 0\n"
    made = gateway(workers=1, policies=plain(), more=QUICK + limits)
    [worker] = made.children()["smtpd"]
    used = len(os.listdir(f"/proc/{worker}/fd"))
    _, hard = resource.prlimit(worker, resource.RLIMIT_NOFILE)
    early = socket.create_connection(("127.0.0.1", made.port), timeout=20)
    assert early.recv(500).startswith(b"220")
    resource.prlimit(worker, resource.RLIMIT_NOFILE, (used + 12, hard))
    crowd = [socket.create_connection(("127.0.0.1", made.port), timeout=20) for _ in range(60)]
    before = os.times()
    early.sendall(b"EHLO early.example.org\r\n")
    assert early.recv(2000).startswith(b"250")
    spent = sum(os.times()[:2]) - sum(before[:2])
    assert spent < 5
    size = len(made.log())
    for sock in crowd:
        sock.close()
    early.sendall(b"QUIT\r\n")
    wait_for(lambda: talk(made.port, message(5, 500), "user@example.com")[0] == "accepted", 30, "recovery")
    assert len(made.log()) - size < 100_000, "a storm of log lines"
    inner.wait(1)
