"""Content filters that are commands: what they are given, what their ends mean, what they make of a message."""

import hashlib
import json
import time
from email import message_from_bytes
from pathlib import Path
from typing import Any

import pytest

from appliance.mail.edits import Edit
from appliance.queue.envelope import PROVEN, Origin, QueuedRecipient
from tests.daemons.delivery.harness import Log
from tests.daemons.delivery.piped import MAIL, both, python, shell
from tests.peers.inner import Inner


@pytest.fixture
def inner() -> Any:
    server = Inner().start()
    yield server
    server.stop()


def show(folder: Path) -> str:
    """A program that appends its arguments and its input to a file."""
    file = str(folder / "told")
    return f"import sys, json; open({file!r}, 'a').write(json.dumps([sys.argv[1:], sys.stdin.read()]) + '\\n')"


def told(folder: Path) -> list[tuple[list[str], str]]:
    return [(argv, stdin) for argv, stdin in map(json.loads, (folder / "told").read_text().splitlines())]


async def test_the_command_gets_the_message_and_its_words(tmp_path: Path, log: Log) -> None:
    words = [
        "-f",
        "${sender}",
        "${queue_id}",
        "${ident}",
        "${client_address}",
        "${size}",
        "${user}",
        "--",
        "${recipient}",
    ]
    async with both(tmp_path, python(show(tmp_path), *words)) as stage:
        origin = Origin(client_address="192.0.2.7", client_name="a.example")
        queue_id = await stage.filtered("a@example.com", "b+x@example.com", origin=origin, proven=True)
        await stage.empty()
        assert not stage.degraded
        await stage.clean()
    ((argv, stdin),) = told(tmp_path)
    body = MAIL.decode().replace("\r\n", "\n")
    assert stdin == body
    assert argv == [
        "-f", "s@example.org", queue_id, queue_id + PROVEN, "192.0.2.7", str(len(body)), "a", "b", "--",
        "a@example.com", "b+x@example.com",
    ]  # fmt: skip
    sent = log.of(f"{queue_id}: to=<a@example.com>, relay=scan, ", "dsn=2.0.0, status=sent (delivered via scan service)")
    assert len(sent) == 1 and sent[0].startswith("pipe: ")


async def test_edits_are_in_force_and_flags_put_fields_on_top(tmp_path: Path, log: Log) -> None:
    async with both(tmp_path, python(show(tmp_path), "${recipient}"), 'flags = "DROhu"') as stage:
        to = (QueuedRecipient("A@Example.com", "example.com", original="Old@Example.com"), "b@example.com")
        await stage.filtered(*to, sender="", edits=(Edit("prepend", "X-Ours", "1"), Edit("delete", "Subject")))
        await stage.empty()
    runs = told(tmp_path)
    assert [argv for argv, _ in runs] == [["a@example.com"], ["b@example.com"]]
    first = (
        "Return-Path: <MAILER-DAEMON>\nX-Original-To: Old@Example.com\nDelivered-To: A@Example.com\nX-Ours: 1\nReceived: "
    )
    assert runs[0][1].startswith(first) and "Subject" not in runs[0][1]
    assert "X-Original-To: b@example.com\nDelivered-To: b@example.com\n" in runs[1][1]


async def test_the_line_of_a_mailbox_stands_first(tmp_path: Path, log: Log) -> None:
    async with both(tmp_path, python(show(tmp_path), "${recipient}"), 'flags = "FRB"') as stage:
        await stage.filtered("a@example.com", sender="")
        await stage.empty()
    ((_, stdin),) = told(tmp_path)
    first, second, *rest = stdin.split("\n")
    assert first.startswith("From MAILER-DAEMON  ") and time.strptime(first[20:])
    assert second == "Return-Path: <MAILER-DAEMON>" and rest[-4:] == [".", "From here", "", ""]


async def test_a_message_that_was_here_before_is_a_loop(tmp_path: Path, log: Log) -> None:
    before = b"X: 1\r\nDelivered-To: A@example.com\r\n" + MAIL
    async with both(tmp_path, python(show(tmp_path), "${recipient}"), 'flags = "D"') as stage:
        await stage.filtered("a@example.com", "b@example.com", content=before)
        await stage.until(lambda: log.of("to hold"))
    assert log.of("to=<a@example.com>", "dsn=5.4.6, status=bounced (mail forwarding loop for a@example.com)")
    assert [argv for argv, _ in told(tmp_path)] == [["b@example.com"]]


@pytest.mark.parametrize("eol", ["\n", "\r\n"])
async def test_a_large_message_arrives_octet_for_octet(tmp_path: Path, log: Log, eol: str) -> None:
    body = b"Subject: large\r\n\r\n" + b"".join(b"%07d .\r\n" % number for number in range(300_000)) + b"\r\rx\r\n"
    digest = "import sys, hashlib; print(hashlib.sha256(sys.stdin.buffer.read()).hexdigest())"
    async with both(tmp_path, python(digest), f"eol = {json.dumps(eol)}") as stage:
        queue_id = await stage.filtered(content=body)
        await stage.until(lambda: log.of(queue_id, "status=sent"), 30)
    expected = hashlib.sha256(body.replace(b"\r\n", eol.encode())).hexdigest()
    assert log.of(queue_id, f"status=sent (delivered via scan service ({expected}))")


async def test_a_large_message_in_pieces(tmp_path: Path, log: Log) -> None:
    """From the disk, with edits on the way; CRLF at every border of pieces."""
    body = b"Subject: large\r\n\r\n" + b"\r\n" * 700_001
    digest = "import sys, hashlib; print(hashlib.sha256(sys.stdin.buffer.read()).hexdigest())"
    async with both(tmp_path, python(digest)) as stage:
        queue_id = await stage.filtered(content=body, edits=(Edit("prepend", "X", "1"),))
        await stage.until(lambda: log.of(queue_id, "status=sent"), 30)
    expected = hashlib.sha256(b"X: 1\n" + body.replace(b"\r\n", b"\n")).hexdigest()
    assert log.of(queue_id, f"({expected}))")


@pytest.mark.parametrize("flag, action", [("", "relayed"), ("X", "delivered")])
async def test_who_wants_to_know_hears_that_the_command_took_it(
    tmp_path: Path, log: Log, inner: Inner, flag: str, action: str
) -> None:
    async with both(tmp_path, shell("exit 0"), f'flags = "{flag}"', hop=f"smtp:[127.0.0.1]:{inner.port}") as stage:
        to = QueuedRecipient("a@example.com", "example.com", notify="SUCCESS", orcpt="rfc822;a@example.com")
        await stage.filtered(to, sender="boss@example.com", proven=True)
        notice = (await _arrived(stage, inner, 1))[0]
    assert f"Action: {action}".encode() in notice.content and notice.recipients == ["boss@example.com"]


async def _arrived(stage: Any, inner: Inner, count: int) -> Any:
    await stage.until(lambda: len(inner.messages) >= count)
    return inner.messages


@pytest.mark.parametrize(
    ("script", "status", "text"),
    [
        ("exit 67", "5.1.1", "user unknown"),
        ("echo '5.7.1 it is spam'; exit 69", "5.7.1", "it is spam"),
        ("echo the disk >&2; exit 65", "5.6.0", "data format error. Command output: the disk"),
        ("exit 76", "5.5.0", "remote error in protocol"),
    ],
)
async def test_what_the_command_refuses_comes_back_to_its_sender(
    tmp_path: Path, log: Log, inner: Inner, script: str, status: str, text: str
) -> None:
    async with both(tmp_path, shell(script), hop=f"smtp:[127.0.0.1]:{inner.port}") as stage:
        await stage.filtered("a@example.com", sender="boss@example.com", proven=True)
        (notice,) = await _arrived(stage, inner, 1)
        await stage.until(lambda: not len(stage.running.spool))
        assert not stage.degraded
    assert log.of(f"dsn={status}, status=bounced ({text})")
    assert f"Status: {status}".encode() in notice.content and text.encode() in notice.content


@pytest.mark.parametrize(
    ("script", "text"),
    [
        ("exit 75", "temporary failure"),
        ("echo 4.2.2 full; exit 69", "full"),
        ("exit 1", 'Command died with status 1: "/bin/sh"'),
        ("echo Traceback; exit 200", 'Command died with status 200: "/bin/sh". Command output: Traceback'),
        ("kill -SEGV $$$$", 'Command died with signal SIGSEGV: "/bin/sh"'),
        ("kill -KILL $$$$", 'Command died with signal SIGKILL: "/bin/sh"'),
    ],
)
async def test_what_is_put_off_is_tried_again(tmp_path: Path, log: Log, script: str, text: str) -> None:
    well = tmp_path / "well"
    async with both(tmp_path, shell(f"test -e {well} && exit 0; {script}")) as stage:
        queue_id = await stage.filtered("a@example.com", "b@example.com")
        result = await stage.result(queue_id)
        assert (result.status, result.dsn[:2], result.text) == ("todo", "4.", text)
        (said,) = stage.degraded
        assert said.startswith("filter pipe:scan puts mail off: ") and "(1 try)" in said
        assert text in said and said.endswith(f"messages touched: 1, last: {queue_id}")
        well.touch()
        await stage.flush()
        await stage.empty()
        assert not stage.degraded
    deferred = log.of(f"{queue_id}: to=<a@example.com>, relay=scan, ", "status=deferred")
    assert len(deferred) == 1 and text in deferred[0]


async def test_an_address_that_would_be_an_option_is_refused(tmp_path: Path, log: Log) -> None:
    async with both(tmp_path, python(show(tmp_path), "${recipient}"), "recipients = 1") as stage:
        await stage.filtered("-oQ/tmp@example.com", "a@example.com")
        await stage.until(lambda: log.of("to hold"))
    assert log.of("to=<-oQ/tmp@example.com>", "dsn=5.1.3, status=bounced (what begins with a dash would be an option")
    assert [argv for argv, _ in told(tmp_path)] == [["a@example.com"]]


async def test_a_message_over_the_limit_is_refused(tmp_path: Path, log: Log) -> None:
    async with both(tmp_path, shell("exit 0"), "size_limit = 1000") as stage:
        await stage.filtered(content=MAIL + b"x" * 1000 + b"\r\n")
        await stage.until(lambda: log.of("dsn=5.3.4, status=bounced", "exceeds size limit 1000 of service scan"))
        await stage.filtered("b@example.com")
        await stage.until(lambda: log.of("to=<b@example.com>", "status=sent"))


async def test_each_domain_has_its_nexthop(tmp_path: Path, log: Log) -> None:
    words = ["${nexthop}", "${domain}", "--", "${recipient}"]
    async with both(tmp_path, python(show(tmp_path), *words)) as stage:
        await stage.filtered("a@example.com", "b@b.example.com", "c@example.com")
        await stage.empty()
        await stage.filtered("d@example.com", filter="scan:there.example")
        await stage.empty()
    *runs, last = (argv for argv, _ in told(tmp_path))
    assert sorted(runs) == [
        ["b.example.com", "b.example.com", "--", "b@b.example.com"],
        ["example.com", "example.com", "example.com", "--", "a@example.com", "c@example.com"],
    ]
    assert last == ["there.example", "example.com", "--", "d@example.com"]


async def test_so_many_at_once_and_no_more(tmp_path: Path, log: Log) -> None:
    """Each run waits until two are there, then looks that no third one comes while it is."""
    here, seen = tmp_path / "here", tmp_path / "seen"
    here.mkdir()
    program = f"""
import os, time
mine = {str(here)!r} + '/' + str(os.getpid())
open(mine, 'w').close()
until = time.monotonic() + 10
most = 0
while time.monotonic() < until:
    most = max(most, len(os.listdir({str(here)!r})))
    if most >= 2 or os.path.exists({str(seen)!r}):
        break
time.sleep(0.1)
most = max(most, len(os.listdir({str(here)!r})))
open({str(seen)!r}, 'a').write(str(most) + '\\n')
os.remove(mine)
"""
    async with both(tmp_path, python(program), "concurrency = 2") as stage:
        for _ in range(6):
            await stage.filtered()
        await stage.empty(30)
    assert set(seen.read_text().split()) <= {"1", "2"} and "2" in seen.read_text()


# ---------------------------------------------------------------------- the output is the message


EDIT = "import sys; text = sys.stdin.read(); sys.stderr.write('noise'); print('X-Edited: yes\\n' + text + 'the foot')"


async def test_what_the_command_writes_goes_on_in_the_messages_place(tmp_path: Path, log: Log, inner: Inner) -> None:
    hop = f"smtp:[127.0.0.1]:{inner.port}"
    async with both(tmp_path, python(EDIT), 'output = "message"', hop=hop) as stage:
        to = QueuedRecipient("a@example.com", "example.com", notify="SUCCESS", orcpt="rfc822;a@example.com")
        queue_id = await stage.filtered(to, "b@example.com", sender="boss@example.com", proven=True, envid="E1")
        await _arrived(stage, inner, 2)
        await stage.until(lambda: not len(stage.running.spool))
        await stage.clean()
    mail, notice = sorted(inner.messages, key=lambda kept: len(kept.recipients), reverse=True)
    assert mail.content == b"X-Edited: yes\r\n" + MAIL + b"the foot\r\n"
    assert mail.sender == "boss@example.com" and mail.recipients == ["a@example.com", "b@example.com"]
    # One notice, of the delivery that counts: the filter made none.
    assert notice.recipients == ["boss@example.com"] and b"Original-Envelope-Id: E1" in notice.content
    (line,) = log.of(f"{queue_id}: to=<a@example.com>, relay=scan", "status=sent (filtered by scan: queued as ")
    after = line.rpartition(" ")[2].rstrip(")")
    assert after != queue_id and log.of(f"{after}: to=<a@example.com>", "status=sent") and log.of(f"{queue_id}: removed")


async def test_eight_bit_output_is_declared(tmp_path: Path, log: Log, inner: Inner) -> None:
    edit = "import sys; sys.stdout.buffer.write(sys.stdin.buffer.read() + b'\\xc3\\xa4\\xff')"
    async with both(tmp_path, python(edit), 'output = "message"', hop=f"smtp:[127.0.0.1]:{inner.port}") as stage:
        await stage.filtered()
        (mail,) = await _arrived(stage, inner, 1)
    assert mail.content.endswith(b"\xc3\xa4\xff\r\n") and "BODY=8BITMIME" in mail.options


async def test_a_large_message_is_edited(tmp_path: Path, log: Log, inner: Inner) -> None:
    edit = "import sys; sys.stdout.buffer.write(sys.stdin.buffer.read())"
    body = MAIL + b"".join(b"%070d\r\n" % number for number in range(100_000))
    async with both(tmp_path, python(edit), 'output = "message"', hop=f"smtp:[127.0.0.1]:{inner.port}") as stage:
        await stage.filtered(content=body)
        await stage.until(lambda: inner.messages, 30)
    assert inner.messages[0].content == body


@pytest.mark.parametrize("script", ["exit 0", "printf '\\n \\n'; exit 0", "cat; exit 75", "cat; kill -9 $$$$"])
async def test_no_message_or_half_of_one_is_never_delivered(tmp_path: Path, log: Log, inner: Inner, script: str) -> None:
    well = tmp_path / "well"
    command = shell(f"test -e {well} && exec cat; {script}")
    async with both(tmp_path, command, 'output = "message"', hop=f"smtp:[127.0.0.1]:{inner.port}") as stage:
        queue_id = await stage.filtered()
        assert (await stage.result(queue_id)).status == "todo"
        assert not inner.messages and len(stage.degraded) == 1
        well.touch()
        await stage.flush()
        (mail,) = await _arrived(stage, inner, 1)
        await stage.until(lambda: not len(stage.running.spool))
    assert mail.content == MAIL and message_from_bytes(mail.content)["Subject"] == "hi"


async def test_an_editing_command_refuses(tmp_path: Path, log: Log, inner: Inner) -> None:
    command = shell("cat; echo '5.7.1 no such words here' >&2; exit 65")
    async with both(tmp_path, command, 'output = "message"', hop=f"smtp:[127.0.0.1]:{inner.port}") as stage:
        await stage.filtered(sender="boss@example.com", proven=True)
        (notice,) = await _arrived(stage, inner, 1)
    assert log.of("dsn=5.7.1, status=bounced (no such words here)") and b"no such words" in notice.content
