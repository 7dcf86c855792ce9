"""Verdicts that are told again: only what holds, only where nothing follows from it, and the keys of the real checks
leave nothing out that decides."""

import random
import time
from collections.abc import Iterator
from itertools import product
from pathlib import Path
from typing import Any

import msgspec
import pytest

from appliance.daemons.compose import build_site
from appliance.engine import recall
from appliance.engine.asking import _outcomes
from appliance.engine.pipeline import Engine
from appliance.engine.recall import Memory
from appliance.mail.auth import SpfAsk, SpfReport
from appliance.mail.context import Client, Context, Recipient
from appliance.mail.greylisting import GreylistAnswer, GreylistAsk
from appliance.mail.identity import Identity
from appliance.mail.ports import Ports
from appliance.mail.verdict import ALWAYS, Decision, Verdict
from tests.daemons.policyd.whole import build
from tests.engine.scripted import address, check, context, engine, said


class Asked:
    """A scripted check that says how long it holds, and counts who asks."""

    def __init__(self, outcome: str = "fine", until: float = ALWAYS, **more: Any) -> None:
        self.count, self.outcome, self.until, self.more = 0, outcome, until, more
        self.check = check("one", self.answer)._replace(key=lambda ctx: ctx.helo or None)

    def answer(self, ctx: Context, policy: Any) -> Verdict:
        self.count += 1
        return said("one", self.outcome, until=self.until, reason=f"{ctx.helo} {self.count}", **self.more)

    def engine(self, **more: Any) -> Engine:
        return engine([self.check], {"rcpt": ["one"], "message": ["one"]}, clock=time.monotonic, **more)


def ask(made: Engine, helo: str = "a.example", **more: Any) -> Decision:
    answer = made.ask(context(helo=helo, **more))
    assert isinstance(answer, Decision)
    return answer


def test_the_same_is_told_again_and_counted() -> None:
    one = Asked()
    made, before = one.engine(), _outcomes["one", "fine"]
    first = ask(made)
    assert ask(made, transaction="ID2").verdicts == first.verdicts and one.count == 1
    assert first.verdicts[0].stage == "rcpt"
    assert ask(made, "b.example").verdicts[0].reason == "b.example 2"
    assert _outcomes["one", "fine"] == before + 3


@pytest.mark.parametrize(
    "one",
    [
        Asked(until=0.0),
        Asked(until=time.monotonic() - 1),
        Asked("reject"),
        Asked("mark"),
        Asked("prepend"),
        Asked(more=(said("one", "mark"),)),
    ],
    ids=["not-known-how-long", "over", "refuses", "marks", "changes", "says-more"],
)
def test_other_verdicts_are_found_anew(one: Asked) -> None:
    made = one.engine()
    assert ask(made).verdicts != ask(made).verdicts and one.count == 2


def test_nothing_is_told_again_without_a_key_at_message_or_where_exceptions_stand() -> None:
    one = Asked()
    ask(made := one.engine(), ""), ask(made, "")
    assert one.count == 2
    for _ in range(2):
        made.message(context("message", recipients=(Recipient(address=address("b@example.com")),)))
    assert one.count == 4
    files = {"one.toml": {"exception": [{"match": {"helo_name": "z.example"}, "set": {"mode": "off"}}]}}
    made = one.engine(files=files)
    ask(made), ask(made)
    assert one.count == 6


def test_a_verdict_is_told_for_some_seconds_at_most_and_the_memory_is_bounded(monkeypatch: pytest.MonkeyPatch) -> None:
    now = [100.0]
    memory = Memory(lambda ctx: ctx.helo, ["fine"], lambda: now[0])
    verdict = said("one", "fine", until=ALWAYS)
    memory.keep("a", verdict)
    memory.keep("b", said("one", "fine", until=102.0))
    assert memory.get("a") is verdict and memory.get("b") is not None
    now[0] = 102.0
    assert memory.get("b") is None
    now[0] = 100.0 + recall.KEPT
    assert memory.get("a") is None
    monkeypatch.setattr(recall, "MOST", 10)
    for number in range(100):
        memory.keep(number, verdict)
        assert memory.get(number) is verdict
    assert len(memory._kept) <= 10


# ---------------------------------------------------------------------- the keys of the real checks


STAGES = """\
[inbound]
connect = ["access"]
helo = ["access"]
mail = ["access", "identity", "spf"]
rcpt = ["relay", "access", "recipient", "greylist"]
data = []
message = []
"""
ACCESS = """\
client = ["inline:{{192.0.2.9=OK}, {known.example.net = WARN look}}"]
helo = ["inline:{bad.example.net=REJECT}"]
sender = ["inline:{{b@example.org = HOLD}, {example.net = DUNNO}}"]
recipient = ["inline:{ {c@example.com = REJECT} }"]
"""
GREYLIST = """\
exempt_clients = ["inline:{{192.0.2.9=yes}, {b.sub.example.org=yes}}"]
exempt_recipients = ["inline:{d@example.com=yes}"]
"""
RECIPIENT = 'tables = ["inline:{{a@example.com=ok}, {c@example.com=ok}, {d@example.com=ok}}"]\ncallahead = false\n'


class World:
    """Stores and SPF, as they would be for all that is asked here; every answer is at hand, and holds."""

    def spf(self, ask: SpfAsk) -> SpfReport:
        domain = ask.sender.rpartition("@")[2] or ask.helo
        result: Any = "pass" if domain.endswith("org") and ask.address != "192.0.2.7" else "softfail"
        scope: Any = "mfrom" if ask.sender else "helo"
        return SpfReport(result=result, scope=scope, domain=domain, matched=f"ip4:{ask.address}", until=ALWAYS)

    def known(self, identity: Identity) -> Identity:
        first = 1000.0 if "org" in identity.name else 0.0
        return msgspec.structs.replace(identity, first=first, last=first, days=1, messages=len(identity.name))

    def accepted(self, keys: Any) -> None:
        """Nothing is kept here."""

    def step(self, ask: GreylistAsk) -> GreylistAnswer:
        marks = hash((ask.keys, ask.sender, ask.recipient, ask.client, ask.shared))
        state: Any = "known" if marks % 3 else "early"
        return GreylistAnswer(state=state, first=1.0, attempts=2, wait=3.0, key=ask.keys[0], until=ALWAYS)


def engines(folder: Path) -> tuple[Engine, Engine]:
    """One that remembers, and one that does not."""
    snapshot = build(folder, stages=STAGES, access=ACCESS, greylist=GREYLIST, recipient=RECIPIENT)
    world: Any = World()
    ports = Ports(
        site=build_site(snapshot), tables=snapshot.tables, authentication=world, identities=world, greylist=world
    )
    return Engine(snapshot.policies, ports, clock=time.monotonic), Engine(snapshot.policies, ports)


def sessions(dice: random.Random) -> Iterator[dict[str, Any]]:
    """What may differ from one session to the next."""
    clients = [
        Client(address=where, name=name, proof=proof, trusted_relay=trusted, port=dice.randrange(65536))
        for where, (name, proof), trusted in product(
            ("192.0.2.7", "192.0.2.9", "192.0.2.80"),
            (
                *(("unknown", "none"), ("unknown", "temperror"), ("known.example.net", "pass")),
                *(("a.sub.example.org", "pass"), ("host7.dsl.example.net", "pass"), ("b.sub.example.org", "pass")),
            ),
            (False, False, True),
        )
    ]
    senders = [address(text) for text in ("a@example.org", "b@example.org", "a@example.net")] + [address("")]
    while True:
        yield {
            "client": dice.choice(clients),
            "helo": dice.choice(("bad.example.net", "good.example.net", "ok.example.org")),
            "sender": dice.choice(senders),
            "signs": frozenset(dice.sample(("bare_lf", "early_talk"), dice.randrange(3) // 2)),
            "role": dice.choice(("inbound", "inbound", "inbound", "outbound")),
            "transaction": f"ID{dice.randrange(1 << 30)}",
            "now": 1_800_000_000.0,
        }


def test_what_real_checks_say_again_is_what_they_would_say(tmp_path: Path) -> None:
    remembers, forgets = engines(tmp_path)
    dice, again = random.Random(11), 0
    for facts, _ in zip(sessions(dice), range(5000), strict=False):
        trail: tuple[Verdict, ...] = ()
        identity = None
        for stage in ("connect", "helo", "mail", "rcpt"):
            more: dict[str, Any] = {}
            if stage == "rcpt":
                whom = dice.choice(("a@example.com", "b@example.com", "c@example.com", "d@example.com", "a@example.org"))
                more["recipient"] = Recipient(address=address(whom))
            ctx = context(stage, **(facts if stage in ("mail", "rcpt") else {**facts, "sender": None}), **more)
            ctx = msgspec.structs.replace(ctx, trail=trail, identity=identity)
            told, found = remembers.ask(ctx), forgets.ask(ctx)
            assert isinstance(told, Decision) and told == found, ctx
            again += sum(one.stage == "connect" for one in told.verdicts)
            # Who asks may not know all that was found before.
            trail = (*trail, *told.verdicts) if dice.random() < 0.7 else ()
            identity = (told.identity or identity) if dice.random() < 0.7 else None
    assert again > 1000
    slots = [slot for steps in remembers._steps.values() for step in steps for slot in step if slot.memory]
    assert {slot.policy.name for slot in slots} == {"access", "relay", "recipient", "identity", "spf", "greylist"}
    assert sum(len(slot.memory._kept) for slot in slots if slot.memory) > 100
