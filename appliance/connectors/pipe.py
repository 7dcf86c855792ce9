"""A message handed to the command of a content filter, which the runner runs: what SmtpSession is for a next hop.

Contract: a session takes one message; `send` gives one result a recipient, the same for all: the command is run once for
them. Content is prepared here as pipe(8) does (From, Return-Path, X-Original-To and Delivered-To on top, marked lines,
line ends), into a file without a name. Where the command's output is the message, `made` has it. Raises ConnectFailed
where nothing could be run, for this message or any other. What failure means for the mail: the runner away, a command
that is not there, killed, or too late: put off; after its start that the message may come twice (`unknown`).
"""

import asyncio
import contextlib
import os
import tempfile
import time
from collections.abc import Callable, Iterable, Iterator
from functools import partial

import msgspec

from appliance.connectors.conversation import NoAnswer
from appliance.connectors.runner import Runner
from appliance.connectors.target import ConnectFailed, Target
from appliance.mail.copied import marked
from appliance.mail.piping import Facts, Whom
from appliance.mail.running import Ended
from appliance.mail.sysexits import judge
from appliance.net.threads import to_the_end
from appliance.protocol.smtp.outgoing import Finished, Kind, Outgoing, Result

#: Seconds, beyond the command's own, in which the runner must answer; octets a second that it may take longer.
MARGIN, RATE = 30.0, 1024 * 1024
#: Content up to this size is prepared in memory, at once.
_SMALL = 128 * 1024
#: Octets of a header that are looked at for where the message was before.
_HEADER = 1 << 20
_LOOP = b"delivered-to"


class Settings(msgspec.Struct, frozen=True, kw_only=True):
    """One filter. `edits`: its output is the message; `final`: what it takes is delivered. `folder`: where files without
    a name may be made."""

    name: str
    program: str
    seconds: float
    eol: bytes = b"\n"
    flags: str = ""
    null_sender: str = ""
    size_limit: int = 0
    edits: bool = False
    final: bool = False
    folder: str = ""


class PipeSession:
    """`nexthop`: what the command calls so; `places`: how many runs of this filter there may be."""

    def __init__(self, settings: Settings, runner: Runner, nexthop: str, places: asyncio.Semaphore) -> None:
        self._settings, self._runner, self._nexthop, self._places = settings, runner, nexthop, places
        self.target = Target(host=settings.name, lmtp=settings.final)
        self.uses, self.alive = 0, True
        #: Who wants to know of a delivery hears of the one behind the filter.
        self.dsn = settings.edits
        #: Why the content could not be read.
        self.content_error: Exception | None = None
        #: The message that the command made of it, line ends as it wrote them.
        self.made: bytes | None = None
        #: Called as the command is about to begin: others had the places until then, and it may be wanted no more.
        self.before: Callable[[], object] = lambda: None

    async def send(self, message: Outgoing, content: bytes | Iterator[bytes]) -> Finished:
        """Run the command. Raises ConnectFailed, and what `before` raises."""
        self.uses, self.alive = 1, False
        async with self._places:
            self.before()
            with contextlib.closing(_Prepared(self._settings, message)) as prepared:
                try:
                    await prepared.fill(content)
                except _Refused as refusal:
                    return _all(message, "failed", refusal.status, str(refusal))
                except OSError as error:
                    why = f"no room for the content: {error.strerror}"
                    return _all(message, "deferred", "4.3.1", why)
                except Exception as error:
                    self.content_error = error
                    return _all(message, "deferred", "4.3.0", f"content cannot be read: {error}")
                return await self._run(message, prepared)

    async def _run(self, message: Outgoing, prepared: "_Prepared") -> Finished:
        settings, name = self._settings, self._settings.name
        seconds = settings.seconds + prepared.size / RATE + MARGIN
        try:
            self._runner.reach()
        except NoAnswer as error:
            raise ConnectFailed(f"filter {name}: {error}", "4.3.0") from error
        facts = _facts(message, self._nexthop, prepared.size)
        try:
            async with (
                asyncio.timeout(seconds),
                self._runner.pipe(name, prepared.fd, prepared.size, facts) as (ended, fd),
            ):
                return await self._ended(message, ended, fd)
        except NoAnswer as error:
            return _all(message, "deferred", "4.3.0", f"filter {name}: {error}", unknown=True)
        except TimeoutError:
            why = f"filter {name}: the runner did not answer within {seconds:.0f} s"
            return _all(message, "deferred", "4.3.0", why, unknown=True)

    async def _ended(self, message: Outgoing, ended: Ended, fd: int) -> Finished:
        settings = self._settings
        if ended.how == "unable":
            raise ConnectFailed(f"filter {settings.name}: {ended.why}", "4.3.5")
        if ended.how == "unfit":
            return _all(message, "failed", "5.1.3", ended.why)
        if ended.how == "late":
            why = f'Command time limit exceeded: "{settings.program}" was killed after {ended.why}'
            return _all(message, "deferred", "4.3.0", why, unknown=True)
        ending = judge(ended.code, ended.output, settings.program)
        if ending.kind == "delivered" and settings.edits:
            made = await to_the_end(partial(_whole, fd))
            if not made.strip():
                why = f'Command ended well and gave no message: "{settings.program}"'
                return _all(message, "deferred", "4.3.0", why)
            self.made = made
        text = ending.text
        if ending.kind == "delivered":
            text = f"delivered via {settings.name} service" + (f" ({text})" if text else "")
        return _all(message, ending.kind, ending.status, text)

    def quit(self) -> None:
        """Nothing is open between messages."""
        self.alive = False


class _Refused(Exception):
    def __init__(self, status: str, text: str) -> None:
        super().__init__(text)
        self.status = status


class _Prepared:
    """The content as the command gets it, in a file without a name."""

    def __init__(self, settings: Settings, message: Outgoing) -> None:
        self._settings, self._message = settings, message
        self.fd, self.size = -1, 0

    async def fill(self, content: bytes | Iterator[bytes]) -> None:
        """Raises _Refused, OSError, and what `content` raises."""
        limit = self._settings.size_limit
        if isinstance(content, bytes) and len(content) <= _SMALL:
            self.fd = os.memfd_create("content", os.MFD_CLOEXEC)
            self._write((content,))
        else:
            with tempfile.TemporaryFile(dir=self._settings.folder or None) as file:
                self.fd = os.dup(file.fileno())
            await to_the_end(partial(self._write, (content,) if isinstance(content, bytes) else content))
        if limit and self.size > limit:
            raise _Refused(
                "5.3.4", f"message size {self.size} exceeds size limit {limit} of service {self._settings.name}"
            )

    def _write(self, pieces: Iterable[bytes]) -> None:
        eol = self._settings.eol
        self._put(self._top().replace(b"\r\n", eol))
        for piece in _line_ends(marked(self._looked_at(pieces), self._settings.flags), eol):
            self._put(piece)

    def _put(self, piece: bytes) -> None:
        self.size += len(piece)
        view = memoryview(piece)
        while view:
            view = view[os.write(self.fd, view) :]

    def _top(self) -> bytes:
        """The fields that the flags ask for, in pipe(8)'s order."""
        flags, whom = self._settings.flags, self._message.recipients[0]
        sender = self._message.sender or self._settings.null_sender
        lines = [f"From {sender}  {time.asctime()}"] if "F" in flags else []
        lines += [f"Return-Path: <{sender}>"] if "R" in flags else []
        lines += [f"X-Original-To: {whom.original or whom.address}"] if "O" in flags else []
        lines += [f"Delivered-To: {whom.address}"] if "D" in flags else []
        return "".join(f"{line}\r\n" for line in lines).encode()

    def _looked_at(self, pieces: Iterable[bytes]) -> Iterator[bytes]:
        """The same pieces; of their header: was the message here before? Raises _Refused."""
        looking, header = "D" in self._settings.flags, b""
        for piece in pieces:
            if looking:
                header += piece
                looking = b"\r\n\r\n" not in header and len(header) < _HEADER
            yield piece
        address = self._message.recipients[0].address
        lines = header.partition(b"\r\n\r\n")[0].lower().split(b"\r\n")
        if any(_delivered_to(line) == address.lower().encode() for line in lines):
            raise _Refused("5.4.6", f"mail forwarding loop for {address}")

    def close(self) -> None:
        if self.fd >= 0:
            os.close(self.fd)
            self.fd = -1


def _delivered_to(line: bytes) -> bytes:
    name, _, value = line.partition(b":")
    return value.strip() if name.strip() == _LOOP else b""


def _line_ends(pieces: Iterable[bytes], eol: bytes) -> Iterator[bytes]:
    """CRLF as `eol`."""
    if eol == b"\r\n":
        yield from pieces
        return
    kept = b""
    for piece in pieces:
        piece = kept + piece
        kept = b"\r" if piece.endswith(b"\r") else b""
        yield piece[: len(piece) - len(kept)].replace(b"\r\n", eol)
    if kept:
        yield kept


def _facts(message: Outgoing, nexthop: str, size: int) -> Facts:
    told = message.xforward
    ident = told.get("IDENT", "")
    return Facts(
        sender=message.sender,
        recipients=tuple(Whom(one.address, one.original) for one in message.recipients),
        queue_id=ident.partition(".")[0],
        ident=ident,
        nexthop=nexthop,
        size=size,
        envid=message.envid,
        client_address=told.get("ADDR", ""),
        client_helo=told.get("HELO", ""),
        client_hostname=told.get("NAME", ""),
        client_port=told.get("PORT", ""),
        client_protocol=told.get("PROTO", ""),
    )


def _all(message: Outgoing, kind: Kind, status: str, text: str, unknown: bool = False) -> Finished:
    """One result for everybody."""
    return Finished(tuple([Result(kind, 0, status, text, unknown=unknown)] * len(message.recipients)), False)


def _whole(fd: int) -> bytes:
    """All that was written, from the start."""
    size, pieces, at = os.fstat(fd).st_size, [], 0
    while at < size and (piece := os.pread(fd, min(1 << 20, size - at), at)):
        pieces.append(piece)
        at += len(piece)
    return b"".join(pieces)
