"""What is owed once a recipient was refused for good, or a message grew too old: a notice to the sender, or hold with
an alarm.

Contract: a recipient is "done" only after its notice is durable in the queue, or nobody wants one (NOTIFY=NEVER). A
notice goes to proven senders alone; for the null sender and for unproven ones the message itself is kept in hold
(backscatter, threats Q4) once nothing else of it is to be tried. Our own notices that cannot be delivered are dropped
and logged: nobody's 250 stands behind them. What failure means for the mail: a notice that is owed and cannot be
queued is tried again, nothing is dropped; one of success is not, which is told.
"""

import re
import time
from collections.abc import Callable, Iterator
from itertools import islice

from appliance.mail import apply, dsn
from appliance.mail.dsn import RecipientReport, Report
from appliance.observe import lines, maillog, metrics, oplog
from appliance.queue.envelope import Origin, QueuedRecipient, Trailer
from appliance.queue.errors import ContentDamaged, SpoolError
from appliance.queue.item import Item, Note, Result
from appliance.queue.spool import Spool

NOTICES = metrics.counter("postgate_notices_total", "Delivery status notices queued", ("action",))
ALARMS = metrics.counter("postgate_undeliverable_held_total", "Messages in hold because no notice may be sent")
DROPPED = metrics.counter("postgate_notices_dropped_total", "Our own notices that could not be delivered")
_REMOTE = re.compile(r"host (\S+?)\[[^\]]*\] said: (.*) \(in reply to .*\)\Z")
_OURS = "notice"
#: How the reason of a message that went to hold with an alarm begins; it is kept with the message.
_UNDELIVERABLE = "undeliverable, and no notice may be sent"
#: Messages in hold that are looked through for status.
_LOOKED_AT = 10_000
log = oplog.get("delivery")


def is_our_notice(trailer: Trailer) -> bool:
    """A DSN of our own making."""
    return trailer.origin.role == _OURS


class Settlement:
    """Pays what is owed. `queued(item)` takes a new message of ours to deliver it."""

    def __init__(
        self, spool: Spool, ids: Iterator[str], hostname: Callable[[], str], queued: Callable[[Item], None]
    ) -> None:
        self._spool, self._ids, self._hostname, self._queued = spool, ids, hostname, queued
        self._again: dict[str, Item] = {}
        self._paying: set[str] = set()

    def settle(self, item: Item) -> None:
        """Call it when a message comes, and when some of its recipients failed."""
        if (
            not (item.failed or item.owes_report)
            or item.folder in ("hold", "quarantine")
            or self._spool.get(item.queue_id) is not item
        ):
            return
        if item.moving or item.queue_id in self._paying:
            self._again[item.queue_id] = item
            return
        if item.owes_report:
            self._expanded(item)
        elif is_our_notice(item.trailer):
            self._drop(item)
        elif told := [index for index in item.failed if item.trailer.answerable(index)]:
            self._notify(item, told)
        elif not item.todo:
            self._alarm(item)

    def retry(self) -> None:
        """Pay what could not be paid before (the disk was full, the message was being moved); call it now and then."""
        for queue_id in list(self._again):
            self.settle(self._again.pop(queue_id))

    @property
    def alarms(self) -> int:
        """Undeliverable messages that wait in hold for an operator, also from before the start."""
        held = islice(self._spool.folders["hold"].values(), _LOOKED_AT)
        return sum(item.reason.startswith(_UNDELIVERABLE) for item in held)

    # ------------------------------------------------------------------ nobody may be told

    def _drop(self, item: Item) -> None:
        DROPPED.inc()
        maillog.log(f"{item.queue_id}: notice could not be delivered: it is dropped", "bounce")
        if self._spool.mark_done(item, item.failed):
            maillog.log(lines.removed(item.queue_id), "qmgr")

    def _alarm(self, item: Item) -> None:
        why = "the sender is not proven" if item.trailer.sender else "the sender is null"
        reason = f"{_UNDELIVERABLE} because {why}: {item.results[item.failed[0]].text}"
        moved = self._spool.hold(item, reason)
        moved.add_done_callback(lambda done: self._held(item, reason, done.exception()))

    def _held(self, item: Item, reason: str, error: BaseException | None) -> None:
        if error is not None:
            self._again[item.queue_id] = item
            why = str(error)
            log.error("an undeliverable message could not be put into hold, it stays", id=item.queue_id, why=why)
            return
        ALARMS.inc()
        maillog.log(f"warning: {item.queue_id}: to hold: {reason}", "qmgr")
        log.warning("an undeliverable message is in hold: postgate queue list --folder hold", id=item.queue_id)

    # ------------------------------------------------------------------ the sender is told

    def _notify(self, item: Item, indexes: list[int]) -> None:
        silent = [i for i in indexes if not dsn.wants(item.trailer.recipients[i].notify, "failed")]
        told = [i for i in indexes if i not in silent]
        if silent:
            self._done(item, silent)
        if told:
            sender = item.trailer.sender_of(told[0])
            those = [index for index in told if item.trailer.sender_of(index) == sender]
            reports = tuple(self._report(item, index) for index in those)
            self._submit(item, sender, reports, lambda: self._paid(item, those))

    def _paid(self, item: Item, indexes: list[int]) -> None:
        """One sender heard of these; others may be owed, too."""
        self._done(item, indexes)
        self.settle(item)

    def _report(self, item: Item, index: int) -> RecipientReport:
        recipient, result = item.trailer.recipients[index], item.results[index]
        found = _REMOTE.match(result.text)
        status = result.dsn if result.dsn.startswith("5.") else f"5{result.dsn[1:]}" if result.dsn else "5.0.0"
        return RecipientReport(
            address=recipient.address,
            action="failed",
            status=status,
            text=result.text,
            orcpt=recipient.orcpt,
            remote=found[1] if found else "",
            reply=found[2] if found else "",
        )

    def _expanded(self, item: Item) -> None:
        """NOTIFY=SUCCESS, and who was named is others now. Until this is queued the message is not finished."""
        reports = tuple(
            RecipientReport(
                address=one.address, action=one.action, status="2.0.0", text="alias expanded", orcpt=one.orcpt
            )
            for one in sorted(item.trailer.expanded, key=lambda one: one.action != "expanded")
        )
        self._submit(item, item.trailer.sender, reports, lambda: self._paid(item, [len(item.trailer.recipients)]))

    def relayed(self, item: Item, indexes: list[int], final: bool, text: str) -> None:
        """NOTIFY=SUCCESS, and who took the message does not send notices itself (RFC 3461 5.2.2)."""
        sender, recipients = item.trailer.sender, item.trailer.recipients
        if not sender or not item.trailer.proven or is_our_notice(item.trailer):
            return
        reports = tuple(
            RecipientReport(
                address=recipients[i].address,
                action="delivered" if final else "relayed",
                status="2.0.0",
                text=text,
                orcpt=recipients[i].orcpt,
            )
            for i in indexes
            if dsn.wants(recipients[i].notify, "relayed")
        )
        if reports:
            self._submit(item, sender, reports, None)

    def _submit(
        self, item: Item, sender: str, reports: tuple[RecipientReport, ...], then: Callable[[], None] | None
    ) -> None:
        """Queue a notice to `sender`. `then` says that it was owed, and pays; until then no other one is begun."""
        notice_id = next(self._ids)
        try:
            octets = self._build(item, sender, reports, notice_id)
        except ContentDamaged as error:
            self._spool.set_aside(item, f"a notice needs its content: {error}")
            if then is not None and self._spool.has(item):  # the disk refused it its place, or it is being moved
                self._again[item.queue_id] = item
            return
        except SpoolError as error:
            self._failed(item, error, owed=then is not None)
            return
        trailer = Trailer(
            queue_id=notice_id,
            received=time.time(),
            sender="",
            recipients=_back(item.trailer, sender),
            size=len(octets),
            origin=Origin(client_address="local", client_name="localhost", role=_OURS),
            body="8BITMIME" if not octets.isascii() else "",
            smtputf8=not all(map(str.isascii, (sender, *item.trailer.told.get(sender, ())))),
        )
        submitted = self._spool.submit(octets, trailer)
        if then is not None:
            self._paying.add(item.queue_id)
        submitted.add_done_callback(
            lambda done: self._submitted(
                item, reports, done.exception(), done.result() if not done.exception() else None, then
            )
        )

    def _build(self, item: Item, sender: str, reports: tuple[RecipientReport, ...], notice_id: str) -> bytes:
        trailer = item.trailer
        with self._spool.open_content(item) as content:
            whole = trailer.ret.upper() != "HDRS" and content.length <= dsn.RETURN_LIMIT and reports[0].action == "failed"
            start = content.whole() if whole else content.read(0, apply.MAX_HEADER)
        return dsn.build(
            Report(
                hostname=self._hostname(),
                queue_id=trailer.queue_id,
                notice_id=notice_id,
                sender=sender,
                received=trailer.received,
                now=time.time(),
                recipients=reports,
                original=start if whole else apply.split(start)[0],
                whole=whole,
                envid=trailer.envid,
                utf8=trailer.smtputf8,
            )
        )

    def _submitted(
        self,
        item: Item,
        reports: tuple[RecipientReport, ...],
        error: BaseException | None,
        notice: Item | None,
        then: Callable[[], None] | None,
    ) -> None:
        if then is not None:
            self._paying.discard(item.queue_id)
        if notice is None:
            self._failed(item, error, owed=then is not None)
            return
        kind = "non-delivery" if reports[0].action == "failed" else "delivery status"
        NOTICES.labels(reports[0].action).inc()
        maillog.log(lines.notified(item.queue_id, kind, notice.queue_id), "bounce")
        try:
            if then is not None:
                then()
        finally:  # it is on disk, whatever becomes of the next one
            self._queued(notice)

    def _failed(self, item: Item, error: BaseException | None, *, owed: bool) -> None:
        """What a report says does not tell whether it was owed: an expanded list is "delivered", too."""
        if owed:
            self._again[item.queue_id] = item
        after = "it is tried again" if owed else "the sender does not hear of it"
        log.error(f"a notice could not be queued, {after}", id=item.queue_id, why=str(error))

    def _done(self, item: Item, indexes: list[int]) -> None:
        """Nothing more is owed to these recipients."""
        if self._spool.get(item.queue_id) is item and self._spool.mark_done(item, indexes):
            maillog.log(lines.removed(item.queue_id), "qmgr")

    def expire(self, item: Item, text: str) -> None:
        """The lifetime is over: who is still to be tried has failed."""
        results = {index: Result("failed", _status(item, index), _why(item, index, text)) for index in item.todo}
        held = not all(map(item.trailer.answerable, item.todo)) and not is_our_notice(item.trailer)
        became = "kept in hold" if held else "returned to sender"
        maillog.log(lines.expired(item.queue_id, item.trailer.sender, became), "qmgr")
        self._spool.record(item, Note(time.time(), "expired", results=results))
        self.settle(item)


def _status(item: Item, index: int) -> str:
    last = item.results.get(index)
    return f"5{last.dsn[1:]}" if last is not None and last.dsn[1:] not in ("", ".0.0") else "5.4.7"


def _why(item: Item, index: int, text: str) -> str:
    last = item.results.get(index)
    return f"{last.text} ({text})" if last is not None and last.text else text


def _back(trailer: Trailer, sender: str) -> tuple[QueuedRecipient, ...]:
    """The sender as a recipient, or whom its alias leads to. RFC 3461 6.2: nobody is told about a notice."""
    told = trailer.told.get(sender) or (sender,)
    return tuple(QueuedRecipient(one, _domain(one), "NEVER", "", sender if one != sender else "") for one in told)


def _domain(address: str) -> str:
    return address.rpartition("@")[2].lower()
