"""The worker's side of the queue: messages go into granted files and are synced before anyone answers 250.

Contract: `commit` and `LargeFile.commit` return when the entry is on disk (fdatasync returned) or raise SpoolFull (452)
or SpoolError (451); after an error nothing of the message is ever delivered. All commits that wait share one pwritev and
one fdatasync in one thread. Rotation, handshake with a new delivery process and every crash point: docs/queue.md.
What failure means for the mail: a failed write or sync gives up the file at its last good end; its waiting clients
are told to try again; the next commit goes to the next file. Without delivery it goes on until its files are used up.
"""

import asyncio
import os
from collections import deque
from collections.abc import Callable, Iterable
from typing import Any, NamedTuple, Protocol

from msgspec import Raw

from appliance.observe import maillog
from appliance.queue.entry import HEADER, encode_entry
from appliance.queue.envelope import Committed, Grant, Returned, Sealed, Trailer, Want
from appliance.queue.errors import SpoolError, SpoolFull, from_oserror
from appliance.queue.large import LargeFile
from appliance.queue.pool import GRANT_WAIT, LargePool
from appliance.queue.segment import Segment, write_synced
from appliance.queue.space import Space, space
from appliance.queue.writer import Writer

SPARE_SEGMENTS = 1
#: One writev: at most IOV_MAX (1024) buffers, three an entry; and not so much that a sync takes long.
BATCH_ENTRIES = 256
BATCH_OCTETS = 8 * 1024 * 1024
#: Seconds between two batches while at least COMPANY more messages are under way: many then share one sync and one
#: thread's turn. A sender that waits for each answer before it goes on is never held up.
GATHER = 0.008
COMPANY = 1


class NoticeChannel(Protocol):
    """Where notices go: net.channel.Channel. Raises ConnectionError when the peer is gone."""

    def send(self, value: Any, fds: tuple[int, ...] = ()) -> None: ...

    def send_many(self, values: Iterable[Any]) -> None: ...


class _Waiting(NamedTuple):
    content: bytes
    trailer: Trailer
    future: "asyncio.Future[None]"


class IntakeLog:
    """One a worker. Feed it `on_grant`; tell it `disconnected` when the channel closes, `resend` when a new one is there.

    `channel` None: not connected yet. Belongs to the running event loop.
    """

    def __init__(self, channel: NoticeChannel | None, worker: str) -> None:
        self.worker = worker
        self._loop = asyncio.get_running_loop()
        self._segments = Writer(f"{worker} intake", self._loop.call_soon_threadsafe)
        self._large = Writer(f"{worker} large", self._loop.call_soon_threadsafe)
        self._channel: NoticeChannel | None = None
        self._current: Segment | None = None
        self._spares: deque[Segment] = deque()
        self._pool = LargePool()
        self._pending: deque[_Waiting] = deque()
        self._writing = self._give_back = False
        self._begun = 0.0
        #: How many messages are under way in this worker, those that wait here among them.
        self.company: Callable[[], int] = lambda: 0
        self._asked = self._pool.asked = 0
        self._unsent: list[tuple[Committed | Sealed | Returned, int]] = []
        self._starving: asyncio.TimerHandle | None = None
        if channel is not None:
            self.resend(channel)

    # ------------------------------------------------------------------ commit

    def commit(self, content: bytes, trailer: Trailer) -> "asyncio.Future[None]":
        """Await it: the entry is on disk, or SpoolFull / SpoolError. A caller that goes away does not stop the commit
        (then the message is delivered although nobody was told: an unknown outcome, as after a lost 250)."""
        future = self._loop.create_future()
        self._pending.append(_Waiting(content, trailer, future))
        if not self._writing and (len(self._pending) == 1 or not self._company_comes()):
            self._soon()
        return future

    def _company_comes(self) -> bool:
        return self.company() - len(self._pending) >= COMPANY

    def _soon(self) -> None:
        """Begin the next batch: at once, unless the last one has only just begun and others are on their way."""
        wait = self._begun + GATHER - self._loop.time()
        if wait > 0 and self._company_comes():
            self._loop.call_later(wait, self._flush)
        else:
            self._loop.call_soon(self._flush)

    def _flush(self) -> None:
        """Hand all that waits, within the bounds of a batch, to the writer thread."""
        if self._writing or not self._pending:
            return
        file = self._file()
        if file is None:
            self._starve()
            return
        batch: list[_Waiting] = []
        buffers: list[bytes] = []
        room = BATCH_OCTETS
        while self._pending and len(batch) < BATCH_ENTRIES and room > 0:
            waiting = self._pending.popleft()
            buffers += encode_entry(waiting.content, waiting.trailer, file.salt)
            room -= len(waiting.content)
            batch.append(waiting)
        self._writing = True
        self._begun = self._loop.time()
        self._segments.run(
            lambda: write_synced(file.fd, buffers, file.end),
            lambda result: self._written(file, batch, buffers, result),
        )

    def _file(self) -> Segment | None:
        if self._current is None and self._spares:
            self._current = self._spares.popleft()
            self._want()
        return self._current

    def _written(self, file: Segment, batch: list[_Waiting], buffers: list[bytes], result: Exception | None) -> None:
        self._writing = False
        if result is None:
            self._announce(file, batch, buffers)
        else:
            self._retire()
            error = from_oserror(result) if isinstance(result, OSError) else SpoolError(str(result))
            _fail(batch, error)
        if self._give_back or file.full:
            self._retire()
        if self._pending:
            self._soon()

    def _announce(self, file: Segment, batch: list[_Waiting], buffers: list[bytes]) -> None:
        notices: list[Committed] = []
        for (content, _, future), packed in zip(batch, buffers[2::3], strict=True):
            start = file.end
            file.end = start + HEADER + len(content) + len(packed)
            if not future.done():
                future.set_result(None)
            notices.append(Committed(file.name, start, Raw(packed), content, file.end))
        maillog.flush()  # what we logged of these messages stands before what delivery logs of them
        self._tell_all(notices)
        file.entries += len(batch)

    def _retire(self) -> None:
        """Nothing more goes into the current segment."""
        file, self._current, self._give_back = self._current, None, False
        if file is not None:
            self._tell(Sealed(file.name, file.end) if file.end else Returned(file.name), file.fd)

    def _starve(self) -> None:
        """No file: a living delivery has a moment to grant one; without it the clients are told now."""
        if self._channel is None:
            self._fail_pending()
        elif self._starving is None:
            self._want()
            self._starving = self._loop.call_later(GRANT_WAIT, self._fail_pending)

    def _fail_pending(self) -> None:
        self._starving = None
        waiting, self._pending = list(self._pending), deque()
        _fail(waiting, SpoolFull("no granted intake file is left"))

    # ------------------------------------------------------------------ large files

    def large(self) -> LargeFile | None:
        """A file of its own for one message, or None: `large_soon` gets one as soon as delivery grants it."""
        file = self._pool.take()
        self._want()
        return file

    def large_soon(self) -> "asyncio.Future[LargeFile]":
        """Await it: the next file that is free, or SpoolFull (452) when there is none for some time. Cancel it if it is
        not wanted any more."""
        future = self._pool.soon()
        self._want()
        return future

    def _large_end(self, file: LargeFile, notices: list[Committed | Sealed | Returned]) -> None:
        """A large file is committed (Committed, Sealed), given up (Returned), or was never written to (nothing)."""
        if not notices:
            self._pool.free(file)
        for notice in notices[:-1]:
            self._tell(notice)
        if notices:
            self._tell(notices[-1], file.fd)
            self._want()

    # ------------------------------------------------------------------ delivery

    def on_grant(self, grant: Grant, fd: int) -> None:
        """A granted file; `fd` is ours from now on."""
        if grant.purpose == "large":
            self._pool.granted(LargeFile(grant.name, fd, self._large, self._large_end))
            return
        self._asked = max(0, self._asked - 1)
        self._spares.append(Segment(grant.name, fd))
        if self._starving is not None:
            self._starving.cancel()
            self._starving = None
        self._flush()

    def disconnected(self) -> None:
        """The channel is closed: notices are kept, work goes on with the files that are here."""
        self._channel = None
        self._asked = self._pool.asked = 0
        if self._starving is not None:
            self._starving.cancel()
            self._fail_pending()

    def resend(self, channel: NoticeChannel) -> None:
        """A new delivery process: tell it our name, what it missed, and give back every file of the old one: it scans
        what is sealed. A segment that is being synced follows when the sync is over, a large draft when its message
        ends."""
        self._channel = channel
        unsent, self._unsent = self._unsent, []
        self._tell(Want(self.worker))
        for notice, fd in unsent:
            self._tell(notice, fd)
        self._return_unused()
        self._give_back = self._writing
        if not self._writing:
            self._retire()
        self._asked = self._pool.asked = 0
        self._want()

    def _return_unused(self) -> None:
        unused: list[Segment | LargeFile] = [*self._spares, *self._pool.idle]
        self._spares.clear()
        self._pool.idle.clear()
        for file in unused:
            self._tell(Returned(file.name), file.fd)

    def _want(self) -> None:
        if self._channel is None:
            return
        segment = max(0, SPARE_SEGMENTS + (self._current is None) - len(self._spares) - self._asked)
        large = self._pool.missing()
        if not segment and not large:
            return
        self._asked += segment
        self._tell(Want(self.worker, segment, large))

    def _tell(self, notice: Want | Committed | Sealed | Returned, fd: int = -1) -> None:
        """Send; `fd`, the file that ends with this notice, is closed (this frees its lock) only when the notice is
        out."""
        try:
            if self._channel is None:
                raise ConnectionError("not connected")
            self._channel.send(notice)
        except ConnectionError:
            self._channel = None
            if fd >= 0 and not isinstance(notice, Want):
                self._unsent.append((notice, fd))
            return
        if fd >= 0:
            os.close(fd)

    def _tell_all(self, notices: list[Committed]) -> None:
        """What is not heard is found by a scan."""
        if self._channel is not None:
            try:
                self._channel.send_many(notices)
            except ConnectionError:
                self._channel = None

    # ------------------------------------------------------------------ state

    def room(self) -> Space | None:
        """Free space of the spool, or None if no file is left (both: 452 at MAIL). Costs one system call."""
        file = self._current or (self._spares[0] if self._spares else None)
        return None if file is None else space(file.fd)

    def close(self) -> None:
        """The worker ends: after the last commit returned. Gives all files back; blocks until the threads are idle."""
        self._segments.close()
        self._large.close()
        if not self._writing:  # else its end is not known here: delivery scans it when this process is gone
            self._retire()
        self._return_unused()


def _fail(batch: list[_Waiting], error: SpoolError) -> None:
    for waiting in batch:
        if not waiting.future.done():
            waiting.future.set_exception(error)
