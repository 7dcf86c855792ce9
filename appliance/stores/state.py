"""What `stated` knows: greylist, token buckets, client counts, the call-ahead cache, senders; one method an ask.

Contract: every ask is answered at once, from RAM where it can be, else with one short database read; nothing here waits
for a disk write. An ask that fails inside costs itself only ({"error": text}); the others of its frame are answered.
`open` of each connection is what that worker's clients hold: when the worker goes, its counts go (`gone`).
What failure means for the mail: an error answer is Unavailable in the worker: outcome `temperror`, never pass or fail.
"""

import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import msgspec

from appliance.mail.network import network
from appliance.mail.ports import Probe
from appliance.stores import strangers, wire
from appliance.stores.clock import STEP, SavedClock, SteadyClock
from appliance.stores.embedded import Database
from appliance.stores.keeper import Keeper
from appliance.stores.rates import Buckets, Clients
from appliance.stores.senders import Senders
from appliance.stores.shelf import Shelf
from appliance.stores.steps import Steps

#: How long a client's network counts as known-good after its last accepted message, and how exact that is (seconds).
GOOD, GOOD_TOUCH = 36 * 86400.0, 3600.0

#: Open connections of one worker by client address.
Open = dict[str, int]


class Good(msgspec.Struct, frozen=True, array_like=True, gc=False):
    """Mail of this network was accepted: the last time."""

    last: float


class State:
    """See the module's head. `monotonic` drives rates and counts; the steady clock drives what is stored."""

    def __init__(
        self, path: Path, clock: SteadyClock | None = None, monotonic: Callable[[], float] = time.monotonic
    ) -> None:
        self.database = Database(path, ("triplet", "origin", "pair", "good", "probe", "identity", "first", "waiter"))
        self.database.open()
        self.clock = clock or SteadyClock(self._saved_clock())
        read = self.database.read
        #: What workers may look at.
        self.board = strangers.board()
        self.steps = Steps(read, self.board)
        self.triplets, self.origins, self.pairs = self.steps.triplets, self.steps.origins, self.steps.pairs
        self.good = Shelf("good", Good, read)
        self.probes = Shelf("probe", Probe, read)
        self.senders = Senders(read, self.clock, self._is_good)
        shelves = (self.triplets, self.origins, self.pairs, self.good, self.probes)
        self.shelves: tuple[Shelf[Any], ...] = (*shelves, *self.senders.shelves)
        self.keeper = Keeper(self.database, self.shelves, self.clock)
        self.buckets, self.clients = Buckets(), Clients()
        self.monotonic = monotonic
        self.asks = 0
        self.outcomes = self.steps.outcomes
        self._offset = self.clock.offset
        self._methods: Mapping[type, Callable[[Any, Open], Any]] = {
            wire.Take: lambda ask, _: self.buckets.take(ask.asks, self.monotonic()),
            wire.Charge: self._charge,
            wire.Connect: self._connect,
            wire.Disconnect: self._disconnect,
            wire.Messages: lambda a, _: self.clients.messages(a.address, a.cost, self.monotonic(), a.period),
            wire.Named: lambda a, _: self.clients.recipients(a.address, a.cost, self.monotonic(), a.period),
            wire.Accepted: self._accepted,
            wire.Report: self._report,
            wire.ProbeGet: lambda ask, _: self._probe(ask.key),
            wire.ProbePut: self._put_probe,
            wire.List: self._list,
            wire.Delete: self._delete,
            wire.PassGreylist: lambda ask, _: self.steps.let_pass(ask, self.clock.now()),
            wire.Facts: lambda _, __: self.health(),
            **self.senders.methods,
        }

    def _saved_clock(self) -> SavedClock | None:
        try:
            raw = self.database.meta()
            return msgspec.msgpack.decode(raw, type=SavedClock) if raw else None
        except (msgspec.DecodeError, msgspec.ValidationError):
            return None

    def answer(self, asks: Sequence[wire.Ask], opened: Open) -> list[Any]:
        """One answer for each ask, in order."""
        answers: list[Any] = []
        count = len(asks)
        step, told, offset, now = self.steps.step, self.steps.told, self._offset, self.clock.now()
        for ask in asks:
            try:
                kind = type(ask)
                if kind is wire.Strangers:
                    count += len(ask.recipients) - 1  # type: ignore[union-attr]
                    answers.append(told(ask, now))  # type: ignore[arg-type]
                elif kind is wire.Step:
                    answers.append(step(ask, now, offset))  # type: ignore[arg-type]
                else:
                    answers.append(self._methods[kind](ask, opened))
            except Exception as error:  # one broken ask must not cost the frame
                answers.append({"error": f"{type(ask).__name__}: {type(error).__name__}: {error}"})
        self.asks += count
        self.keeper.changed(count)
        return answers

    def gone(self, opened: Open) -> None:
        """A worker's connection is closed: take back its counts."""
        for address, count in opened.items():
            self.clients.disconnect(address, count)
        opened.clear()

    def _charge(self, ask: wire.Charge, _: Open) -> None:
        now = self.monotonic()
        for key in ask.keys:
            self.buckets.charge(key, ask.cost, now)

    def _connect(self, ask: wire.Connect, opened: Open) -> Sequence[Any]:
        opened[ask.address] = opened.get(ask.address, 0) + 1
        counts = self.clients.connect(ask.address, self.monotonic(), ask.period)
        return *counts, self._is_good(ask.address)

    def _is_good(self, address: str) -> bool:
        good = self.good.get(network(address))
        return good is not None and good.last + GOOD >= self.clock.now()

    def _disconnect(self, ask: wire.Disconnect, opened: Open) -> None:
        count = opened.get(ask.address, 0)
        if count:
            self.clients.disconnect(ask.address)
            if count == 1:
                del opened[ask.address]
            else:
                opened[ask.address] = count - 1

    def _report(self, ask: wire.Report, opened: Open) -> None:
        self.gone(opened)
        for address, count in ask.open.items():
            opened[address] = count
            self.clients.adopt(address, count, self.monotonic())

    def _accepted(self, ask: wire.Accepted, _: Open) -> None:
        key, now = network(ask.address), self.clock.now()
        known = self.good.get(key)
        if known is None or now - known.last > GOOD_TOUCH:
            self.good.put(key, Good(now), now + GOOD)

    def _probe(self, key: str) -> Sequence[Any] | None:
        probe = self.probes.get(key)
        return None if probe is None else (probe.state, probe.reply, probe.at + self._offset, probe.source)

    def _put_probe(self, ask: wire.ProbePut, _: Open) -> None:
        now = self.clock.now()
        self.probes.put(ask.key, Probe(ask.state, ask.reply, now, ask.source), now + ask.keep)

    def _shelf(self, kind: str) -> Shelf[Any]:
        return next(shelf for shelf in self.shelves if shelf.table == kind)

    def _list(self, ask: wire.List, _: Open) -> Sequence[Any]:
        """A page in key order from the database (what is new since a fraction of a second may be missing), each record as
        the RAM has it where it does."""
        shelf = self._shelf(ask.kind)
        page = self.database.walk(shelf.table, ask.after, max(1, min(ask.count, 1000)))
        hot = shelf.hot.get
        found = [
            (key, hot(key) or shelf.decode(raw), expires + self._offset) for key, raw, expires in page if ask.match in key
        ]
        return [row for row in found if row[1] is not None], page[-1][0] if page else "", self._offset

    def _delete(self, ask: wire.Delete, _: Open) -> bool:
        shelf = self._shelf(ask.kind)
        there = shelf.get(ask.key) is not None
        shelf.delete(ask.key)
        return there

    def refresh(self) -> None:
        """Once a second: what is shown to people follows the wall clock."""
        self._offset = self.clock.offset

    def health(self) -> dict[str, Any]:
        """Facts for `postgate status`."""
        degraded = [text for text in (self.database.trouble, self.database.lost) if text]
        if abs(self._offset) > STEP:
            degraded.append(f"wall clock and greylist clock differ by {self._offset:.0f} s: the wall clock was set")
        dropped = sum(shelf.dropped for shelf in self.shelves)
        if dropped:
            degraded.append(f"{dropped} changes of state were forgotten: the disk took none for too long")
        return {
            "in_memory": {shelf.table: len(shelf.hot) for shelf in self.shelves},
            "buckets": len(self.buckets),
            "clients": len(self.clients),
            "connections": self.clients.total,
            "unwritten": self.keeper.lag,
            "write_lag_seconds": round(self.keeper.lag_seconds, 3),
            "asks": self.asks,
            "greylist": dict(self.outcomes),
            "degraded": degraded,
        }
