"""The queue as delivery sees it: every accepted message is one Item in one folder; all its moves go through here.

Contract: belongs to one thread (delivery's loop); what syncs runs in one lane of its own and comes back through `post`.
Methods that give batches (recover, sealed, recheck) are to be run to their end with a turn of the loop between batches.
docs/queue.md lists all files, states and crash points.
What failure means for the mail: an error leaves the message where it was; SpoolLocked at start means that another
instance owns the spool.
"""

import os
from collections.abc import Callable, Iterator
from concurrent.futures import Future
from heapq import nsmallest
from pathlib import Path

from appliance.queue import content, home, recovery, statelog
from appliance.queue.books import Books
from appliance.queue.clock import SpoolClock
from appliance.queue.content import Content
from appliance.queue.envelope import Committed, Grant, Returned, Sealed, Trailer
from appliance.queue.errors import SpoolError, from_oserror
from appliance.queue.granted import Granted, Purpose
from appliance.queue.item import Item, Kept, Note, Result
from appliance.queue.kept import Job, KeptEntries, Source
from appliance.queue.space import Space, space
from appliance.queue.writer import Writer, promised

Batches = Iterator[list[Item]]


class Spool(Books):
    """Open it once. `post(function, *args)` brings results of the lane to the owner's thread (call_soon_threadsafe);
    `report(text)` takes what an operator must know. Raises SpoolLocked or SpoolError."""

    def __init__(
        self, root: Path, post: Callable[..., object], report: Callable[[str], object], clock: SpoolClock | None = None
    ) -> None:
        super().__init__()
        self.root, self.report = root, report
        self._lock = home.own(root)
        self.clock = clock or SpoolClock(root / "clock")
        self._lane = Writer("spool", post)
        self.granted = Granted(root / "intake", self._lane)
        self.kept = KeptEntries(root, self._lane)
        self.damaged = 0
        self._late: set[str] = set()
        self._damaged: dict[str, str] = {}
        self.granted.refill()

    # ------------------------------------------------------------------ intake

    def grant(self, purpose: Purpose, worker: str) -> tuple[Grant, int]:
        """A new intake file for `worker`; send both, then close the descriptor. Raises SpoolFull or SpoolError."""
        try:
            granted = self.granted.grant(purpose, worker)
        except OSError as error:
            raise from_oserror(error) from error
        self.granted.refill()
        return granted

    def committed(self, notice: Committed) -> Item | None:
        """The message of this notice; None if it is known already (found by a scan) or cannot be taken (its id
        is none, or is in use: set aside and reported)."""
        if not self.granted.committed(notice):
            return None
        trailer = recovery.announced(self, notice)
        if trailer is None:
            return None
        return self.add(Item(trailer, "intake", notice.name, notice.offset, self.clock.now()), notice.content)

    def sealed(self, notice: Sealed) -> Batches:
        """The file is finished; gives the messages that no notice told of (none, unless a connection broke)."""
        try:
            file = self.granted.seal(notice.name, notice.end)
        except OSError as error:
            self.report(f"{notice.name}: its end could not be recorded: {error}")
            file = None
        return recovery.scan(self, file) if file is not None else iter(())

    def returned(self, notice: Returned) -> None:
        """The file is not needed: it is deleted."""
        try:
            self.granted.returned(notice.name)
        except OSError as error:
            self.report(f"{notice.name} could not be deleted: {error}")

    def gone(self, worker: str) -> None:
        """A connection of `worker` is closed (also if it has a new one already: what it holds is never scanned). Then
        call `recheck`, and about every second from then on."""
        self.granted.gone(worker)

    def recheck(self) -> Batches:
        """The messages in files whose worker died, which no notice told of, and what could not be read before."""
        return recovery.recheck(self)

    def recover(self) -> Batches:
        """At start: all messages, those of the intake first. Batches may be empty. Raises SpoolError: call it again."""
        return recovery.recover(self)

    # ------------------------------------------------------------------ results

    def mark_done(self, item: Item, indexes: list[int] | None = None) -> bool:
        """These recipients (None: all) need nothing more. True if the message is finished: it is gone from the queue."""
        every = range(len(item.trailer.recipients))
        results = {index: Result("done") for index in (every if indexes is None else indexes)}
        return self.record(item, Note(self.clock.wall(), "done", results=results))

    def record(self, item: Item, note: Note, sync: bool = False) -> bool:
        """Take over `note`; written unsynced unless `sync` (of an entry still in the intake only "done" is written: after
        a crash the rest is tried again). True if the message is finished and gone. A note that cannot be written is
        reported: the worst of it is that something is tried again. Of a message that is gone meanwhile nothing is."""
        if not self.has(item):
            return False
        item.apply(note)
        if item.moving:
            self._late.add(item.queue_id)
            return False
        return self._write_down(item, note, sync)

    def _write_down(self, item: Item, note: Note, sync: bool) -> bool:
        if item.finished:
            self._finish(item)
            return True
        try:
            self._write_note(item, note, sync)
        except OSError as error:
            self.report(f"{item.queue_id}: a result could not be recorded: {error}")
        return False

    def _write_note(self, item: Item, note: Note, sync: bool) -> None:
        if item.folder == "intake":
            done = [index for index, result in note.results.items() if result.status == "done"]
            if done and not self.granted.done(item.name, item.offset, done):
                raise OSError("the mark file could not be written")
            return
        self.kept.append(item, item.folder, note, sync)
        if item.state_octets > max(statelog.COMPACT, 2 * item.state_base):
            self.keep(item, item.folder, note)

    def _finish(self, item: Item) -> None:
        self.forget(item)
        try:
            if item.folder != "intake":
                self.kept.finish(item, item.folder, item.summary(self.clock.wall()))
            elif not self.granted.close_entry(item.name, item.offset):
                raise OSError("the mark file could not be written")
        except OSError as error:
            self.report(f"{item.queue_id} is finished but could not be removed, a restart may repeat it: {error}")

    def remove(self, item: Item) -> None:
        """An operator's delete, or the end of a message that nobody is told of: it is gone. Log it first."""
        if not self.has(item):
            return
        item.results = {index: Result("done") for index in range(len(item.trailer.recipients) + 1)}
        if item.moving:
            self._late.add(item.queue_id)
        else:
            self._finish(item)

    # ------------------------------------------------------------------ moves

    def keep(self, item: Item, folder: Kept, note: Note) -> "Future[None]":
        """Move a message into a file of its own in `folder`, with its state, durably; `note` says why. Until the
        future is done `item.moving` is set: do not try it. The future fails with SpoolError: then it stays where it
        is."""
        future = promised()
        if item.moving or not self.has(item):
            why = "is being moved already" if item.moving else "is not queued any more"
            future.set_exception(SpoolError(f"{item.queue_id} {why}"))
            return future
        before = item.summary(note.at)
        item.apply(note)
        item.moving = True
        state = statelog.render(item, note)

        def settle(error: SpoolError | None) -> None:
            if error is not None:
                item.take_back(note, before)
            self._moved(item, folder, state, future, error)

        self.kept.put(Job(item, folder, state, self._source(item), settle))
        return future

    def _source(self, item: Item) -> Source | None:
        """Where the lane takes the entry from; None: from its place in one of our folders."""
        if item.folder != "intake":
            return None
        path = self.granted.folder / item.name
        return Source(path, item.offset, link=item.name.endswith(".big"))

    def _moved(self, item: Item, folder: Kept, state: bytes, future: "Future[None]", error: SpoolError | None) -> None:
        item.moving = False
        if error is None:
            self.forget(item)
            old, item.folder = item.folder, folder
            if old == "intake" and not self.granted.close_entry(item.name, item.offset):
                self.report(f"{item.queue_id}: its mark could not be written, start-up finds it by its id")
            item.name, item.offset = item.queue_id, 0
            item.state_octets = item.state_base = len(state)
            self.add(item)
        if item.queue_id in self._late:  # what happened meanwhile is in the item, not yet on disk
            self._late.discard(item.queue_id)
            self._write_down(item, item.summary(self.clock.wall()), False)
        if (why := self._damaged.pop(item.queue_id, "")) and self.has(item):
            self.set_aside(item, why)
        if error is None:
            future.set_result(None)
        else:
            future.set_exception(error)

    def submit(self, data: bytes, trailer: Trailer, folder: Kept = "deferred") -> "Future[Item]":
        """Queue a message of our own (a DSN): done when it is durable. Its id must be new."""
        future = promised()
        item = Item(trailer, folder, trailer.queue_id, 0, self.clock.now())

        def settle(error: SpoolError | None) -> None:
            if error is not None:
                future.set_exception(error)
            else:
                future.set_result(self.add(item))

        self.kept.create(item, folder, data, settle)
        return future

    def hold(self, item: Item, reason: str) -> "Future[None]":
        """Park it until an operator acts."""
        return self.keep(item, "hold", Note(self.clock.wall(), "hold", reason))

    def release(self, item: Item) -> "Future[None]":
        """Out of hold or quarantine: to be tried at once, its lifetime begins anew."""
        now = self.clock.wall()
        again = {index: Result("todo") for index in item.failed}
        return self.keep(item, "deferred", Note(now, "release", "", next_try=now, born=self.clock.now(), results=again))

    def requeue(self, item: Item) -> "Future[None]":
        """As if it had just come in: attempts, lifetime and refusals are forgotten, done recipients stay done."""
        now = self.clock.wall()
        again = {index: Result("todo") for index, result in item.results.items() if result.status != "done"}
        note = Note(now, "requeue", "", attempts=0, next_try=now, born=self.clock.now(), results=again)
        return self.keep(item, "deferred", note)

    # ------------------------------------------------------------------ reading and upkeep

    def run(self, work: Callable[[], object], done: Callable[[Exception | None], object]) -> None:
        """(recovery) Do `work` in the lane, then `done(error or None)` here."""
        self._lane.run(work, lambda result: done(result if isinstance(result, Exception) else None))

    def open_content(self, item: Item) -> Content:
        """The content; close it. Raises ContentDamaged (then `set_aside`) or SpoolError."""
        if item.content is not None:
            return Content(item.content)
        return content.open_entry(self.root / item.folder / item.name, item.offset, self._lane.let_go)

    def set_aside(self, item: Item, why: str) -> None:
        """Damaged content: into corrupt/ with the reason, no longer queued; what is being moved follows behind that.
        Several deliveries of one message may find it."""
        if item.moving:
            self._damaged[item.queue_id] = why
        elif self.has(item):
            recovery.set_item_aside(self, item, why)

    def lingering(self, seconds: float) -> list[Item]:
        """Messages that are in the intake for longer: `keep(item, "deferred", ...)` them, so that segments can go."""
        found = []
        for item in self.folders["intake"].values():
            if self.clock.age(item.born) < seconds:
                break
            if not item.moving:
                found.append(item)
        return found

    def overdue_quarantine(self, max_age: float, max_octets: int, most: int = 1000) -> list[Item]:
        """What retention removes, oldest first: older than `max_age` seconds, or beyond `max_octets` in all; 0: never.
        `most` at a time: sorting 100,000 would take too long."""
        items = nsmallest(most, self.folders["quarantine"].values(), key=lambda item: item.born)
        total, found = self.octets["quarantine"], []
        for item in items:
            too_old = 0 < max_age < self.clock.age(item.born)
            if not too_old and not 0 < max_octets < total:
                break
            total -= item.trailer.size
            found.append(item)
        return found

    def space(self) -> Space:
        """Free space of the spool. Raises OSError."""
        return space(self.root)

    def idle(self) -> "Future[None]":
        """Done when all that was handed to the lane by now is done and its results were taken here."""
        return self._lane.idle()

    def close(self) -> None:
        """Finish the lane (blocks), remember the time, let go of the lock. To be called where everything else of the
        spool is: descriptors that two threads close would be another file's by the second time."""
        self._lane.close()
        self.granted.close()
        self.clock.save()
        os.close(self._lock)
