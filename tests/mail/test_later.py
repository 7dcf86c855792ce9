"""The look-up idiom: at once where it is at hand, else awaited, in the same order and with the same answer."""

import asyncio
from collections.abc import Awaitable, Callable, Iterator
from typing import Any

import pytest

from appliance.checks import access, greylist, helo, identity, impersonation, own_domain, recipient, relay, tls
from appliance.mail.context import Client
from appliance.mail.later import answered, any_of, then, waits
from appliance.mail.lookup import Found, Key, search
from appliance.mail.ports import Ports, Site, Unavailable
from appliance.mail.verdict import Verdict
from tests.engine.scripted import address, context
from tests.engine.scripted import recipient as to

Answer = Callable[[Any], Any]


async def _soon(value: Any) -> Any:
    await asyncio.sleep(0)
    if isinstance(value, Exception):
        raise value
    return value


def now(value: Any) -> Any:
    return value


class Table:
    """Answers at once or later; notes what it was asked."""

    def __init__(self, entries: dict[str, str], answer: Answer, *, pattern: bool = False) -> None:
        self.entries, self.pattern, self._answer = entries, pattern, answer
        self.at_once = answer is now
        self.asked: list[str] = []

    def get(self, key: str) -> Any:
        self.asked.append(key)
        value = self.entries.get(key)
        return self._answer(None if value is None else (value, "t:1"))


def test_what_is_at_hand_is_answered_at_once() -> None:
    assert then(2, lambda number: number + 1) == 3
    assert any_of(iter([False, True, None])) is True  # type: ignore[list-item]
    assert any_of(iter([False, False])) is False
    assert search([Table({"a": "x"}, now)], [Key("a")]) == Found("a", "x", "t:1")


async def test_what_is_not_is_awaited() -> None:
    later = then(_soon(2), lambda number: _soon(number + 1))
    assert waits(later) and await later == 3
    asked: list[int] = []

    def answers() -> Iterator[bool | Awaitable[bool]]:
        for number in range(4):
            asked.append(number)
            yield _soon(number == 2)

    assert await answered(any_of(answers())) is True
    assert asked == [0, 1, 2]


async def test_a_search_goes_on_in_order_where_it_waited() -> None:
    """Key by key, table by table; patterns see full keys only; after the hit nobody is asked."""
    first, second, third = Table({}, now), Table({}, _soon), Table({"b": "hit"}, _soon, pattern=True)
    found = search([first, second, third], [Key("a", True), Key("b"), Key("b", True), Key("c")])
    assert waits(found) and (first.asked, second.asked, third.asked) == (["a"], ["a"], [])
    assert await found == Found("b", "hit", "t:1")
    assert (first.asked, second.asked, third.asked) == (["a", "b", "b"], ["a", "b", "b"], ["a", "b"])


@pytest.mark.parametrize("answer", [now, _soon])
async def test_an_empty_result_and_trouble_are_unavailable(answer: Answer) -> None:
    with pytest.raises(Unavailable, match="empty result for a"):
        await answered(search([Table({"a": ""}, answer)], [Key("a")]))
    failing = Table({}, answer)
    failing.get = lambda key: _soon(Unavailable("away"))  # type: ignore[method-assign]
    with pytest.raises(Unavailable, match="away"):
        await answered(search([Table({}, now), failing], [Key("a")]))


class Unlisted:
    def cached(self, _address: object) -> None:
        return None


def ports(answer: Answer, tables: dict[str, dict[str, str]]) -> Ports:
    return Ports(
        site=Site(hostname="mx.example.com", is_ours=lambda domain: answer(domain == "example.com")),
        tables={spec: Table(entries, answer) for spec, entries in tables.items()},
    )


STRANGER = Client(address="192.0.2.7", name="mail.example.org", proof="pass")
CASES: list[tuple[Any, str, dict[str, Any], dict[str, dict[str, str]], str]] = [
    (access, "connect", {"client": ("t:a",)}, {"t:a": {"192.0.2": "REJECT x"}}, "reject"),
    (access, "connect", {"client": ("t:a",)}, {"t:a": {}}, "dunno"),
    (access, "mail", {"sender": ("t:a", "t:b")}, {"t:a": {}, "t:b": {"example.org": "OK"}}, "ok"),
    (access, "rcpt", {"recipient": ("t:a",)}, {"t:a": {"joe@": "nonsense"}}, "temperror"),
    (relay, "rcpt", {}, {}, "ours"),
    (recipient, "rcpt", {"tables": ("t:a",), "callahead": False}, {"t:a": {"joe@example.com": "x"}}, "known"),
    (recipient, "rcpt", {"tables": ("t:a",), "callahead": False}, {"t:a": {}}, "unknown"),
    (helo, "helo", {}, {}, "claims_our_name"),
    (tls, "mail", {"clients": ("t:a",), "senders": ("t:b",)}, {"t:a": {}, "t:b": {"example.org": "required"}}, "missing"),
    (tls, "mail", {"clients": ("t:a",)}, {"t:a": {"192.0.2.7": "may"}}, "skipped"),
    (own_domain, "mail", {"sources": ("t:a",)}, {"t:a": {"192.0.2.7": "example.net"}}, "foreign"),
    (own_domain, "mail", {}, {}, "foreign"),
    (greylist, "rcpt", {"when": "always", "exempt_clients": ("t:a",), "exempt_recipients": ("t:b",)},
     {"t:a": {}, "t:b": {"joe@example.com": "joe@"}}, "exempt"),
    (greylist, "rcpt", {"when": "always", "exempt_clients": ("t:a",), "exempt_recipients": ()}, {"t:a": {}}, "skipped"),
    (identity, "mail", {"shared_providers": ("t:a",)}, {"t:a": {"example.org": "x"}}, "shared"),
    (identity, "mail", {"shared_providers": ("t:a",)}, {"t:a": {}}, "new"),
]  # fmt: skip


@pytest.mark.parametrize("answer", [now, _soon])
@pytest.mark.parametrize(("check", "stage", "knobs", "tables", "outcome"), CASES)
async def test_checks_judge_alike_whenever_the_answer_comes(
    answer: Answer, check: Any, stage: Any, knobs: dict[str, Any], tables: dict[str, dict[str, str]], outcome: str
) -> None:
    ctx = context(
        stage,
        client=STRANGER,
        helo="example.com",
        sender=address("a@example.org"),
        recipient=to("joe@example.com"),
        role="outbound" if check is own_domain else "inbound",
    )
    asked = check.check(ctx, check.Policy(**knobs), ports(answer, tables))
    assert answer is _soon or isinstance(asked, Verdict)
    found = await answered(asked)
    assert (found.check, found.outcome) == (check.NAME, outcome)


@pytest.mark.parametrize("answer", [now, _soon])
async def test_people_behind_a_table(answer: Answer) -> None:
    where = ports(answer, {"t:people": {"jane.doe": "example.com"}})
    found = impersonation.named("Doe, Jane", impersonation.Policy(people=("t:people",)), where)
    assert await answered(found) == ("example.com",)
    assert await answered(impersonation.named("John Roe", impersonation.Policy(people=("t:people",)), where)) is None


@pytest.mark.parametrize(("check", "stage", "knobs", "tables", "outcome"), CASES)
async def test_a_table_that_fails_later_is_never_an_answer(
    check: Any, stage: Any, knobs: dict[str, Any], tables: dict[str, dict[str, str]], outcome: str
) -> None:
    def away(_value: Any) -> Any:
        return _soon(Unavailable("away"))

    ctx = context(
        stage,
        client=STRANGER,
        helo="example.com",
        sender=address("a@example.org"),
        recipient=to("joe@example.com"),
        role="outbound" if check is own_domain else "inbound",
    )
    with pytest.raises(Unavailable):
        await answered(check.check(ctx, check.Policy(**knobs), ports(away, tables)))


@pytest.mark.parametrize("answer", [now, _soon])
async def test_behind_a_hit_no_list_of_shared_providers_is_asked(answer: Answer) -> None:
    where = ports(answer, {"t:a": {"mail.example.org": "x"}, "t:b": {}})
    ctx = context("mail", client=STRANGER, helo="example.com", sender=address("a@example.org"))
    found = await answered(identity.check(ctx, identity.Policy(shared_providers=("t:a", "t:b")), where))
    assert found.outcome == "shared"
    assert [table.asked for table in where.tables.values()] == [["mail.example.org"], []]  # type: ignore[attr-defined]
