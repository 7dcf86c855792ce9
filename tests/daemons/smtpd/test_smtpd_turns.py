"""A client that sends fast does not keep the event loop: the transport reads on as long as octets are there (libuv: 32
times 256 KB), so the session has to let others go first."""

import asyncio
import socket

from appliance.daemons.smtpd import wire


class Sink:
    """Takes all content, and counts what came between two turns of the loop."""

    def __init__(self) -> None:
        self.total = self.turn = self.most = 0

    def feed(self, data: bytes) -> bytes | None:
        self.total += len(data)
        self.turn += len(data)
        self.most = max(self.most, self.turn)
        return None

    def tick(self) -> None:
        self.turn = 0
        asyncio.get_running_loop().call_soon(self.tick)


async def test_content_is_taken_in_turns() -> None:
    loop = asyncio.get_running_loop()
    sink, session = Sink(), wire.Wire(loop)
    session.receiving, session.busy = sink, False
    theirs, ours = socket.socketpair()
    theirs.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, 8 << 20)
    theirs.setblocking(False)
    sent = 0
    try:
        while True:
            sent += theirs.send(bytes(65536))
    except BlockingIOError:
        pass
    await loop.connect_accepted_socket(lambda: session, ours)
    sink.tick()
    async with asyncio.timeout(10):
        while sink.total < sent:
            await asyncio.sleep(0)
    assert session.transport is not None
    session.transport.abort()
    theirs.close()
    assert sink.most <= 2 * wire.TURN


async def test_reading_goes_on_behind_a_turn_but_not_while_enough_is_kept() -> None:
    class Transport(asyncio.Transport):
        reading = True

        def pause_reading(self) -> None:
            self.reading = False

        def resume_reading(self) -> None:
            self.reading = True

        def set_write_buffer_limits(self, high: int | None = None, low: int | None = None) -> None: ...

    session, transport = wire.Wire(asyncio.get_running_loop()), Transport()
    session.connection_made(transport)
    session.receiving, session.busy = Sink(), False
    session.data_received(bytes(wire.TURN))
    assert not transport.reading
    await asyncio.sleep(0)
    assert transport.reading
    session.busy = True
    session.data_received(bytes(wire.TURN))
    await asyncio.sleep(0)
    assert not transport.reading, "a command is being awaited, and more than enough is kept"
