"""STARTTLS (threats B3, P7): nothing glued behind it counts, everything said is forgotten, the client stays known."""

import asyncio
import ssl

import pytest
import trustme

from appliance.daemons.smtpd import tls
from tests.daemons.smtpd.stage import Client, Stage, Trips

CA = trustme.CA()


def pair(name: str = "mx.example.com") -> tuple[bytes, bytes]:
    issued = CA.issue_cert(name)
    return b"".join(blob.bytes() for blob in issued.cert_chain_pems), issued.private_key_pem.bytes()


def trusting() -> ssl.SSLContext:
    context = ssl.create_default_context()
    CA.configure_trust(context)
    return context


async def secured(stage: Stage, client: Client, context: ssl.SSLContext | None = None) -> None:
    assert await client.say("STARTTLS") == "220 2.0.0 Ready to start TLS"
    await client.writer.start_tls(context or trusting(), server_hostname="mx.example.com")


def equip(stage: Stage) -> None:
    stage.front.contexts = {"public": tls.context(*pair())}


async def test_a_message_over_tls() -> None:
    async with Stage() as stage:
        equip(stage)
        client = await stage.connect()
        assert "STARTTLS" in await client.say("EHLO client.example.net")
        await secured(stage, client)
        assert (await client.say("MAIL FROM:<a@example.net>")).startswith("503 5.5.1 Error: send HELO/EHLO first")
        assert "STARTTLS" not in await client.say("EHLO client.example.net")
        assert (await client.say("STARTTLS")).startswith("554 5.5.1 Error: TLS already active")
        client.send(b"MAIL FROM:<a@example.net>\r\nRCPT TO:<b@example.com>\r\nDATA\r\n")
        for _ in range(3):
            await client.reply()
        client.send(b"Subject: x\r\n\r\n" + b"y" * 500_000 + b"\r\n.\r\n")
        assert (await client.reply()).startswith("250")
        kept = stage.intake.kept[0]
        assert b" with ESMTPS id " in kept.content
        assert b"\r\n\t(using TLSv1.3 with cipher TLS_" in kept.content
        assert stage.engine_.at("message")[0].client.tls.version == "TLSv1.3"  # type: ignore[union-attr]
        assert (await client.say("QUIT")).startswith("221")
        assert await client.ended() == b""


@pytest.mark.parametrize("glued", [b"RSET\r\n", b"EHLO x\r\nMAIL FROM:<evil@example.net>\r\n", b"N"])
async def test_b3_what_is_glued_behind_starttls_ends_the_session(glued: bytes) -> None:
    async with Stage() as stage:
        equip(stage)
        client = await stage.hello()
        client.send(b"STARTTLS\r\n" + glued)
        assert await client.reply() == "554 5.5.0 Error: SMTP protocol synchronization"
        assert await client.ended() == b""
        assert not stage.engine_.at("mail")


async def test_b3_tls_forgets_helo_envelope_and_verdicts() -> None:
    async with Stage() as stage:
        equip(stage)
        client = await stage.hello()
        await client.say("MAIL FROM:<a@example.net>")
        await client.say("RCPT TO:<b@example.com>")
        await secured(stage, client)
        session = stage.session()
        while not session.secured:
            await asyncio.sleep(0)
        assert (session.helo, session.transaction, session.trail) == ("", None, ())
        assert (await client.say("DATA")).startswith("503 5.5.1 Error: need MAIL command")


async def test_b12_the_client_behind_proxy_and_xclient_stays_known_over_tls(capfd: pytest.CaptureFixture[str]) -> None:
    async with Stage(listen={"proxy": ["127.0.0.0/8"], "xclient": ["192.0.2.0/24"]}) as stage:
        equip(stage)
        client = await stage.connect(banner=False)
        client.send(b"PROXY TCP4 192.0.2.5 192.0.2.1 1234 25\r\n")
        await client.reply()
        await client.say("EHLO x.example.net")
        await client.say("XCLIENT ADDR=198.51.100.7 NAME=far.example.net")
        await client.say("EHLO x.example.net")
        assert (await client.say("XFORWARD NAME=orig.example.org ADDR=203.0.113.9")).startswith("250")
        await secured(stage, client)
        await client.say("EHLO x.example.net")
        await client.say("MAIL FROM:<a@example.net>")
        seen = stage.engine_.at("mail")[-1].client
        assert (seen.address, seen.name) == ("198.51.100.7", "far.example.net")
        assert seen.tls is not None
        client.send(b"RCPT TO:<b@example.com>\r\nDATA\r\n")
        await client.reply()
        await client.reply()
        client.send(b"x\r\n.\r\n")
        assert (await client.reply()).startswith("250")
    assert ", orig_client=orig.example.org[203.0.113.9]" in capfd.readouterr().err


async def test_b7_a_handshake_has_a_deadline() -> None:
    trips = Trips("timeout_tls")
    async with Stage(limits={"timeout_tls": "1s"}) as stage:
        equip(stage)
        client = await stage.hello()
        assert (await client.say("STARTTLS")).startswith("220")
        async with asyncio.timeout(5):
            await client.ended()
        async with asyncio.timeout(5):
            while stage.front.sessions:
                await asyncio.sleep(0.01)
        assert stage.front.connections.open == 0
    assert trips.count == 1


async def test_rubbish_instead_of_a_handshake_ends_the_session() -> None:
    async with Stage() as stage:
        equip(stage)
        client = await stage.hello()
        assert (await client.say("STARTTLS")).startswith("220")
        client.send(b"MAIL FROM:<a@example.net>\r\n" * 10)
        assert b"250" not in await client.ended()
        async with asyncio.timeout(5):
            while stage.front.sessions:
                await asyncio.sleep(0.01)
        assert (await (await stage.connect()).say("NOOP")) == "250 2.0.0 Ok"


async def test_p7_nothing_older_than_tls_1_2() -> None:
    context = tls.context(*pair())
    assert context.minimum_version == ssl.TLSVersion.TLSv1_2


async def test_p7_a_new_certificate_is_used_by_the_next_session() -> None:
    async with Stage() as stage:
        equip(stage)
        old = await stage.hello()
        other = trustme.CA()
        issued = other.issue_cert("mx.example.com")
        chain = b"".join(blob.bytes() for blob in issued.cert_chain_pems)
        stage.front.contexts = {"public": tls.context(chain, issued.private_key_pem.bytes())}
        with pytest.raises(ssl.SSLError):
            await secured(stage, old)
        new = await stage.hello()
        trust = ssl.create_default_context()
        other.configure_trust(trust)
        await secured(stage, new, trust)
        assert (await new.say("NOOP")) == "250 2.0.0 Ok"


def test_a_key_that_does_not_belong_to_the_chain_is_refused() -> None:
    with pytest.raises(ssl.SSLError):
        tls.context(pair()[0], pair()[1])


async def test_without_a_certificate_there_is_no_starttls() -> None:
    async with Stage() as stage:
        client = await stage.connect()
        assert "STARTTLS" not in await client.say("EHLO x.example.net")
        assert (await client.say("STARTTLS")).startswith("502 5.5.1")
