"""A whole worker of the policy server over real policies and tables; stated, clocks and the wire are played."""

import asyncio
import datetime
from itertools import count
from pathlib import Path
from typing import Any

from appliance.config import blob, snapshot
from appliance.config.snapshot import Snapshot
from appliance.daemons.compose import build_site
from appliance.daemons.policyd import saying
from appliance.daemons.policyd.connection import Connection
from appliance.daemons.policyd.front import Front
from appliance.daemons.policyd.messages import Message
from appliance.daemons.policyd.rules import Rules
from appliance.engine.exceptions import end_of
from appliance.engine.pipeline import Engine
from appliance.mail.greylisting import GreylistAnswer, GreylistAsk, first_attempt
from appliance.mail.ports import Ports, Unavailable
from appliance.mail.promise import Promise
from appliance.protocol.policy import encode_request
from appliance.stores.known import RecentlyKnown
from tests.peers.gateway import CONFIG
from tests.peers.policy import RCPT

ENDS = datetime.datetime.now(datetime.UTC).date() + datetime.timedelta(days=1)
WIRING = '[[policyd]]\naddress = "inet:127.0.0.1:10040"\n'
STAGES = """\
[inbound]
connect = ["access"]
helo = ["access"]
mail = ["access", "size"]
rcpt = ["relay", "access", "recipient", "greylist"]
data = []
message = []
"""
ACCESS = """\
client = ["inline:{192.0.2.9=ok}"]
sender = ["inline:{{warn@example.org = WARN look}, hold@example.org=HOLD, no@example.org=REJECT}"]
recipient = ["inline:{ {odd@example.com = PREPEND X-Odd: yes} }"]
"""
GREYLIST = f"""\
when = "always"
exempt_clients = []
exempt_recipients = ["inline:{{free@example.com=yes}}"]
[[exception]]
match = {{ sender = "friend@example.org" }}
set = {{ mode = "off" }}
until = {ENDS}
[[exception]]
match = {{ recipient = "watch@example.com" }}
set = {{ mode = "monitor" }}
"""
RECIPIENT = """\
tables = ["inline:{@example.com=ok}"]
callahead = false
[[exception]]
match = { client_address = "192.0.2.9" }
set = { mode = "monitor" }
"""


def build(folder: Path, **more: str) -> Snapshot:
    """The real policies; `more` are further policy files by their stem."""
    (folder / "policies").mkdir(parents=True)
    texts = {"stages": STAGES, "access": ACCESS, "greylist": GREYLIST, "recipient": RECIPIENT} | more
    for name, text in texts.items():
        (folder / "policies" / f"{name}.toml").write_text(text)
    (folder / "zone").write_text("$ORIGIN .\n$TTL 300\n")
    config = folder / "postgate.toml"
    config.write_text(CONFIG.format(port=2525, inner=1, workers=1, nameserver="127.0.0.1:9") + WIRING)
    return snapshot.build(blob.read(str(config)))


#: The same checks without exceptions.
PLAIN = {
    "greylist": GREYLIST.partition("[[exception]]")[0],
    "recipient": RECIPIENT.partition("[[exception]]")[0],
}


class State:
    """stated: who has come before is known; `asked` counts questions. An answer comes a turn later, as a promise (that
    about a stranger `at_once`), an exception, or never."""

    def __init__(self, at_once: bool) -> None:
        self.asked, self.at_once = 0, at_once
        self.known: set[tuple[str, str]] = set()

    def step(self, ask: GreylistAsk) -> GreylistAnswer | Promise[GreylistAnswer]:
        loop = asyncio.get_running_loop()
        promise: Promise[GreylistAnswer] = Promise(loop.create_future)
        self.asked += 1
        key = ask.sender, ask.recipient
        word = "known" if key in self.known else "new"
        self.known.add(key)
        if "away" in ask.recipient:
            raise Unavailable("stated: away")
        if "broken" in ask.recipient:
            loop.call_soon(promise.set_exception, Unavailable("stated: broken"))
        elif "never" not in ask.recipient:
            if self.at_once and word == "new":
                return first_attempt(ask, ask.now)
            answer = GreylistAnswer(state=word, first=1.0, attempts=2, wait=3.0, key=ask.keys[0])
            loop.call_soon(promise.set_result, answer)
        return promise


class Known:
    """Who has come before, at sight (mail.greylisting.StrangersAtSight); whom `State` alone answers is no stranger."""

    def __init__(self, state: State) -> None:
        self._state = state

    def strangers(self, ask: GreylistAsk) -> "Known":
        made = Known(self._state)
        made._sender = ask.sender
        return made

    def first(self, recipient: str) -> bool:
        key, known = (self._sender, recipient), self._state.known
        if key in known or any(word in recipient for word in ("away", "broken", "never")):
            return False
        self._state.asked += 1
        known.add(key)
        return True

    _sender = ""


class Composed:
    """What only the composition knows: an engine over real policies and tables, and a played stated."""

    def __init__(self, at_once: bool = False) -> None:
        self.state, self.now = State(at_once), [0.0]
        self.greylist = RecentlyKnown(self.state, lambda: self.now[0])

    def engine(self, made: Snapshot) -> Engine:
        known = Known(self.state) if self.state.at_once else None
        ports = Ports(site=build_site(made), tables=made.tables, greylist=self.greylist, strangers=known)
        return Engine(made.policies, ports)


class Wire(asyncio.Transport):
    """Keeps what is written."""

    def __init__(self) -> None:
        self.out = b""
        self.ended = False

    def write(self, data: Any) -> None:
        self.out += bytes(data)

    def is_closing(self) -> bool:
        return self.ended

    def close(self) -> None:
        self.ended = True


class Server:
    """One worker with two connections, with the memory or without."""

    def __init__(self, snapshots: list[Snapshot], remembers: bool, at_once: bool = False) -> None:
        self.snapshots, self.remembers = snapshots, remembers
        self.composed = Composed(at_once)
        self.wall, self.now = end_of(ENDS) - 3.0, self.composed.now
        self.front = Front(self._rules(0))
        self.front.clock, self.front.monotonic = (lambda: self.wall), lambda: self.now[0]
        self.front.ids = map("ID{}".format, count())  # type: ignore[assignment]
        self.connections: list[tuple[Connection, Wire]] = []
        for _ in range(2):
            connection, wire = Connection(self.front, self.front.rules.doors["policy"], "peer"), Wire()
            connection.connection_made(wire)
            self.connections.append((connection, wire))

    def _rules(self, which: int) -> Rules:
        rules = Rules(self.snapshots[which], self.composed)
        assert rules.steady
        rules.steady = self.remembers
        return rules

    def reload(self, which: int) -> None:
        self.front.follow(self._rules(which))

    def passes(self, seconds: float) -> None:
        self.wall += seconds
        self.now[0] += seconds

    async def ask(self, number: int, octets: bytes) -> str:
        connection, wire = self.connections[number]
        wire.out = b""
        connection.data_received(octets)
        for _ in range(50):
            if wire.out:
                break
            await asyncio.sleep(0)
        saying.settle()
        return wire.out.decode()

    def remembered(self) -> list[Any]:
        """All that is known of messages."""
        return [
            (
                key,
                m.id,
                m.asked,
                m.trail,
                m.identity,
                m.recipients,
                m.answers,
                m.touched,
                m.session.asked,
                m.session.trail,
            )
            for key, kept in self.front.messages.known.items()
            for m in [kept if isinstance(kept, Message) else kept.whole()]
        ]

    def memory(self) -> int:
        return len(self.front.rules.doors["policy"].memory)


def request(**changes: str) -> bytes:
    return encode_request(RCPT | changes)
