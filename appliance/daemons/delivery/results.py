"""What a delivery brought, recipient by recipient: into the log, the queue's records, and to whoever is owed a
notice.

Contract: the record is made before anything else happens to the message, but for the notice of a success, which needs its
content; a recipient that the server took is marked done at once, so that a crash can repeat only what was under way. What
failure means for the mail: a record that cannot be written means at worst a second copy.
"""

import time
from collections.abc import Callable, Sequence
from typing import NamedTuple

from appliance.daemons.delivery.settle import Settlement
from appliance.observe import lines, maillog, metrics, oplog
from appliance.protocol.smtp.outgoing import Result as Answer
from appliance.protocol.smtp.outgoing import worded
from appliance.queue.item import Item, Note, Result
from appliance.queue.spool import Spool

DELIVERIES = metrics.counter("postgate_deliveries_total", "Outcomes of deliveries, one a recipient", ("status",))
UNKNOWN = metrics.counter("postgate_deliveries_unknown_total", "Messages whose last answer was lost: sent once more")
_SENT = DELIVERIES.labels("sent")
_DEFERRED = DELIVERIES.labels("deferred")
_BOUNCED = DELIVERIES.labels("bounced")
log = oplog.get("delivery")


class Trip(NamedTuple):
    """One attempt as the log tells it. `delays`: seconds before the queue, in it, connecting, sending. `dsn`: the
    server sends notices itself. `service`: who logs it, if neither smtp nor lmtp. `remarks`: what was refused besides."""

    delays: tuple[float, float, float, float]
    relay: str
    peer: str
    uses: int = 1
    lmtp: bool = False
    dsn: bool = False
    service: str = ""
    remarks: tuple[Answer, ...] = ()

    @property
    def logs_as(self) -> str:
        """The service in the log."""
        return self.service or ("lmtp" if self.lmtp else "smtp")


class Results:
    """`soft_bounce()`: treat 5xx as 4xx (an operator is testing)."""

    def __init__(self, spool: Spool, settlement: Settlement, soft_bounce: Callable[[], bool]) -> None:
        self._spool, self._settlement, self._soft_bounce = spool, settlement, soft_bounce

    def delivered(self, item: Item, indexes: Sequence[int], answers: Sequence[Answer], trip: Trip) -> bool:
        """Record the answers for these recipients. True if some of them must be tried again."""
        for remark in trip.remarks:
            maillog.log(f"warning: {item.queue_id}: {worded(remark, trip.peer)}", trip.logs_as)
        if len(answers) == len(item.trailer.recipients) and all(answer.kind == "delivered" for answer in answers):
            return self._all_sent(item, indexes, answers, trip)
        results: dict[int, Result] = {}
        for index, answer in zip(indexes, answers, strict=True):
            results[index] = self._one(item, index, answer, trip)
        # Before the record: with the last recipient of a message its content goes, which a notice returns the header of.
        self._success_notices(item, [i for i in results if results[i].status == "done"], trip)
        self._record(item, results)
        return any(result.status == "todo" for result in results.values())

    def _all_sent(self, item: Item, indexes: Sequence[int], answers: Sequence[Answer], trip: Trip) -> bool:
        for index, answer in zip(indexes, answers, strict=True):
            self._log(item, index, answer.enhanced or "2.0.0", "sent", answer.text, trip)
        _SENT.inc(len(answers))
        self._success_notices(item, indexes, trip)
        if self._spool.mark_done(item):
            self._removed(item)
        return False

    def _one(self, item: Item, index: int, answer: Answer, trip: Trip) -> Result:
        """Log one recipient's answer and say what it means."""
        text = worded(answer, trip.peer)
        if answer.kind == "delivered":
            _SENT.inc()
            self._log(item, index, answer.enhanced or "2.0.0", "sent", answer.text, trip)
            return Result("done", answer.enhanced or "2.0.0", answer.text)
        if answer.kind == "failed" and not self._soft_bounce():
            status = answer.enhanced or "5.0.0"
            _BOUNCED.inc()
            self._log(item, index, status, "bounced", text, trip)
            return Result("failed", status, text)
        status = f"4{answer.enhanced[1:]}" if answer.enhanced else "4.0.0"
        _DEFERRED.inc()
        if answer.unknown:
            UNKNOWN.inc()
        self._log(item, index, status, "deferred", text, trip)
        return Result("todo", status, text)

    def no_way(self, item: Item, indexes: Sequence[int], text: str, status: str, final: bool, trip: Trip) -> bool:
        """Nobody was reached. True if it is to be tried again."""
        failed = final and not self._soft_bounce()
        results = {}
        for index in indexes:
            self._log(item, index, status, "bounced" if failed else "deferred", text, trip)
            results[index] = Result("failed" if failed else "todo", status, text)
        (_BOUNCED if failed else _DEFERRED).inc(len(indexes))
        self._record(item, results)
        return not failed

    def _record(self, item: Item, results: dict[int, Result]) -> None:
        waits = next((r.text for r in results.values() if r.status != "done"), None)
        # Since this delivery began, or on its way there: why it is held stays its reason.
        held = item.folder in ("hold", "quarantine") or (item.moving and item.act in ("hold", "quarantine"))
        note = Note(
            time.time(),
            item.act if held else "deferred" if waits is not None else "delivered",
            reason=None if held else waits,
            attempts=item.attempts + 1 if waits is not None else None,
            results=results,
        )
        if self._spool.record(item, note):
            self._removed(item)
        elif item.failed:
            self._settlement.settle(item)

    def _removed(self, item: Item) -> None:
        maillog.log(lines.removed(item.queue_id), "qmgr")

    def _log(self, item: Item, index: int, dsn: str, status: str, text: str, trip: Trip) -> None:
        recipient = item.trailer.recipients[index]
        line = lines.delivered(
            item.queue_id,
            recipient.address,
            relay=trip.relay,
            delays=trip.delays,
            dsn=dsn,
            status=status,
            text=text,
            original=recipient.original,
            uses=trip.uses,
        )
        maillog.log(line, trip.logs_as)

    def _success_notices(self, item: Item, indexes: Sequence[int], trip: Trip) -> None:
        recipients = item.trailer.recipients
        if not trip.dsn and any(recipients[index].notify for index in indexes):
            try:
                self._settlement.relayed(item, list(indexes), trip.lmtp, _told(trip))
            except Exception:  # what was taken is recorded all the same, else it would be sent again and again
                log.exception("a notice of success failed by an error of ours", id=item.queue_id)


def _told(trip: Trip) -> str:
    """What a sender who wanted to know hears of a success."""
    if trip.service == "pipe":
        return f"delivered via {trip.relay} service"
    return "delivered" if trip.service else "handed to its mail server, which sends no such notices"
