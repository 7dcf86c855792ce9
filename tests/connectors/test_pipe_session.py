"""A message on its way to the command of a content filter, given up while its content is written in a thread."""

import asyncio
import os
import threading
from collections.abc import Iterator
from typing import Any, cast

import pytest

from appliance.connectors.pipe import PipeSession, Settings
from appliance.connectors.runner import Runner
from appliance.protocol.smtp.outgoing import Outgoing, OutgoingRecipient


async def test_the_file_is_closed_behind_the_thread_that_writes_it(monkeypatch: pytest.MonkeyPatch) -> None:
    """Else it writes the rest of the message into what has the descriptor by then."""
    begun, go_on, written, read, write = threading.Event(), threading.Event(), list[int](), list[str](), os.write

    def noted(fd: int, data: Any) -> int:
        if threading.current_thread() is not threading.main_thread():
            written.append(fd)
        return write(fd, data)

    def content() -> Iterator[bytes]:
        yield b"Subject: x\r\n\r\n"
        begun.set()
        go_on.wait(5)
        yield b"the rest\r\n"
        read.append("all")

    settings = Settings(name="f", program="/bin/true", seconds=1.0)
    session = PipeSession(settings, cast(Runner, None), "", asyncio.Semaphore(1))
    message = Outgoing(sender="a@example.net", recipients=(OutgoingRecipient("b@example.com"),))
    monkeypatch.setattr(os, "write", noted)
    sending = asyncio.ensure_future(session.send(message, content()))
    await asyncio.to_thread(begun.wait, 5)
    for _ in range(2):  # who gives it up, then the end of the process
        sending.cancel()
        await asyncio.wait((sending,), timeout=0.05)
    go_on.set()
    await asyncio.wait((sending,))
    assert sending.cancelled() and read == ["all"]
    assert len(set(written)) == 1 and written[0] >= 0
    with pytest.raises(OSError):
        os.fstat(written[0])
