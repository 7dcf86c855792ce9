"""The client on uvloop, which is what runs in production: its transports differ from asyncio's."""

import asyncio
import ssl
from collections.abc import Callable, Coroutine
from pathlib import Path
from typing import Any

import pytest
import trustme

from appliance.connectors.smtp import connect
from appliance.connectors.target import ConnectFailed, Target, Timeouts
from appliance.net.tls import client_context
from appliance.protocol.smtp.outgoing import Outgoing, OutgoingRecipient
from tests.connectors.smtp_peer import SILENT, Peer
from tests.daemons.delivery.harness import delivery, settings

uvloop = pytest.importorskip("uvloop")
FAST, PATIENT = Timeouts(final=0.3), Timeouts.each(10.0)
MESSAGE = Outgoing("s@example.org", (OutgoingRecipient("a@example.com"),))
BODY = b"Subject: x\r\n\r\n" + b"line\r\n" * 200000


def on_uvloop(test: Callable[[], Coroutine[Any, Any, None]]) -> None:
    uvloop.run(asyncio.wait_for(test(), 30))


def test_tls_and_a_streamed_body() -> None:
    authority = trustme.CA()
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    authority.issue_cert("localhost").configure_cert(context)

    async def run() -> None:
        peer = await Peer("STARTTLS", "PIPELINING", tls=context).start()
        target = Target(host="localhost", address="127.0.0.1", port=peer.port)
        smtp = await connect(target, "gw", "verify", client_context("verify", authority.cert_pem.bytes()), PATIENT)
        chunks = (BODY[at : at + 65536] for at in range(0, len(BODY), 65536))
        assert (await smtp.send(MESSAGE, chunks)).results[0].kind == "delivered"
        assert (await smtp.send(MESSAGE, b"small\r\n")).results[0].kind == "delivered"
        assert peer.bodies == [BODY, b"small\r\n"] and smtp.cipher.startswith("TLSv1.")
        smtp.quit()
        await peer.stop()

    on_uvloop(run)


def test_wrong_certificates_and_silence() -> None:
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    trustme.CA().issue_cert("localhost").configure_cert(context)

    async def run() -> None:
        peer = await Peer("STARTTLS", tls=context).start()
        target = Target(host="localhost", address="127.0.0.1", port=peer.port)
        with pytest.raises(ConnectFailed, match="certificate"):
            await connect(target, "gw", "verify", client_context("verify", trustme.CA().cert_pem.bytes()), PATIENT)
        await peer.stop()
        silent = await Peer("PIPELINING", end=SILENT).start()
        smtp = await connect(Target(host="h", address="127.0.0.1", port=silent.port), "gw", timeouts=FAST)
        assert (await smtp.send(MESSAGE, b"x\r\n")).results[0].unknown and not smtp.alive
        await silent.stop()

    on_uvloop(run)


def test_a_whole_delivery(tmp_path: Path) -> None:
    async def run() -> None:
        peer = await Peer("PIPELINING").start()
        async with delivery(tmp_path, settings(tmp_path, f"smtp:[127.0.0.1]:{peer.port}")) as running:
            for _ in range(50):
                await running.put()
            await running.put_large(BODY)
            await running.empty()
        await peer.stop()
        assert len(peer.bodies) == 51 and BODY in peer.bodies

    on_uvloop(run)
