"""Commands that misbehave, and a runner or a delivery that dies meanwhile: bounded time, one line, nothing lost, nothing
left (threats, part 4)."""

import asyncio
import contextlib
import os
import pwd
import signal
import time
from pathlib import Path
from typing import Any

import pytest

from tests.daemons.delivery.harness import Log
from tests.daemons.delivery.piped import Both, Outside, both, python, shell
from tests.peers.inner import Inner
from tests.peers.process import reachable, stand_still

ENDLESS = "import sys\nwhile True: sys.stdout.write('x' * 65536)"


def running(pid: int) -> bool:
    """Is there such a process, and not only what is left of it?"""
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(") ")[2][0] != "Z"
    except OSError:
        return False


async def number(stage: Both, file: Path) -> int:
    """The process id that a program wrote."""
    await stage.until(lambda: file.exists() and file.read_text().strip())
    return int(file.read_text())


async def put_off(stage: Both, log: Log, why: str, seconds: float = 5.0) -> str:
    """One message is put off in bounded time: one line for its recipient, the filter in trouble with the queue id."""
    begun = time.monotonic()
    queue_id = await stage.filtered("a@example.com")
    await stage.until(lambda: log.of(queue_id, "status=deferred"), seconds)
    assert time.monotonic() - begun < seconds
    (line,) = log.of(queue_id, "to=<a@example.com>", "status=deferred")
    assert why in line and "delays=" in line, line
    (said,) = stage.degraded
    assert queue_id in said and why in said and "pipe:scan" in said
    facts = stage.running.delivery.health()["next hops"]["filter pipe:scan"]
    assert facts["state"] == "in trouble"
    await stage.clean()
    return queue_id


async def comes_back(stage: Both, log: Log, queue_id: str) -> None:
    await stage.flush()
    await stage.empty()
    assert log.of(queue_id, "status=sent") and not stage.degraded
    assert stage.running.delivery.health()["next hops"]["filter pipe:scan"]["state"] == "well"


@pytest.mark.parametrize(
    ("make", "why"),
    [
        (lambda path: None, "no program that can be run (it is not there, or where this user may not look)"),
        (lambda path: path.write_text("#!/bin/sh\nexit 0\n"), "no program that can be run (chmod 755)"),
        (lambda path: path.mkdir(), "no program that can be run (a folder)"),
        (lambda path: (path.write_text("#!/no/such/interpreter\n"), path.chmod(0o755)), "cannot run"),
    ],
)
async def test_a_program_that_is_none(tmp_path: Path, log: Log, make: Any, why: str) -> None:
    """Absent, not executable, a folder, without its interpreter; it comes back."""
    program = tmp_path / "program"
    make(program)
    async with both(tmp_path, [str(program), "--", "${recipient}"], queue="dead_probe = '1s'") as stage:
        queue_id = await put_off(stage, log, why)
        for _ in range(5):
            await stage.filtered()
        with contextlib.suppress(OSError):
            program.rmdir()
        program.write_text("#!/bin/sh\nexit 0\n")
        program.chmod(0o755)
        await comes_back(stage, log, queue_id)
    assert not log.of("status=bounced")


LATE = 'Command time limit exceeded: "'
DEAF = "trap '' TERM HUP INT; while :; do sleep 1; done"


@pytest.mark.parametrize(
    "command",
    [
        shell("sleep 600"),
        shell(DEAF),
        python("while True: pass"),
        python(ENDLESS),
        python("import sys, time\nwhile sys.stdin.read(1): time.sleep(0.1)"),
        shell("(sleep 600) & exec sleep 600"),
    ],
    ids=["sleeps", "deaf to signals", "busy", "endless output", "reads slowly", "with a child"],
)
@pytest.mark.parametrize("output", ["log", "message"])
async def test_a_program_that_does_not_end(tmp_path: Path, log: Log, command: list[str], output: str) -> None:
    """Endless output into a message is ended by its size, all else by the time."""
    more = f'timeout = "1s"\noutput = "{output}"'
    async with both(tmp_path, command, more) as stage:
        why = "SIGXFSZ" if command[-1] == ENDLESS and output == "message" else LATE
        if why == "SIGXFSZ":  # Python has it as an error of its own
            why = "Command died with status 1"
        queue_id = await put_off(stage, log, why, 10)
    assert len(log.of(queue_id, "status=deferred")) == 1


async def test_a_program_that_does_not_read(tmp_path: Path, log: Log) -> None:
    body = b"Subject: x\r\n\r\n" + b"y" * 70 * 1000 + b"\r\n"
    async with both(tmp_path, shell("exec 0<&-; exit 0")) as stage:
        for content in (b"Subject: x\r\n\r\n", body * 10):
            await stage.filtered(content=content)
        await stage.empty()
    assert len(log.of("status=sent")) == 2


async def test_a_child_that_keeps_the_pipe_holds_nothing_up(tmp_path: Path, log: Log) -> None:
    child = tmp_path / "child"
    async with both(tmp_path, shell(f"sleep 600 & echo $$! > {child}; exit 0")) as stage:
        begun = time.monotonic()
        await stage.filtered()
        await stage.empty()
        assert time.monotonic() - begun < 5
        pid = await number(stage, child)
        await stage.until(lambda: not running(pid))


async def test_a_child_in_a_session_of_its_own_ends_too(tmp_path: Path, log: Log) -> None:
    """Even one that forgot where it comes from, and what that one started."""
    child, grandchild = tmp_path / "child", tmp_path / "grandchild"
    deep = f"echo $$$$ > {child}; setsid env -i sh -c 'echo $$$$ > {grandchild}; exec sleep 600' & exec sleep 600"
    wait = f"while ! test -s {grandchild}; do sleep 0.05; done"
    async with both(tmp_path, shell(f'setsid env -i /bin/sh -c "$$1" & {wait}; exit 0', deep), runner=False) as stage:
        await stage.run(outside=True)
        await stage.filtered()
        pids = [await number(stage, child), await number(stage, grandchild)]
        await stage.empty()
        await stage.until(lambda: not any(map(running, pids)))


async def test_the_orphans_of_another_run_are_left_alone(tmp_path: Path, log: Log) -> None:
    """A shell's background process belongs to its run as long as that lasts."""
    child, go = tmp_path / "child", tmp_path / "go"
    first = f"(setsid sh -c 'echo $$$$ > {child}; exec sleep 600' &); while ! test -e {go}; do sleep 0.05; done"
    async with both(tmp_path, shell(f'case "$$1" in a@*) {first};; esac; exit 0', "${recipient}"), runner=False) as stage:
        await stage.run(outside=True)
        slow = await stage.filtered("a@example.com")
        pid = await number(stage, child)
        await stage.filtered("b@example.com")
        await stage.until(lambda: log.of("to=<b@example.com>", "status=sent"))
        assert running(pid) and not log.of(slow, "status=sent")
        go.touch()
        await stage.empty()
        await stage.until(lambda: not running(pid))


async def test_a_fork_bomb_is_bounded(tmp_path: Path, log: Log) -> None:
    """By the limit of processes (which counts for everybody but root), then by the time; nothing of it is left."""
    if os.geteuid() != 0:
        pytest.skip("starts the runner as another user")
    name = "uucp"  # of whom no other test starts anything
    uid = pwd.getpwnam(name).pw_uid
    bomb = "import os\nwhile True:\n try: os.fork()\n except OSError: pass"

    def bombs() -> int:
        count = 0
        for entry in os.scandir("/proc"):
            with contextlib.suppress(OSError):
                count += entry.name.isdecimal() and entry.stat().st_uid == uid
        return count

    async with both(tmp_path, python(bomb), 'timeout = "2s"\nprocesses = 20', runner=False) as stage:
        reachable(tmp_path / "x")
        for folder in (tmp_path, stage.state, stage.state / "run"):
            folder.chmod(0o777)
        before = bombs()
        await stage.run(outside=True, user=name)
        there = bombs()
        queue_id = await stage.filtered()
        most = 0
        until = time.monotonic() + 15
        while not log.of(queue_id, "status=deferred") and time.monotonic() < until:
            most = max(most, bombs())
            await asyncio.sleep(0.05)
        assert LATE in log.of(queue_id, "status=deferred")[0]
        assert 5 < most - there <= 21
        await stage.until(lambda: bombs() <= there)
        assert stage.runner is not None
        await stage.runner.stop()
        stage.runner = None
        assert bombs() <= before


async def test_the_runner_is_away_and_comes_back(tmp_path: Path, log: Log) -> None:
    async with both(tmp_path, shell("exit 0"), runner=False, queue="dead_probe = '1s'") as stage:
        queue_id = await put_off(stage, log, "the runner is away")
        assert stage.running.dispatch.schedule.sites["filter pipe:scan"].jobs == 1
        await stage.run()
        await comes_back(stage, log, queue_id)


async def test_the_runner_dies_in_the_middle(tmp_path: Path, log: Log) -> None:
    """The message is tried again; what was running ends, with the runner or before its next life serves."""
    pids, well = tmp_path / "pids", tmp_path / "well"
    command = shell(f"test -e {well} && exit 0; (sleep 600 & echo $$! > {pids}; wait)")
    async with both(tmp_path, command, runner=False) as stage:
        await stage.run(outside=True)
        queue_id = await stage.filtered("a@example.com")
        pid = await number(stage, pids)
        assert isinstance(stage.runner, Outside)
        stage.runner.kill()
        await stage.until(lambda: log.of(queue_id, "status=deferred"))
        assert "the runner hung up" in log.of(queue_id, "status=deferred")[0] and queue_id in stage.degraded[0]
        well.touch()
        await stage.run(outside=True)
        await stage.until(lambda: not running(pid) and not list(stage.scans.iterdir()))
        await comes_back(stage, log, queue_id)


async def test_a_runner_that_hangs_is_not_waited_for(tmp_path: Path, log: Log, monkeypatch: pytest.MonkeyPatch) -> None:
    from appliance.connectors import pipe

    monkeypatch.setattr(pipe, "MARGIN", 0.5)
    async with both(tmp_path, shell("exit 0"), 'timeout = "0.5s"'.replace("0.5s", "1s"), runner=False) as stage:
        await stage.run(outside=True)
        assert isinstance(stage.runner, Outside)
        stand_still(stage.runner.popen.pid)
        queue_id = await stage.filtered("a@example.com")
        await stage.until(lambda: log.of(queue_id, "status=deferred"))
        assert "the runner did not answer within 2 s" in log.of(queue_id, "status=deferred")[0]
        stage.runner.popen.send_signal(signal.SIGCONT)
        await comes_back(stage, log, queue_id)


async def test_delivery_dies_in_the_middle(tmp_path: Path, log: Log) -> None:
    """Its programs end, and the message is filtered when delivery is there again."""
    pids, well = tmp_path / "pids", tmp_path / "well"
    command = shell(f"test -e {well} && exit 0; echo $$$$ > {pids}; exec sleep 600")
    async with both(tmp_path, command) as stage:
        queue_id = await stage.filtered("a@example.com")
        pid = await number(stage, pids)
        begun = time.monotonic()
    assert time.monotonic() - begun < 10 and not running(pid)
    assert not log.of(queue_id, "status=sent")
    well.touch()
    async with both(tmp_path, command) as stage:
        await stage.until(lambda: log.of(queue_id, "status=sent"))
        await stage.until(lambda: not len(stage.running.spool))


async def test_after_the_message_was_written_anew_a_crash_loses_nothing(tmp_path: Path, log: Log) -> None:
    """The disk refuses the new message: the old one stays, and goes through the filter again."""
    from appliance.queue.errors import SpoolError

    inner = Inner().start()
    hop = f"smtp:[127.0.0.1]:{inner.port}"
    async with both(tmp_path, shell("cat"), 'output = "message"', hop=hop) as stage:
        real, spool = stage.running.spool.submit, stage.running.spool

        def refuse(*_: object) -> Any:
            raise SpoolError("No space left on device")

        spool.submit = refuse
        queue_id = await stage.filtered("a@example.com")
        await stage.until(lambda: log.of(queue_id, "status=deferred"))
        assert "cannot be kept: No space left" in log.of(queue_id, "status=deferred")[0] and not inner.messages
        spool.submit = real
        await stage.flush()
        await stage.until(lambda: len(inner.messages) == 1)
        await stage.until(lambda: not len(spool))
    inner.stop()


async def test_nothing_leaks(tmp_path: Path, log: Log) -> None:
    """Descriptors and tasks, over runs of every kind."""
    script = (
        'case "$$1" in a@*) exit 0;; b@*) exit 75;; c@*) sleep 600;; d@*) kill -9 $$$$;; '
        "e@*) sleep 600 & exit 0;; *) exit 69;; esac"
    )
    async with both(tmp_path, shell(script, "${recipient}"), 'timeout = "1s"\nrecipients = 1') as stage:
        to = [f"{letter}@example.com" for letter in "abcdef"]
        await stage.filtered(*to)
        await stage.until(lambda: all(log.of(f"to=<{one}>") for one in to))
        await stage.clean()
        descriptors, tasks = len(os.listdir("/proc/self/fd")), len(asyncio.all_tasks())
        for _ in range(3):
            log.clear()
            await stage.filtered(*to)
            await stage.until(lambda: all(log.of(f"to=<{one}>") for one in to))
        await stage.clean()
        await stage.until(lambda: len(asyncio.all_tasks()) <= tasks + 2)
        await stage.until(lambda: len(os.listdir("/proc/self/fd")) <= descriptors + 2)
