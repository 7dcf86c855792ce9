"""Clients of our policy and milter servers that misbehave in every way that threats.md (D1, D6) knows: one list for both.

Each act has connections of its own and ends by itself, at the latest when it is hung up on or cancelled.
"""

import asyncio
import random
import struct
from collections.abc import Awaitable, Callable, Iterator
from contextlib import suppress

from appliance.protocol.milter import packets as p
from appliance.protocol.milter.encoding import encode
from appliance.protocol.milter.negotiation import offer
from appliance.protocol.policy import encode_request
from tests.peers.hostile import reset
from tests.peers.policy import RCPT

#: Octets that somebody who never reads sends at most.
MOST = 32 << 20
Act = Callable[["Speech", int, random.Random], Awaitable[None]]


class Speech:
    """What is well said in a protocol, over and over; `endless` begins what never ends. `name` for logs."""

    def __init__(self, name: str, said: Callable[[int], bytes], endless: Callable[[int], bytes]) -> None:
        self.name, self.said, self.endless = name, said, endless


def policy(**changes: str) -> Speech:
    """Requests; and a request whose attributes never end."""

    def endless(number: int) -> bytes:
        return b"request=smtpd_access_policy\n" if number == 0 else b"attribute_%d=%s\n" % (number, b"x" * 200)

    return Speech("policy", lambda number: encode_request(RCPT | {"instance": f"bad{number}"} | changes), endless)


OPENING = encode(offer()) + encode(p.Connect(b"bad.example", "4", 1, b"192.0.2.1")) + encode(p.Helo(b"bad.example"))


def milter() -> Speech:
    """Whole messages on one connection; and macros without end."""
    message = (p.Mail(b"<bad@example.org>"), p.Rcpt(b"<good1@front.example.com>"), p.Data(), p.Header(b"A", b" b"))
    whole = b"".join(map(encode, (*message, p.EndOfHeader(), p.Body(b"x" * 2000), p.EndOfMessage())))

    def endless(number: int) -> bytes:
        if number == 0:
            return OPENING
        pairs = b"".join(b"{macro%d}\0%s\0" % (number * 50 + one, b"x" * 500) for one in range(50))
        return struct.pack(">I", len(pairs) + 2) + b"DM" + pairs

    return Speech("milter", lambda number: whole if number else OPENING + whole, endless)


async def slow(speech: Speech, port: int, rng: random.Random) -> None:
    """An octet now and then."""
    reader, writer = await asyncio.open_connection("127.0.0.1", port)
    try:
        for octet in speech.said(0)[:1000]:
            writer.write(bytes((octet,)))
            await writer.drain()
            await asyncio.sleep(rng.uniform(0.0, 0.01))
        await reader.read(1)
    finally:
        writer.close()


async def garbage(speech: Speech, port: int, rng: random.Random) -> None:
    await _say(port, rng.randbytes(rng.randrange(1, 20_000)))


async def another_protocol(speech: Speech, port: int, rng: random.Random) -> None:
    await _say(
        port, rng.choice((b"GET / HTTP/1.0\r\n\r\n", b"EHLO x\r\n", b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03"))
    )


async def mutated(speech: Speech, port: int, rng: random.Random) -> None:
    """Well said, but for some octets."""
    octets = bytearray(speech.said(0) + speech.said(1))
    for _ in range(rng.randrange(1, 10)):
        octets[rng.randrange(len(octets))] = rng.randrange(256)
    await _say(port, bytes(octets))


async def half(speech: Speech, port: int, rng: random.Random) -> None:
    """It stops in the middle, and waits."""
    octets = speech.said(0)
    await _say(port, octets[: rng.randrange(1, len(octets))])


async def dies(speech: Speech, port: int, rng: random.Random) -> None:
    """As a process that is killed, in the middle, its answers unread."""
    _, writer = await asyncio.open_connection("127.0.0.1", port)
    octets = speech.said(0) + speech.said(1)
    writer.write(octets[: rng.randrange(1, len(octets))])
    await asyncio.sleep(rng.uniform(0.0, 0.05))
    reset(writer)


async def never_reads(speech: Speech, port: int, rng: random.Random) -> None:
    """It asks and asks, and takes no answer."""
    await _stuff(port, (speech.said(number) for number in range(MOST)), limit=1)


async def endless(speech: Speech, port: int, rng: random.Random) -> None:
    """One thing that has no end."""
    await _stuff(port, (speech.endless(number) for number in range(MOST)), limit=1 << 16)


async def crowd(speech: Speech, port: int, rng: random.Random, size: int = 300) -> None:
    """Connections that say nothing, or half of something."""
    made = []
    try:
        for _ in range(size):
            made.append(await asyncio.open_connection("127.0.0.1", port))
            if rng.random() < 0.5:
                made[-1][1].write(speech.said(0)[: rng.randrange(1, 200)])
        await asyncio.sleep(rng.uniform(0.5, 2.0))
    finally:
        for _, writer in made:
            writer.close()


async def _say(port: int, octets: bytes) -> None:
    """Say it, and wait for the end of the connection."""
    reader, writer = await asyncio.open_connection("127.0.0.1", port)
    try:
        writer.write(octets)
        while await reader.read(1 << 16):
            continue
    finally:
        writer.close()


async def _stuff(port: int, parts: Iterator[bytes], limit: int) -> None:
    """Send until the other side takes no more for a second, or hangs up; for five seconds at most."""
    reader, writer = await asyncio.open_connection("127.0.0.1", port, limit=limit)
    sent, end = 0, asyncio.get_running_loop().time() + 5.0
    try:
        with suppress(TimeoutError):
            for part in parts:
                writer.write(part)
                sent += len(part)
                async with asyncio.timeout(1.0):
                    await writer.drain()
                await asyncio.sleep(0)
                if sent > MOST or reader.at_eof() or asyncio.get_running_loop().time() > end:
                    return
        await asyncio.sleep(0.5)
    finally:
        reset(writer)


ACTS: dict[str, Act] = {
    act.__name__: act for act in (slow, garbage, another_protocol, mutated, half, dies, never_reads, endless, crowd)
}


async def visit(name: str, speech: Speech, port: int, rng: random.Random, seconds: float = 20.0) -> bool:
    """One act; whether it ended within so many seconds. Being hung up on is an end."""
    with suppress(OSError, asyncio.IncompleteReadError):
        try:
            async with asyncio.timeout(seconds):
                await ACTS[name](speech, port, rng)
        except TimeoutError:
            return False
    return True
