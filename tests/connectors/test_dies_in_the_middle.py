"""A peer that is well until it has a part of the content, and is killed there (threats D1): the next hop behind its 354,
a scanner behind the head of its question. What is left of the content is some MB, more than any buffer holds."""

import asyncio

import pytest

from appliance.connectors.conversation import Server
from appliance.connectors.icap import Options
from appliance.connectors.scanner import Scanner, Settings
from appliance.connectors.smtp import connect
from appliance.connectors.target import Target, Timeouts
from appliance.daemons.fronts.content import RamContent
from appliance.protocol.smtp.outgoing import Outgoing, OutgoingRecipient
from tests.connectors.scanner_peer import MAIL, context
from tests.peers.deaths import Death
from tests.peers.good_scanners import KINDS
from tests.peers.good_smtp import SmtpQuestion
from tests.peers.hostile import Hostile

MB = 1 << 20
SMALL = 4096
PIECES = [b"Subject: x\r\n\r\n", *[b"a line of the body\r\n" * 3000] * 400]


@pytest.mark.parametrize("octets", [1, 300, MB])
async def test_d1_a_next_hop_that_dies_behind_its_354(octets: int) -> None:
    death, loop = Death(octets), asyncio.get_running_loop()
    async with Hostile(lambda: SmtpQuestion("DATA"), death.smtp, limit=SMALL) as server:
        target = Target(host="localhost", address="127.0.0.1", port=server.port)
        began = loop.time()
        session = await connect(target, "gw.example.com", timeouts=Timeouts.each(15.0))
        message = Outgoing("s@example.org", (OutgoingRecipient("a@example.com"),))
        (result,) = (await session.send(message, iter(PIECES))).results
        session.close()
        assert result.kind == "deferred" and loop.time() - began < 12.0, result
        assert death.reached == octets, result
        assert "message body" in result.text, result


@pytest.mark.parametrize("octets", [1, 300, MB])
@pytest.mark.parametrize("kind", ["icap", "reqmod", "rspamd"])
async def test_d1_a_scanner_that_dies_in_the_content(kind: str, octets: int) -> None:
    death = Death(octets)
    known = "icap" if kind == "reqmod" else kind
    options = Options("avscan", "reqmod") if kind == "reqmod" else KINDS[known].options
    async with Hostile(KINDS[known].good, getattr(death, kind), limit=SMALL) as peer:
        servers = (Server(host="127.0.0.1", port=peer.port),)
        scanner = Scanner(Settings("x", known, servers, 15.0, options=options))
        found = await scanner.scan(RamContent(MAIL + b"x" * 24 * MB), context())
        scanner.close()
        assert found.kind == "error" and found.seconds < 12.0, found
        assert death.reached == octets, found
        assert str(peer.port) in found.why, found.why
        assert "(sending to" in found.why, found.why
