"""The milter client over real sockets: what a milter hears, what becomes of its answers and edits."""

import asyncio
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import msgspec
import pytest

from appliance.connectors import milter_content
from appliance.connectors.milter import Link
from appliance.connectors.milters import Milters
from appliance.daemons.fronts.content import RamContent
from appliance.mail.apply import whole
from appliance.mail.context import Client, Context, Recipient, Stage, Tls
from appliance.mail.edits import Edit
from appliance.mail.milter import Milter, Said
from appliance.mail.policy_service import parse_place
from appliance.mail.replies import BREAK
from appliance.protocol.milter.packets import ChangeHeader, InsertHeader
from appliance.protocol.smtp.address import Address
from tests.peers.milter_server import GO_ON, MilterServer, header

OURS = b"Received: from a (a [192.0.2.1])\r\n\tby mx.example.com with ESMTP id 4F00; Mon, 1 Jan 2024 12:00:00 +0000\r\n"
MAIL = (
    OURS
    + b"Received: from b by a\r\nSubject: one\r\n two\r\nX-A: 1\r\nX-A: 2\r\nFrom: a@example.org\r\n"
    + b"\r\nhello\r\n.\r\nbye\r\n"
)


def address(text: str) -> Address:
    local, _, domain = text.partition("@")
    return Address(local, domain, text)


def to(text: str) -> Recipient:
    return Recipient(address=address(text))


CONTEXT = Context(
    stage="connect",
    listener="public",
    transaction="4F00",
    client=Client(address="192.0.2.1", port=4000, name="a.example.org", reverse_name="a.example.org", proof="pass"),
    helo="a.example.org",
    sender=address("s@example.org"),
    now=1.0,
)


def at(stage: Stage, **more: Any) -> Context:
    if stage in ("data", "message"):
        more = {"recipients": (to("r@example.com"),)} | more
    if stage == "message":
        more = {"content": RamContent(MAIL)} | more
    early: dict[str, Any] = {"sender": None} if stage in ("connect", "helo") else {}
    early |= {"helo": ""} if stage == "connect" else {}
    return msgspec.structs.replace(CONTEXT, stage=stage, **(early | more))


def milter(server: Any, **more: Any) -> Milter:
    timeouts = {"connect_timeout": 5.0, "command_timeout": 5.0, "content_timeout": 5.0}
    return Milter(**({"name": "m", "place": parse_place(server.address)} | timeouts | more))


def linked(server: Any, **more: Any) -> tuple[Milters, Link]:
    milters = Milters("mx.example.com", 1 << 24)
    one = milter(server, **more)
    milters.follow((one,), "mx.example.com", 1 << 24)
    return milters, milters.link(one)


async def session(link: Link, *stages: Context, edits: tuple[Edit, ...] = ()) -> list[Said]:
    return [await link.ask(ctx, edits if ctx.stage == "message" else ()) for ctx in stages]


def whole_session(*recipients: str) -> list[Context]:
    known = recipients or ("r@example.com",)
    asked = [at("rcpt", recipient=to(one), recipients=tuple(map(to, known[:n]))) for n, one in enumerate(known)]
    taken = tuple(map(to, known))
    return [at("connect"), at("helo"), at("mail"), *asked, at("data", recipients=taken), at("message", recipients=taken)]


async def test_a_milter_hears_what_it_hears_from_a_postfix() -> None:
    async with MilterServer() as server:
        _, link = linked(server)
        said = await session(link, *whole_session())
        assert {one.word for one in said} == {"continue"}
        link.close()
        await server.closed.wait()
    assert server.offered == [(6, 0x1FF, 0x1FF7FF)]
    assert server.letters() == b"OCHMRTLLLLLNBEQ"
    assert server.texts(b"C") == [[b"a.example.org", b"4\x0f\xa0192.0.2.1"]]
    assert server.texts(b"M") == [[b"<s@example.org>"]] and server.texts(b"R") == [[b"<r@example.com>"]]
    names = [name for name, _ in server.texts(b"L")]
    assert names == [b"Received", b"Subject", b"X-A", b"X-A", b"From"]  # without our own Received
    assert server.texts(b"L")[1] == [b"Subject", b"one\n two"]
    assert [data for letter, data in server.heard[0] if letter == b"B"] == [b"hello\r\n.\r\nbye\r\n"]
    assert server.macros(b"C") == {
        "j": "mx.example.com",
        "{daemon_name}": "mx.example.com",
        "v": "Postgate",
        "_": "a.example.org [192.0.2.1]",
    }
    assert server.macros(b"M")["i"] == "4F00" and server.macros(b"M")["{mail_addr}"] == "s@example.org"
    assert server.macros(b"R")["{rcpt_addr}"] == "r@example.com"
    assert server.macros(b"E") == {"i": "4F00"}


async def test_macros_that_are_asked_for_and_tls() -> None:
    lists = b"\0\0\0\0{client_addr} {client_ptr}\0"
    tls = Client(address="2001:db8::1", tls=Tls("TLSv1.3", "TLS_AES_256_GCM_SHA384", 256))
    async with MilterServer(macros=lists) as server:
        _, link = linked(server)
        await session(link, at("connect", client=tls), at("helo", client=tls))
        link.close()
    assert server.macros(b"C") == {"{client_addr}": "2001:db8::1", "{client_ptr}": "unknown"}
    assert server.texts(b"C")[0][0] == b"[2001:db8::1]"
    assert server.macros(b"H")["{tls_version}"] == "TLSv1.3"


@pytest.mark.parametrize(
    ("server_address", "told"),
    [
        ("192.0.2.25", {"{daemon_addr}": "192.0.2.25", "{if_addr}": "192.0.2.25"}),
        ("2001:db8::25", {"{daemon_addr}": "2001:db8::25", "{if_addr}": "IPv6:2001:db8::25"}),
        ("::1", {"{daemon_addr}": "::1"}),
        ("local", {"{daemon_addr}": "127.0.0.1"}),
        ("", {}),
    ],
)
async def test_the_address_that_a_client_came_to(server_address: str, told: dict[str, str]) -> None:
    """As Sendmail: no interface for loopback, the host's own name for the others."""
    lists = b"\0\0\0\0{daemon_addr} {daemon_port} {if_addr} {if_name}\0"
    port = 587 if server_address not in ("", "local") else 0
    client = msgspec.structs.replace(CONTEXT.client, server_address=server_address, server_port=port)
    async with MilterServer(macros=lists) as server:
        _, link = linked(server)
        await session(link, at("connect", client=client))
        link.close()
    told = told | ({"{daemon_port}": "587"} if port else {})
    told |= {"{if_name}": "mx.example.com"} if "{if_addr}" in told else {}
    assert server.macros(b"C") == told


@pytest.mark.parametrize(
    ("version", "steps", "heard"),
    [
        (2, 0, b"OCHMRLLLLLNBEQ"),
        (6, 0x7F | 0x200, b"OEQ"),
        (6, 0xFF080 | 0x40, b"OCHMRTLLLLLBEQ"),
        (4, 0x20 | 0x10, b"OCHMRTNEQ"),
    ],
)
async def test_only_what_was_agreed_on_is_said(version: int, steps: int, heard: bytes) -> None:
    async with MilterServer(version=version, actions=0x3F, steps=steps) as server:
        _, link = linked(server, protocol=max(version, 2))
        assert (await session(link, *whole_session()))[-1].word == "continue"
        link.close()
        await server.closed.wait()
    assert server.offered[0][0] == version and server.letters() == heard


async def test_parameters_of_mail_are_told_as_they_were_sent() -> None:
    async with MilterServer() as server:
        _, link = linked(server)
        sent = (("SIZE", "99"), ("BODY", "8BITMIME"), ("SMTPUTF8", ""), ("ENVID", "a+2Bb"))
        assert (await session(link, at("connect"), at("helo"), at("mail", parameters=sent)))[-1].word == "continue"
        link.close()
        await server.closed.wait()
    assert server.texts(b"M") == [[b"<s@example.org>", b"SIZE=99", b"BODY=8BITMIME", b"SMTPUTF8", b"ENVID=a+2Bb"]]


async def test_a_unix_socket(tmp_path: Path) -> None:
    async with MilterServer({b"E": [(b"d", b"")]}, path=tmp_path / "m") as server:
        _, link = linked(server)
        assert (await session(link, *whole_session()))[-1].word == "discard"
        link.close()


WORDS = [
    (b"r", b"", "reject", ""),
    (b"t", b"", "tempfail", ""),
    (b"4", b"", "shutdown", ""),
    (b"y", b"554 5.7.1 go%% away\0", "reject", "554 5.7.1 go% away"),
    (b"y", b"451 later\0", "tempfail", "451 4.7.1 later"),
    (b"y", b"421 4.3.2 closing\0", "shutdown", "421 4.3.2 closing"),
    (b"y", b"550-5.1.1 one\r\n550 5.1.1 two\0", "reject", f"550 5.1.1 one{BREAK}two"),
    (b"f", b"", "failed", ""),
    (b"y", b"250 2.0.0 fine\0", "failed", ""),
    (b"s", b"", "failed", ""),
    (b"h", b"X\0y\0", "failed", ""),
]


@pytest.mark.parametrize(("event", "number"), [(b"C", 0), (b"H", 1), (b"M", 2), (b"R", 3), (b"T", 4), (b"E", 5)])
@pytest.mark.parametrize(("letter", "data", "word", "reply"), WORDS)
async def test_each_answer_at_each_step(
    event: bytes, number: int, letter: bytes, data: bytes, word: str, reply: str
) -> None:
    async with MilterServer({event: [(letter, data)]}) as server:
        _, link = linked(server)
        said = await session(link, *whole_session()[: number + 1])
        if event == b"E" and letter == b"h":  # edits stand before the end: what is missing is the end
            link.close()
            return
        assert (said[number].word, said[number].reply) == (word, reply)
        assert {one.word for one in said[:number]} <= {"continue"}
        link.close()


@pytest.mark.parametrize(
    ("event", "letter", "stages", "later"),
    [
        (b"C", b"r", "helo mail rcpt data message", "reject"),
        (b"H", b"t", "mail rcpt data message", "tempfail"),
        (b"M", b"d", "rcpt data message", "discard"),
        (b"R", b"d", "data message", "discard"),
        (b"C", b"d", "helo mail rcpt data message", "continue"),
        (b"C", b"a", "helo mail rcpt data message", "continue"),
        (b"R", b"a", "data message", "continue"),
        (b"L", b"r", "", "reject"),
        (b"B", b"a", "", "continue"),
    ],
)
async def test_what_ends_a_milters_part_holds_to_the_end(event: bytes, letter: bytes, stages: str, later: str) -> None:
    async with MilterServer({event: [(letter, b"")]}) as server:
        _, link = linked(server)
        for ctx in whole_session():
            said = await link.ask(ctx, ())
            if ctx.stage in stages.split() or ctx.stage == "message":
                assert said.word == later
        link.close()
        await server.closed.wait()
    if letter == b"a":
        assert b"E" not in server.letters()


@pytest.mark.parametrize("event", [b"O", b"C", b"H", b"M", b"R", b"T", b"L", b"N", b"B"])
async def test_who_says_that_it_goes_away_with_another_answer_has_not_heard_the_rest(event: bytes) -> None:
    async with MilterServer({event: [*GO_ON, (b"4", b"")]}) as server:
        answer = server._answer

        def leaves(letter: bytes, data: bytes) -> Any:
            said = answer(letter, data)
            return [*(said or []), (b"4", b"")] if letter == event == b"O" else said

        server._answer = leaves  # type: ignore[method-assign]
        _, link = linked(server)
        assert (await session(link, *whole_session()))[-1].word == "failed"
        link.close()


async def test_who_goes_away_behind_a_message_is_connected_anew_for_the_next() -> None:
    async with MilterServer({b"E": [*GO_ON, (b"4", b"")]}) as server:
        _, link = linked(server)
        for _ in range(2):
            assert {said.word for said in await session(link, *whole_session()[2:])} == {"continue"}
            link.reset()
        link.close()
        await server.closed.wait()
    assert server.letters(0) == server.letters(1)


async def test_who_says_so_by_itself_behind_a_message_is_connected_anew_as_well() -> None:
    """Whether it comes in one packet with the answer is chance."""
    async with MilterServer() as server:
        _, link = linked(server)
        assert {said.word for said in await session(link, *whole_session()[2:])} == {"continue"}
        link.reset()
        assert link._wire is not None
        link._wire.data_received(b"\0\0\0\x014")
        assert {said.word for said in await session(link, *whole_session()[2:])} == {"continue"}
        link._wire.data_received(b"\0\0\0\x014")
        link.reset()
        assert {said.word for said in await session(link, *whole_session()[2:5])} == {"continue"}
        link._wire.data_received(b"\0\0\0\x014")
        assert (await session(link, *whole_session()[5:]))[-1].word == "failed"
        link.close()
    assert len(server.heard) == 3


async def test_a_recipient_is_refused_by_itself() -> None:
    def choose(data: bytes) -> Any:
        return [(b"y", b"550 5.1.1 nobody\0")] if data.startswith(b"<no@") else [(b"c", b"")]

    async with MilterServer({b"R": choose}) as server:
        _, link = linked(server)
        said = await session(link, *whole_session("no@example.com", "yes@example.com")[:5])
        assert [one.word for one in said[3:]] == ["reject", "continue"]
        link.close()


async def test_stages_that_were_left_out_are_caught_up_with() -> None:
    async with MilterServer() as server:
        _, link = linked(server)
        await session(link, at("message", recipients=(to("a@example.com"), to("b@example.com"))))
        link.close()
        await server.closed.wait()
    assert server.letters() == b"OCHMRRTLLLLLNBEQ"


async def test_one_connection_for_a_session_and_abort_between() -> None:
    async with MilterServer() as server:
        _, link = linked(server)
        await session(link, *whole_session())
        link.reset()  # the message was answered: there is nothing to give up
        await session(link, at("mail"), at("rcpt", recipient=to("r@example.com")))
        link.reset()  # RSET
        await session(link, at("mail"))
        link.close()
        await server.closed.wait()
    assert server.letters() == b"OCHMRTLLLLLNBEMRAMQ" and len(server.heard) == 1


async def test_another_client_is_another_connection() -> None:
    async with MilterServer() as server:
        _, link = linked(server)
        await session(link, at("connect"), at("helo"), at("connect"), at("helo"), at("mail"))
        link.close()
        await server.closed.wait()
    assert [server.letters(n) for n in (0, 1)] == [b"OCHQ", b"OCHMQ"]


def edited(said: Said) -> bytes:
    return whole(MAIL, said.edits)


async def content_with(*packets: tuple[bytes, bytes], **more: Any) -> Said:
    async with MilterServer({b"E": [*packets, (b"c", b"")]}, **more) as server:
        _, link = linked(server)
        said = (await session(link, *whole_session()))[-1]
        link.close()
    return said


async def test_header_edits_count_as_the_milter_saw_them() -> None:
    said = await content_with(
        header(b"h", "X-Last", "end"),
        header(b"i", "X-Top", "above all it saw", 1),
        header(b"i", "X-Above", "above ours", 0),
        header(b"m", "Received", "changed", 1),
        header(b"m", "X-A", "", 1),
        header(b"m", "X-A", "three", 1),
        header(b"m", "X-New", "added", 9),
        header(b"i", "DKIM-Signature", "v=1;\n\tb=xyz", 3),
    )
    assert edited(said) == (
        b"X-Above: above ours\r\n" + OURS + b"X-Top: above all it saw\r\nDKIM-Signature: v=1;\r\n\tb=xyz\r\n"
        b"Received: changed\r\nSubject: one\r\n two\r\nX-A: three\r\nFrom: a@example.org\r\n"
        b"X-Last: end\r\nX-New: added\r\n\r\nhello\r\n.\r\nbye\r\n"
    )


async def test_a_new_body_of_any_octets() -> None:
    said = await content_with((b"b", b"caf\xe9\n"), (b"b", b"and \xff more\r\n"))
    assert edited(said).endswith(b"From: a@example.org\r\n\r\ncaf\xe9\r\nand \xff more\r\n")


async def test_leading_blanks_are_kept_where_agreed() -> None:
    """And none is put where a filter writes none: a signature of it may be over these very octets."""
    wanted = [header(b"h", "X", " spaced"), header(b"h", "Y", "close"), header(b"i", "Z", "\ttab", 1)]
    wanted += [header(b"m", "X-A", "near", 1), (b"c", b"")]
    async with MilterServer({b"E": wanted}, steps=0x100000) as server:
        _, link = linked(server)
        said = (await session(link, *whole_session()))[-1]
        link.close()
        await server.closed.wait()
    assert b"\r\nX: spaced\r\nY:close\r\n" in edited(said)
    assert b"\r\nZ:\ttab\r\n" in edited(said) and b"\r\nX-A:near\r\n" in edited(said)
    assert server.texts(b"L")[1] == [b"Subject", b" one\n two"]


async def test_edits_of_the_envelope_and_quarantine() -> None:
    said = await content_with(
        (b"e", b"<new@example.org>\0RET=HDRS\0"),
        (b"+", b"<more@example.com>\0"),
        (b"2", b"<other@example.com>\0NOTIFY=NEVER\0"),
        (b"-", b"<r@example.com>\0"),
        (b"q", b"odd\0"),
    )
    assert said.quarantine == "odd"
    assert said.edits == (
        Edit("sender", "RET=HDRS", "new@example.org"),
        Edit("add_recipient", "", "more@example.com"),
        Edit("add_recipient", "NOTIFY=NEVER", "other@example.com"),
        Edit("delete_recipient", value="r@example.com"),
    )


@pytest.mark.parametrize(
    "packet",
    [header(b"h", "a b", "c"), header(b"m", "X-*", "", 1), (b"+", b"<>\0"), (b"e", b"<a@@b>\0"), (b"+", b"no address\0")],
)
async def test_edits_that_mean_nothing_are_failures(packet: tuple[bytes, bytes]) -> None:
    assert (await content_with(packet)).word == "failed"


async def test_edits_that_were_not_agreed_on_are_failures() -> None:
    assert (await content_with(header(b"h", "X", "y"), actions=0)).word == "failed"


async def test_the_message_as_those_before_have_left_it() -> None:
    edits = (Edit("insert", "X-First", "1", 1), Edit("delete", "X-A", index=0), Edit("body", value="new\r\n"))
    async with MilterServer({b"E": [header(b"m", "X-First", "2", 1), (b"c", b"")]}) as server:
        _, link = linked(server)
        said = (await session(link, *whole_session(), edits=edits))[-1]
        link.close()
        await server.closed.wait()
    assert [name for name, _ in server.texts(b"L")] == [b"X-First", b"Received", b"Subject", b"From"]
    assert [data for letter, data in server.heard[0] if letter == b"B"] == [b"new\r\n"]
    assert b"\r\nX-First: 2\r\n" in whole(MAIL, (*edits, *said.edits))


async def test_positions_count_all_fields_as_in_postfix() -> None:
    """What an edit has put above our own field is the first one; ours is the second."""
    edits = (Edit("prepend", "Received-SPF", "pass"),)
    says = {b"E": [header(b"i", "X-2", "below ours", 2), header(b"i", "X-1", "below the first", 1), (b"c", b"")]}
    async with MilterServer(says) as server:
        _, link = linked(server)
        said = (await session(link, *whole_session(), edits=edits))[-1]
        link.close()
    start = b"Received-SPF: pass\r\nX-1: below the first\r\n" + OURS + b"X-2: below ours\r\nReceived: from b"
    assert whole(MAIL, (*edits, *said.edits)).startswith(start)


async def test_a_large_body_comes_in_pieces_and_skip_ends_it() -> None:
    large = RamContent(MAIL + b"x" * 78 + b"\r\n" + (b"y" * 78 + b"\r\n") * 4800)
    for says, count in (({}, 6), ({b"B": [(b"s", b"")]}, 1)):
        async with MilterServer(says, steps=0x400) as server:
            _, link = linked(server)
            assert (await session(link, at("message", content=large)))[-1].word == "continue"
            link.close()
            await server.closed.wait()
        pieces = [data for letter, data in server.heard[0] if letter == b"B"]
        assert len(pieces) == count and all(len(piece) <= 65535 for piece in pieces)


async def test_progress_begins_a_step_anew_but_not_the_whole() -> None:
    over = asyncio.Event()
    ended = asyncio.ensure_future(over.wait())
    turns = 0

    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        nonlocal turns
        await reader.readexactly(17)
        writer.write(b"\0\0\0\x0dO\0\0\0\6\0\0\1\xff\0\x0f\xf2\x7f")
        await reader.readuntil(b"\0\0\0\1E")
        while not over.is_set():
            writer.write(b"\0\0\0\1p")
            turns += 1
            await asyncio.wait([ended], timeout=0.1)
        writer.close()

    server = await asyncio.start_server(serve, "127.0.0.1", 0)
    place = f"inet:127.0.0.1:{server.sockets[0].getsockname()[1]}"
    one = Milter(name="m", place=parse_place(place), content_timeout=2.0, total_timeout=4.0)
    link = Milters("mx", 1 << 20).link(one)
    clock = asyncio.get_running_loop().time
    began = clock()
    said = await link.ask(at("message"), ())
    assert said.word == "failed" and 3.5 < clock() - began < 10 and turns > 4
    over.set()
    link.close()
    server.close()


@pytest.mark.parametrize(("position", "index"), [(1, 1), (2, 3), (3, 4), (0, 1)])
async def test_our_own_received_field_is_counted_over(position: int, index: int) -> None:
    """It stands below one that an edit before put on top, and above all others."""
    seen = milter_content.Seen([], 1, 1, iter(()))
    changed = ChangeHeader(position, b"Received", b"x")
    assert milter_content.wanted([changed], seen, leading_space=False, utf8=False).edits == (
        Edit("change", "Received", "x", index),
    )


@pytest.mark.parametrize(
    ("inserted", "position", "value", "index"),
    [(0, 1, b"x", 1), (0, 1, b"", 1), (0, 2, b"x", 3), (1, 1, b"x", 2), (2, 1, b"x", 2)],
)
async def test_our_own_received_field_may_be_pushed_down(inserted: int, position: int, value: bytes, index: int) -> None:
    """One that a milter puts above it is counted with those that it saw."""
    seen = milter_content.Seen([], 0, 0, iter(()))
    said = [InsertHeader(inserted, b"Received", b"new"), ChangeHeader(position, b"Received", value)]
    *_, edit = milter_content.wanted(said, seen, leading_space=False, utf8=False).edits
    assert (edit.op, edit.index) == ("change" if value else "delete", index)


@pytest.mark.parametrize(
    ("above", "position", "index"), [(0, 0, 0), (0, 1, 1), (1, 1, 1), (1, 2, 2), (-1, 0, 0), (-1, 2, 1)]
)
async def test_a_place_is_counted_with_our_own_field(above: int, position: int, index: int) -> None:
    """As in Postfix, also where another milter has put a field above it."""
    seen = milter_content.Seen([], above, 0, iter(()))
    said = [InsertHeader(position, b"X-New", b"new")]
    assert milter_content.wanted(said, seen, leading_space=False, utf8=False).edits[0].index == index


async def test_a_body_is_not_read_before_it_is_wanted() -> None:
    class Large(RamContent):
        read = 0

        def chunks(self, size: int = 65536) -> Iterator[bytes]:
            for chunk in (self.octets, *[b"x" * 65536] * 50):
                self.read += 1
                yield chunk

    content = Large(MAIL)
    seen = milter_content.seen(content, (Edit("append", "X", "1"),))
    assert seen.fields and content.read <= 2
    assert sum(map(len, seen.body)) > 50 * 65536 and content.read == 51
