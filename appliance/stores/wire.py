"""What travels between the workers (stores.remote) and `stated` (stores.state): frames of asks, frames of answers.

Contract: a frame from a worker is `[sequence, [ask, ...]]`, each ask an array that begins with its number below; the
answer frame is `[sequence, [answer, ...]]`, one for each ask and in the same order. An ask that failed is answered by a
map {"error": text}. `stated` greets each connection with `[0, [HELLO]]` and the descriptor of its board
(stores.strangers), if it has one: before that nobody asks. Asks are typed: what
does not decode closes the connection (the peer is one of ours, or it is broken).
"""

from typing import Any

import msgspec

from appliance.mail.greylisting import GreylistAsk
from appliance.stores.rates import AskedRate

#: The greeting; a changed wire gets a new number and old workers stay without answers (Unavailable).
HELLO = "postgate-state-4"


class Step(msgspec.Struct, frozen=True, array_like=True, tag=1, gc=False):
    """One greylist step (mail.greylisting.GreylistAsk without `now`: `stated` has its own clock that never jumps)."""

    keys: tuple[str, ...]
    sender: str
    recipient: str
    client: str
    delay: float
    window: float
    remember: float
    auto_accept: int
    shared: bool = False


class Take(msgspec.Struct, frozen=True, array_like=True, tag=2):
    """Token buckets; the answer is a list of what is left."""

    asks: tuple[AskedRate, ...]


class Charge(msgspec.Struct, frozen=True, array_like=True, tag=3):
    """Use tokens without a question."""

    keys: tuple[str, ...]
    cost: float


class Connect(msgspec.Struct, frozen=True, array_like=True, tag=4):
    """A client connected; the answer is [connections, connection rate, total, known good]."""

    address: str
    period: float


class Disconnect(msgspec.Struct, frozen=True, array_like=True, tag=5):
    address: str


class Messages(msgspec.Struct, frozen=True, array_like=True, tag=6):
    """A client begins `cost` messages; the answer is their count in the period."""

    address: str
    cost: int
    period: float


class Named(msgspec.Struct, frozen=True, array_like=True, tag=7):
    """A client names `cost` recipients; the answer is their count in the period."""

    address: str
    cost: int
    period: float


class Accepted(msgspec.Struct, frozen=True, array_like=True, tag=8):
    """We took mail of this client and keep it: its network may use the reserve of connections."""

    address: str


class Report(msgspec.Struct, frozen=True, array_like=True, tag=9):
    """A worker that reconnects reports its open connections by client address."""

    open: dict[str, int]


class ProbeGet(msgspec.Struct, frozen=True, array_like=True, tag=10):
    """The answer is a probe as [state, reply, at, source] or nil."""

    key: str


class ProbePut(msgspec.Struct, frozen=True, array_like=True, tag=11):
    key: str
    state: str
    reply: str
    source: str
    keep: float


class IdentityGet(msgspec.Struct, frozen=True, array_like=True, tag=12):
    """The answer is [age of the first message, of the last one, days, messages] of an identity, or nil."""

    key: str


class IdentityAccepted(msgspec.Struct, frozen=True, array_like=True, tag=13):
    """A message of these identities was accepted."""

    keys: tuple[str, ...]


class FirstAge(msgspec.Struct, frozen=True, array_like=True, tag=14):
    """The answer is how many seconds ago `key` was asked for first, 0.0 = now; remembered for `keep` seconds."""

    key: str
    keep: float


class HasWaited(msgspec.Struct, frozen=True, array_like=True, tag=15):
    """Whether the client need not wait for our greeting: it did lately, or its network is known-good."""

    address: str


class Waited(msgspec.Struct, frozen=True, array_like=True, tag=16):
    """The client waited for our greeting."""

    address: str
    keep: float


class Strangers(msgspec.Struct, frozen=True, array_like=True, tag=17, gc=False):
    """Steps whose answers the worker knew (stores.strangers), as Step but about several recipients; the answer is nil."""

    keys: tuple[str, ...]
    sender: str
    client: str
    delay: float
    window: float
    remember: float
    auto_accept: int
    shared: bool
    recipients: list[str]

    def step(self, recipient: str) -> Step:
        """The step about one of them."""
        return Step(self.keys, self.sender, recipient, self.client, *_knobs(self))


class List(msgspec.Struct, frozen=True, array_like=True, tag=20):
    """Operators: records whose key contains `match`. The answer is a page: rows [key, record, expires], where the next
    page begins ("" = no more), and what to add to the records' times to make them wall time."""

    kind: str
    match: str
    after: str
    count: int


class Delete(msgspec.Struct, frozen=True, array_like=True, tag=21):
    """Operators: forget one record; the answer tells whether it was there."""

    kind: str
    key: str


class PassGreylist(msgspec.Struct, frozen=True, array_like=True, tag=22):
    """Operators: let this pair of sender and recipient pass from every address, as a pool that was recognised."""

    sender: str
    recipient: str
    remember: float


class Facts(msgspec.Struct, frozen=True, array_like=True, tag=23):
    """Operators: what health() says."""


def step_of(ask: GreylistAsk) -> Step:
    """The step as it travels."""
    return Step(ask.keys, ask.sender, ask.recipient, ask.client, *_knobs(ask))


def strangers_of(ask: GreylistAsk) -> Strangers:
    """As step_of, where nobody waits for the answer; about no recipient yet."""
    return Strangers(ask.keys, ask.sender, ask.client, *_knobs(ask), [])


def _knobs(ask: GreylistAsk | Strangers) -> tuple[float, float, float, int, bool]:
    return ask.delay, ask.window, ask.remember, ask.auto_accept, ask.shared


Ask = (
    Step
    | Take
    | Charge
    | Connect
    | Disconnect
    | Messages
    | Named
    | Accepted
    | Report
    | ProbeGet
    | ProbePut
    | IdentityGet
    | IdentityAccepted
    | FirstAge
    | HasWaited
    | Waited
    | Strangers
    | List
    | Delete
    | PassGreylist
    | Facts
)
encode = msgspec.msgpack.Encoder().encode
decode_asks = msgspec.msgpack.Decoder(tuple[int, list[Ask]]).decode
decode_answers = msgspec.msgpack.Decoder(tuple[int, list[Any]]).decode
