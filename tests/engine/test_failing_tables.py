"""A lookup table that cannot answer puts mail off, whichever knob of whichever check names it: never 250, never 5xx.

The knobs are found by looking for them, so that a new one cannot be forgotten: one that is not asked in the scene below
passes here, and needs its scene.
"""

import asyncio
import inspect
from collections.abc import Callable
from typing import Any

import msgspec
import pytest

from appliance.checks import TABLE_ERROR, Check, catalogue, knobs
from appliance.checks.greylist import bind as greylist_bind
from appliance.engine.bound import bind
from appliance.engine.pipeline import Engine, combine
from appliance.engine.policy import compile_policies
from appliance.mail.auth import ArcReport, DkimReport, SpfReport
from appliance.mail.context import STAGES, Client, Context, Recipient
from appliance.mail.greylisting import GreylistAnswer, GreylistAsk
from appliance.mail.ports import Ports, TableUnavailable
from appliance.mail.verdict import Action, Decision
from appliance.protocol.smtp.address import Address
from appliance.tables import open_table
from appliance.tables.lines import LineSearch
from tests.mailauth.dmarc_zone import Zone, published
from tests.mailauth.said import Said, Text, address, asked, ports

FAILING = "fail:no disk"
#: A list's mail, from somebody whose name others may use, with a message in it.
MAIL = (
    b'From: "Jane Doe" <a@example.org>\r\nList-Id: <l.lists.example.net>\r\nMIME-Version: 1.0\r\n'
    b'Content-Type: multipart/mixed; boundary="b"\r\n'
)
NESTED = (
    b"--b\r\nContent-Type: text/plain\r\n\r\nHello.\r\n--b\r\nContent-Type: message/rfc822\r\n\r\n"
    b"Subject: inner\r\n\r\nInner.\r\n--b--\r\n"
)
FAIL = SpfReport(result="fail", domain="example.org")
SEALED = ArcReport(result="pass", sealers=("sealer.example",))
#: What else must be set for the knob to be asked at all.
WITH: dict[tuple[str, str], dict[str, Any]] = {
    ("greylist", "exempt_clients"): {"when": "always", "exempt_recipients": []},
    ("greylist", "exempt_recipients"): {"when": "always", "exempt_clients": []},
}
#: Where it is asked, if not of mail from outside.
ROLE = {("own_domain", "sources"): "outbound"}


class Mail(Text):
    def chunks(self, size: int = 65536) -> Any:
        yield self.header + NESTED


class Store:
    """A greylist that has never seen anybody."""

    def __init__(self) -> None:
        self.asked = 0

    def step(self, ask: GreylistAsk) -> GreylistAnswer:
        self.asked += 1
        return GreylistAnswer(state="new", first=0.0, attempts=1)


class Later:
    """A table that cannot answer, and says so later only, as one behind proxymap."""

    pattern, at_once = True, False

    async def get(self, key: str) -> tuple[str, str] | None:
        raise TableUnavailable("fail:", "it is away")


def named() -> list[tuple[str, str]]:
    """Every knob that names tables, by its check."""
    return [
        (name, key)
        for name, check in catalogue().items()
        for key, field in check.policy.model_fields.items()
        if knobs.TABLE in field.metadata
    ]


def reached(table: Any, store: Store | None = None) -> Ports:
    said = Said(FAIL, DkimReport(), SEALED)
    made = ports(said, Zone(published(example_org="p=reject")))
    tables = {FAILING: table} if table is not None else {}
    return msgspec.structs.replace(made, tables=tables, lines=LineSearch(tables), greylist=store or Store())


def engine(name: str, knob: dict[str, Any], told: Ports, **limits: str) -> Engine:
    """The check alone, wherever it may stand, with the shipped actions."""
    check = catalogue()[name]
    places = {stage: [name] if stage in check.stages else [] for stage in STAGES}
    plan = dict.fromkeys(("inbound", "outbound"), places) | {"reinject": {stage: [] for stage in STAGES}}
    policies, complaints = compile_policies({"stages.toml": plan | limits, f"{name}.toml": knob}, checks={name: check})
    assert not [complaint for complaint in complaints if complaint.fatal], complaints
    return Engine(policies, told, delay_reject=False, checks={name: check})


def scene(stage: str, role: str) -> Context:
    """One message on its way, as far as it is known at this stage."""
    ctx = asked(Mail(MAIL), stage=stage, role=role, client=Client(address="192.0.2.7", name="x.example", proof="pass"))
    early = STAGES.index(stage) < STAGES.index("rcpt")  # type: ignore[arg-type]
    return msgspec.structs.replace(
        ctx,
        sender=ctx.sender if stage not in ("connect", "helo") else None,
        recipient=Recipient(address=address("user@example.com")) if stage == "rcpt" else None,
        recipients=() if early else ctx.recipients,
        content=ctx.content if stage == "message" else None,
    )


async def judged(made: Engine, ctx: Context) -> Decision:
    if ctx.stage == "message":
        groups = made.message(ctx)
        listed = await groups if inspect.isawaitable(groups) else groups
        assert combine(listed).verb == listed[0].decision.verb
        return listed[0].decision
    answer = made.ask(ctx)
    return await answer if inspect.isawaitable(answer) else answer


async def replies(name: str, knob: dict[str, Any], role: str, told: Ports) -> list[str]:
    """What the client hears from stage to stage; "" = it may go on."""
    made = engine(name, knob, told)
    return [(await judged(made, scene(stage, role))).reply for stage in catalogue()[name].stages]


def at_once() -> Any:
    return open_table(FAILING, lambda _: b"")


def nowhere() -> None:
    """The table is not open."""


@pytest.mark.parametrize("table", [at_once, Later, nowhere])
@pytest.mark.parametrize(("name", "key"), named())
async def test_a_table_that_cannot_answer_puts_off(name: str, key: str, table: Callable[[], Any]) -> None:
    knob = {key: [FAILING], **WITH.get((name, key), {})}
    heard = await replies(name, knob, ROLE.get((name, key), "inbound"), reached(table()))
    assert any(heard), f"{name} never asked {key}: it needs a scene"
    assert all(reply[:1] in ("", "4") for reply in heard), heard


@pytest.mark.parametrize("name", sorted({name for name, _ in named()}))
def test_every_check_that_asks_tables_puts_off_for_them(name: str) -> None:
    check: Check = catalogue()[name]
    assert check.outcomes["temperror" if check.gate else TABLE_ERROR] is Action.DEFER_IF_PERMIT


@pytest.mark.parametrize("sender", ["bob@example.com", "bob@elsewhere.example"])
async def test_sources_of_outbound_mail_that_are_away_let_nobody_in(sender: str) -> None:
    made = engine("own_domain", {"sources": [FAILING]}, reached(at_once()))
    found = await judged(made, msgspec.structs.replace(scene("mail", "outbound"), sender=address(sender)))
    assert found.deciding is not None and found.deciding.outcome == TABLE_ERROR
    assert found.reply.startswith("451 4.3.0 ") and "no disk" not in found.reply and "no disk" in found.deciding.reason


async def test_what_dns_or_the_store_could_not_say_marks_as_ever() -> None:
    class Away(Store):
        def step(self, ask: GreylistAsk) -> GreylistAnswer:
            raise TimeoutError("stated: away")

    plain = {"when": "always", "exempt_clients": [], "exempt_recipients": []}
    found = await judged(engine("greylist", plain, reached(None, Away())), scene("rcpt", "inbound"))
    assert (found.verb, found.marks) == ("accept", ("greylist:temperror",))


@pytest.mark.parametrize("value", ["joe@example.com", "example.com {"])
@pytest.mark.parametrize(
    ("name", "key", "role"), [("own_domain", "sources", "outbound"), ("impersonation", "people", "inbound")]
)
async def test_an_entry_that_cannot_be_read_is_no_permission(name: str, key: str, role: str, value: str) -> None:
    spec = f"static:{value}"
    told = reached(None)
    told = msgspec.structs.replace(told, tables={spec: open_table(spec, lambda _: b"")})
    assert all(reply.startswith("451 4.3.0 ") for reply in await replies(name, {key: [spec]}, role, told))


class Slow:
    """A table that never answers."""

    pattern, at_once = True, False

    async def get(self, key: str) -> tuple[str, str] | None:
        await asyncio.Event().wait()
        return None


@pytest.mark.parametrize(("name", "key"), [pair for pair in named() if not catalogue()[pair[0]].gate])
async def test_a_table_that_is_too_slow_for_the_deadline_puts_off(name: str, key: str) -> None:
    """So does one whose answers come in time, but not all that a search needs."""
    made = engine(
        name, {key: [FAILING], **WITH.get((name, key), {})}, reached(Slow()), deadline="1s", message_deadline="1s"
    )
    stages, role = catalogue()[name].stages, ROLE.get((name, key), "inbound")
    heard = [(await judged(made, scene(stage, role))).reply for stage in stages]
    assert any(heard) and all(reply[:1] in ("", "4") for reply in heard), heard


async def test_of_checks_asked_together_each_says_what_it_waited_for() -> None:
    checks = {name: catalogue()[name] for name in ("identity", "tls")}
    plan: dict[str, Any] = {role: {stage: [] for stage in STAGES} for role in ("inbound", "outbound", "reinject")}
    plan["inbound"]["mail"] = [["identity", "tls"]]
    files = {
        "stages.toml": plan | {"deadline": "1s"},
        "identity.toml": {"shared_providers": [FAILING]},
        "tls.toml": {"senders": [FAILING]},
    }
    made = Engine(compile_policies(files, checks=checks)[0], reached(Slow()), delay_reject=False, checks=checks)
    found = await judged(made, scene("mail", "inbound"))
    assert [(one.check, one.outcome) for one in found.verdicts] == [("identity", TABLE_ERROR), ("tls", "temperror")]
    assert found.verb == "defer"


async def test_a_store_that_is_too_slow_marks_though_a_table_was_asked_before() -> None:
    class Silent(Store):
        async def step(self, ask: GreylistAsk) -> GreylistAnswer:  # type: ignore[override]
            await asyncio.Event().wait()
            raise AssertionError

    class Empty(Slow):
        async def get(self, key: str) -> tuple[str, str] | None:
            return None

    knob = {"when": "always", "exempt_clients": [FAILING], "exempt_recipients": [FAILING]}
    found = await judged(engine("greylist", knob, reached(Empty(), Silent()), deadline="1s"), scene("rcpt", "inbound"))
    assert (found.verb, found.marks) == ("accept", ("greylist:temperror",))


# -- recipients that are asked about alike (engine/bound.py)


@pytest.mark.parametrize("table", [at_once, Later, nowhere])
@pytest.mark.parametrize("key", ["exempt_clients", "exempt_recipients"])
async def test_a_list_that_fails_is_not_bound(key: str, table: Callable[[], Any]) -> None:
    """What is bound says nothing about any recipient then, and asks no store: the engine must look itself."""
    store = Store()
    made = engine("greylist", {key: [FAILING], **WITH["greylist", key]}, reached(table(), store))
    ctx = scene("rcpt", "inbound")
    bound = bind(made, ctx)
    told = None if bound is None else bound.ask(Address("user", "example.com", "user@example.com"), ctx.now, True)
    assert told is None and store.asked == 0
    found = await judged(made, ctx)
    assert found.verb == "defer" and found.deciding is not None and found.deciding.outcome == TABLE_ERROR
    assert store.asked == 0


async def test_lists_in_memory_are_bound() -> None:
    """The two before cannot pass for want of a way to bind."""
    spec = "inline:{a@example.com=ok}"
    told = msgspec.structs.replace(reached(None), tables={spec: open_table(spec, lambda _: b"")})
    policy = {"when": "always", "exempt_clients": [spec], "exempt_recipients": [spec]}
    made = engine("greylist", policy, told)
    bound = bind(made, scene("rcpt", "inbound"))
    assert bound is not None and greylist_bind is catalogue()["greylist"].bind
    assert isinstance(bound.ask(address("user@example.com"), 0.0, True), GreylistAnswer)
    assert bound.ask(address("a@example.com"), 0.0, True) is None
