"""Token buckets and the counts of open connections, in RAM: pure, with the time given.

Contract: all times are monotonic seconds. A bucket remembers what was used and forgets it with the rate of the last
ask, so that costs can be charged (errors) before anybody names a limit. Both stores have a cap; the least recently
used goes first. Nothing here is written to disk: a restart of `stated` begins with empty buckets (rates: pass).
What failure means for the mail: nothing fails here.
"""

from collections import OrderedDict
from collections.abc import Sequence
from typing import Protocol

import msgspec

from appliance.mail.network import network

#: How many buckets and clients are held at most (stores/shelf.py says why not more).
CAP = 87_000


class AskedRate(msgspec.Struct, frozen=True, array_like=True, gc=False):
    """mail.ports.RateAsk as it travels."""

    key: str
    cost: float
    limit: float
    period: float


class Buckets:
    """Token buckets by key. A bucket is [used, at, rate]."""

    def __init__(self, cap: int = CAP) -> None:
        self._used: OrderedDict[str, list[float]] = OrderedDict()
        self._cap = cap

    def __len__(self) -> int:
        return len(self._used)

    def take(self, asks: Sequence[AskedRate], now: float) -> list[float]:
        """What is left in each bucket after its cost; negative = over. If one is over, nothing is taken anywhere."""
        buckets = [self._bucket(ask.key, now, ask.limit / ask.period if ask.period > 0 else 0.0) for ask in asks]
        # Two asks may name one bucket: what the first takes, the second finds gone.
        left, taken = [], dict.fromkeys((ask.key for ask in asks), 0.0)
        for ask, bucket in zip(asks, buckets, strict=True):
            taken[ask.key] += ask.cost
            left.append(ask.limit - bucket[0] - taken[ask.key])
        if all(rest >= 0 for rest in left):
            for ask, bucket in zip(asks, buckets, strict=True):
                bucket[0] += ask.cost
        return left

    def charge(self, key: str, cost: float, now: float) -> None:
        """Use `cost` without asking (errors: they have happened)."""
        self._bucket(key, now, None)[0] += cost

    def _bucket(self, key: str, now: float, rate: float | None) -> list[float]:
        bucket = self._used.get(key)
        if bucket is None:
            bucket = self._used[key] = [0.0, now, rate or 0.0]
            if len(self._used) > self._cap:
                self._used.popitem(last=False)
        else:
            self._used.move_to_end(key)
        if rate is not None:
            bucket[2] = rate
        if bucket[2] > 0:
            bucket[0] = max(0.0, bucket[0] - (now - bucket[1]) * bucket[2])
            bucket[1] = now
        return bucket


class ClientLimits(Protocol):
    """The part of config.model.Limits that a connection is counted against; 0 = no limit."""

    @property
    def connections(self) -> int: ...
    @property
    def connections_reserve(self) -> int: ...
    @property
    def connections_per_client(self) -> int: ...
    @property
    def connection_rate(self) -> int: ...
    @property
    def rate_period(self) -> float: ...


class Counts(msgspec.Struct, frozen=True, array_like=True):
    """What `stated` knows of one client at connect, this connection included. Rates count the current period.

    `connections`: open ones of this client (IPv6: of its /64) over all workers; `total`: of everybody. `known_good`:
    the client's network delivered mail that we accepted within the last weeks: it may use the reserve.
    `over`: "" or the limit that is passed: "total", "connections", "connection_rate".
    """

    connections: int
    connection_rate: int
    total: int
    known_good: bool = False
    over: str = ""


def over(mine: int, rate: int, total: int, good: bool, limits: ClientLimits) -> str:
    """The limit that a new connection passes, or ""."""
    room = limits.connections - (0 if good else limits.connections_reserve)
    if limits.connections and total > room:
        return "total"
    if limits.connections_per_client and mine > limits.connections_per_client:
        return "connections"
    if limits.connection_rate and rate > limits.connection_rate:
        return "connection_rate"
    return ""


class Client:
    """Open connections and this period's events of one address."""

    __slots__ = ("connects", "messages", "open", "recipients", "since")

    def __init__(self, now: float) -> None:
        self.open = self.connects = self.messages = self.recipients = 0
        self.since = now

    def roll(self, now: float, period: float) -> None:
        """Start a new period if the old one is over."""
        if now - self.since >= period:
            self.since = now
            self.connects = self.messages = self.recipients = 0


class Clients:
    """Counts by client address (IPv6: by /64)."""

    def __init__(self, cap: int = CAP) -> None:
        self._clients: OrderedDict[str, Client] = OrderedDict()
        self._cap = cap
        self.total = 0

    def __len__(self) -> int:
        return len(self._clients)

    def connect(self, address: str, now: float, period: float) -> tuple[int, int, int]:
        """(open connections of the client, its connections in this period, open connections of all)."""
        client = self._client(address, now, period)
        client.open += 1
        client.connects += 1
        self.total += 1
        return client.open, client.connects, self.total

    def adopt(self, address: str, count: int, now: float) -> None:
        """A worker that came back reports connections that are open already."""
        self._client(address, now, 60.0).open += count
        self.total += count

    def disconnect(self, address: str, count: int = 1) -> None:
        client = self._clients.get(network(address, 32, 64))
        if client is None:
            return
        count = min(count, client.open)
        client.open -= count
        self.total -= count

    def messages(self, address: str, cost: int, now: float, period: float) -> int:
        """Messages begun in this period, with these."""
        client = self._client(address, now, period)
        client.messages += cost
        return client.messages

    def recipients(self, address: str, cost: int, now: float, period: float) -> int:
        """Recipients named in this period, with these."""
        client = self._client(address, now, period)
        client.recipients += cost
        return client.recipients

    def _client(self, address: str, now: float, period: float) -> Client:
        key = network(address, 32, 64)
        client = self._clients.get(key)
        if client is None:
            client = self._clients[key] = Client(now)
            if len(self._clients) > self._cap:
                self._evict()
        else:
            self._clients.move_to_end(key)
        client.roll(now, period)
        return client

    def _evict(self) -> None:
        """Forget the least recently seen client, unless it has open connections: then it counts as seen now."""
        for _ in range(10):
            key, client = self._clients.popitem(last=False)
            if not client.open:
                return
            self._clients[key] = client
