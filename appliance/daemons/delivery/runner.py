"""One connection to a destination and the messages that go over it, one after the other.

Contract: a runner is one task for the life of its connection; `give` hands it the next job while it is idle. Every
job given comes back to the schedule exactly once. An error of ours defers the message and is logged with its trace.
What failure means for the mail: it stays in the queue; content that turns out damaged is set aside and reported.
"""

import asyncio
import time
from collections.abc import Iterator
from typing import TYPE_CHECKING, Literal

from appliance.connectors.fixed import FixedSession
from appliance.connectors.pipe import PipeSession
from appliance.connectors.session import SmtpSession
from appliance.connectors.target import ConnectFailed
from appliance.daemons.delivery.leaving import left
from appliance.daemons.delivery.parts import octets, parts
from appliance.daemons.delivery.results import Trip
from appliance.daemons.delivery.routing import Destination
from appliance.daemons.delivery.way import NoWay, Session, service
from appliance.mail import apply
from appliance.observe import oplog, trouble
from appliance.protocol.errors import Unavailable
from appliance.protocol.smtp.outgoing import Result, is_confused, is_unheard
from appliance.queue.content import Content
from appliance.queue.envelope import Trailer
from appliance.queue.errors import ContentDamaged, SpoolError
from appliance.queue.item import Item
from appliance.queue.outgoing import estimate, outgoing
from appliance.queue.schedule import Job

if TYPE_CHECKING:
    from appliance.daemons.delivery.dispatch import Dispatch

#: Recipients of one transaction (Postfix: default_destination_recipient_limit 50; RFC 5321 promises 100).
MOST_RECIPIENTS = 100
MOST_USES = 100
IDLE = 4.0
log = oplog.get("delivery")

Back = Literal["finished", "put off", "site failed"]


class _Unsendable(Exception):
    """The envelope cannot be written as commands: this is not what the gateway queued."""


class _Withdrawn(Exception):
    """The message was held, deleted, requeued or set aside before this part of it began."""


class Runner:
    """`idle` runners wait for `give`; `destination` is theirs for life."""

    def __init__(self, dispatch: "Dispatch", destination: Destination) -> None:
        self._dispatch, self.destination = dispatch, destination
        self._session: Session | None = None
        self._job: Job | None = None
        self._under_way: Job | None = None
        self._wake: asyncio.Future[None] | None = None
        self._connecting = 0.0
        self._retired = False

    # ------------------------------------------------------------------ its life

    def give(self, job: Job) -> None:
        """The next message; only while idle."""
        self._job = job
        if self._wake is not None and not self._wake.done():
            self._wake.set_result(None)

    def retire(self) -> None:
        """End after the message that is under way: its place is wanted, or the destination's settings have changed."""
        self._retired = True
        self._dispatch.unlist(self)
        self.stop()

    def stop(self) -> None:
        """End when idle."""
        if self._wake is not None and not self._wake.done():
            self._wake.set_result(None)

    async def run(self) -> None:
        """Until nothing was given for IDLE seconds."""
        loop = asyncio.get_running_loop()
        try:
            while self._job is not None:
                job, self._job = self._job, None
                await self._deliver(job)
                if self._retired:
                    break
                self._dispatch.idle(self)
                if self._job is None and not (self._retired or self._dispatch.draining):
                    self._wake = loop.create_future()
                    closer = loop.call_later(IDLE, self.stop)
                    await self._wake
                    closer.cancel()
                    self._wake = None
        finally:
            self._dispatch.ended(self)
            if self._session is not None:
                self._session.quit()

    async def _deliver(self, job: Job) -> None:
        """One job, back to the schedule whatever happens."""
        dispatch, self._under_way = self._dispatch, job
        item = dispatch.spool.get(job.queue_id)
        try:
            back = await self._outcome(job, item)
        except asyncio.CancelledError:
            dispatch.schedule.put_off(job, time.monotonic(), 0.0)
            raise
        except Exception:
            log.exception("a delivery failed by an error of ours, it is tried again", id=job.queue_id)
            self._drop_session()
            back = "put off"
        if back == "put off":
            dispatch.put_off(job, item)
        elif back == "site failed" and item is not None:
            dispatch.site_failed(job, item)
        else:
            dispatch.finished(job)

    async def _outcome(self, job: Job, item: Item | None) -> Back:
        """How the job goes back."""
        dispatch = self._dispatch
        try:
            while item is not None and item.moving:  # noqa: ASYNC110 (milliseconds, rare, and no event for it)
                await asyncio.sleep(0.02)
            indexes = dispatch.indexes(item, job.destination) if item is not None else []
            if item is not None and indexes and await self._attempt(item, indexes):
                return "put off"
        except NoWay as error:
            assert item is not None
            return self._no_way(job, item, error)
        except (ContentDamaged, _Unsendable) as error:
            assert item is not None
            if not dispatch.set_aside(item, str(error)):
                return "put off"
        except _Withdrawn:
            self._drop_session()  # it may be with another place than the first
        return "finished"

    def _no_way(self, job: Job, item: Item, error: NoWay) -> Back:
        dispatch = self._dispatch
        connecting = time.monotonic() - self._connecting
        trip = Trip((*dispatch.waited(item, self._connecting), connecting, 0.0), error.relay, "")
        dispatch.hops.not_reached(self.destination, item, error, connecting)
        dispatch.filtering.failed(self.destination, item, str(error), connecting)
        indexes = dispatch.indexes(item, job.destination)
        again = dispatch.results.no_way(item, indexes, str(error), error.status, error.final, trip)
        return "site failed" if again else "finished"

    # ------------------------------------------------------------------ one message

    async def _attempt(self, item: Item, indexes: list[int]) -> bool:
        """Send to all of `indexes`, 100 at a time. True if some must be tried again. Raises NoWay."""
        again = False
        for part in parts(item.trailer, indexes, self.destination.recipients or MOST_RECIPIENTS):
            again = await self._send(item, part) or again
            if self._dispatch.spool.get(item.queue_id) is not item:
                return False  # finished, or set aside
        return again

    async def _send(self, item: Item, indexes: list[int]) -> bool:
        """One transaction; where the first place puts recipients off, one more place is tried for them."""
        begun = time.monotonic()
        self._connecting = begun
        try:
            trailer = await self._left(item, indexes)
        except Unavailable as error:
            return self._stays(item, indexes, error, begun)
        session = await self._ready_session()
        answers, trip = await self._transact(session, item, trailer, indexes, begun)
        if session.uses > 1 and is_unheard(answers):
            self._drop_session()
            session = await self._ready_session()
            answers, trip = await self._transact(session, item, trailer, indexes, begun)
        if isinstance(session.content_error, ContentDamaged):
            return not self._dispatch.set_aside(item, str(session.content_error))
        again = self._dispatch.results.delivered(item, indexes, answers, trip)
        if again and len(self.destination.hops) > 1:
            return await self._elsewhere(session, item, trailer, indexes, answers, trip)
        self._tell(session, item, answers, trip)
        return again

    async def _left(self, item: Item, indexes: list[int]) -> Trailer:
        """The message as it leaves. Raises Unavailable."""
        generic = self._dispatch.routing.generic(self.destination)
        if generic is None:
            return item.trailer.sent_to(indexes[0])
        try:
            return await left(generic, self._dispatch.spool, item, indexes)
        except SpoolError:
            self._still_wanted()  # else its content is gone with it
            raise

    def _stays(self, item: Item, indexes: list[int], error: Unavailable, begun: float) -> bool:
        """As what it leaves is not known: it is tried again."""
        trouble.tables.note(f"table {error.table or 'of generic maps'}", str(error), item.queue_id)
        trip = Trip((*self._dispatch.waited(item, begun), 0.0, 0.0), "none", "")
        answers = [Result("deferred", 0, "4.3.0", str(error))] * len(indexes)
        return self._dispatch.results.delivered(item, indexes, answers, trip)

    async def _elsewhere(
        self, session: Session, item: Item, trailer: Trailer, indexes: list[int], answers: list[Result], trip: Trip
    ) -> bool:
        """The recipients that were put off, once more at the next place; an unknown outcome is not doubled at once."""
        rest = [i for i, answer in zip(indexes, answers, strict=True) if answer.kind == "deferred" and not answer.unknown]
        tried = frozenset({str(session.target)})
        self._drop_session()
        if not rest or self._dispatch.spool.get(item.queue_id) is not item:
            self._tell(session, item, answers, trip)
            return True
        begun = self._connecting = time.monotonic()
        try:
            self._session = await self._dispatch.ways.open(self.destination, tried)
        except NoWay:
            self._tell(session, item, answers, trip)
            return True
        other, trip = await self._transact(self._session, item, trailer, rest, begun)
        self._tell(self._session, item, other, trip)
        self._dispatch.results.delivered(item, rest, other, trip)
        self._drop_session()  # the next message begins with the first place again
        return any(index in item.todo for index in indexes)

    async def _ready_session(self) -> Session:
        session = self._session
        if session is not None and session.alive and session.uses < MOST_USES:
            return session
        self._drop_session()
        self._session = await self._dispatch.ways.open(self.destination)
        return self._session

    def _drop_session(self) -> None:
        if self._session is not None:
            self._session.quit()
            self._session = None

    async def _transact(
        self, session: Session, item: Item, trailer: Trailer, indexes: list[int], begun: float
    ) -> tuple[list[Result], Trip]:
        connected = time.monotonic()
        content: Content | None = None
        self._still_wanted()
        try:
            data: bytes | Iterator[bytes]
            if item.content is not None:
                data = apply.whole(item.content, trailer.edits) if trailer.edits else item.content
            else:
                content = self._dispatch.spool.open_content(item)
                data = octets(content, trailer)
            size = len(data) if isinstance(data, bytes) else estimate(trailer)
            message = outgoing(trailer, indexes, size, filtering=self.destination.filtering)
            if isinstance(session, PipeSession):
                session.before = self._still_wanted
            finished = await session.send(message, data)
        except ConnectFailed as error:
            raise NoWay(str(error), error.status) from error
        except ValueError as error:
            raise _Unsendable(str(error)) from error
        finally:
            if content is not None:
                content.close()
        now = time.monotonic()
        answers = list(finished.results)
        if self.destination.filtering and isinstance(session, SmtpSession):
            answers = [answer._replace(kind="deferred") if is_confused(answer) else answer for answer in answers]
        elif isinstance(session, PipeSession) and session.made is not None:
            self._still_wanted()
            answers = await self._dispatch.filtering.goes_on(self.destination, item, indexes, session.made, answers)
        trip = Trip(
            (*self._dispatch.waited(item, begun), connected - begun, now - connected),
            str(session.target),
            session.target.peer,
            session.uses,
            session.target.lmtp,
            session.dsn,
            service(session),
            finished.remarks,
        )
        return answers, trip

    def _still_wanted(self) -> None:
        """What begins now must not begin for a message that an operator took away meanwhile. Raises _Withdrawn."""
        if self._under_way is None or self._under_way.state == "gone":
            raise _Withdrawn

    def _tell(self, session: Session, item: Item, answers: list[Result], trip: Trip) -> None:
        """Status shows how a destination fares. Content that could not be read says nothing of it."""
        if session.content_error is None and not isinstance(session, FixedSession):
            seconds = sum(trip.delays[2:])
            self._dispatch.hops.answered(self.destination, item, answers, session.target.peer, seconds)
            self._dispatch.filtering.answered(self.destination, item, answers, seconds)
