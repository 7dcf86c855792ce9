"""What is written down, unix sockets, and the channel to delivery."""

import asyncio
import os
import socket
import tempfile
from pathlib import Path
from typing import Any

import msgspec
import pytest

from appliance.daemons.fronts import events as message_events
from appliance.daemons.smtpd import handover as handover_module
from appliance.daemons.smtpd.front import textual
from appliance.daemons.smtpd.handover import Handover
from appliance.engine.pipeline import Group
from appliance.mail.edits import Edit
from appliance.mail.verdict import Decision, Verdict
from appliance.net.channel import Channel
from appliance.observe import events
from appliance.queue.envelope import Grant, Space, Want, decode_notice
from appliance.queue.errors import SpoolFull
from appliance.queue.intake import IntakeLog
from tests.daemons.smtpd.stage import Client, Stage

NO = Decision(
    verb="reject",
    reply="550 5.1.1 <b@example.com>: Recipient address rejected [ID]",
    deciding=Verdict(check="recipient", outcome="unknown"),
)


async def test_log_lines_in_postfix_words(capfd: pytest.CaptureFixture[str]) -> None:
    async with Stage() as stage:
        client = await stage.content()
        client.send(b"Message-ID:\r\n <long@example.net>\r\n\r\nx\r\n.\r\n")
        await client.reply()
        stage.engine_.rules["rcpt"] = lambda ctx: NO
        await client.say("MAIL FROM:<a@example.net>")
        await client.say("RCPT TO:<b@example.com>")
        await client.say("QUIT")
        await client.ended()
        queue_id = stage.intake.kept[0].trailer.queue_id
    log = capfd.readouterr().err
    assert "]: connect from unknown[127.0.0.1]\n" in log
    assert f"]: {queue_id}: client=unknown[127.0.0.1]\n" in log
    assert f"/cleanup[{os.getpid()}]: {queue_id}: message-id=<long@example.net>\n" in log
    assert (
        "NOQUEUE: reject: RCPT from unknown[127.0.0.1]: 550 5.1.1 <b@example.com>: Recipient address rejected [ID]; "
        "from=<a@example.net> to=<b@example.com> proto=ESMTP helo=<client.example.net>\n"
    ) in log
    assert "]: disconnect from unknown[127.0.0.1] ehlo=1 mail=2 rcpt=1/2 data=1 quit=1 commands=6/7\n" in log
    assert "lost connection" not in log


@pytest.mark.parametrize("stage_", ["mail", "rcpt", "data"])
async def test_who_throws_mail_away_is_logged(capfd: pytest.CaptureFixture[str], stage_: str) -> None:
    found = Verdict(check="access", outcome="discard", reason="access/sender:3")
    async with Stage() as stage:
        stage.engine_.rules[stage_] = lambda ctx: Decision(verb="discard", deciding=found)
        client = await stage.hello()
        answers = [await client.say(line) for line in ("MAIL FROM:<a@example.net>", "RCPT TO:<b@example.com>", "DATA")]
        assert [answer[:3] for answer in answers] == ["250", "250", "354"]
        client.send(b"x\r\n.\r\n")
        assert (await client.reply()).startswith("250") and not stage.intake.kept
    log = capfd.readouterr().err
    assert log.count(": discard by access:discard access/sender:3\n") == 1


async def test_a_client_that_goes_away_is_logged(capfd: pytest.CaptureFixture[str]) -> None:
    async with Stage() as stage:
        client = await stage.content()
        client.send(b"Subject: x\r\n")
        client.reset()
        said = ""
        async with asyncio.timeout(10):
            while "lost connection" not in said:
                await asyncio.sleep(0.001)
                said += capfd.readouterr().err
    assert "]: lost connection after DATA content from unknown[127.0.0.1]\n" in said


async def test_one_event_a_message(monkeypatch: pytest.MonkeyPatch) -> None:
    told: list[Any] = []
    monkeypatch.setattr(events, "emit", told.append)
    seen = Verdict(check="helo", outcome="malformed", stage="helo", reason="why")
    async with Stage() as stage:
        stage.engine_.rules["helo"] = lambda ctx: Decision(verb="accept", verdicts=(seen,))
        client = await stage.content()
        client.send(b"Message-ID: <1@example.net>\r\n\r\nx\r\n.\r\n")
        await client.reply()
        stage.engine_.rules["message"] = lambda ctx: [Group((0,), NO)]
        for line in ("MAIL FROM:<>", "RCPT TO:<b@example.com>", "DATA"):
            await client.say(line)
        client.send(b"x\r\n.\r\n")
        await client.reply()
    taken, refused = (event for event in told if event["event"] == "message")
    assert taken["id"] == stage.intake.kept[0].trailer.queue_id
    assert taken["client"] == {"address": "127.0.0.1", "name": "unknown", "proof": "none"}
    assert (taken["helo"], taken["sender"]) == ("client.example.net", "a@example.net")
    assert (taken["recipients"], taken["message_id"]) == (["b@example.com"], "<1@example.net>")
    assert taken["size"] == stage.intake.kept[0].trailer.size
    found = msgspec.json.decode(taken["verdicts"])
    assert found == stage.intake.kept[0].trailer.found()  # the queue has the same
    assert found[0] == {"check": "helo", "outcome": "malformed", "stage": "helo", "reason": "why"}
    assert (taken["result"], taken["reply"][:3], taken["deciding"]) == ("accept", "250", None)
    assert (refused["result"], refused["reply"][:3], refused["sender"]) == ("reject", "550", "")
    assert refused["deciding"]["check"] == "recipient"


async def test_what_decided_before_the_content_stands_in_the_log(capfd: pytest.CaptureFixture[str]) -> None:
    """The client is told the class of refusal only; the log says what was found."""
    found = Verdict(check="access", outcome="reject", reason="access/sender:3: sender x@example.net: REJECT")
    async with Stage() as stage:
        stage.engine_.rules["rcpt"] = lambda ctx: Decision(verb="reject", reply="554 5.7.1 No [x]", deciding=found)
        client = await stage.hello()
        await client.say("MAIL FROM:<x@example.net>")
        assert await client.say("RCPT TO:<b@example.com>") == "554 5.7.1 No [x]"
        await client.say("QUIT")
        await client.ended()
    assert ": reject by access:reject access/sender:3: sender x@example.net: REJECT\n" in capfd.readouterr().err


async def test_a_copy_that_is_kept_back_stands_in_the_event(monkeypatch: pytest.MonkeyPatch) -> None:
    told: list[Any] = []
    monkeypatch.setattr(events, "emit", told.append)
    aside = Decision(verb="accept", keep="quarantine", keep_reason="antivirus:unscannable", deciding=NO.deciding)
    async with Stage() as stage:
        stage.engine_.rules["message"] = lambda ctx: [Group((0,), aside)]
        client = await stage.content()
        client.send(b"x\r\n.\r\n")
        await client.reply()
    event = next(event for event in told if event["event"] == "message")
    assert event["deciding"]["check"] == "recipient"
    assert event["kept"] == [{"for": (0,), "keep": "quarantine", "reason": "antivirus:unscannable"}]


async def test_what_is_not_even_judged_or_not_kept_has_its_event(monkeypatch: pytest.MonkeyPatch) -> None:
    told: list[Any] = []
    monkeypatch.setattr(events, "emit", told.append)
    async with Stage(smtp={"size_limit": 1000}) as stage:
        client = await stage.content()
        client.send(b"x" * 2000 + b"\r\n.\r\n")
        assert (await client.reply()).startswith("552 5.3.4 ")
        stage.intake.error = SpoolFull("no room")
        for line in ("MAIL FROM:<a@example.net>", "RCPT TO:<b@example.com>", "DATA"):
            await client.say(line)
        client.send(b"x\r\n.\r\n")
        assert (await client.reply()).startswith("452 4.3.1 ")
    large, unkept = (event for event in told if event["event"] == "message")
    assert (large["result"], large["reply"][:9], large["recipients"]) == ("reject", "552 5.3.4", ["b@example.com"])
    assert large["size"] > 2000
    assert (unkept["result"], unkept["reply"][:9]) == ("defer", "452 4.3.1")


async def test_a_journal_that_fails_changes_no_answer(monkeypatch: pytest.MonkeyPatch) -> None:
    def broken(event: Any) -> None:
        raise ValueError("journal")

    monkeypatch.setattr(events, "emit", broken)
    async with Stage() as stage:
        client = await stage.content()
        client.send(b"x\r\n.\r\nNOOP\r\n")
        assert (await client.reply()).startswith("250 2.0.0 Ok: queued")
        assert await client.reply() == "250 2.0.0 Ok"


@pytest.mark.parametrize(
    ("peer", "shown"),
    [
        (("192.0.2.1", 25), ("192.0.2.1", 25)),
        (("::ffff:192.0.2.1", 25, 0, 0), ("192.0.2.1", 25)),
        (("2001:db8::1", 25, 0, 0), ("2001:db8::1", 25)),
        (b"", ("local", 0)),
        ("", ("local", 0)),
    ],
)
def test_who_is_connected(peer: object, shown: tuple[str, int]) -> None:
    assert textual(peer) == shown


async def test_a_listener_on_a_unix_socket() -> None:
    with tempfile.TemporaryDirectory() as folder:
        path = str(Path(folder) / "smtp.sock")
        sock = socket.socket(socket.AF_UNIX)
        sock.bind(path)
        sock.listen()
        async with Stage(listen={"xclient": ["127.0.0.1/32"]}) as stage:
            stage.front.accept_on(sock, "public")
            client = Client(*await asyncio.open_unix_connection(path))
            assert (await client.reply()).startswith("220")
            assert "XCLIENT" in await client.say("EHLO x.example.net")
            client.send(b"MAIL FROM:<a@example.net>\r\nRCPT TO:<b@example.com>\r\nDATA\r\n")
            for _ in range(3):
                await client.reply()
            client.send(b"x\r\n.\r\n")
            assert (await client.reply()).startswith("250")
            assert stage.intake.kept[0].content.startswith(b"Received: from x.example.net (unknown [local])")
            await client.close()
        sock.close()


# ------------------------------------------------------------------ the channel to delivery


class Delivery:
    """The other end: grants what is wanted."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.path = str(folder / "delivery.sock")
        self.said: list[Any] = []
        self.channel: Channel | None = None
        self.connected = asyncio.Event()
        #: No descriptor is left in the worker: what is granted comes without.
        self.short = False

    def listen(self) -> None:
        Path(self.path).unlink(missing_ok=True)
        self.sock = socket.socket(socket.AF_UNIX)
        self.sock.bind(self.path)
        self.sock.listen()
        self.sock.setblocking(False)
        asyncio.get_running_loop().add_reader(self.sock, self._accept)

    def _accept(self) -> None:
        self.channel = Channel(self.sock.accept()[0])
        self.channel.attach(asyncio.get_running_loop(), self._heard)
        self.connected.set()

    def _heard(self, payload: bytes, fds: list[int]) -> None:
        notice = decode_notice(payload)
        self.said.append(notice)
        if isinstance(notice, Want) and self.channel is not None:
            for purpose, count in (("segment", notice.segment), ("large", notice.large)):
                for number in range(count):
                    name = f"{purpose}{len(self.said)}{number}"
                    fd = os.open(self.folder / name, os.O_RDWR | os.O_CREAT, 0o600)
                    self.channel.send(Grant(name, purpose), () if self.short else (fd,))  # type: ignore[arg-type]
                    os.close(fd)

    def die(self) -> None:
        asyncio.get_running_loop().remove_reader(self.sock)
        self.sock.close()
        if self.channel is not None:
            self.channel.close()
        self.connected.clear()


async def test_handover_connects_again_and_again(tmp_path: Path) -> None:
    told: list[Space] = []
    delivery = Delivery(tmp_path)
    intake = IntakeLog(None, "smtpd.0")
    handover = Handover(delivery.path, intake, told.append)
    handover.start()
    await asyncio.sleep(0)
    assert not handover.connected
    for _ in range(2):
        delivery.listen()
        async with asyncio.timeout(5):
            await delivery.connected.wait()
            while intake.room() is None:
                await asyncio.sleep(0.001)
        assert handover.ready.is_set()
        assert delivery.channel is not None
        delivery.channel.send(Space(ok=False, free=7))
        async with asyncio.timeout(5):
            while not told:
                await asyncio.sleep(0.001)
        assert told.pop() == Space(False, 7)
        delivery.die()
        async with asyncio.timeout(5):
            while handover.connected:
                await asyncio.sleep(0.001)
    intake.close()
    handover.close()


async def test_a_file_whose_descriptor_was_lost_on_its_way_is_asked_for_anew(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Out of descriptors for a moment: it would count as asked for, and no mail be taken before delivery is another."""
    monkeypatch.setattr(handover_module, "AGAIN", 0.2)
    delivery = Delivery(tmp_path)
    delivery.short = True
    delivery.listen()
    intake = IntakeLog(None, "smtpd.0")
    handover = Handover(delivery.path, intake, lambda _space: None)
    handover.start()
    async with asyncio.timeout(5):
        while not any(isinstance(notice, Want) and notice.segment for notice in delivery.said):
            await asyncio.sleep(0.001)
    await asyncio.sleep(0.1)
    asked = len(delivery.said)
    assert intake.room() is None
    delivery.short = False
    async with asyncio.timeout(5):
        while intake.room() is None:
            await asyncio.sleep(0.001)
    assert len(delivery.said) <= asked + 3, "not again and again"
    intake.close()
    handover.close()
    delivery.die()


async def test_without_space_mail_is_put_off_until_delivery_says_otherwise() -> None:
    async with Stage() as stage:
        client = await stage.hello()
        stage.front.told(Space(ok=False))
        assert (await client.say("MAIL FROM:<a@example.net>")).startswith("452 4.3.1")
        stage.front.told(Space(ok=True))
        assert (await client.say("MAIL FROM:<a@example.net>")).startswith("250")


async def test_a_redirect_and_a_blind_copy() -> None:
    decision = Decision(verb="accept", redirect="trap@example.com", bcc=("copy@example.org",))
    async with Stage() as stage:
        stage.engine_.rules["message"] = lambda ctx: [Group((0,), decision)]
        client = await stage.content()
        client.send(b"x\r\n.\r\n")
        await client.reply()
        first, second = stage.intake.kept[0].trailer.recipients
        assert (first.address, first.original) == ("trap@example.com", "b@example.com")
        assert (second.address, second.notify) == ("copy@example.org", "NEVER")


async def test_a_bare_postmaster_is_that_of_our_domain() -> None:
    async with Stage(relay={"domains": ["example.com"], "next_hop": "smtp:[127.0.0.1]:25"}) as stage:
        client = await stage.content(recipient="postmaster")
        client.send(b"x\r\n.\r\n")
        await client.reply()
        (recipient,) = stage.intake.kept[0].trailer.recipients
        assert (recipient.address, recipient.domain) == ("postmaster@example.com", "example.com")


async def test_hold_and_edits_reach_the_queue() -> None:
    edits = (Edit("prepend", "X-Test", "yes"),)
    kept = Decision(verb="accept", keep="hold", keep_reason="access:hold", edits=edits)
    async with Stage() as stage:
        stage.engine_.rules["message"] = lambda ctx: [Group((0,), kept)]
        client = await stage.content()
        client.send(b"x\r\n.\r\n")
        assert (await client.reply()).startswith("250")
        assert stage.intake.kept[0].trailer.keep == "hold"
        assert stage.intake.kept[0].trailer.keep_reason == "access:hold"
        assert stage.intake.kept[0].trailer.edits == edits


def test_what_cannot_be_written_costs_no_mail() -> None:
    odd = Verdict(check="spf", outcome="pass", stage="mail", reason="\udc80", evidence={"x": object()})
    good = Verdict(check="dkim", outcome="pass", stage="message")
    found = msgspec.json.decode(message_events.written((odd, good)))
    assert [one["check"] for one in found] == ["spf", "dkim"] and "cannot be written" in found[0]["reason"]
