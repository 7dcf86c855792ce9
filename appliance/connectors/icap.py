"""An ICAP service as a scanner: RESPMOD or REQMOD of the message, and of each part, as if a web server had sent it.

Contract: OPTIONS are asked before the first content and again when their time is over; previews as the service wants
them; the connection is kept. Answers are read while the content is sent: a service may answer early. A new ISTag ends
what is remembered. What failure means for the mail: no answer, and any answer that is not exactly ICAP's, is `error`; a
service that answers "clean" without having taken all of the content, but for its preview, has not scanned it.
"""

import asyncio
import socket
from collections.abc import Hashable, Iterator
from typing import Literal

import msgspec

from appliance.connectors.conversation import BURST, NoAnswer, Progress, Server
from appliance.connectors.kept import Kept
from appliance.connectors.source import Source
from appliance.mail.context import Context
from appliance.mail.scan import ScanKind, ScanResult
from appliance.protocol import icap, icap_found
from appliance.protocol.errors import ProtocolError

KIND = "icap"
#: No limit of our own.
DEFAULT_LIMIT = 0
_READ = 65536
#: A blocked page without a name is told as this name, so that antivirus.toml can say what it means.
BLOCKED = "ICAP.Blocked"
BLIND = "it was not there when c-icap started: start c-icap again behind it"
_KINDS: dict[str, ScanKind] = {
    "clean": "clean",
    "virus": "infected",
    "blocked": "infected",
    "policy": "suspicious",
    "changed": "suspicious",
    "container": "unscannable",
}


class Options(msgspec.Struct, frozen=True):
    """`service`: what stands behind the host in the URL."""

    service: str = "avscan"
    method: Literal["respmod", "reqmod"] = "respmod"


class Icap:
    """connectors.dialects.Dialect."""

    limit = DEFAULT_LIMIT
    takes_parts = True

    def __init__(self, name: str, settings: Options) -> None:
        self._name, self._settings = name, settings
        self._method = icap.RESPMOD if settings.method == "respmod" else icap.REQMOD
        self._kept = Kept()
        self._options: dict[Server, tuple[float, icap.Options]] = {}
        #: ISTags, and since when.
        self._tags: dict[Server, tuple[str, float]] = {}

    def key(self, source: Source, ctx: Context) -> Hashable:
        """The content, and the state of the services (ISTag)."""
        return source.mail, source.digest, tuple(sorted(tag for tag, _ in self._tags.values()))

    async def ask(self, server: Server, source: Source, ctx: Context, progress: Progress) -> ScanResult:
        """Raises NoAnswer, ProtocolError, Unavailable."""
        clock = asyncio.get_running_loop().time
        began, options = clock(), await self._ask_options(server, progress)

        async def use(sock: socket.socket) -> tuple[icap.Answer, bool]:
            return await self._content(sock, server, source, ctx, options, progress)

        answer = await self._kept.ask(server, progress, use)
        if answer.code >= 500:  # c-icap's virus_scan says 500 while its clamd is away
            raise NoAnswer(f"the service answered {answer.code} {answer.reason}")
        if icap_found.blind(answer):
            raise NoAnswer(f"the service has no antivirus engine ({BLIND})")
        tag = answer.head.get("istag").strip('"')
        if answer.code in (404, 405) or (tag and tag != options.tag):
            self._options.pop(server, None)
        found, (known, since) = result(icap_found.found(answer), self._name), self._tags.get(server, ("", 0.0))
        if (tag := tag or options.tag) != known:
            if began < since:  # it was asked before the tag that is known was heard of: what it says is not known
                return msgspec.structs.replace(found, lasting=False)
            self._tags[server] = tag, clock()
        return found

    async def _ask_options(self, server: Server, progress: Progress) -> icap.Options:
        """What the service can do, as it was said within its time, or now. Raises NoAnswer, ProtocolError."""
        now = asyncio.get_running_loop().time()
        until, known = self._options.get(server, (0.0, None))
        if known is not None and until > now:
            return known

        async def use(sock: socket.socket) -> tuple[icap.Answer, bool]:
            reader = icap.AnswerReader(_READ)
            progress.phase = "asking OPTIONS of"
            await _send(sock, iter((icap.options(_host(server), self._settings.service),)))
            if not await _read(sock, reader, asyncio.Event()):
                raise NoAnswer("hung up without an answer")
            answer = reader.end()
            return answer, answer.reusable

        found = icap.parse_options(await self._kept.ask(server, progress, use))
        if self._method not in found.methods:
            offered = ", ".join(sorted(found.methods))
            raise ProtocolError(f"the service does not offer {self._method} but {offered[:100]!r}")
        self._options[server] = now + found.ttl, found
        return found

    async def _content(
        self,
        sock: socket.socket,
        server: Server,
        source: Source,
        ctx: Context,
        options: icap.Options,
        progress: Progress,
    ) -> tuple[icap.Answer, bool]:
        kind, name = ("message/rfc822", "mail.eml") if source.mail else ("application/octet-stream", "part.bin")
        about = (("X-Client-IP", ctx.client.address),) if ctx.client.address != "local" else ()
        envelope = icap.Envelope(_host(server), self._settings.service, name, kind, about)
        start = icap.head(self._method, envelope, source.size, options.preview)
        question = icap.Question(start, source.pieces(), source.size, options.preview)
        reader = icap.AnswerReader(source.size + icap.MORE)
        await _converse(sock, question, reader, progress)
        answer = reader.end(question.digest())
        # It needs no more than the preview, says 204; a content that came back cannot be the one that it did not ask for.
        shown = question.shown and not reader.go_on and answer.unchanged is None
        if not question.whole and not shown and icap_found.found(answer).kind == "clean":
            progress.broken = progress.broken or "the rest was not sent"
        return answer, answer.reusable and question.whole and not progress.broken

    def close(self) -> None:
        self._kept.close()


async def _converse(sock: socket.socket, question: icap.Question, reader: icap.AnswerReader, progress: Progress) -> None:
    """Send and read at the same time, until the answer is complete or the stream ends. Raises NoAnswer, ProtocolError,
    and whatever the content's pieces raise."""
    loop, told = asyncio.get_running_loop(), asyncio.Event()
    reading = loop.create_task(_read(sock, reader, told))
    sending = loop.create_task(_say(sock, question, reader, told, progress))
    try:
        await asyncio.wait((reading, sending), return_when=asyncio.FIRST_COMPLETED)
        if sending.done():
            sending.result()
        heard = await reading
    finally:
        for task in (reading, sending):
            task.cancel()
        await asyncio.gather(reading, sending, return_exceptions=True)
    if not heard:
        raise NoAnswer(f"hung up without an answer{f' ({progress.broken})' if progress.broken else ''}")


async def _say(
    sock: socket.socket, question: icap.Question, reader: icap.AnswerReader, told: asyncio.Event, progress: Progress
) -> None:
    """The question; its rest if the service wants it."""
    progress.phase = "sending to"
    progress.broken = await _send(sock, question.first())
    if question.waits and not progress.broken:
        progress.phase = "waiting for word on the preview of"
        await told.wait()
        if not reader.go_on:
            return
        progress.phase = "sending to"
        progress.broken = await _send(sock, question.rest())
    if not progress.broken:  # else that is where it ended, though an answer may be there still
        progress.phase = "waiting for the answer of"


async def _send(sock: socket.socket, pieces: Iterator[bytes]) -> str:
    """Send everything; why that ended early, or ""."""
    loop, sent = asyncio.get_running_loop(), 0
    for piece in pieces:
        try:
            await loop.sock_sendall(sock, piece)
        except OSError as error:
            return error.strerror or str(error)
        sent += len(piece)
        if sent >= BURST:
            sent = 0
            await asyncio.sleep(0)
    return ""


async def _read(sock: socket.socket, reader: icap.AnswerReader, told: asyncio.Event) -> bool:
    """Feed `reader` until it is complete, or the stream ends; whether anything came. `told`: the service said something
    about the preview, or will say nothing any more."""
    loop, heard = asyncio.get_running_loop(), False
    try:
        while not reader.complete:
            try:
                data = await loop.sock_recv(sock, _READ)
            except OSError as error:
                if not heard:
                    raise NoAnswer(f"hung up: {error.strerror or error}") from error
                raise ProtocolError(f"hung up in its answer: {error.strerror or error}") from error
            if not data:
                break
            heard = True
            reader.feed(data)
            if reader.go_on:
                told.set()
    finally:
        told.set()
    return heard


def result(found: icap_found.Found, name: str) -> ScanResult:
    """An answer in our words."""
    kind = _KINDS[found.kind]
    if kind == "clean":
        return ScanResult(kind="clean", scanner=name)
    names = (BLOCKED,) if found.kind == "blocked" else found.names if kind == "infected" else ()
    words = {"changed": "the service gave another content back", "blocked": f"blocked: {', '.join(found.names)}"}
    why = words[found.kind] if found.kind in words else f"{found.kind}: {', '.join(found.names)}"
    return ScanResult(kind=kind, scanner=name, names=names, why=why)


def _host(server: Server) -> str:
    return "localhost" if server.path else str(server)
