"""The demo inbox: an LMTP server whose 250 means a synced file in the Maildir."""

import asyncio
import mailbox
import smtplib
import socket
from collections.abc import AsyncIterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from appliance.daemons.inbox import Inbox


@pytest.fixture
async def inbox(tmp_path: Path) -> AsyncIterator[Inbox]:
    sock = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
    sock.bind(str(tmp_path / "i"))
    sock.listen(16)
    birth: Any = SimpleNamespace(state_dir=tmp_path, listening={"unix:inbox": [sock]})
    made = Inbox(birth)
    await made.start()
    yield made
    await made.drain(0.1)


def talk(path: Path, recipients: list[str], text: bytes) -> list[tuple[int, bytes]]:
    with smtplib.LMTP(str(path)) as client:
        client.ehlo_or_helo_if_needed()
        client.mail("")
        for recipient in recipients:
            assert client.rcpt(recipient)[0] == 250
        client.putcmd("data")
        assert client.getreply()[0] == 354
        client.send(text + b".\r\n")
        return [client.getreply() for _ in recipients]


async def test_one_file_and_one_reply_for_each_recipient(inbox: Inbox, tmp_path: Path) -> None:
    replies = await asyncio.to_thread(
        talk, tmp_path / "i", ["a@example.com", "b@example.com"], b"Subject: x\r\n\r\n..one\r\n\xff\r\n"
    )
    assert [code for code, _ in replies] == [250, 250]
    (mail,) = mailbox.Maildir(tmp_path / "inbox", create=False)
    assert mail.get_all("Delivered-To") == ["a@example.com", "b@example.com"]
    (path,) = (tmp_path / "inbox" / "new").iterdir()
    assert path.read_bytes().endswith(b"Subject: x\r\n\r\n.one\r\n\xff\r\n")
    assert inbox.health()["kept"] == 1


async def test_what_cannot_be_kept_is_put_off(inbox: Inbox, tmp_path: Path) -> None:
    (tmp_path / "inbox" / "tmp").rmdir()
    replies = await asyncio.to_thread(talk, tmp_path / "i", ["a@example.com"], b"Subject: x\r\n\r\n")
    assert [code for code, _ in replies] == [452]
