"""Starts job.py: from a daemon's loop, or for a command that waits for it.

Contract: always an Outcome, in the order's timeout and a little more; a process that is late is killed. The order with
its secret goes through a pipe, so it stands in no list of processes. What failure means for the mail: the old list stays.
"""

import asyncio
import os
import subprocess
import sys
from pathlib import Path

import msgspec

from appliance.tables.known.keep import PATIENCE, Order, Outcome, account

#: Seconds beyond the order's own timeout: the start, waiting for another sync, writing.
BEYOND = PATIENCE + 30.0
_CODE = "from appliance.tables.known.job import main; main({})"


def _argv() -> list[str]:
    return [sys.executable, "-PB", "-c", _CODE.format(os.getpid())]


def _environment() -> dict[str, str]:
    """It finds the code that we run, wherever we found it."""
    return {**os.environ, "PYTHONPATH": os.pathsep.join(filter(None, sys.path))}


async def run(order: Order) -> Outcome:
    """Cancelled: the process is killed."""
    pipe = asyncio.subprocess.PIPE
    process = await asyncio.create_subprocess_exec(*_argv(), stdin=pipe, stdout=pipe, stderr=pipe, env=_environment())
    try:
        async with asyncio.timeout(order.timeout + BEYOND):
            told, wrong = await process.communicate(msgspec.json.encode(order))
    except TimeoutError:
        return _failed(order, f"killed after {order.timeout + BEYOND:.0f} s")
    finally:
        if process.returncode is None:
            process.kill()
            await process.wait()
    return _outcome(order, process.returncode or 0, told, wrong)


def run_here(order: Order) -> Outcome:
    """Where no daemon does it. Root becomes the owner of the folder: nothing that speaks to a network is root."""
    owner, root = Path(order.folder).stat(), os.geteuid() == 0
    try:
        done = subprocess.run(  # noqa: S603 - our own words
            _argv(),
            input=msgspec.json.encode(order),
            capture_output=True,
            env=_environment(),
            timeout=order.timeout + BEYOND,
            user=owner.st_uid if root else None,
            group=owner.st_gid if root else None,
            extra_groups=[owner.st_gid] if root else None,
        )
    except subprocess.TimeoutExpired:
        return _failed(order, f"killed after {order.timeout + BEYOND:.0f} s")
    return _outcome(order, done.returncode, done.stdout, done.stderr)


def _outcome(order: Order, code: int, told: bytes, wrong: bytes) -> Outcome:
    try:
        return msgspec.json.decode(told, type=Outcome)
    except msgspec.MsgspecError:
        last = (wrong.decode("utf-8", "replace").strip().splitlines() or [""])[-1]
        return _failed(order, f"the process that fetches it ended ({code}) {last[:300]}".rstrip())


def _failed(order: Order, problem: str) -> Outcome:
    known = account(Path(order.folder), order.name)
    return Outcome(name=order.name, at=known.at, count=known.count, problem=problem)
