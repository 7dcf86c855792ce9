"""What a connection of a policy client holds while it is there."""

import asyncio
import contextlib
from pathlib import Path

from appliance.mail.context import Context
from appliance.mail.verdict import ACCEPT, Decision
from appliance.protocol.policy import encode_request
from tests.daemons.policyd.stage import Stage
from tests.peers.policy import RCPT

#: Octets that come at once, or wait in a transport before it says so.
PIECE = 256 * 1024


async def test_who_reads_no_answers_is_not_read_from(tmp_path: Path) -> None:
    """What he says stays at his socket: neither requests nor answers pile up here."""
    async with Stage(tmp_path) as stage:

        def judge(_ctx: Context) -> Decision:
            return ACCEPT

        stage.engine.rules["rcpt"] = judge
        reader, writer = await asyncio.open_unix_connection(stage.path)
        reader._transport.pause_reading()  # type: ignore[attr-defined]
        number, most, still = 0, 0, 0
        while still < 10:
            writer.write(b"".join(encode_request(RCPT | {"instance": f"{number + one}"}) for one in range(500)))
            number += 500
            try:
                async with asyncio.timeout(0.2):
                    await writer.drain()
                still = 0
            except TimeoutError:
                still += 1
            for one in stage.front.connections:
                if one.transport is not None:
                    most = max(most, one.transport.get_write_buffer_size())
            assert number < 200_000, "it is read for ever"
        assert 0 < most < PIECE
        with contextlib.suppress(OSError):
            writer.transport.abort()
