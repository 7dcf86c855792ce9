"""Tables made of others: what each member says, at once or later, or that it cannot answer."""

import asyncio
import gc
import warnings
from collections.abc import Awaitable

import pytest

from appliance.mail.later import answered
from appliance.mail.lookup import Found, Key, search
from appliance.mail.ports import Hit, TableUnavailable
from appliance.tables.compound import Pipe, Random, Union, randmap
from appliance.tables.text import Source, TableError

HERE = Source("here")


class Member:
    """Has these entries, at once or a turn of the loop later; "!" is one that cannot answer."""

    def __init__(self, entries: dict[str, str], later: bool = False, pattern: bool = False) -> None:
        self.entries, self.at_once, self.pattern = entries, not later, pattern
        self.asked: list[str] = []

    def get(self, key: str) -> Hit | Awaitable[Hit | None] | None:
        self.asked.append(key)
        return self._now(key) if self.at_once else self._later(key)

    def _now(self, key: str) -> Hit | None:
        value = self.entries.get(key)
        if value == "!":
            raise TableUnavailable("m", "away")
        return None if value is None else (value, f"m:{key}")

    async def _later(self, key: str) -> Hit | None:
        await asyncio.sleep(0)
        return self._now(key)


LATER = pytest.mark.parametrize("later", [(False, False), (True, False), (False, True), (True, True)])


@LATER
async def test_a_pipe_asks_for_what_the_one_before_says_and_ends_with_the_first_miss(
    later: tuple[bool, bool],
) -> None:
    first, second = Member({"a": "b", "x": "y"}, later[0]), Member({"b": "c", "": "no key of ours"}, later[1])
    pipe = Pipe([first, second], HERE)
    assert pipe.at_once is not any(later)
    assert await answered(pipe.get("a")) == ("c", "m:b")
    assert await answered(pipe.get("x")) is None, "the second has no y"
    assert await answered(pipe.get("q")) is None
    assert (first.asked, second.asked) == (["a", "x", "q"], ["b", "y"]), "behind a miss nobody is asked"


@LATER
async def test_a_union_has_the_values_of_all_in_their_order(later: tuple[bool, bool]) -> None:
    union = Union([Member({"a": "1", "b": "2"}, later[0]), Member({"a": "3", "c": "4"}, later[1])], HERE)
    assert await answered(union.get("a")) == ("1,3", "m:a, m:a")
    assert await answered(union.get("b")) == ("2", "m:b")
    assert await answered(union.get("c")) == ("4", "m:c")
    assert await answered(union.get("d")) is None


@LATER
@pytest.mark.parametrize("away", [0, 1])
@pytest.mark.parametrize("kind", [Pipe, Union])
async def test_a_member_that_cannot_answer_is_a_table_that_cannot(
    kind: type[Pipe | Union], away: int, later: tuple[bool, bool]
) -> None:
    """And whoever was asked beside it is let go in peace."""
    members = [Member({"a": "!" if number == away else "a"}, later[number]) for number in (0, 1)]
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        with pytest.raises(TableUnavailable, match="away"):
            await answered(kind(members, HERE).get("a"))
        gc.collect()


async def test_what_was_asked_and_is_not_waited_for_is_given_up(recwarn: pytest.WarningsRecorder) -> None:
    """The first member is at work when the second says at once that it is away; and the other way about."""
    for away, beside in ((Member({"a": "!"}), Member({}, later=True)), (Member({"a": "!"}, True), Member({}, True))):
        for members in ([beside, away], [away, beside]):
            with pytest.raises(TableUnavailable):
                await answered(Union(members, HERE).get("a"))
    gc.collect()
    assert not [one for one in recwarn if "never awaited" in str(one.message)]


def test_a_random_table_has_each_of_its_values_for_any_key() -> None:
    table = randmap("{one, { two, three }, four}", HERE)
    assert isinstance(table, Random)
    assert {table.get(f"k{number}") for number in range(300)} == {(v, "randmap") for v in ("one", "two, three", "four")}
    with pytest.raises(TableError):
        randmap("{}", HERE)


@pytest.mark.parametrize("later", [False, True])
async def test_tables_of_patterns_see_whole_keys_only_also_where_a_table_was_waited_for(later: bool) -> None:
    slow, rules = Member({}, later), Member({"example.com": "of a part", "u@example.com": "whole"}, pattern=True)
    found = await answered(search([slow, rules], [Key("x@example.com", True), Key("example.com")]))
    assert found is None and rules.asked == ["x@example.com"]
    found = await answered(search([slow, rules], [Key("u@example.com", True), Key("example.com")]))
    assert found == Found("u@example.com", "whole", "m:u@example.com")
