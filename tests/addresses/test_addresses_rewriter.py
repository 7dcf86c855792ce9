"""The rewriter by the words of canonical(5), virtual(5), aliases(5) and postconf(5), with tables that answer at once and
with tables that have to be awaited."""

import asyncio
from collections.abc import Awaitable, Callable
from typing import Any

import pytest

from appliance.addresses import Expansion, Refused, Rewriter, Settings, Unreasonable
from appliance.mail.later import answered
from appliance.mail.ports import Hit, Unavailable
from appliance.protocol.smtp.address import NULL_SENDER, parse_address
from appliance.tables import open_table


class Later:
    """A table whose answers come with a later turn of the loop."""

    at_once = False

    def __init__(self, table: Any) -> None:
        self._table, self.pattern = table, table.pattern

    def get(self, key: str) -> Awaitable[Hit | None]:
        return self._later(key)

    async def _later(self, key: str) -> Hit | None:
        await asyncio.sleep(0)
        found: Hit | None = self._table.get(key)
        return found


class Away:
    """A table that cannot answer."""

    pattern, at_once = False, True

    def get(self, key: str) -> Hit | None:
        raise Unavailable("texthash:away: it is away")


class Python:
    """A table that a function answers for."""

    pattern, at_once = False, True

    def __init__(self, answer: Callable[[str], str]) -> None:
        self._answer = answer

    def get(self, key: str) -> Hit | None:
        value = self._answer(key)
        return (value, "python:1") if value else None


def texthash(text: str) -> Any:
    table = open_table("texthash:/maps/it", lambda _: text.encode())
    assert [flaw for flaw in table.source.flaws if flaw.fatal] == []
    return table


@pytest.fixture(params=[lambda table: table, Later], ids=["at once", "later"])
def made(request: pytest.FixtureRequest) -> Callable[..., Rewriter]:
    """A rewriter; texts of maps become tables."""

    def make(**told: Any) -> Rewriter:
        maps = {
            key: (request.param(texthash(value) if isinstance(value, str) else value),)
            for key, value in told.items()
            if key.endswith("_maps")
        }
        return Rewriter(Settings(**{"origin": "mx.example.com", "home": "example.com", **told, **maps}))

    return make


def recipient(rewriter: Rewriter, text: str) -> Expansion:
    return asyncio.run(answered(rewriter.recipient(parse_address(text.encode(), utf8=True)[0])))


def to(rewriter: Rewriter, text: str) -> list[str]:
    return [one.text for one in recipient(rewriter, text).finals]


def sender(rewriter: Rewriter, text: str) -> str:
    address = parse_address(text.encode())[0] if text else NULL_SENDER
    return asyncio.run(rewriter.sender(address))[0].text


VIRTUAL = """\
alias.example   domain
info@alias.example          a@example.com, b@example.com
one@alias.example           a@example.com
case@alias.example          Mixed.Case@Example.COM
plus+ext@alias.example      exact@example.com
plus@alias.example          user@example.com
@wild.example               @example.com
@catch.example              all@example.com
self@alias.example          self@alias.example, copy@example.com
"quo ted"@alias.example     "has, comma"@example.com, plain@example.com
words@alias.example         a@example.com b@example.com
named@alias.example         Joe Q. Public <joe@example.com>, (a comment) x@example.com
bare@alias.example          root
deep1@alias.example         deep2@alias.example
deep2@alias.example         deep3@alias.example, side@example.com
deep3@alias.example         end@example.com
twice@alias.example         a@example.com, A@example.com, info@alias.example
gone@alias.example          error:5.1.6 has moved
list@alias.example          a@example.com, gone@alias.example
root                        admin@example.com
"""


@pytest.mark.parametrize(
    ("address", "finals"),
    [
        ("info@alias.example", ["a@example.com", "b@example.com"]),
        ("INFO@Alias.Example", ["a@example.com", "b@example.com"]),
        ("nobody@example.com", ["nobody@example.com"]),
        ("case@alias.example", ["Mixed.Case@example.com"]),
        ("plus+ext@alias.example", ["exact@example.com"]),
        ("plus+other@alias.example", ["user+other@example.com"]),
        ("info+x@alias.example", ["a+x@example.com", "b+x@example.com"]),
        ("a+b@wild.example", ["a+b@example.com"]),
        ("a+b@catch.example", ["all@example.com"]),
        ("self@alias.example", ["self@alias.example", "copy@example.com"]),
        ('"quo ted"@alias.example', ['"has, comma"@example.com', "plain@example.com"]),
        ("words@alias.example", ["a@example.com", "b@example.com"]),
        ("named@alias.example", ["joe@example.com", "x@example.com"]),
        ("bare@alias.example", ["admin@example.com"]),
        ("deep1@alias.example", ["end@example.com", "side@example.com"]),
        ("twice@alias.example", ["a@example.com", "b@example.com"]),
        ("root@mx.example.com", ["admin@example.com"]),
        ("root@other.example", ["root@other.example"]),
        ("postmaster@alias.example", ["postmaster@example.com"]),
        ("PostMaster@mx.example.com", ["postmaster@example.com"]),
    ],
)
def test_virtual_aliases(made: Callable[..., Rewriter], address: str, finals: list[str]) -> None:
    assert to(made(virtual_alias_maps=VIRTUAL), address) == finals


def test_each_step_says_where_it_stands(made: Callable[..., Rewriter]) -> None:
    steps = recipient(made(virtual_alias_maps=VIRTUAL), "deep1@alias.example").steps
    assert [(step.setting, step.place, step.before) for step in steps] == [
        ("virtual_alias_maps", "/maps/it:14", "deep1@alias.example"),
        ("virtual_alias_maps", "/maps/it:15", "deep2@alias.example"),
        ("virtual_alias_maps", "/maps/it:16", "deep3@alias.example"),
    ]
    assert str(steps[1]) == (
        "virtual_alias_maps /maps/it:15: <deep2@alias.example> -> <deep3@alias.example>, <side@example.com>"
    )


def test_extensions_stay_behind_where_they_are_not_propagated(made: Callable[..., Rewriter]) -> None:
    rewriter = made(virtual_alias_maps=VIRTUAL, propagate=frozenset({"canonical"}))
    assert to(rewriter, "plus+other@alias.example") == ["user@example.com"]
    at_domain = made(virtual_alias_maps="user@alias.example  @example.com", propagate=frozenset())
    assert to(at_domain, "user+x@alias.example") == ["user@example.com"]


def test_another_delimiter(made: Callable[..., Rewriter]) -> None:
    rewriter = made(virtual_alias_maps="user@alias.example new@example.com", delimiter="-")
    assert to(rewriter, "user-x@alias.example") == ["new-x@example.com"]
    assert to(rewriter, "user+x@alias.example") == ["user+x@alias.example"]


def test_a_refusal_is_for_the_address_alone(made: Callable[..., Rewriter]) -> None:
    rewriter = made(virtual_alias_maps=VIRTUAL)
    with pytest.raises(Refused) as why:
        recipient(rewriter, "gone@alias.example")
    assert why.value.reply == "550 5.1.6 has moved"
    with pytest.raises(Unreasonable, match="is refused"):
        recipient(rewriter, "list@alias.example")


# ---------------------------------------------------------------------- canonical maps, masquerading


def test_canonical_maps_in_their_order(made: Callable[..., Rewriter]) -> None:
    rewriter = made(
        sender_canonical_maps="a@example.com s@example.com",
        recipient_canonical_maps="a@example.com r@example.com",
        canonical_maps="s@example.com common-s@example.com\nr@example.com common-r@example.com",
        virtual_alias_maps="common-r@example.com v@example.com",
    )
    assert sender(rewriter, "a@example.com") == "common-s@example.com"
    assert to(rewriter, "a@example.com") == ["v@example.com"]
    assert recipient(rewriter, "a@example.com").address.text == "common-r@example.com"


def test_canonical_maps_rewrite_again_and_again(made: Callable[..., Rewriter]) -> None:
    rewriter = made(canonical_maps="".join(f"a{n}@x.example a{n + 1}@x.example\n" for n in range(9)))
    assert sender(rewriter, "a0@x.example") == "a9@x.example"


def test_a_canonical_loop_puts_off(made: Callable[..., Rewriter]) -> None:
    rewriter = made(canonical_maps="a@x.example b@x.example\nb@x.example a@x.example")
    with pytest.raises(Unreasonable, match="again and again"):
        sender(rewriter, "a@x.example")
    assert sender(made(canonical_maps="a@x.example A@x.example"), "a@x.example") == "A@x.example"


def test_the_first_of_several_canonical_results_counts(made: Callable[..., Rewriter]) -> None:
    assert sender(made(canonical_maps="a@x.example b@x.example, c@x.example"), "a@x.example") == "b@x.example"


def test_classes(made: Callable[..., Rewriter]) -> None:
    rewriter = made(canonical_maps="a@x.example b@x.example", canonical_classes=frozenset({"envelope_recipient"}))
    assert sender(rewriter, "a@x.example") == "a@x.example"
    assert to(rewriter, "a@x.example") == ["b@x.example"]
    assert not rewriter.of_headers


def test_the_null_sender_is_never_rewritten(made: Callable[..., Rewriter]) -> None:
    rewriter = made(canonical_maps=Python(lambda key: "x@example.com"), masquerade_domains=("example.com",))
    assert sender(rewriter, "") == ""


def test_a_sender_can_become_null(made: Callable[..., Rewriter]) -> None:
    rewriter = made(sender_canonical_maps="robot@x.example <>", recipient_canonical_maps="robot@x.example <>")
    assert sender(rewriter, "robot@x.example") == ""
    with pytest.raises(Unreasonable, match="null"):
        recipient(rewriter, "robot@x.example")


MASQUERADE = ("!keep.example.com", "sub.example.com", "example.com")


@pytest.mark.parametrize(
    ("before", "after"),
    [
        ("a@host.example.com", "a@example.com"),
        ("a@example.com", "a@example.com"),
        ("a@keep.example.com", "a@keep.example.com"),
        ("a@x.keep.example.com", "a@x.keep.example.com"),
        ("a@x.sub.example.com", "a@sub.example.com"),
        ("a@sub.example.com", "a@sub.example.com"),
        ("a@notexample.com", "a@notexample.com"),
        ("root@host.example.com", "root@host.example.com"),
        ("ROOT@host.example.com", "ROOT@host.example.com"),
        ("tabled@host.example.com", "tabled@host.example.com"),
        ('"a b"@host.example.com', '"a b"@example.com'),
    ],
)
def test_masquerading(made: Callable[..., Rewriter], before: str, after: str) -> None:
    rewriter = made(
        masquerade_domains=MASQUERADE,
        masquerade_exceptions=frozenset({"root"}),
        masquerade_exception_tables=(texthash("tabled x"),),
    )
    assert sender(rewriter, before) == after
    assert to(rewriter, before) == [before]
    every = made(masquerade_domains=MASQUERADE, masquerade_classes=frozenset({"envelope_recipient"}))
    assert sender(every, "a@host.example.com") == "a@host.example.com"
    assert to(every, "a@host.example.com") == ["a@example.com"]


# ---------------------------------------------------------------------- aliases of our own names


ALIASES = """\
root        admin@example.com
daemon      root
group       root, "a b"@example.com, other
me          me, copy@example.com
prog        "|/bin/cat"
file        /var/mail/x
include     :include:/etc/passwd
mixed       a@example.com, "|exit 75"
"""


def aliases(made: Callable[..., Rewriter]) -> Rewriter:
    return made(alias_maps=ALIASES, own=frozenset({"mx.example.com", "mail.example.com"}))


@pytest.mark.parametrize(
    ("address", "finals"),
    [
        ("root@mail.example.com", ["admin@example.com"]),
        ("Daemon@mx.example.com", ["admin@example.com"]),
        ("root+x@mx.example.com", ["admin@example.com"]),
        ("group@mx.example.com", ["admin@example.com", '"a b"@example.com', "other@mx.example.com"]),
        ("me@mx.example.com", ["me@mx.example.com", "copy@example.com"]),
        ("root@example.com", ["root@example.com"]),
        ("postmaster@mail.example.com", ["postmaster@example.com"]),
    ],
)
def test_aliases(made: Callable[..., Rewriter], address: str, finals: list[str]) -> None:
    assert to(aliases(made), address) == finals


@pytest.mark.parametrize(
    ("name", "why"),
    [("prog", "not run"), ("file", "not written"), ("include", "not read"), ("mixed", "not run")],
)
def test_nothing_but_addresses(made: Callable[..., Rewriter], name: str, why: str) -> None:
    with pytest.raises(Unreasonable, match=why):
        recipient(aliases(made), f"{name}@mx.example.com")


# ---------------------------------------------------------------------- who is known


def test_who_is_known(made: Callable[..., Rewriter]) -> None:
    rewriter = made(
        virtual_alias_maps=VIRTUAL,
        canonical_maps="c@example.com x@example.com",
        recipient_canonical_maps="r@example.com x@example.com",
        sender_canonical_maps="s@example.com x@example.com",
        alias_maps=ALIASES,
        own=frozenset({"mx.example.com"}),
        alias_domains=frozenset({"named.example"}),
        is_relayed=lambda domain: domain == "example.com",
    )

    async def ask() -> None:
        for text, known in {
            "info+x@alias.example": True,
            "nobody@alias.example": False,
            "c@example.com": True,
            "r@example.com": True,
            "s@example.com": False,
            "root@mx.example.com": True,
            "nobody@mx.example.com": False,
            "any@wild.example": True,
        }.items():
            found = await answered(rewriter.covers(parse_address(text.encode())[0]))
            assert (found is not None) == known, text
        for domain, (ours, only) in {
            "alias.example": (True, True),
            "named.example": (True, True),
            "mx.example.com": (True, True),
            "example.com": (True, False),
            "wild.example": (False, False),
            "other.example": (False, False),
            "": (False, False),
        }.items():
            assert await answered(rewriter.is_ours(domain)) is ours, domain
            assert await answered(rewriter.only_aliases(domain)) is only, domain

    asyncio.run(ask())


def test_a_pattern_never_makes_a_domain_ours() -> None:
    everything = open_table("pcre:{ {/./ all@example.com} }", lambda _: b"")
    rewriter = Rewriter(Settings(origin="mx.example.com", virtual_alias_maps=(everything,)))
    assert rewriter.is_ours("stranger.example") is False
    told = Settings(origin="mx", virtual_alias_maps=(texthash("a.example x"),), map_domains=False)
    assert Rewriter(told).is_ours("a.example") is False


# ---------------------------------------------------------------------- copies


def test_blind_copies(made: Callable[..., Rewriter]) -> None:
    rewriter = made(
        sender_bcc_maps="a@example.com sent@archive.example\n@list.example one@archive.example, two@archive.example",
        recipient_bcc_maps="b@example.com got@archive.example\nbad@example.com |/bin/sh",
        virtual_alias_maps="got@archive.example final@archive.example",
        always_bcc="all@archive.example",
    )

    async def ask() -> None:
        def parsed(text: str) -> Any:
            return parse_address(text.encode())[0]

        def texts(copies: list[Expansion]) -> list[str]:
            return [one.text for copy in copies for one in copy.finals]

        assert texts(await rewriter.sender_bcc(parsed("a+x@example.com"))) == ["sent@archive.example"]
        assert texts(await rewriter.sender_bcc(parsed("z@list.example"))) == [
            "one@archive.example",
            "two@archive.example",
        ]
        assert await rewriter.sender_bcc(NULL_SENDER) == []
        assert await rewriter.sender_bcc(parsed("z@example.com")) == []
        (copy,) = await rewriter.recipient_bcc(parsed("b@example.com"))
        assert [str(step) for step in copy.steps] == [
            "recipient_bcc_maps /maps/it:1: <b@example.com> -> <got@archive.example>",
            "virtual_alias_maps /maps/it:1: <got@archive.example> -> <final@archive.example>",
        ]
        assert texts(await rewriter.always_bcc()) == ["all@archive.example"]
        with pytest.raises(Unreasonable, match="not run"):
            await rewriter.recipient_bcc(parsed("bad@example.com"))

    asyncio.run(ask())


# ---------------------------------------------------------------------- limits, and tables that want harm


def test_a_loop_of_aliases_puts_off(made: Callable[..., Rewriter]) -> None:
    rewriter = made(virtual_alias_maps="a@x.example b@x.example\nb@x.example a@x.example", recursion_limit=50)
    with pytest.raises(Unreasonable, match="without end"):
        recipient(rewriter, "a@x.example")


def test_an_alias_bomb_goes_off_in_bounded_time() -> None:
    """Twenty levels of doubling: a million recipients, were there no limit."""
    asked = 0

    def answer(key: str) -> str:
        nonlocal asked
        asked += 1
        local = key.removesuffix("@x.example")
        return f"{local}l@x.example, {local}r@x.example" if "@" in key and len(local) <= 20 else ""

    rewriter = Rewriter(Settings(origin="mx.example.com", virtual_alias_maps=(Python(answer),)))
    with pytest.raises(Unreasonable, match="more than 1000 recipients"):
        recipient(rewriter, "b@x.example")
    assert asked < 5000


def test_what_grows_without_repeating_is_bounded_too() -> None:
    """Each address is new: no loop is ever seen."""
    rewriter = Rewriter(Settings(origin="mx.example.com", virtual_alias_maps=(Python(lambda key: f"x{key}"),)))
    with pytest.raises(Unreasonable):
        recipient(rewriter, "a@x.example")


def test_ten_thousand_results_puts_off(made: Callable[..., Rewriter]) -> None:
    many = ", ".join(f"u{n}@example.com" for n in range(10_000))
    with pytest.raises(Unreasonable, match="more than 1000 recipients"):
        recipient(made(virtual_alias_maps=f"a@x.example {many}"), "a@x.example")
    assert len(to(made(virtual_alias_maps=f"a@x.example {many}", expansion_limit=10_000), "a@x.example")) == 10_000


def test_exactly_the_limit_is_allowed(made: Callable[..., Rewriter]) -> None:
    ten = ", ".join(f"u{n}@example.com" for n in range(10))
    chain = "".join(f"c{n}@x.example c{n + 1}@x.example\n" for n in range(9))
    rewriter = made(virtual_alias_maps=f"a@x.example {ten}\n{chain}", expansion_limit=10, recursion_limit=10)
    assert len(to(rewriter, "a@x.example")) == 10
    assert to(rewriter, "c0@x.example") == ["c9@x.example"]
    less = made(virtual_alias_maps=f"a@x.example {ten}\n{chain}", expansion_limit=9, recursion_limit=9)
    for text in ("a@x.example", "c0@x.example"):
        with pytest.raises(Unreasonable):
            recipient(less, text)


def test_a_long_address_puts_off(made: Callable[..., Rewriter]) -> None:
    rewriter = made(virtual_alias_maps=f"a@x.example {'b' * 90}@x.example", address_length_limit=100)
    assert to(rewriter, "a@x.example") == [f"{'b' * 90}@x.example"]
    rewriter = made(virtual_alias_maps=f"a@x.example {'b' * 92}@x.example", address_length_limit=100)
    with pytest.raises(Unreasonable, match="more than 100 letters"):
        recipient(rewriter, "a@x.example")


@pytest.mark.parametrize(
    "value",
    [
        "b@example.com\r\nRCPT TO:<evil@example.com>",
        "b@example.com\n",
        "b@exa\0mple.com",
        "<b@example.com",
        "b@@example.com",
        "@",
        "b@",
        "(nothing but a comment)",
        ",,,",
        '"unfinished@example.com',
        "b@[not a literal",
        "b@exa mple.com@x",
        "\u2028b@example.com",
        f"{'b' * 300}@example.com",
        "|/bin/sh",
        "  :INCLUDE:/etc/passwd",
        "\\root",
    ],
)
def test_a_value_that_is_no_address_puts_off(value: str) -> None:
    settings = {"virtual_alias_maps": (Python(lambda key: value if key == "a@x.example" else ""),)}
    rewriter = Rewriter(Settings(origin="mx.example.com", **settings))  # type: ignore[arg-type]
    try:
        finals = to(rewriter, "a@x.example")
    except Unreasonable as why:
        assert "python:1" in str(why)
        assert str(why).isprintable()
    else:
        # What is read leniently holds nothing that could end a command.
        assert all(one.isprintable() and one.count("@") == 1 for one in finals), finals


@pytest.mark.parametrize("key", [key for key in Settings.__struct_fields__ if key.endswith("_maps")])
def test_a_table_that_cannot_answer_puts_off(key: str) -> None:
    rewriter = Rewriter(Settings(origin="mx.example.com", own=frozenset({"mx.example.com"}), **{key: (Away(),)}))  # type: ignore[arg-type]
    address = parse_address(b"a@mx.example.com")[0]

    async def everything() -> None:
        await rewriter.sender(address)
        await rewriter.recipient(address)
        await rewriter.sender_bcc(address)
        await rewriter.recipient_bcc(address)

    with pytest.raises(Unavailable, match="it is away"):
        asyncio.run(everything())


@pytest.mark.parametrize("local", ['"a b"', '"a@b"', "a%b", "a!b", '"\\"x"', '"."', "a..b", "+x", "a+b+c"])
def test_odd_local_parts_stay_one_address(made: Callable[..., Rewriter], local: str) -> None:
    rewriter = made(virtual_alias_maps="@x.example @example.com", canonical_maps="nobody@x.example a@x.example")
    before = parse_address(f"{local}@x.example".encode())[0]
    (after,) = recipient(rewriter, f"{local}@x.example").finals
    assert (after.local, after.domain) == (before.local, "example.com")


def test_what_a_pattern_finds_in_quotes_makes_no_further_recipients() -> None:
    """`$1` of the bare form of "a,b@evil.example,c" would be three addresses: patterns see the quoted form only."""
    greedy = open_table(
        'pcre:{ {/^([^"]+)@x\\.example$/ $1@example.com}, {/^(.*)@y\\.example$/ $1@example.com} }', lambda _: b""
    )
    rewriter = Rewriter(Settings(origin="mx.example.com", virtual_alias_maps=(greedy,)))
    assert to(rewriter, "plain@x.example") == ["plain@example.com"]
    assert to(rewriter, '"a,b@evil.example,c"@x.example') == ['"a,b@evil.example,c"@x.example']
    assert to(rewriter, '"a,b@evil.example,c"@y.example') == ['"a,b@evil.example,c"@example.com']
    assert to(rewriter, '"a\\",b@evil.example,\\"c"@y.example') == ['"a\\",b@evil.example,\\"c"@example.com']


def test_what_led_to_what_cannot_be_meant_is_known() -> None:
    maps = texthash("a@x.example b@x.example\nb@x.example |/bin/sh")
    rewriter = Rewriter(Settings(origin="mx.example.com", virtual_alias_maps=(maps,)))
    with pytest.raises(Unreasonable) as why:
        recipient(rewriter, "a@x.example")
    assert [step.place for step in why.value.steps] == ["/maps/it:1"]


def test_sendmails_virtusertable() -> None:
    text = (
        "info@shop.example\tann@example.com\ngone@shop.example\terror:5.1.6:550 has moved\n"
        "no@shop.example\terror:nouser No such user\nlist+*@shop.example\tlists-%2@example.com\n"
        "@old.example\t%1@example.com\n@catch.example\tall@example.com\n"
    )
    maps = open_table("sendmail_virtusertable:v", lambda _: text.encode())
    rewriter = Rewriter(
        Settings(origin="mx.example.com", virtual_alias_maps=(maps,), alias_domains=frozenset({"shop.example"}))
    )
    assert to(rewriter, "info@shop.example") == ["ann@example.com"]
    assert to(rewriter, "info+x@shop.example") == ["ann@example.com"]
    assert to(rewriter, "list+news@shop.example") == ["lists-news@example.com"]
    assert to(rewriter, "any.body@old.example") == ["any.body@example.com"]
    assert to(rewriter, "x@catch.example") == ["all@example.com"]
    for address, reply in {"gone": "550 5.1.6 has moved", "no": "550 5.1.1 No such user"}.items():
        with pytest.raises(Refused) as why:
            recipient(rewriter, f"{address}@shop.example")
        assert why.value.reply == reply
    assert asyncio.run(rewriter.reached(parse_address(b"nobody@shop.example")[0])) is None
