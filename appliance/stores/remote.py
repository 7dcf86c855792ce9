"""The workers' end of `stated`: greylist steps, token buckets, client counts, the call-ahead cache.

Contract: asks of one turn of the loop, and of the next ones while more come (TURNS at most: what one wake-up brings is
often read in several), go in one frame; each has its own answer. One frame is under way at a time:
what is asked meanwhile goes together behind its answer, so that under load a wake-up of either side serves many asks, and
a lone ask waits for nobody. A step of a stranger to the greylist is told, not asked (stores.strangers). An ask raises
Unavailable at once while `stated` is away, after DEADLINE seconds if it hangs (the connection is then given up), and if
`stated` could not do it. The client reconnects by itself with jitter and reports the connections that are open in this
worker.
What failure means for the mail: Unavailable becomes `temperror` of the check that asked; connection limits do not hold.
"""

import asyncio
import contextlib
import os
from collections.abc import Sequence
from typing import Any, cast

import msgspec

from appliance.mail.greylisting import GreylistAnswer, GreylistAsk, first_attempt
from appliance.mail.network import network
from appliance.mail.ports import Probe, RateAsk, Unavailable
from appliance.mail.promise import Promise
from appliance.net.lifeline import Lifeline
from appliance.observe import oplog
from appliance.stores import strangers, wire
from appliance.stores.rates import AskedRate, ClientLimits, Counts, over
from appliance.stores.strangers import Group, News

log = oplog.get("stated")
DEADLINE = 1.0
#: Seconds that what needs no answer waits for company.
LINGER = 0.02
#: Turns of the loop for which asks gather at most.
TURNS = 3
#: Seconds that a stranger waits for company (stores.strangers).
LINGER_NEWS = 0.005

Waiting = list[asyncio.Future[Any] | Promise[Any] | None]


class StateClient(Lifeline):
    """One a worker. start() once the loop runs; close() at the end. Implements Greylist and StrangersAtSight of
    mail.greylisting and Rates of mail.ports."""

    takes_fds = True

    def __init__(self, path: str, loop: asyncio.AbstractEventLoop | None = None) -> None:
        super().__init__(path, loop)
        self._news = News(lambda message: self._post(message, None, LINGER_NEWS), self._flush)
        self._sequence = 0
        self._batch: list[msgspec.Struct] = []
        self._batch_waiting: Waiting = []
        #: Somebody waits for an answer to what is in the batch: it is to go soon.
        self._urgent = False
        #: When the batch would have gone, had no frame been under way; 0.0: it does not wait for that.
        self._held = 0.0
        #: The frame that is under way: its number, when it is late, who waits for its answers.
        self._frame: tuple[int, float, Waiting] | None = None
        self._open: dict[str, int] = {}

    # -- the connection ------------------------------------------------------------------------------------------

    def close(self) -> None:
        """Give everything up; what needs no answer is told before: a stranger has his already."""
        if self._batch and self._channel is not None and self.ready:
            with contextlib.suppress(ConnectionError):
                self._channel.send_raw(self._encoded(self._sequence + 1, self._batch, self._batch_waiting))
        super().close()

    def health(self) -> dict[str, Any]:
        """Facts for `postgate status`."""
        degraded = [] if self.ready else [f"stated does not answer: {self.why}; greylist and rates do not hold"]
        return {"ready": self.ready, "failures": self.failures, "why": self.why, "degraded": degraded}

    def _abandon(self, why: str) -> None:
        waiting = [*(self._frame[2] if self._frame is not None else ()), *self._batch_waiting]
        self._frame = None
        self._batch, self._batch_waiting = [], []
        self._urgent, self._held = False, 0.0
        self._news.lost()
        for future in waiting:
            if future is not None and not future.done():
                future.set_exception(Unavailable(f"stated: {why}"))

    def _on_frame(self, payload: bytes, fds: list[int]) -> None:
        try:
            sequence, answers = wire.decode_answers(payload)
        except (msgspec.DecodeError, msgspec.ValidationError):
            self._lose("unreadable answer")
            return
        self.contact.answered()
        if sequence == 0:
            self._greeted(answers, fds)
        elif (frame := self._frame) is not None and frame[0] == sequence and len(frame[2]) == len(answers):
            self._frame = None
            self._news.heard()
            for future, answer in zip(frame[2], answers, strict=True):
                if future is not None and not future.done():
                    future.set_result(answer)
            if self._held:
                self._loop.call_soon(self._gather, 0, 0)
        else:
            self._lose("answer out of order")

    def _greeted(self, answers: list[Any], fds: list[int]) -> None:
        memory = strangers.look(fds[0]) if fds else None
        for fd in fds:
            os.close(fd)
        if answers != [wire.HELLO]:
            self._lose("another version of stated")
            return
        if self._channel is not None:
            self._channel.takes_no_more_fds()
        self._welcome()
        self._news.see(memory)
        if self._open:
            self._post(wire.Report(dict(self._open)), None)
        for message in self._news.again():
            self._post(message, None)

    # -- asks ----------------------------------------------------------------------------------------------------

    def _post(
        self, ask: msgspec.Struct, future: asyncio.Future[Any] | Promise[Any] | None, linger: float = LINGER
    ) -> None:
        if future is not None:
            if not self._urgent:
                self._urgent = True
                self._loop.call_soon(self._gather, 0, 0)
        elif not self._batch:
            self._loop.call_later(linger, self._flush)
        self._batch.append(ask)
        self._batch_waiting.append(future)

    def _gather(self, turn: int, before: int) -> None:
        """The batch goes when a turn of the loop brought nothing new to it, or behind some turns."""
        found = len(self._batch)
        if before < found and turn < TURNS and self._frame is None:
            self._loop.call_soon(self._gather, turn + 1, found)
        else:
            self._flush()

    def _flush(self) -> None:
        if not self._batch or self._channel is None:
            self._urgent = False
            return
        if self._frame is not None:
            self._held = self._held or self._loop.time()
            return
        self._sequence += 1
        self._news.sent()
        batch, waiting = self._batch, self._batch_waiting
        deadline = (self._held or self._loop.time()) + DEADLINE
        self._batch, self._batch_waiting = [], []
        self._urgent, self._held = False, 0.0
        self._frame = (self._sequence, deadline, waiting)
        if self._timer is None:
            self._timer = self._loop.call_at(deadline, self._overdue)
        try:
            self._channel.send_raw(self._encoded(self._sequence, batch, waiting))
        except ConnectionError:
            self._lose("it is gone")

    def _encoded(self, sequence: int, batch: list[msgspec.Struct], waiting: Waiting) -> bytes:
        """A frame."""
        try:
            return wire.encode((sequence, batch))
        except Exception:
            return wire.encode((sequence, self._sound(batch, waiting)))

    def _sound(self, batch: list[msgspec.Struct], waiting: Waiting) -> list[msgspec.Struct]:
        """What of a batch can be encoded; the rest costs only those who wait for it. Takes theirs out of `waiting`."""
        found: list[msgspec.Struct] = []
        for ask, future in zip(batch, tuple(waiting), strict=True):
            try:
                wire.encode(ask)
            except Exception as error:
                log.error("stated cannot be asked that", ask=type(ask).__name__, error=str(error))
                if isinstance(ask, wire.Strangers):
                    self._news.drop(ask, _encodes)
                    if ask.recipients:  # the others
                        found.append(ask)
                        continue
                del waiting[len(found)]
                if future is not None and not future.done():
                    future.set_exception(Unavailable(f"stated cannot be asked that: {error}"))
            else:
                found.append(ask)
        return found

    def _overdue(self) -> None:
        """One timer for all frames: it looks at the one that is under way then."""
        self._timer = None
        if self._frame is None:
            return
        if self._frame[1] <= self._loop.time():
            self.failures += 1
            self._lose("no answer in time")
        else:
            self._timer = self._loop.call_at(self._frame[1], self._overdue)

    async def ask(self, ask: msgspec.Struct) -> Any:
        """The answer to one ask of stores.wire. Raises Unavailable."""
        if not self.ready:
            raise Unavailable(f"stated: {self.why}")
        future = self._loop.create_future()
        self._post(ask, future)
        return self._checked(await future)

    def _checked(self, answer: Any) -> Any:
        if answer.__class__ is dict and "error" in answer:
            self.failures += 1
            raise Unavailable(f"stated: {answer['error']}")
        return answer

    def tell(self, ask: msgspec.Struct) -> None:
        """An ask whose answer nobody needs; nothing happens while `stated` is away."""
        if self.ready:
            self._post(ask, None)

    def step(self, ask: GreylistAsk) -> GreylistAnswer | Promise[GreylistAnswer]:
        """mail.greylisting.Greylist. `ask.now` does not travel: `stated` has a clock of its own that never jumps. A
        stranger has his answer at once."""
        if not self.ready:
            raise Unavailable(f"stated: {self.why}")
        if Group(self._news, ask).first(ask.recipient):
            return first_attempt(ask, ask.now)
        promise: Promise[Any] = Promise(self._loop.create_future)
        self._post(wire.step_of(ask), promise)
        return promise.map(self._stepped)

    def strangers(self, ask: GreylistAsk) -> Group:
        """mail.greylisting.StrangersAtSight: first attempts like `ask`."""
        return Group(self._news, ask)

    def _stepped(self, answer: Any) -> GreylistAnswer:
        state, first, attempts, passes, wait, key = self._checked(answer)
        return GreylistAnswer(state=state, first=first, attempts=attempts, passes=passes, wait=wait, key=key)

    async def take(self, asks: Sequence[RateAsk], now: float) -> list[float]:
        """mail.ports.Rates: if one bucket is over, nothing is taken from any. `now` is `stated`'s own."""
        asked = tuple(AskedRate(ask.key, ask.cost, ask.limit, ask.period) for ask in asks)
        return cast("list[float]", await self.ask(wire.Take(asked)))

    def errors(self, address: str, count: int = 1) -> None:
        """A client was refused, or made mistakes: charged to the buckets that checks/ratelimit asks for `errors`."""
        self.tell(wire.Charge(tuple(f"errors/{span}/net:{network(address)}" for span in (60, 3600)), float(count)))

    async def connect(self, address: str, limits: ClientLimits) -> Counts:
        """Count a new connection; disconnect() it whatever came back. Raises Unavailable (it counts all the same)."""
        self._open[address] = self._open.get(address, 0) + 1
        mine, rate, total, good = await self.ask(wire.Connect(address, limits.rate_period))
        return Counts(mine, rate, total, good, over(mine, rate, total, good, limits))

    def entered(self, address: str, limits: ClientLimits) -> None:
        """As connect(), for a connection that comes in whatever the counts are."""
        self._open[address] = self._open.get(address, 0) + 1
        self.tell(wire.Connect(address, limits.rate_period))

    def disconnect(self, address: str) -> None:
        """A connection that connect() or entered() counted is closed."""
        count = self._open.get(address, 0)
        if count > 1:
            self._open[address] = count - 1
        else:
            self._open.pop(address, None)
        self.tell(wire.Disconnect(address))

    async def messages(self, address: str, cost: int, period: float) -> int:
        """Messages that the client began in this period, with these. Raises Unavailable."""
        return int(await self.ask(wire.Messages(address, cost, period)))

    async def recipients(self, address: str, cost: int, period: float) -> int:
        """Recipients that the client named in this period, with these. Raises Unavailable."""
        return int(await self.ask(wire.Named(address, cost, period)))

    def accepted(self, address: str) -> None:
        """We took mail of this client: its network is known-good."""
        self.tell(wire.Accepted(address))

    async def get_probe(self, key: str) -> Probe | None:
        """A call-ahead result. Raises Unavailable."""
        raw = await self.ask(wire.ProbeGet(key))
        return None if raw is None else Probe(*raw)

    def put_probe(self, key: str, probe: Probe, keep: float) -> None:
        """Remember a call-ahead result for `keep` seconds."""
        self.tell(wire.ProbePut(key, probe.state, probe.reply, probe.source, keep))


def _encodes(ask: msgspec.Struct) -> bool:
    try:
        wire.encode(ask)
    except Exception:
        return False
    return True
