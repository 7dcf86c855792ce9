"""What a handler changes goes on; one that blocks, hangs, raises or leaves nonsense is 451 for its own session alone."""

import asyncio
import mailbox
import sys
import threading
import time
from pathlib import Path
from typing import Any

import pytest

from appliance.daemons.smtpd import hook_loading, hook_room, hooks
from appliance.engine.pipeline import Group
from appliance.mail import apply
from appliance.mail.edits import Edit
from appliance.mail.verdict import Decision
from tests.daemons.smtpd.stage import Client, Kept, Stage
from tests.peers.inner import Inner

MAIL = b"Subject: x\r\nX-Spam-Flag: no\r\n\r\nhello\r\n"


async def send(client: Client, *to: str, sender: str = "a@example.net", body: bytes = MAIL) -> str:
    lines = [f"MAIL FROM:<{sender}>", *(f"RCPT TO:<{one}>" for one in to or ("b@example.com",)), "DATA"]
    for line in ["EHLO client.example.net", *lines]:
        reply = await client.say(line)
        if reply[0] not in "23":
            return reply
    client.send(body.replace(b"\r\n.", b"\r\n..") + b".\r\n")
    return await client.reply()


def goes_on(kept: Kept) -> bytes:
    """What is sent, without our trace field."""
    whole = apply.whole(kept.content, kept.trailer.edits)
    return whole[whole.index(b"Subject:") :] if b"Subject:" in whole else whole


class Filter:
    """`do(envelope)` at the end of data."""

    def __init__(self, do: Any = None) -> None:
        self.do = do

    async def handle_DATA(self, server: Any, session: Any, envelope: Any) -> str:
        return self.do(envelope) or "250 OK"


@pytest.mark.parametrize("lf", [False, True])
async def test_content_that_a_handler_changes_goes_on(lf: bool) -> None:
    def change(envelope: Any) -> None:
        text = envelope.content.replace(b"Subject: x", b"Subject: [ad] x").replace(b"flag", b"flag") + b"the foot"
        envelope.content = text.replace(b"\r\n", b"\n") if lf else text

    async with Stage() as stage:
        stage.front.plug = hooks.plug(Filter(change))
        assert (await send(await stage.connect())).startswith("250")
        (kept,) = stage.intake.kept
    assert goes_on(kept) == b"Subject: [ad] x\r\nX-Spam-Flag: no\r\n\r\nhello\r\nthe foot\r\n"
    assert b"[ad]" not in kept.content  # what came is on disk as it came
    assert not kept.trailer.filter and kept.trailer.size == len(kept.content)


async def test_changes_stand_beside_the_engines_edits() -> None:
    """Fields that come from outside are taken out by the engine; those of the handler stay."""

    def change(envelope: Any) -> None:
        envelope.content = envelope.content.replace(b"X-Spam-Flag: no", b"X-Spam-Flag: yes")

    ours = (Edit("delete", "X-Spam-*"), Edit("prepend", "X-Ours", "1"))
    async with Stage() as stage:
        stage.front.plug = hooks.plug(Filter(change))
        stage.engine_.rules["message"] = lambda ctx: [Group((0,), Decision(verb="accept", edits=ours))]
        await send(await stage.connect())
        (kept,) = stage.intake.kept
    assert apply.whole(kept.content, kept.trailer.edits).startswith(b"X-Ours: 1\r\nReceived: ")
    assert goes_on(kept) == b"Subject: x\r\nX-Spam-Flag: yes\r\n\r\nhello\r\n"


async def test_text_is_a_message_too_and_a_large_one_is_changed() -> None:
    def change(envelope: Any) -> None:
        envelope.content = envelope.content.decode().replace("hello", "h\u00e4llo")

    large = MAIL + b"y" * 60 + b"\r\n" + b"0123456789\r\n" * 60_000
    async with Stage() as stage:
        stage.front.plug = hooks.plug(Filter(change))
        await send(await stage.connect(), body=large)
        (kept,) = stage.intake.kept
    assert kept.large
    assert goes_on(kept) == large.replace(b"hello", "h\u00e4llo".encode())


async def test_the_envelope_that_a_handler_leaves_goes_on() -> None:
    def change(envelope: Any) -> None:
        envelope.mail_from = "list-bounces@example.com"
        envelope.rcpt_tos = [one for one in envelope.rcpt_tos if not one.startswith("drop")] + ["archive@example.com"]

    async with Stage() as stage:
        stage.front.plug = hooks.plug(Filter(change))
        assert (await send(await stage.connect(), "b@example.com", "drop@example.com")).startswith("250")
        (kept,) = stage.intake.kept
    assert kept.trailer.sender == "list-bounces@example.com"
    assert [one.address for one in kept.trailer.recipients] == ["b@example.com", "archive@example.com"]


async def test_addresses_are_rewritten_at_rcpt_and_mail() -> None:
    class Rewrites:
        async def handle_MAIL(self, server: Any, session: Any, envelope: Any, address: str, options: list[str]) -> str:
            envelope.mail_from = ""
            return "250 OK"

        async def handle_RCPT(self, server: Any, session: Any, envelope: Any, address: str, options: list[str]) -> str:
            envelope.rcpt_tos.append(address.replace("old@", "new@").upper())
            return "250 OK"

    async with Stage() as stage:
        stage.front.plug = hooks.plug(Rewrites())
        assert (await send(await stage.connect(), "old@example.com", "b@example.com")).startswith("250")
        (kept,) = stage.intake.kept
    assert kept.trailer.sender == ""
    # Other letters are the same mailbox: it stays as it was judged.
    assert [one.address for one in kept.trailer.recipients] == ["b@example.com", "NEW@example.com"]


async def test_a_handler_that_takes_the_message_itself_leaves_nobody() -> None:
    async with Stage() as stage:
        stage.front.plug = hooks.plug(Filter(lambda envelope: envelope.rcpt_tos.clear()))
        assert (await send(await stage.connect())).startswith("250")
        assert not stage.intake.kept


@pytest.mark.parametrize(
    "leave",
    [
        lambda envelope: setattr(envelope, "content", None),
        lambda envelope: setattr(envelope, "content", 7),
        lambda envelope: setattr(envelope, "content", b""),
        lambda envelope: setattr(envelope, "content", b"no header\r\n"),
        lambda envelope: setattr(envelope, "mail_from", "two@signs@x y"),
        lambda envelope: envelope.rcpt_tos.append("not an address\r\nDATA"),
        lambda envelope: envelope.rcpt_tos.append(None),
        lambda envelope: setattr(envelope, "rcpt_tos", None),
        lambda envelope: "garbage",
        lambda envelope: b"\xff\xff\xff OK",
        lambda envelope: "250-OK",
        lambda envelope: sys.exit(3),
        lambda envelope: (_ for _ in ()).throw(KeyboardInterrupt),
        lambda envelope: 1 / 0,
        lambda envelope: ["250 OK"],
    ],
)
async def test_nonsense_is_451_and_the_next_message_goes_on(leave: Any, capfd: pytest.CaptureFixture[str]) -> None:
    said = []

    def do(envelope: Any) -> Any:
        said.append(envelope)
        return leave(envelope) if len(said) == 1 else None

    async with Stage() as stage:
        stage.front.plug = hooks.plug(Filter(do))
        client = await stage.connect()
        reply = await send(client)
        assert reply.startswith("451 4.3.0") and "Traceback" not in reply, reply
        assert not stage.intake.kept
        assert (await send(client)).startswith("250")
        assert len(stage.intake.kept) == 1


@pytest.mark.parametrize("answer", [["250 one", 7], ["oops"], "", ["250-a\r\n250 b"], None, ["250 a", "250 b"]])
async def test_a_nonsensical_answer_to_ehlo_is_451(answer: Any) -> None:
    class Greets:
        async def handle_EHLO(self, server: Any, session: Any, envelope: Any, name: str, lines: list[str]) -> Any:
            return answer

    async with Stage() as stage:
        stage.front.plug = hooks.plug(Greets())
        assert (await (await stage.connect()).say("EHLO x.example.net")).startswith("451")


async def test_a_plain_function_is_a_hook_too() -> None:
    class Plain:
        def handle_DATA(self, server: Any, session: Any, envelope: Any) -> str:
            return "554 5.7.1 no" if b"junk" in envelope.content else "250 OK"

    async with Stage() as stage:
        stage.front.plug = hooks.plug(Plain())
        client = await stage.connect()
        assert (await send(client, body=b"Subject: junk\r\n\r\n")).startswith("554 5.7.1 no")
        assert (await send(client)).startswith("250")


async def test_hooks_never_run_on_the_workers_loop() -> None:
    seen: list[Any] = []

    class Looks:
        async def handle_DATA(self, server: Any, session: Any, envelope: Any) -> str:
            seen.append((threading.current_thread(), asyncio.get_running_loop()))
            return "250 OK"

    async with Stage() as stage:
        stage.front.plug = hooks.plug(Looks())
        client = await stage.connect()
        await send(client)
        await send(client)
    assert seen[0] == seen[1] and seen[0][0] is not threading.current_thread()
    assert seen[0][1] is not asyncio.get_running_loop()


async def test_a_hook_that_blocks_holds_up_nobody_else(monkeypatch: pytest.MonkeyPatch) -> None:
    waited = 2.0
    monkeypatch.setattr(hook_room, "PATIENCE", waited)
    free, blocked = threading.Event(), threading.Event()

    def block(envelope: Any) -> None:
        if b"block" in envelope.content:
            blocked.set()
            free.wait(20)

    async with Stage() as stage:
        stage.front.plug = hooks.plug(Filter(block), seconds=9.0)
        one, two, three = [await stage.connect() for _ in range(3)]
        slow = asyncio.create_task(send(one, body=b"Subject: block\r\n\r\n"))
        await asyncio.to_thread(blocked.wait, 10)
        begun = time.monotonic()
        assert (await send(two)).startswith("250")
        assert (await two.say("NOOP")).startswith("250")
        assert waited < time.monotonic() - begun < 8
        begun = time.monotonic()  # now it is known who has time
        assert (await send(three)).startswith("250")
        assert time.monotonic() - begun < waited
        assert (await slow).startswith("451")
        assert len(stage.intake.kept) == 2
        free.set()


async def test_a_hook_that_hangs_is_cancelled_in_time() -> None:
    ended: list[str] = []

    class Hangs:
        async def handle_DATA(self, server: Any, session: Any, envelope: Any) -> str:
            try:
                await asyncio.sleep(60)
            finally:
                ended.append("cancelled")
            return "250 OK"

    async with Stage() as stage:
        stage.front.plug = hooks.plug(Hangs(), seconds=0.3)
        begun = time.monotonic()
        assert (await send(await stage.connect())).startswith("451")
        assert time.monotonic() - begun < 8
        async with asyncio.timeout(5):
            while not ended:
                await asyncio.sleep(0.01)


async def test_many_blocked_threads_are_bounded(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(hook_room, "PATIENCE", 0.05)
    free = threading.Event()
    before = threading.active_count()
    async with Stage() as stage:
        stage.front.plug = hooks.plug(Filter(lambda envelope: free.wait(20) and None), seconds=1.5)
        clients = [await stage.connect() for _ in range(hook_room.MOST + 4)]
        replies = await asyncio.gather(*(send(client) for client in clients))
        assert all(reply.startswith("451") for reply in replies)
        assert threading.active_count() - before <= hook_room.MOST + 2
        free.set()
        assert (await send(await stage.connect())).startswith("250")


# ---------------------------------------------------------------------- aiosmtpd's own


async def test_aiosmtpds_handlers_as_they_are(tmp_path: Path) -> None:
    peer = Inner().start()
    made = {
        "aiosmtpd.handlers:Sink": (),
        "aiosmtpd.handlers:Debugging": ("stderr",),
        "aiosmtpd.handlers:Mailbox": (str(tmp_path / "box"),),
        "aiosmtpd.handlers:Proxy": ("127.0.0.1", peer.port),
    }
    for spec, arguments in made.items():
        assert hook_loading.problem(spec, arguments) == ""
        async with Stage(listen={"handler": spec, "handler_args": arguments}) as stage:
            assert (await send(await stage.connect())).startswith("250"), spec
            (kept,) = stage.intake.kept
            assert goes_on(kept) == MAIL and not kept.trailer.edits, spec
    assert len(list(mailbox.Maildir(tmp_path / "box"))) == 1
    assert len(peer.messages) == 1 and b"X-Peer: 127.0.0.1" in peer.messages[0].content
    peer.stop()


def test_what_is_no_handler_is_told() -> None:
    assert "abstract" in hook_loading.problem("aiosmtpd.handlers:Message", ())
    assert "no attribute 'No'" in hook_loading.problem("aiosmtpd.handlers:No", ())
    assert "handler_args do not fit: missing a required argument" in hook_loading.problem(
        "aiosmtpd.handlers:Proxy", ("x",)
    )
    with pytest.raises(ValueError, match="Debugging usage"):
        hook_loading.make("aiosmtpd.handlers:Debugging", ("a", "b"))
