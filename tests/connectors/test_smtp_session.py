import asyncio
import contextlib
import socket
import ssl
from collections.abc import AsyncIterator, Iterator
from pathlib import Path

import pytest
import trustme

from appliance.connectors.session import SmtpSession
from appliance.connectors.smtp import connect
from appliance.connectors.target import ConnectFailed, Target, Timeouts
from appliance.net.tls import client_context
from appliance.protocol.smtp.outgoing import Outgoing, OutgoingRecipient
from tests.connectors.smtp_peer import CUT, SILENT, Peer

FAST = Timeouts(connect=1, greeting=0.3, hello=0.3, tls=0.5, command=0.3, data=0.3, content=0.5, final=0.3)
#: For peers that answer, however long the machine stands still meanwhile.
PATIENT = Timeouts.each(10.0)
BODY = b"Subject: x\r\n\r\n.dot\r\nend\r\n"
PIPE = "PIPELINING"


def message(*recipients: str, sender: str = "s@example.org", **more) -> Outgoing:
    return Outgoing(sender, tuple(OutgoingRecipient(r) for r in recipients or ("a@example.com",)), **more)


@contextlib.asynccontextmanager
async def session(peer: Peer, **more) -> AsyncIterator[SmtpSession]:
    await peer.start()
    target = Target(host=more.pop("host", "localhost"), address="127.0.0.1", port=peer.port, lmtp=peer.lmtp)
    timeouts = more.pop("timeouts", FAST if SILENT in peer.says.values() else PATIENT)
    opened = await connect(target, "gw.example.com", timeouts=timeouts, **more)
    try:
        yield opened
    finally:
        opened.close()
        await peer.stop()


async def refused(peer: Peer, **more) -> ConnectFailed:
    with pytest.raises(ConnectFailed) as caught:
        async with session(peer, **more):
            pass
    await peer.stop()
    return caught.value


@pytest.fixture(scope="module")
def authority() -> trustme.CA:
    return trustme.CA()


def server_tls(authority: trustme.CA, name: str = "localhost") -> ssl.SSLContext:
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    authority.issue_cert(name).configure_cert(context)
    return context


@pytest.mark.parametrize("features", [[PIPE], [], [PIPE, "CHUNKING"]])
async def test_messages_on_one_connection(features):
    peer = Peer(*features)
    async with session(peer) as smtp:
        for _ in range(3):
            finished = await smtp.send(message("a@example.com", "b@example.com"), BODY)
            assert [r.kind for r in finished.results] == ["delivered"] * 2
            assert finished.reusable and smtp.alive
        assert smtp.uses == 3
    stuffed = BODY if "CHUNKING" in features else BODY.replace(b"\r\n.", b"\r\n..")
    assert peer.bodies == [stuffed] * 3
    assert peer.sessions == 1


async def test_streamed_content_of_25_mb_arrives_whole():
    peer = Peer(PIPE)
    chunk = b"." + b"x" * 998 + b"\r\n"
    async with session(peer) as smtp:
        finished = await smtp.send(message(), (chunk * 60 for _ in range(420)))
        assert finished.results[0].kind == "delivered"
    assert peer.bodies[0] == (b"." + chunk) * 60 * 420


@pytest.mark.parametrize(
    ("says", "kinds"),
    [
        ({"mail": b"451 4.3.0 later\r\n"}, ["deferred"] * 3),
        ({"mail": b"550 5.7.1 no\r\n"}, ["failed"] * 3),
        ({"rcpt": [b"550 5.1.1 no\r\n", b"250 ok\r\n", b"250 ok\r\n"]}, ["failed", "delivered", "delivered"]),
        ({"rcpt": [b"250 ok\r\n", b"450 4.2.0 later\r\n", b"250 ok\r\n"]}, ["delivered", "deferred", "delivered"]),
        ({"rcpt": [b"250 ok\r\n", b"250 ok\r\n", b"550 no\r\n"]}, ["delivered", "delivered", "failed"]),
        ({"rcpt": b"550 no\r\n"}, ["failed"] * 3),
        ({"data": b"451 4.3.0 later\r\n"}, ["deferred"] * 3),
        ({"data": b"554 no\r\n"}, ["failed"] * 3),
        ({"end": b"451 4.3.0 later\r\n"}, ["deferred"] * 3),
        ({"end": b"554 5.6.0 no\r\n"}, ["failed"] * 3),
    ],
)
@pytest.mark.parametrize("features", [[PIPE], []])
async def test_refusals_each_recipient_its_own(features, says, kinds):
    peer = Peer(*features, **says)
    async with session(peer) as smtp:
        finished = await smtp.send(message("a@x", "b@x", "c@x"), BODY)
        assert [r.kind for r in finished.results] == kinds
        assert finished.reusable
        peer.says.clear()
        assert [r.kind for r in (await smtp.send(message(), BODY)).results] == ["delivered"]
    delivered = 1 + ("delivered" in kinds or "end" in says)
    assert len([body for body in peer.bodies if body]) == delivered


@pytest.mark.parametrize("what", [CUT, SILENT])
async def test_no_answer_after_the_dot_is_an_unknown_outcome(what):
    peer = Peer(PIPE, end=what)
    async with session(peer) as smtp:
        finished = await smtp.send(message(), BODY)
        (result,) = finished.results
        assert result.kind == "deferred" and result.unknown and not finished.reusable
        assert not smtp.alive
    assert len(peer.bodies) == 1


@pytest.mark.parametrize(
    ("says", "words"),
    [
        ({"mail": CUT}, "lost connection"),
        ({"mail": SILENT}, "timed out while sending MAIL FROM"),
        ({"rcpt": CUT}, "lost connection"),
        ({"data": SILENT}, "timed out while sending DATA"),
        ({"mail": b"\x00\xff garbage\r\n"}, "not a reply"),
        ({"mail": b"250 " + b"x" * 5000}, "reply line"),
        ({"mail": b"250-a\r\n" * 200}, "more than"),
        ({"mail": b"421 4.3.2 shutting down\r\n"}, "421"),
    ],
)
async def test_what_goes_wrong_is_deferred_and_ends_the_session(says, words):
    peer = Peer(PIPE, **says)
    async with session(peer) as smtp:
        finished = await smtp.send(message(), BODY)
        (result,) = finished.results
        assert result.kind == "deferred" and not result.unknown and words in result.text
        assert not smtp.alive and not finished.reusable
    assert peer.bodies == []


async def test_answers_nobody_asked_for_end_the_session():
    peer = Peer(PIPE, end=b"250 ok\r\n250 again\r\n")
    async with session(peer) as smtp:
        await smtp.send(message(), BODY)
        async with asyncio.timeout(10):
            while smtp.alive:
                await asyncio.sleep(0.01)


async def test_a_server_that_dribbles_gets_no_more_time():
    async def dribble(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        with contextlib.suppress(OSError):
            while True:
                writer.write(b"2")
                await writer.drain()
                await asyncio.sleep(0.02)

    server = await asyncio.start_server(dribble, "127.0.0.1", 0)
    target = Target(host="x", address="127.0.0.1", port=server.sockets[0].getsockname()[1])
    begun = asyncio.get_running_loop().time()
    with pytest.raises(ConnectFailed, match="timed out while receiving the initial server greeting"):
        await connect(target, "gw", timeouts=FAST)
    assert asyncio.get_running_loop().time() - begun < 8, "each octet would begin it anew, without end"
    server.close()


async def test_a_server_that_stops_reading_times_out():
    peer = Peer(PIPE)
    peer._body = lambda reader, writer, replies: asyncio.sleep(60)  # type: ignore[method-assign]
    async with session(peer, timeouts=FAST) as smtp:
        finished = await smtp.send(message(), iter([b"x" * 65536] * 1000))
        assert finished.results[0].kind == "deferred"
        assert "timed out while sending message body" in finished.results[0].text
        assert smtp.transport is not None and smtp.transport.is_closing()


async def test_a_refusal_in_the_middle_of_the_body_is_heard():
    async def interrupt(reader: asyncio.StreamReader, writer: asyncio.StreamWriter, replies: int) -> None:
        await reader.readexactly(100000)
        writer.write(b"552 5.2.2 mailbox full\r\n")
        await writer.drain()
        await asyncio.sleep(60)

    peer = Peer(PIPE)
    peer._body = interrupt  # type: ignore[method-assign]
    async with session(peer) as smtp:
        finished = await smtp.send(message(), iter([b"x" * 65536] * 1000))
        assert finished.results[0].kind == "failed" and "mailbox full" in finished.results[0].text


async def test_content_that_cannot_be_read_is_never_ended():
    def broken() -> Iterator[bytes]:
        yield b"Subject: x\r\n\r\n" + b"half\r\n" * 1000
        raise OSError("disk")

    peer = Peer(PIPE)
    async with session(peer) as smtp:
        finished = await smtp.send(message(), broken())
        assert finished.results[0].kind == "deferred"
        assert isinstance(smtp.content_error, OSError)
        assert not smtp.alive
    assert peer.bodies == []


async def test_an_envelope_that_would_break_out_is_not_sent():
    peer = Peer(PIPE)
    async with session(peer) as smtp:
        with pytest.raises(ValueError, match="break out"):
            await smtp.send(message("a@x>\r\nRCPT TO:<b@y"), BODY)
    assert [c for c in peer.commands if not c.startswith("EHLO")] == []


async def test_lmtp_has_an_answer_for_each_recipient(tmp_path: Path):
    ends = [b"250 2.0.0 a\r\n", b"452 4.2.2 full\r\n", b"550 5.1.1 no\r\n"]
    peer = Peer(PIPE, lmtp=True, end=ends)
    await peer.start(tmp_path / "lmtp")
    target = Target(host="inner", path=str(tmp_path / "lmtp"), lmtp=True)
    smtp = await connect(target, "gw.example.com", timeouts=PATIENT)
    finished = await smtp.send(message("a@x", "b@x", "c@x"), BODY)
    assert [r.kind for r in finished.results] == ["delivered", "deferred", "failed"]
    assert peer.commands[0] == "LHLO gw.example.com"
    smtp.close()
    await peer.stop()


@pytest.mark.parametrize(
    ("says", "words"),
    [
        ({"greeting": CUT}, "lost connection with localhost"),
        ({"greeting": b"554 5.7.1 go away\r\n"}, "refused to talk to me: 554 5.7.1 go away"),
        ({"greeting": b"421 busy\r\n"}, "421 busy"),
        ({"greeting": SILENT}, "timed out while receiving the initial server greeting"),
        ({"greeting": b"HTTP/1.1 400 Bad\r\n"}, "not a reply"),
        ({"ehlo": CUT}, "lost connection"),
    ],
)
async def test_no_session(says, words):
    assert words in str(await refused(Peer(**says)))


async def test_nobody_listens():
    with socket.create_server(("127.0.0.1", 0)) as sock:
        port = sock.getsockname()[1]
    with pytest.raises(ConnectFailed, match=r"connect to h\[127.0.0.1\]:\d+: Connection refused"):
        await connect(Target(host="h", address="127.0.0.1", port=port), "gw", timeouts=FAST)


@pytest.mark.parametrize("level", ["may", "encrypt", "verify"])
async def test_tls(authority, level):
    peer = Peer("STARTTLS", PIPE, tls=server_tls(authority))
    context = client_context(level, authority.cert_pem.bytes())
    async with session(peer, level=level, context=context) as smtp:
        assert smtp.machine.tls and smtp.cipher.startswith("TLSv1.")
        finished = await smtp.send(message(), iter([BODY]))
        assert finished.results[0].kind == "delivered"
    assert [c.split()[0] for c in peer.commands[:3]] == ["EHLO", "STARTTLS", "EHLO"]
    assert peer.bodies == [BODY.replace(b"\r\n.", b"\r\n..")]


@pytest.mark.parametrize("level", ["encrypt", "verify"])
@pytest.mark.parametrize("features", [[], ["STARTTLS"]])
async def test_tls_that_must_be_is_never_given_up(authority, level, features):
    peer = Peer(*features, PIPE, starttls=b"454 4.7.0 not now\r\n")
    error = await refused(peer, level=level, context=client_context(level, authority.cert_pem.bytes()))
    assert error.tls and error.status.startswith("4.7.")
    assert peer.sessions == 1 and not any(c.startswith("MAIL") for c in peer.commands)


async def test_verify_refuses_another_name_and_another_authority(authority):
    context = client_context("verify", authority.cert_pem.bytes())
    error = await refused(Peer("STARTTLS", tls=server_tls(authority, "other.example")), level="verify", context=context)
    assert "certificate verification failed" in str(error)
    stranger = server_tls(trustme.CA())
    error = await refused(Peer("STARTTLS", tls=stranger), level="verify", context=context)
    assert "certificate verification failed" in str(error)
    async with session(Peer("STARTTLS", tls=stranger), level="encrypt", context=client_context("encrypt")) as smtp:
        assert smtp.machine.tls


@pytest.mark.parametrize("says", [{"starttls": b"454 no\r\n"}, {"starttls": b"220 go\r\nrubbish that is no TLS" * 9}])
async def test_may_falls_back_to_the_clear_before_any_data(authority, says):
    peer = Peer("STARTTLS", PIPE, **says)
    async with session(peer, level="may", context=client_context("may")) as smtp:
        assert not smtp.machine.tls
        assert (await smtp.send(message(), BODY)).results[0].kind == "delivered"


async def test_what_came_with_the_220_is_thrown_away(authority):
    """A man in the middle adds an EHLO answer in the clear; it must not be believed inside TLS."""
    peer = Peer("STARTTLS", tls=server_tls(authority), starttls=b"220 go\r\n250-evil\r\n250 CHUNKING\r\n")
    async with session(peer, level="encrypt", context=client_context("encrypt")) as smtp:
        assert smtp.machine.tls and "CHUNKING" not in smtp.machine.features


@pytest.mark.filterwarnings("ignore:ssl.TLSVersion")
async def test_old_tls_is_refused(authority):
    old = server_tls(authority)
    old.minimum_version, old.maximum_version = ssl.TLSVersion.TLSv1, ssl.TLSVersion.TLSv1_1
    error = await refused(Peer("STARTTLS", tls=old), level="encrypt", context=client_context("encrypt"))
    assert error.tls


async def test_an_idle_connection_that_the_server_closes_is_noticed():
    peer = Peer(PIPE)
    async with session(peer) as smtp:
        await smtp.send(message(), BODY)
        assert smtp.alive
        for task in list(peer._tasks):
            task.cancel()
        async with asyncio.timeout(10):
            while smtp.alive:
                await asyncio.sleep(0.01)


async def test_what_comes_with_the_answer_to_ehlo_ends_the_session() -> None:
    """Nothing may be sent then as if the session were well."""
    peer = await Peer(ehlo=b"250 peer\r\n220 what else\r\n").start()
    with pytest.raises(ConnectFailed, match="a reply that nobody asked for"):
        await connect(Target(host="x", address="127.0.0.1", port=peer.port), "mx.example.com")
    await peer.stop()
