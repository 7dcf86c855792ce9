"""Content filters before the queue, in a session: what the client is told, what is kept, and what the filter gets."""

import asyncio
import contextlib
from collections.abc import AsyncIterator
from typing import Any

import msgspec
import pytest

from appliance.engine.pipeline import Group
from appliance.mail.edits import Edit
from appliance.mail.verdict import ACCEPT
from appliance.observe import events, maillog
from appliance.queue.errors import SpoolError
from tests.connectors.smtp_peer import CUT, SILENT, Peer
from tests.daemons.smtpd.stage import Client, Stage

VIRUS = b"554 5.7.1 Message blocked: infected with Eicar-Test by scanner7.inside.example\r\n"
BODY = b"Subject: hi\r\n\r\nhello\r\n.dot\r\n"
EVERYTHING = ("PIPELINING", "SIZE", "8BITMIME", "SMTPUTF8", "DSN", "CHUNKING", "XFORWARD NAME ADDR PORT PROTO HELO IDENT")


@pytest.fixture
def log(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    lines: list[str] = []
    monkeypatch.setattr(maillog, "log", lambda text, service=None: lines.append(text))
    return lines


@contextlib.asynccontextmanager
async def playing(
    *features: str, filters: dict[str, Any] | None = None, **says: Any
) -> AsyncIterator[tuple[Stage, Peer]]:
    """A stage whose listener has a filter before the queue."""
    peer = await Peer(*(features or EVERYTHING), **says).start()
    patience = "1s" if SILENT in says.values() else "10s"
    scan = {"next_hop": f"smtp:[127.0.0.1]:{peer.port}", "timeout": patience, "total_timeout": "20s", **(filters or {})}
    try:
        async with Stage(listen={"proxy_filter": "scan"}, filters={"scan": scan}) as stage:
            yield stage, peer
    finally:
        await peer.stop()


async def envelope(client: Client, *recipients: str, mail: str = "") -> None:
    assert (await client.say(f"MAIL FROM:<a@example.net>{mail}")).startswith("250")
    for one in recipients or ("b@example.com",):
        address, _, options = one.partition(" ")
        assert (await client.say(f"RCPT TO:<{address}> {options}".rstrip())).startswith("250")


async def sent(client: Client, *recipients: str, body: bytes = BODY, mail: str = "") -> str:
    await envelope(client, *recipients, mail=mail)
    assert (await client.say("DATA")).startswith("354")
    client.send(body.replace(b"\r\n.", b"\r\n..") + b".\r\n")
    return await client.reply()


def decided(**changes: Any) -> Any:
    return msgspec.structs.replace(ACCEPT, **changes)


async def test_what_the_filter_takes_is_accepted_and_not_ours(log: list[str]) -> None:
    async with playing() as (stage, peer):
        client = await stage.hello()
        reply = await sent(client, "b@example.com", "c@example.com")
        ours = reply.rpartition(" ")[2]
        assert reply == f"250 2.0.0 Ok: queued as {ours}"
        [body] = peer.bodies
        assert body.startswith(b"Received: from client.example.net (unknown [127.0.0.1])\r\n")
        assert body.endswith(BODY.replace(b"\r\n.", b"\r\n.."))  # the peer keeps the dots
        assert peer.commands[0] == "EHLO mx.example.com"
        assert peer.commands[1].startswith("XFORWARD ADDR=127.0.0.1 PORT=") or "NAME=unknown" in peer.commands[1]
        assert peer.commands[1].endswith(f"PROTO=ESMTP HELO=client.example.net IDENT={ours}")
        assert not stage.intake.kept and not stage.intake.aborted
        accept = (
            f"{ours}: proxy-accept: END-OF-MESSAGE from unknown[127.0.0.1]: scan said: 250 2.0.0 Ok: queued as PEER1; "
        )
        assert f"{accept}from=<a@example.net> proto=ESMTP helo=<client.example.net>" in log
        assert (await sent(client)).startswith("250")  # and the session goes on
        assert peer.sessions == 2


@pytest.mark.parametrize(
    ("says", "reply"),
    [
        ({"end": VIRUS}, "554 5.7.1 Message refused [{}]"),
        ({"end": b"550 5.6.0 x\r\n"}, "550 5.6.0 Message refused [{}]"),
        ({"end": b"552 5.2.3 too big for us\r\n"}, "552 5.2.3 Message refused [{}]"),
        ({"end": b"521 5.3.2 go away\r\n"}, "554 5.3.2 Message refused [{}]"),
        ({"end": b"550 without\r\n"}, "550 5.7.1 Message refused [{}]"),
        ({"end": b"550-5.7.1 first line\r\n550 5.7.1 second line\r\n"}, "550 5.7.1 Message refused [{}]"),
        ({"mail": b"550 5.1.8 your sender\r\n"}, "550 5.1.8 Message refused [{}]"),
        ({"rcpt": b"550 5.1.1 nobody\r\n"}, "550 5.1.1 Message refused [{}]"),
        ({"data": b"554 5.7.1 no content\r\n"}, "554 5.7.1 Message refused [{}]"),
        ({"end": b"451 4.7.1 greylisted by x\r\n"}, "451 4.7.1 Service unavailable, please try again later [{}]"),
        ({"rcpt": b"450 4.2.1 busy\r\n"}, "450 4.2.1 Service unavailable, please try again later [{}]"),
        ({"end": b"452 full\r\n"}, "452 4.7.1 Service unavailable, please try again later [{}]"),
        ({"end": b"421 4.3.2 bye\r\n"}, "451 4.3.0 Error: queue file write error [{}]"),
        ({"end": b"354 what\r\n"}, "451 4.3.0 Error: queue file write error [{}]"),
        ({"end": b"503 5.5.1 what\r\n"}, "451 4.3.0 Error: queue file write error [{}]"),
        ({"end": CUT}, "451 4.3.0 Error: queue file write error [{}]"),
        ({"end": b"\0\xff garbage\r\n"}, "451 4.3.0 Error: queue file write error [{}]"),
        ({"greeting": b"554 5.7.1 not you\r\n"}, "451 4.3.0 Error: queue file write error [{}]"),
        ({"data": SILENT}, "451 4.3.0 Error: queue file write error [{}]"),
    ],
)
async def test_its_refusal_is_the_client_s_in_our_words(log: list[str], says: dict[str, Any], reply: str) -> None:
    async with playing(**says) as (stage, _peer):
        client = await stage.hello()
        got = await sent(client)
        ours = got.rpartition("[")[2].rstrip("]")
        assert got == reply.format(ours)
        assert not stage.intake.kept
        told = [
            line
            for line in log
            if line.startswith(f"{ours}: proxy-reject: END-OF-MESSAGE from unknown[127.0.0.1]: scan ")
        ]
        assert len(
            told
        ) == 1 and f"NOQUEUE: reject: END-OF-MESSAGE from unknown[127.0.0.1]: {got.partition(' [')[0]}" in "\n".join(log)
        if VIRUS in says.values():
            assert "scanner7.inside.example" in told[0] and "scanner7" not in got
        assert bool(stage.proxies.health()["degraded"]) == got.startswith("451 4.3.0")
        assert (await client.say("NOOP")).startswith("250")


async def test_a_filter_that_is_away_puts_off_and_is_named(log: list[str]) -> None:
    async with playing() as (stage, peer):
        await peer.stop()
        client = await stage.hello()
        got = await sent(client)
        ours = got.rpartition("[")[2].rstrip("]")
        assert got == f"451 4.3.0 Error: queue file write error [{ours}]"
        [why] = stage.proxies.health()["degraded"]
        assert why["what"] == "proxy filter scan fails" and why["last"] == [ours]
        assert why["why"].startswith("connect to 127.0.0.1")
        await peer.start(port=peer.port)
        assert (await sent(client)).startswith("250") and not stage.proxies.health()["degraded"]


async def test_recipients_that_it_refuses_by_themselves_are_a_copy_in_quarantine(log: list[str]) -> None:
    async with playing(rcpt=[b"250 ok\r\n", b"550 5.1.1 nobody\r\n", b"250 ok\r\n"]) as (stage, peer):
        client = await stage.hello()
        reply = await sent(client, "b@example.com", "c@example.com", "d@example.com")
        ours = reply.rpartition(" ")[2]
        assert reply.startswith("250") and len(peer.bodies) == 1
        [kept] = stage.intake.kept
        assert kept.trailer.keep == "quarantine" and kept.trailer.queue_id != ours
        assert [one.address for one in kept.trailer.recipients] == ["c@example.com"]
        assert kept.trailer.keep_reason == "refused by the filter, accepted for other recipients: 550 5.1.1 nobody"
        assert kept.content.endswith(BODY) and kept.trailer.filter == "proxy:scan"


async def test_the_event_says_what_the_filter_said(log: list[str], monkeypatch: pytest.MonkeyPatch) -> None:
    told: list[Any] = []
    monkeypatch.setattr(events, "emit", told.append)
    async with playing(end=[VIRUS, b"250 ok\r\n"], rcpt=[b"250 ok\r\n", b"250 ok\r\n", b"550 5.1.1 nobody\r\n"]) as (
        stage,
        _peer,
    ):
        client = await stage.hello()
        await sent(client)
        await sent(client, "b@example.com", "c@example.com")
        stage.engine_.rules["message"] = lambda ctx: [Group((0,), decided(keep="hold", keep_reason="x"))]
        await sent(client)
    refused, taken, kept = (event for event in told if event["event"] == "message")
    assert (refused["result"], refused["reply"][:9], taken["result"]) == ("reject", "554 5.7.1", "accept")
    assert refused["filter"] == {"name": "scan", "said": VIRUS.decode().strip()}
    assert taken["filter"] == {"name": "scan", "said": "250 ok; 550 5.1.1 nobody", "quarantined": ["c@example.com"]}
    assert "filter" not in kept


async def test_a_copy_that_cannot_be_kept_puts_off(log: list[str]) -> None:
    async with playing(rcpt=[b"250 ok\r\n", b"550 5.1.1 nobody\r\n"]) as (stage, peer):
        stage.intake.error = SpoolError("disk")
        client = await stage.hello()
        assert (await sent(client, "b@example.com", "c@example.com")).startswith("451 4.3.0")
        assert len(peer.bodies) == 1


async def test_if_it_puts_one_off_nobody_gets_the_content(log: list[str]) -> None:
    async with playing(rcpt=[b"250 ok\r\n", b"450 4.2.1 busy\r\n"]) as (stage, peer):
        client = await stage.hello()
        assert (await sent(client, "b@example.com", "c@example.com")).startswith("450 4.2.1")
        assert not peer.bodies and "DATA" not in peer.commands and not stage.intake.kept


async def test_our_edits_are_in_what_it_gets(log: list[str]) -> None:
    async with playing() as (stage, peer):
        edits = (Edit("prepend", "Authentication-Results", "mx.example.com; spf=pass"), Edit("delete", "X-Bad"))
        edits += (Edit("sender", value="new@example.net"), Edit("add_recipient", value="more@example.com"))
        stage.engine_.rules["message"] = lambda ctx: [Group((0,), decided(edits=edits))]
        client = await stage.hello()
        assert (await sent(client, body=b"X-Bad: 1\r\n" + BODY)).startswith("250")
        [body] = peer.bodies
        assert body.startswith(b"Authentication-Results: mx.example.com; spf=pass\r\nReceived: ") and b"X-Bad" not in body
        assert "MAIL FROM:<new@example.net> SIZE=" in "\n".join(peer.commands)
        assert [line for line in peer.commands if line.startswith("RCPT")] == [
            "RCPT TO:<b@example.com>",
            "RCPT TO:<more@example.com> NOTIFY=NEVER",
        ]


async def test_parameters_are_passed_on(log: list[str]) -> None:
    async with playing() as (stage, peer):
        stage.utf8 = True
        client = await stage.hello()
        await envelope(
            client,
            "b@example.com NOTIFY=FAILURE,DELAY ORCPT=rfc822;x@example.com",
            "j\u00f6rg@example.com",
            mail=" BODY=8BITMIME RET=HDRS ENVID=e1 SMTPUTF8",
        )
        content = "Subject: h\u00e4\r\n\r\nx\r\n".encode()
        client.send(b"BDAT 5\r\n" + content[:5] + b"BDAT %d LAST\r\n" % (len(content) - 5) + content[5:])
        assert (await client.reply()).startswith("250 2.0.0 Ok: 5 bytes") and "queued as" in await client.reply()
        mail, one, two, data = peer.commands[2:6] if peer.commands[1].startswith("XFORWARD") else peer.commands[1:5]
        assert mail.endswith("BODY=8BITMIME SMTPUTF8 RET=HDRS ENVID=e1")
        assert one == "RCPT TO:<b@example.com> NOTIFY=FAILURE,DELAY ORCPT=rfc822;x@example.com"
        assert two == "RCPT TO:<j\u00f6rg@example.com>" and data == "DATA"
        assert peer.bodies[0].endswith(content)


async def test_one_that_cannot_take_such_addresses_refuses_them(log: list[str]) -> None:
    async with playing("PIPELINING") as (stage, _peer):
        stage.utf8 = True
        client = await stage.hello()
        assert (await sent(client, mail=" SMTPUTF8")).startswith("550 5.6.7 Message refused [")
        assert not stage.proxies.health()["degraded"]


@pytest.mark.parametrize("verb", ["DATA", "BDAT"])
async def test_a_large_message_is_streamed_from_its_file(log: list[str], verb: str) -> None:
    line = b"x" * 70 + b"\r\n"
    body = b"Subject: large\r\n\r\n" + 60_000 * line
    async with playing() as (stage, peer):
        stage.engine_.rules["message"] = lambda ctx: [Group((0,), decided(edits=(Edit("append", "X-Seen", "yes"),)))]
        client = await stage.hello()
        if verb == "DATA":
            reply = await sent(client, body=body)
        else:
            await envelope(client)
            client.send(b"BDAT %d LAST\r\n" % len(body) + body)
            reply = await client.reply()
        assert reply.startswith("250") and "queued as" in reply
        [got] = peer.bodies
        assert got.endswith(b"Subject: large\r\nX-Seen: yes\r\n\r\n" + 60_000 * line)
        assert not stage.intake.kept and stage.intake.aborted == 1  # the file is given back
        # Refused recipients of a large one: its file is the copy.
        peer.says["RCPT"] = [b"550 5.1.1 no\r\n", b"250 ok\r\n"]
        stage.engine_.rules.clear()
        assert (await sent(client, "b@example.com", "c@example.com", body=body)).startswith("250")
        [kept] = stage.intake.kept
        assert kept.large and kept.content.endswith(body) and kept.trailer.keep == "quarantine"


@pytest.mark.parametrize("keep", ["hold", "quarantine"])
async def test_what_an_operator_is_to_see_first_is_in_the_queue(log: list[str], keep: str) -> None:
    async with playing() as (stage, peer):
        stage.engine_.rules["message"] = lambda ctx: [Group((0,), decided(keep=keep, keep_reason="x"))]
        assert (await sent(await stage.hello())).startswith("250")
        [kept] = stage.intake.kept
        assert kept.trailer.keep == keep and kept.trailer.filter == "proxy:scan" and not peer.sessions


async def test_groups_that_are_treated_differently_are_in_the_queue(log: list[str]) -> None:
    async with playing() as (stage, peer):
        other = decided(edits=(Edit("prepend", "X-Two", "2"),))
        stage.engine_.rules["message"] = lambda ctx: [Group((0,), ACCEPT), Group((1,), other)]
        assert (await sent(await stage.hello(), "b@example.com", "c@example.com")).startswith("250")
        assert [one.trailer.filter for one in stage.intake.kept] == ["proxy:scan"] * 2 and not peer.sessions


async def test_whose_copy_is_thrown_away_does_not_matter_to_the_others(log: list[str]) -> None:
    async with playing() as (stage, peer):
        stage.engine_.rules["message"] = lambda ctx: [Group((0,), ACCEPT), Group((1,), decided(verb="discard"))]
        assert (await sent(await stage.hello(), "b@example.com", "c@example.com")).startswith("250")
        assert [line for line in peer.commands if line.startswith("RCPT")] == ["RCPT TO:<b@example.com>"]


async def test_more_recipients_than_a_server_must_take_are_in_the_queue(log: list[str]) -> None:
    async with playing() as (stage, peer):
        client = await stage.hello()
        assert (await sent(client, *(f"r{n}@example.com" for n in range(100)))).startswith("250")
        assert peer.sessions == 1 and not stage.intake.kept
        assert (await sent(client, *(f"r{n}@example.com" for n in range(101)))).startswith("250")
        assert peer.sessions == 1 and len(stage.intake.kept[0].trailer.recipients) == 101


@pytest.mark.parametrize(
    ("text", "sessions", "kept"),
    [("proxy:scan", 1, 0), ("scan:", 0, 1), ("smtp:[127.0.0.1]:9", 0, 1), ("proxy:{}", 1, 0)],
)
async def test_a_rule_names_another_filter(log: list[str], text: str, sessions: int, kept: int) -> None:
    """FILTER: behind the queue or before it, whatever the listener has."""
    async with playing() as (stage, peer):
        named = text.format(f"127.0.0.1:{peer.port}")
        stage.engine_.rules["message"] = lambda ctx: [Group((0,), decided(filter=named))]
        assert (await sent(await stage.hello())).startswith("250")
        assert (peer.sessions, len(stage.intake.kept)) == (sessions, kept)
        assert all(one.trailer.filter == named for one in stage.intake.kept)


async def test_a_filter_that_nobody_knows_puts_off(log: list[str]) -> None:
    async with playing() as (stage, _peer):
        stage.engine_.rules["message"] = lambda ctx: [Group((0,), decided(filter="proxy:nobody"))]
        assert (await sent(await stage.hello())).startswith("451 4.3.5 Server configuration problem")
        assert any('no filter is called "nobody"' in line for line in log)


async def test_a_client_that_goes_while_the_filter_has_it(log: list[str]) -> None:
    """Nothing is lost: the filter has the message; the client may send it again."""
    async with playing() as (stage, peer):
        peer.hold = asyncio.Event()
        client = await stage.content()
        session = stage.session()
        client.send(BODY + b".\r\n")
        await asyncio.wait_for(peer.got_body.wait(), 5)
        client.reset()
        while not session.lost:
            await asyncio.sleep(0.01)
        peer.hold.set()
        while not any("proxy-accept" in line for line in log):
            await asyncio.sleep(0.01)
        assert any("the client is gone before the answer: it may send the message again" in line for line in log)
        while stage.front.transactions:
            await asyncio.sleep(0.01)


async def test_a_client_that_goes_before_the_filter_has_it_all(log: list[str]) -> None:
    """It gets no end of the content: the client comes again, and nobody has it twice."""
    async with playing(data=[b"354 go\r\n"]) as (stage, peer):
        peer.hold_data = asyncio.Event()
        client = await stage.content()
        session = stage.session()
        client.send(BODY + b".\r\n")
        while "DATA" not in peer.commands:
            await asyncio.sleep(0.01)
        client.reset()
        while not session.lost:
            await asyncio.sleep(0.01)
        peer.hold_data.set()
        while stage.front.transactions:
            await asyncio.sleep(0.01)
        assert any("not kept: the client is gone before the answer" in line for line in log)
        while peer.open:
            await asyncio.sleep(0.01)
        assert not peer.bodies and not stage.proxies.health()["degraded"]


async def test_others_do_not_notice_a_filter_that_hangs(log: list[str]) -> None:
    async with playing(filters={"timeout": "3s"}, end=[SILENT, b"250 ok\r\n"]) as (stage, peer):
        first, second = await stage.content(), await stage.hello()
        first.send(BODY + b".\r\n")
        while not peer.bodies:
            await asyncio.sleep(0.01)
        hanging = asyncio.create_task(first.reply())
        assert (await sent(second)).startswith("250")
        assert not hanging.done()
        assert (await hanging).startswith("451 4.3.0")


async def test_soft_bounce_makes_its_refusals_temporary(log: list[str]) -> None:
    peer = await Peer(end=VIRUS).start()
    async with Stage(listen={"proxy_filter": f"127.0.0.1:{peer.port}"}, gateway={"soft_bounce": True}) as stage:
        assert (await sent(await stage.hello())).startswith("454 4.7.1 Message refused")
    await peer.stop()
