"""Tables that answer with anything, and addresses that are anything: what comes out is addresses that can be sent, or the
mail is put off; a header keeps its fields."""

import random
from typing import Any

import pytest

from appliance.addresses import Expansion, Refused, Rewriter, Settings, header
from appliance.mail import apply
from appliance.mail.ports import Hit, Unavailable
from appliance.protocol.smtp.address import Address, AddressError, parse_address

LETTERS = [*'ab@.,;:<>()[]"\\ \t|/+-%!$1é\n\r\0\u2028@@..,,""', "a@x.example", "b@y.example", "@x.example"]
LETTERS += [":include:", "error:5.1.1 ", "error:", "<>", "example.com"]
SANE = ["a@x.example", "b@y.example, a@x.example", "@y.example", "c+d@x.example", "root"]
MAPS = [name for name in Settings.__struct_fields__ if name.endswith("_maps")]


class Mad:
    """The same answer to the same key, whatever it is."""

    at_once = True

    def __init__(self, dice: random.Random) -> None:
        self._dice, self._known = dice, dict[str, str]()
        self.pattern = dice.random() < 0.2

    def get(self, key: str) -> Hit | None:
        if key not in self._known:
            kind = self._dice.random()
            value = "" if kind < 0.7 else self._dice.choice(SANE) if kind < 0.82 else junk(self._dice, 10)
            self._known[key] = value
        return (self._known[key], "mad:1") if self._known[key] else None


def junk(dice: random.Random, most: int) -> str:
    return "".join(dice.choice(LETTERS) for _ in range(dice.randint(0, most)))


def address(dice: random.Random) -> Address:
    inner = junk(dice, 6).replace('"', "").replace("\\", "")
    for text in (f'"{inner}"@x.example', f"{junk(dice, 4)}@y.example"):
        try:
            return parse_address(text.encode(), utf8=True)[0]
        except (AddressError, UnicodeError):
            continue
    return parse_address(dice.choice([b"a@x.example", b"root@mx.example.com", b'"a b"@x.example', b"a+b@x.example"]))[0]


def rewriter(dice: random.Random) -> Rewriter:
    told: dict[str, Any] = {name: (Mad(dice),) for name in MAPS if dice.random() < 0.6}
    return Rewriter(
        Settings(
            origin="mx.example.com",
            home="example.com",
            own=frozenset({"mx.example.com"}),
            delimiter=dice.choice(["+", "", "-+"]),
            recursion_limit=20,
            expansion_limit=30,
            masquerade_domains=("example",),
            propagate=frozenset(dice.sample(["canonical", "virtual", "alias"], dice.randint(0, 3))),
            **told,
        )
    )


def outcome(work: Any) -> tuple[list[Address], str]:
    """The addresses that it gives, or what it says instead."""
    try:
        found = work()
    except Unavailable as why:
        return [], str(why)
    except Refused as why:
        return [], why.reply
    if isinstance(found, Expansion):
        return list(found.finals), ""
    if isinstance(found, list):
        return [final for copy in found for final in copy.finals], ""
    return ([found[0]] if isinstance(found, tuple) and isinstance(found[0], Address) else []), ""


@pytest.mark.parametrize("seed", range(8))
def test_anything_in_addresses_or_nothing_out(seed: int) -> None:
    dice, given, said = random.Random(seed), 0, 0
    for _ in range(300):
        made, one = rewriter(dice), address(dice)
        for work in (
            lambda m=made, a=one: m.now(m.sender(a)),
            lambda m=made, a=one: m.now(m.reached(a)),
            lambda m=made, a=one: m.now(m.sender_bcc(a)),
            lambda m=made, a=one: m.now(m.recipient_bcc(a)),
            lambda m=made, a=one: m.covers(a),
        ):
            finals, words = outcome(work)
            assert "\n" not in words and "\r" not in words
            given, said = given + len(finals), said + bool(words)
            for final in filter(lambda final: final.text, finals):
                assert parse_address(final.text.encode(), utf8=True)[0] == final
                assert final.domain and not any(ord(letter) < 32 or letter in "\x7f\u2028" for letter in final.text)
    assert given > 300 and said > 100


@pytest.mark.parametrize("seed", range(4))
def test_a_header_keeps_its_fields(seed: int) -> None:
    dice, changed = random.Random(seed), 0
    for _ in range(300):
        made = rewriter(dice)
        fields = [
            f"{dice.choice(['From', 'To', 'CC', 'Subject', 'Reply-To'])}:{junk(dice, 15)}".replace("\r", "").replace(
                "\n", "\r\n "
            )
            for _ in range(4)
        ]
        block = "".join(f"{field}\r\n" for field in fields).encode()
        block = block[: apply.reach(block)]
        try:
            found: Any = made.now(header.rewritten(made, block, ()))
        except Unavailable:
            continue
        new = apply.header(block, found.edits)
        changed += new != block
        assert [apply.named(octets) for octets, _ in apply.fields(new, ())] == [
            apply.named(octets) for octets, _ in apply.fields(block, ())
        ]
    assert changed > 5
