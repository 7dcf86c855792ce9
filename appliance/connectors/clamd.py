"""clamd as a scanner: mail goes over INSTREAM, each message on a connection of its own.

Contract: a message begins with a Received line, else clamd would not read it as mail and not look into its parts (threats
C7); a part is sent as it is. What failure means for the mail: any answer that is not exactly clamd's is kind `error`;
content above StreamMaxLength is `oversize`, which is not clean.
"""

import asyncio
from collections.abc import Hashable, Iterator

from appliance.connectors.conversation import NoAnswer, Progress, Question, Server, ask
from appliance.connectors.source import Source
from appliance.mail.context import Context
from appliance.mail.ports import Unavailable
from appliance.mail.scan import ScanResult
from appliance.protocol import clamd
from appliance.protocol.errors import ProtocolError

KIND = "clamd"
#: Octets that are sent to a clamd whose limit is not known yet: no limit of our own.
DEFAULT_LIMIT = 0
MEGABYTE = 1024 * 1024
#: What is asked for where we take mail of any size.
MOST = clamd.MAX_CHUNK
_LIKE_MAIL = b"received:"


def key(source: Source, ctx: Context) -> Hashable:
    """Content alone decides what is found in it, and whether it is read as mail."""
    return source.mail, source.digest


def question(source: Source, ctx: Context) -> Question[clamd.Answer]:
    """Raises Unavailable if the content does not begin as mail."""
    head = source.octets[: len(_LIKE_MAIL)] or next(source.pieces())[: len(_LIKE_MAIL)]
    if source.mail and head.lower() != _LIKE_MAIL:
        raise Unavailable("the content does not begin with a Received field, clamd would not read it as mail")
    pieces = clamd.stream(source.pieces())
    if source.octets:  # one packet instead of three
        pieces = iter((b"".join(pieces),))
    return Question(pieces, clamd.ReplyReader())


def result(answer: clamd.Answer, name: str) -> ScanResult:
    """An answer in our words."""
    if answer.kind == "clean":
        return ScanResult(kind="clean", scanner=name)
    if answer.kind == "found":
        return ScanResult(kind="infected", scanner=name, names=(answer.text,), why=answer.text)
    if answer.kind == "limit":
        return ScanResult(kind="oversize", scanner=name, why="over StreamMaxLength of clamd")
    return ScanResult(kind="error", scanner=name, why=f"clamd answered: {answer.text}")


async def stream_limit(server: Server, wanted: int) -> int:
    """StreamMaxLength of this clamd, or 0 if it takes at least `wanted` octets. Raises NoAnswer, ProtocolError.

    It cannot be asked for, but a chunk that is announced with too large a length is refused before any of it is sent.
    Whole megabytes are tried first: few questions, because clamd logs a warning for each refusal.
    """
    if await _takes(server, wanted):
        return 0
    low = await _search(server, 0, -(-wanted // MEGABYTE), MEGABYTE)
    if not await _takes(server, low + 1):
        return low
    return await _search(server, low + 1, min(low + MEGABYTE, wanted), 1)


async def _search(server: Server, low: int, high: int, unit: int) -> int:
    """The largest multiple of `unit` that is taken; `low` is, `high` units are not (for unit 1: both are lengths)."""
    low //= unit
    while high - low > 1:
        middle = (low + high) // 2
        if await _takes(server, middle * unit):
            low = middle
        else:
            high = middle
    return low * unit


async def version(server: Server) -> str:
    """What clamd says of itself and its signatures. Raises NoAnswer, ProtocolError."""
    reader = _AnyReply()
    try:
        async with asyncio.timeout(10.0):
            await ask(server, Question(iter((clamd.VERSION,)), reader), Progress())
    except TimeoutError:
        raise NoAnswer("no answer within 10 s") from None
    return reader.data.partition(b"\0")[0].decode("utf-8", "replace")


class _AnyReply:
    """What comes until clamd hangs up; nothing if it waited for the chunk."""

    complete = False

    def __init__(self) -> None:
        self.data = b""

    def feed(self, data: bytes) -> None:
        self.data += data
        if len(self.data) > clamd.MAX_REPLY:
            raise ProtocolError("clamd's answer is too long")

    def end(self) -> bytes:
        return self.data


async def _takes(server: Server, length: int) -> bool:
    """Whether clamd takes a chunk of this length. Raises NoAnswer, ProtocolError."""
    if length > clamd.MAX_CHUNK:
        return True
    pieces: Iterator[bytes] = iter((clamd.START + clamd.announce(length),))
    reader = _AnyReply()
    try:
        async with asyncio.timeout(10.0):
            await ask(server, Question(pieces, reader, half_close=True), Progress())
    except NoAnswer as error:
        if str(error) == "hung up without an answer":
            return True
        raise
    except TimeoutError:
        raise NoAnswer("no answer within 10 s") from None
    answer = clamd.parse(reader.data.partition(b"\0")[0])
    if answer.kind != "limit":
        raise ProtocolError(f"clamd answered {answer.text or answer.kind!r} to an announced length")
    return False
