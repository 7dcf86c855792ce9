"""Content that a thread looks at while the loop has it, too: nobody but the loop changes anything in its file."""

import asyncio
import os
import threading
import zlib
from typing import Any

import pytest

from appliance.engine.pipeline import Group
from appliance.mail.context import Context
from appliance.mail.verdict import ACCEPT
from appliance.queue.entry import read_header
from tests.daemons.smtpd.stage import Intake, Stage
from tests.daemons.smtpd.test_smtpd_hook_changes import send

LARGE = b"Subject: x\r\n\r\n" + b"0123456789\r\n" * 10_000


async def test_a_thread_and_the_loop_read_at_the_same_time(monkeypatch: pytest.MonkeyPatch) -> None:
    """What was left in the buffer is written once: else it is 451, or the checksum of a message that got 250 is wrong."""
    real, ended, sums = os.pwrite, Intake._ended, list[int]()
    wrote, go_on = threading.Event(), threading.Event()

    def pwrite(fd: int, data: Any, at: int) -> int:
        if threading.current_thread().name.startswith(("asyncio_", "uvloop_")):
            wrote.set()
            go_on.wait(5)
        return real(fd, data, at)

    def look(intake: Intake, file: Any, notices: list[Any]) -> None:
        if (header := read_header(file.fd)) is not None:
            sums.append(header.content_crc)
        ended(intake, file, notices)

    async def judged(ctx: Context) -> list[Group]:
        assert ctx.content is not None
        content = ctx.content
        reading = asyncio.ensure_future(asyncio.to_thread(lambda: b"".join(content.chunks())))
        held = asyncio.ensure_future(asyncio.to_thread(wrote.wait, 5))
        await asyncio.wait((reading, held), return_when=asyncio.FIRST_COMPLETED)
        here = b"".join(content.chunks())
        go_on.set()
        assert await reading == here
        wrote.set()
        await held
        return [Group((0,), ACCEPT)]

    monkeypatch.setattr(os, "pwrite", pwrite)
    monkeypatch.setattr(Intake, "_ended", look)
    async with Stage() as stage:
        stage.engine_.rules["message"] = judged
        assert (await send(await stage.connect(), body=LARGE)).startswith("250")
        (kept,) = stage.intake.kept
    assert sums == [zlib.crc32(kept.content)] and kept.large


async def test_a_thread_writes_nothing_into_a_file_that_may_be_another_ones_by_then(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    real, writers = os.pwrite, set[str]()

    def pwrite(fd: int, data: Any, at: int) -> int:
        writers.add(threading.current_thread().name)
        return real(fd, data, at)

    async def judged(ctx: Context) -> list[Group]:
        assert ctx.content is not None
        content = ctx.content
        await asyncio.to_thread(lambda: os.close(content.open_fd()))
        return [Group((0,), ACCEPT)]

    monkeypatch.setattr(os, "pwrite", pwrite)
    async with Stage() as stage:
        stage.engine_.rules["message"] = judged
        assert (await send(await stage.connect(), body=LARGE)).startswith("250")
    assert writers == {threading.current_thread().name, "test"}  # the loop's, and the lane's
