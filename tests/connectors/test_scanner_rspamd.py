"""rspamd as a scanner: what it is told, what is made of its answer, which connections are used again (threats C9, D3)."""

import asyncio
from pathlib import Path
from typing import Any

import pytest

from appliance.connectors.conversation import Server
from appliance.connectors.dialects import Inside
from appliance.connectors.rspamd import Options
from appliance.connectors.scanner import Scanner, Settings
from appliance.mail.context import Client, Context, Recipient, Tls
from appliance.mail.edits import Edit
from appliance.protocol.smtp.address import parse_address
from tests.connectors.scanner_peer import MAIL, Message, context
from tests.peers import hostile
from tests.peers.good_scanners import read_http, rspamd_answer
from tests.peers.hostile import Good, Hostile


def make(port: int, options: Options | None = None, password: bytes = b"", **more: Any) -> Scanner:
    settings = Settings("rs", "rspamd", (Server(host="127.0.0.1", port=port),), 5.0, options=options, **more)
    return Scanner(settings, inside=Inside(secrets={"rs": password}))


def full(role: Any = "outbound") -> Context:
    sender = parse_address(b"ann@example.org", utf8=False, strict=False)[0]
    recipients = [parse_address(b"%s@example.com" % name, utf8=False, strict=False)[0] for name in (b"bob", b"eve")]
    return Context(
        stage="message",
        role=role,
        transaction="Q123",
        client=Client(address="192.0.2.1", name="mail.example.org", tls=Tls("TLSv1.3", "TLS_AES_256_GCM_SHA384", 256)),
        helo="mail.example.org\r\nX: y",
        sender=sender,
        recipients=tuple(Recipient(address=address) for address in recipients),
    )


async def test_all_that_rspamd_is_told() -> None:
    heard = b""

    async def read(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        nonlocal heard
        heard = await reader.readuntil(b"\r\n\r\n") + await reader.readexactly(len(MAIL))

    async with Hostile(Good(read, rspamd_answer())) as peer:
        scanner = make(peer.port, Options("mx.example.com", "inside"), b"geheim")
        assert (await scanner.scan(Message(), full())).kind == "clean"
        head, _, body = heard.partition(b"\r\n\r\n")
        assert body == MAIL
        assert head.decode().split("\r\n") == [
            "POST /checkv2 HTTP/1.1",
            f"Host: 127.0.0.1:{peer.port}",
            "From: ann@example.org",
            "Rcpt: bob@example.com",
            "Rcpt: eve@example.com",
            "IP: 192.0.2.1",
            "Helo: mail.example.org%0D%0AX: y",
            "Hostname: mail.example.org",
            "TLS-Cipher: TLS_AES_256_GCM_SHA384",
            "TLS-Version: TLSv1.3",
            "User: inside",
            "Queue-Id: Q123",
            "MTA-Name: mx.example.com",
            "Content-Type: message/rfc822",
            "Password: geheim",
            f"Content-Length: {len(MAIL)}",
        ]
        await scanner.scan(Message(MAIL + b"2"), full("inbound"))
        assert b"User:" not in heard, "who comes from outside is nobody's user"
        scanner.close()


async def test_d3_a_connection_is_used_again_and_one_that_is_gone_is_not() -> None:
    async def several(good: Good, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        while True:
            await hostile.answers(good, reader, writer)

    async with Hostile(Good(read_http, rspamd_answer()), several) as peer:
        scanner = make(peer.port, remember=0.0)
        for _ in range(5):
            assert (await scanner.scan(Message(), context())).kind == "clean"
        assert peer.connections == 1
        await peer.be(None)
        await peer.be(several)
        assert (await scanner.scan(Message(), context())).kind == "clean", "a restart is not noticed"
        assert peer.connections == 2
        scanner.close()


async def test_d3_what_comes_behind_an_answer_ends_the_connection() -> None:
    again, said = asyncio.Event(), asyncio.Event()

    async def chatty(good: Good, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await hostile.answers(good, reader, writer)
        if peer.connections == 1:
            await again.wait()
            writer.write(rspamd_answer(action="reject", score=20.0))
            await writer.drain()
            said.set()
        await reader.read()

    async with Hostile(Good(read_http, rspamd_answer()), chatty) as peer:
        scanner = make(peer.port, remember=0.0)
        assert (await scanner.scan(Message(), context())).kind == "clean"
        again.set()
        await said.wait()
        assert (await scanner.scan(Message(), context())).kind == "clean", "not the reject that nobody asked for"
        assert peer.connections == 2
        scanner.close()


@pytest.mark.parametrize(
    ("action", "kind"),
    [
        ("no action", "clean"),
        ("greylist", "clean"),
        ("soft reject", "clean"),
        ("add header", "spam"),
        ("rewrite subject", "spam"),
        ("reject", "spam"),
        ("quarantine", "spam"),
        ("my own", "spam"),
    ],
)
async def test_every_action(action: str, kind: str) -> None:
    answer = rspamd_answer(action=action, score=7.5, symbols={"A": {"score": 1}, "B": {"score": 6.5}})
    async with Hostile(Good(read_http, answer)) as peer:
        scanner = make(peer.port)
        found = await scanner.scan(Message(), context())
        assert (found.kind, found.action, found.score, found.threshold) == (kind, action, 7.5, 15.0)
        assert found.names == ("B", "A") and found.evidence == {"weights": {"B": 6.5, "A": 1.0}}
        await scanner.scan(Message(), context())
        remembered = peer.connections == 1
        assert remembered is (action not in ("greylist", "soft reject")), "what is about this moment is asked again"
        scanner.close()


async def test_what_rspamd_skips_is_clean() -> None:
    async with Hostile(Good(read_http, rspamd_answer(is_skipped=True))) as peer:
        found = await make(peer.port).scan(Message(), context())
    assert (found.kind, found.why) == ("clean", "rspamd skipped it")


async def test_edits_as_rspamds_own_milter_makes_them() -> None:
    milter = {
        "remove_headers": {"X-Spam": 0, "X-Old": -1, "X-Gone": -3},
        "add_headers": {"X-Low": "low", "X-Top": {"value": "top", "order": 0}, "X-Next": {"value": "next", "order": 1}},
    }
    more = {"milter": milter, "subject": "[SPAM] x", "dkim-signature": "v=1; a=rsa-sha256;\r\n\tb=abc"}
    async with Hostile(Good(read_http, rspamd_answer(action="rewrite subject", score=7.0, **more))) as peer:
        scanner = make(peer.port)
        found = await scanner.scan(Message(MAIL.replace(b"Subject", b"X-Old: 1\r\nX-Old: 2\r\nSubject")), context())
        scanner.close()
    assert found.edits == (
        Edit("delete", "X-Spam", "", 0),
        Edit("delete", "X-Old", "", 2),
        Edit("prepend", "X-Next", "next"),
        Edit("prepend", "X-Top", "top"),
        Edit("append", "X-Low", "low"),
        Edit("prepend", "DKIM-Signature", "v=1; a=rsa-sha256;\r\n\tb=abc"),
        Edit("change", "Subject", "[SPAM] x", 1),
    )


_WISHES = {
    "change_from": "new@example.org",
    "add_rcpt": ["more@example.com"],
    "del_rcpt": ["eve@example.com"],
    "spam_header": {"X-One": "yes"},
}
_OF_ENVELOPE = (
    Edit("sender", "", "new@example.org"),
    Edit("add_recipient", "", "more@example.com"),
    Edit("delete_recipient", "", "eve@example.com"),
)


@pytest.mark.parametrize(
    ("said", "milter", "kind", "action", "more"),
    [
        ("no action", {}, "clean", "no action", ()),
        ("add header", {}, "spam", "add header", (Edit("delete", "X-One"), Edit("append", "X-One", "yes"))),
        ("reject", {"reject": "discard"}, "spam", "discard", ()),
        ("reject", {"reject": "quarantine"}, "spam", "quarantine", ()),
        ("reject", {"reject": "No thanks"}, "spam", "reject", ()),
        ("add header", {"reject": "discard", "spam_header": "yes"}, "spam", "add header", None),
        ("reject", {"no_action": True, "reject": "discard"}, "clean", "no action", ("reject",)),
        ("rewrite subject", {"no_action": True}, "clean", "no action", ("rewrite subject",)),
        ("add header", {"no_action": True}, "clean", "no action", None),
    ],
)
async def test_the_milter_section_is_done_as_by_rspamds_own_milter(
    said: str, milter: dict[str, Any], kind: str, action: str, more: Any
) -> None:
    answer = rspamd_answer(action=said, score=20.0, subject="[SPAM] x", milter={**_WISHES, **milter})
    async with Hostile(Good(read_http, answer)) as peer:
        scanner = make(peer.port)
        found = await scanner.scan(Message(), context())
        scanner.close()
    assert (found.kind, found.action) == (kind, action)
    if more is None:  # the field of spam is written whatever becomes of the action
        name = "X-Spam" if "spam_header" in milter else "X-One"
        more = (Edit("delete", name), Edit("append", name, "yes"))
    elif said != "no action" and action == "no action":
        assert found.why == f"no_action: {said} is not applied"
        more = (Edit("append", "X-Rspamd-Action", said),)
    assert found.edits == (*_OF_ENVELOPE, *more)


async def test_what_is_put_off_for_a_moment_is_asked_again_whatever_is_done_about_it() -> None:
    async with Hostile(Good(read_http, rspamd_answer(action="soft reject", milter={"no_action": True}))) as peer:
        scanner = make(peer.port)
        for _ in range(2):
            assert (await scanner.scan(Message(), context())).action == "no action"
        assert peer.connections == 2
        scanner.close()


async def test_other_recipients_are_another_question() -> None:
    async with Hostile(Good(read_http, rspamd_answer())) as peer:
        scanner = make(peer.port)
        for ctx in (context(), full(), context()):
            await scanner.scan(Message(), ctx)
        assert peer.connections == 2
        scanner.close()


async def test_a_unix_socket(tmp_path: Path) -> None:
    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await read_http(reader, writer)
        writer.write(rspamd_answer())
        await writer.drain()
        writer.close()

    server = await asyncio.start_unix_server(serve, str(tmp_path / "s"))
    scanner = Scanner(Settings("rs", "rspamd", (Server(path=str(tmp_path / "s")),), 5.0))
    assert (await scanner.scan(Message(), context())).kind == "clean"
    scanner.close()
    server.close()
