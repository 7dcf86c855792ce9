"""The kept list of recipients at its edges: a sync that is killed at each step of a write, a disk that is full behind the
list, a share that is lost exactly."""

import os
import signal
import sys
import threading
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest

from appliance.tables.known import Origin, keep
from appliance.tables.known.keep import Order, account, known, sync

OLD = [f"old{number}@example.com" for number in range(40)]
NEW = [*OLD[:38], "new@example.com"]
STEPS = ("open", "os.rename", "os.remove", "fcntl.flock")


def order(folder: Path, addresses: list[str], **more: Any) -> Order:
    (folder / "recipients").mkdir(exist_ok=True)
    source = folder / "source.csv"
    source.write_text("".join(f"{address}\n" for address in addresses))
    os.utime(source, (1e9, 1e9))
    origin = Origin(kind="csv", source=(str(source),))
    return Order(name="x", folder=str(folder / "recipients"), origin=origin, domains=("example.com",), **more)


def test_a_text_that_is_written_piece_by_piece(tmp_path: Path) -> None:
    assert not sync(order(tmp_path, OLD)).problem
    asked, ended = order(tmp_path, OLD), threading.Event()

    def write() -> None:
        with (tmp_path / "source.csv").open("w") as file:
            for address in [*OLD, "new@example.com"]:
                file.write(f"{address}\n")
                file.flush()
                ended.wait(0.05)

    with ThreadPoolExecutor(1) as pool:
        writing = pool.submit(write)
        ended.wait(1.9)  # 38 of 41
        found = sync(asked)
        assert "is being written" in found.problem and known(tmp_path / "recipients" / "x") == set(OLD)
        writing.result()
    assert sync(asked).count == 41


def killed(asked: Order, step: int) -> bool:
    """A sync of a process of its own that is killed before its n-th step; whether it was."""
    if not (pid := os.fork()):
        left, disk = [step], os.fsync

        def hook(event: str, _: Any) -> None:
            if event in STEPS:
                left[0] -= 1
                if left[0] < 0:
                    os.kill(os.getpid(), signal.SIGKILL)

        def fsync(fd: int) -> None:
            hook("open", ())
            disk(fd)

        os.fsync = fsync  # type: ignore[assignment]
        sys.addaudithook(hook)
        sync(asked)
        os._exit(0)
    return os.WIFSIGNALED(os.waitpid(pid, 0)[1])


@pytest.mark.parametrize("first", [True, False])
def test_killed_at_each_step_of_a_write(tmp_path: Path, first: bool) -> None:
    folder, found = tmp_path / "recipients", set()
    for step in range(100):
        if folder.exists():
            for path in folder.iterdir():
                path.unlink()
        if not first:
            assert not sync(order(tmp_path, OLD)).problem
        asked = order(tmp_path, NEW)
        died = killed(asked, step)
        now = known(folder / "x")
        assert now in ([set(), set(NEW)] if first else [set(OLD), set(NEW)])
        found.add((len(now), len(list(folder.iterdir()))))
        assert not sync(asked).problem and known(folder / "x") == set(NEW) and account(folder, "x").count == len(NEW)
        assert sorted(path.name for path in folder.iterdir()) == [".x.json", "x"], "nothing is left"
        if not died:
            break
    else:
        pytest.fail("no end")
    assert len(found) > 3, "it died at several states of the folder"


def test_a_disk_that_is_full_behind_the_list(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    assert sync(order(tmp_path, OLD)).count == 40
    whole = keep.replaced

    def full(path: Path, data: bytes) -> None:
        if path.name != "x":
            raise OSError(28, "No space left on device", str(path))
        whole(path, data)

    monkeypatch.setattr(keep, "replaced", full)
    outcome = sync(order(tmp_path, NEW))
    assert "No space left" in outcome.problem and outcome.count == 39, "what is in force"
    monkeypatch.undo()
    outcome = sync(order(tmp_path, NEW))
    assert not outcome.problem and account(tmp_path / "recipients", "x").count == 39


@pytest.mark.parametrize(("share", "lost"), [(10.0, 500), (1.38, 69), (2.01, 100), (0.0, 0), (100.0, 4999), (33.3, 1665)])
def test_what_is_lost_may_be_the_share_and_no_more(tmp_path: Path, share: float, lost: int) -> None:
    every = [f"u{number}@example.com" for number in range(5000)]
    assert not sync(order(tmp_path, every)).problem
    if (more := max(lost + 1, keep.SMALL + 1)) < 5000:
        assert f"{more} of 5000 recipients would go" in sync(order(tmp_path, every[more:], most_shrink=share)).problem
    assert not sync(order(tmp_path, every[lost:], most_shrink=share)).problem
