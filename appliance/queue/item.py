"""What delivery knows of one queued message, and the records that change it.

Contract: an Item is built from an entry (all recipients to do) or from an entry and its state log; only Spool changes
its place. `results` holds a Result for each recipient that had one; a recipient without one, or with "todo", is to do.
Behind the last recipient stands whether the sender was told who is others now (Trailer.expanded).
"""

from typing import Literal

import msgspec

from appliance.queue.envelope import Trailer

Folder = Literal["intake", "deferred", "hold", "quarantine"]
Kept = Literal["deferred", "hold", "quarantine"]
#: "todo": to be tried (again), "done": nothing is owed any more, "failed": refused for good, a DSN or an act is owed.
Status = Literal["todo", "done", "failed"]


class Result(msgspec.Struct, frozen=True, array_like=True, gc=False):
    """What became of one recipient last: enhanced status code and the text for log and DSN."""

    status: Status
    dsn: str = ""
    text: str = ""


class Note(msgspec.Struct, frozen=True, omit_defaults=True):
    """One record of a state log: what happened to a message. Fields that are None or empty change nothing.

    `at` and `next_try` are wall-clock seconds; `act` is what was done ("deferred", "hold", "release", "requeue", ...),
    `attempts` the new count, `results` the recipients (by index) that changed.
    """

    at: float
    act: str
    reason: str | None = None
    attempts: int | None = None
    next_try: float | None = None
    born: float | None = None
    results: dict[int, Result] = {}


class Item(msgspec.Struct, gc=False, eq=False):
    """One message in the queue.

    `born` is spool time (queue.clock) from which the lifetime counts; `arrived` and `next_try` are wall-clock seconds.
    `content` is there while it is small and fresh; else `Spool.open_content` reads it. `moving`: leave it alone.
    `name` and `offset`: the file in `folder` and where the entry begins; `state_octets`: length of the state log now,
    `state_base`: when it was written whole.
    """

    trailer: Trailer
    folder: Folder
    name: str
    offset: int
    born: float
    content: bytes | None = None
    results: dict[int, Result] = {}
    attempts: int = 0
    next_try: float = 0.0
    reason: str = ""
    act: str = ""
    moving: bool = False
    state_octets: int = 0
    state_base: int = 0

    @property
    def queue_id(self) -> str:
        return self.trailer.queue_id

    @property
    def arrived(self) -> float:
        return self.trailer.received

    @property
    def todo(self) -> list[int]:
        """Indexes of the recipients that are still to be tried."""
        count = len(self.trailer.recipients)
        if not self.results:
            return list(range(count))
        return [i for i in range(count) if i not in self.results or self.results[i].status == "todo"]

    @property
    def failed(self) -> list[int]:
        """Indexes of the recipients that were refused for good and for whom something is owed."""
        return [i for i, result in self.results.items() if result.status == "failed"]

    @property
    def owes_report(self) -> bool:
        """Is the sender still to be told who of his recipients is others now?"""
        trailer = self.trailer
        return bool(
            trailer.expanded and trailer.sender and trailer.proven and len(trailer.recipients) not in self.results
        )

    @property
    def finished(self) -> bool:
        """True if nothing is owed to any recipient, nor of them to the sender."""
        count, results = len(self.trailer.recipients), self.results
        if len(results) < count or self.owes_report:
            return False
        return all(i in results and results[i].status == "done" for i in range(count))

    def apply(self, note: Note) -> None:
        """Take over what `note` says."""
        self.act = note.act
        self.results.update(note.results)
        if note.reason is not None:
            self.reason = note.reason
        if note.attempts is not None:
            self.attempts = note.attempts
        if note.next_try is not None:
            self.next_try = note.next_try
        if note.born is not None:
            self.born = note.born

    def take_back(self, note: Note, before: Note) -> None:
        """What `note` said did not come about: it is again as `before` says, but for results that came meanwhile."""
        said = {i: old for i, old in before.results.items() if self.results.get(i) is note.results.get(i, old)}
        self.apply(msgspec.structs.replace(before, results=said))

    def summary(self, at: float) -> Note:
        """One note that says all that the notes so far said."""
        return Note(at, self.act, self.reason, self.attempts, self.next_try, self.born, dict(self.results))
