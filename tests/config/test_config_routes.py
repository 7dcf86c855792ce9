"""Which domains are ours, and where their mail goes (protocols 2.9)."""

import random

import pytest

from appliance.config.model import Wiring
from appliance.config.routes import Route, Routes
from appliance.config.transports import parse_transport, sender_problem
from appliance.config.values import NextHop
from appliance.mail.ports import Unavailable, Undeliverable
from appliance.protocol.smtp.address import Address
from appliance.tables import open_table

OURS = ["example.com", "example.org", "same.example", "next.example", "other.example", "sub.example"]


def routes(relay: dict[str, object], **files: str) -> Routes:
    wiring = Wiring.model_validate({"relay": {"domains": OURS, **relay}})
    specs = [spec for _, spec in wiring.relay.tables()]
    return Routes(wiring, {spec: open_table(spec, lambda path: files[path].encode()) for spec in specs})


def address(text: str) -> Address:
    local, _, domain = text.rpartition("@")
    return Address(local, domain, text)


def route(found: Routes, to: str, sender: str = "") -> Route:
    answer = found.route(address(to), address(sender))
    assert isinstance(answer, Route)
    return answer


def hops(found: Routes, to: str) -> list[str]:
    return [str(hop) for hop in route(found, to).hops]


def test_ours_is_exact() -> None:
    found = routes({"domains": ["Example.COM", "bücher.example"]})
    assert found.is_ours("example.com")
    assert found.is_ours("xn--bcher-kva.example")
    for other in ("sub.example.com", "xexample.com", "com", "", "example.com.", "[192.0.2.1]"):
        assert not found.is_ours(other), other


def test_ours_by_table() -> None:
    found = routes({"domains": ["a.example", "texthash:d", "pcre:p"]}, d="b.example x\n", p="/^c[0-9]\\.example$/ x\n")
    assert [name for name in ("a.example", "b.example", "c1.example", "d.example") if found.is_ours(name)] == [
        "a.example",
        "b.example",
        "c1.example",
    ]


def test_routes_by_address_domain_parent_and_star() -> None:
    found = routes(
        {
            "next_hop": "smtp:[10.0.0.1]",
            "routes": {
                "boss@example.com": "smtp:[10.0.0.2]",
                "example.com": ["smtp:[10.0.0.3]", "smtp:[10.0.0.4]:26"],
                ".example.com": "lmtp:unix:/run/l",
            },
        }
    )
    assert hops(found, "Boss@example.com") == ["smtp:[10.0.0.2]:25"]
    assert hops(found, "boss+x@example.com") == ["smtp:[10.0.0.2]:25"]
    assert hops(found, "ann@example.com") == ["smtp:[10.0.0.3]:25", "smtp:[10.0.0.4]:26"]
    assert hops(found, "ann@a.b.example.com") == ["lmtp:unix:/run/l"]
    assert hops(found, "ann@example.org") == ["smtp:[10.0.0.1]:25"]
    assert hops(routes({"next_hop": "smtp:a.example", "routes": {"*": "smtp:b.example"}}), "x@y.example") == [
        "smtp:b.example"
    ]


TRANSPORT = """\
user@example.com  smtp:[10.0.0.2]:26
example.com       relay:[10.0.0.3], [10.0.0.4]:27
.example.com      lmtp:unix:/run/l
mx.example        smtp:
same.example      :
next.example      :[10.0.0.5]
"""


@pytest.mark.parametrize(
    ("address", "expected"),
    [
        ("user+x@example.com", ["smtp:[10.0.0.2]:26"]),
        ("ann@example.com", ["smtp:[10.0.0.3]:25", "smtp:[10.0.0.4]:27"]),
        ("ann@sub.example.com", ["lmtp:unix:/run/l"]),
        ("ann@mx.example", ["smtp:mx.example"]),
        ("ann@same.example", ["smtp:[10.0.0.1]:25"]),
        ("ann@next.example", ["smtp:[10.0.0.5]:25"]),
        ("ann@other.example", ["smtp:[10.0.0.1]:25"]),
    ],
)
def test_a_transport_table(address: str, expected: list[str]) -> None:
    found = routes({"next_hop": "smtp:[10.0.0.1]", "routes": "texthash:t"}, t=TRANSPORT)
    assert hops(found, address) == expected


def test_a_pattern_table_of_transports_sees_the_full_address_only() -> None:
    found = routes(
        {"next_hop": "smtp:[10.0.0.1]", "routes": "pcre:t"}, t="/^sub\\./ smtp:[10.0.0.9]\n/^a@/ smtp:[10.0.0.2]\n"
    )
    assert hops(found, "a@sub.example") == ["smtp:[10.0.0.2]:25"]
    assert hops(found, "b@sub.example") == ["smtp:[10.0.0.1]:25"]


def test_a_value_that_is_no_way_puts_the_mail_off() -> None:
    found = routes({"next_hop": "smtp:[10.0.0.1]", "routes": "texthash:t"}, t="example.com local:no\n")
    with pytest.raises(Unavailable, match="t:1"):
        hops(found, "a@example.com")


@pytest.mark.parametrize(
    ("value", "what"),
    [
        ("local:", "there are none here"),
        ("virtual:", "there are none here"),
        ("uucp:host", "there are none here"),
        ("slow:host", "no transport is called"),
        ("SMTP:host", "no transport is called"),
        ("nonsense", "is no transport"),
        ("example.com", "is no transport"),
        ("smtp:10.0.0.1", "stands in brackets"),
        ("smtp:unix:/run/x", "only LMTP"),
        ("lmtp:unix:private/x", "begins with /"),
        ("smtp:[10.0.0.1]:70000", "is no port"),
        ("smtp:host:gopher", "port as a number"),
        ("smtp:a b@c", "is no domain name"),
        ("smtp:[10.0.0.1]\r\nRCPT TO:<x>", "control character"),
        ("error:5.1.1 no\nX-New: field", "control character"),
        ("smtp:" + "a" * 5000, "letters"),
        ("smtp:" + ",".join(["a.example"] * 40), "next hops"),
    ],
)
def test_what_is_no_transport(value: str, what: str) -> None:
    with pytest.raises(ValueError, match=what):
        parse_transport(value, "example.com")


def test_whatever_a_table_says_is_a_way_or_a_value_error() -> None:
    """What a database answers is not ours: nothing else may come of it, and what comes goes into one line."""
    letters = 'smtpelayrdicogun:[]@.,/ \t-0123456789x\u00e4\u0663\ud800\0\n%\\"<>'
    words = [
        "smtp:",
        "lmtp:",
        "relay:",
        "error:",
        "retry:",
        "discard:",
        "unix:",
        "inet:",
        "[",
        "]",
        "5.1.1 ",
        ":25",
        "::1",
        ",",
    ]
    chance, ways = random.Random(1), 0
    for _ in range(20_000):
        count = chance.randrange(1, 8)
        value = "".join(chance.choice(words) if chance.random() < 0.5 else chance.choice(letters) for _ in range(count))
        try:
            found = parse_transport(value, "example.com")
        except ValueError:
            continue
        ways += 1
        assert all(str(hop).isprintable() for hop in found.hops), value
    assert ways > 1000


@pytest.mark.parametrize(
    ("value", "expected"),
    [
        ("smtp", ["smtp:example.com"]),
        ("smtp:", ["smtp:example.com"]),
        ("relay:", ["smtp:example.com"]),
        ("lmtp:", ["lmtp:[example.com]:24"]),
        ("smtp:mx.example:submission", ["smtp:mx.example:587"]),
        ("smtp:[mx.example]:smtp", ["smtp:[mx.example]:25"]),
        ("smtp:[IPv6:2001:db8::1]", ["smtp:[2001:db8::1]:25"]),
        ("smtp:[2001:db8::1]:26, b.example", ["smtp:[2001:db8::1]:26", "smtp:b.example"]),
        ("smtp:a.example b.example,c.example", ["smtp:a.example", "smtp:b.example", "smtp:c.example"]),
        ("lmtp:unix:/run/dovecot/lmtp", ["lmtp:unix:/run/dovecot/lmtp"]),
        ("lmtp:inet:[10.0.0.1]:2424", ["lmtp:[10.0.0.1]:2424"]),
        ("lmtp:inet:10.0.0.1:2424, 10.0.0.2", ["lmtp:[10.0.0.1]:2424", "lmtp:[10.0.0.2]:24"]),
        (":", []),
        ("error:", ["error:5.0.0 Address is undeliverable"]),
        ("error:mail for it is not deliverable", ["error:5.0.0 mail for it is not deliverable"]),
        ("error:5.1.2 no: such, host", ["error:5.1.2 no: such, host"]),
        ("error:4.1.2 later", ["error:5.0.0 later"]),
        ("error:5.7.1", ["error:5.7.1 (description unavailable)"]),
        ("retry:4.4.1 moving house", ["retry:4.4.1 moving house"]),
        ("retry:5.4.1 moving", ["retry:4.0.0 moving"]),
        ("discard:", ["discard:2.0.0 example.com"]),
        ("discard:nobody reads it", ["discard:2.0.0 nobody reads it"]),
        ("discard:2.1.5 nobody reads it", ["discard:2.1.5 nobody reads it"]),
        ("discard:5.1.1 nobody reads it", ["discard:2.0.0 nobody reads it"]),
    ],
)
def test_what_a_transport_says(value: str, expected: list[str]) -> None:
    assert [str(hop) for hop in parse_transport(value, "example.com").hops] == expected


def test_a_transport_without_a_nexthop_for_an_address_literal_is_that_host() -> None:
    assert [str(hop) for hop in parse_transport("smtp:", "[192.0.2.1]").hops] == ["smtp:[192.0.2.1]:25"]
    assert [str(hop) for hop in parse_transport("smtp:", "[IPv6:2001:db8::1]").hops] == ["smtp:[2001:db8::1]:25"]


def test_a_bare_postmaster_has_no_domain_to_go_to() -> None:
    with pytest.raises(ValueError, match="has none"):
        parse_transport("smtp:", "")


def test_a_nexthop_without_a_transport_keeps_that_of_the_default_for_our_domains_alone() -> None:
    found = routes(
        {"next_hop": "lmtp:[10.0.0.1]", "routes": "inline:{ example.com=:[10.0.0.9] ann@else.example=:x.example }"}
    )
    assert hops(found, "a@example.com") == ["lmtp:[10.0.0.9]:24"]
    assert hops(found, "ann@else.example") == ["smtp:x.example"]


def test_without_an_entry_our_mail_goes_by_default_and_strangers_by_their_domain() -> None:
    found = routes({"next_hop": "smtp:[10.0.0.1]", "routes": "texthash:t"}, t="x.example :\nw.example smtp:\n")
    assert route(found, "a@example.com").by == "[relay] next_hop"
    for to in ("a@x.example", "a@y.example", "a@w.example"):
        assert route(found, to).hops == (NextHop("smtp", to[2:], 25, True),)
        assert route(found, to).outward
    assert not route(routes({}), "a@example.com").hops


def test_several_tables_one_key_after_the_other() -> None:
    found = routes(
        {"routes": ["texthash:one", "texthash:two"]},
        one="example.com smtp:a.example\n",
        two="u@example.com smtp:b.example\n",
    )
    assert hops(found, "u+x@example.com") == ["smtp:b.example"]
    assert route(found, "v@example.com").found == ("example.com", "smtp:a.example", "one:1")


def test_the_star_is_a_key_of_pattern_tables_too() -> None:
    assert hops(routes({"routes": "pcre:t"}, t="/^\\*$/ smtp:star.example\n"), "a@b.example") == ["smtp:star.example"]


def test_who_is_refused_before_the_queue() -> None:
    found = routes({"routes": "inline:{ {a@example.com = error:5.1.6 moved: away}, b@example.com=retry:4.0.0 }"})
    assert found.undeliverable(address("a+x@example.com")) == Undeliverable("550 5.1.6 moved: away", "inline:1")
    odd = routes(
        {"routes": "texthash:t"}, t=f"a@example.com error:5.1.6\tmoved to M\u00fcnchen {'x' * 1500}\n"
    ).undeliverable
    refusal = odd(address("a@example.com"))
    assert isinstance(refusal, Undeliverable) and len(refusal.reply) < 450
    assert refusal.reply.startswith("550 5.1.6 moved to M?nchen xxx")
    assert found.undeliverable(address("b@example.com")) is None and found.undeliverable(address("c@d.example")) is None


def test_answers_stand_in_the_wiring_too() -> None:
    written = {"gone@example.com": "error:5.1.6 moved", "example.org": "retry:soon", ".example.org": "discard:"}
    found = routes({"next_hop": "smtp:[10.0.0.1]", "routes": written | {"*": "smtp:[10.0.0.2]"}})
    assert hops(found, "gone+x@example.com") == ["error:5.1.6 moved"]
    assert hops(found, "a@example.org") == ["retry:4.0.0 soon"] and hops(found, "a@b.example.org") == [
        "discard:2.0.0 discarded"
    ]
    assert found.undeliverable(address("gone@example.com")) == Undeliverable("550 5.1.6 moved", "[relay] routes")
    assert found.undeliverable(address("a@example.org")) is None and found.undeliverable(address("a@example.com")) is None
    assert [str(hop) for hop in found.all_hops()] == ["smtp:[10.0.0.1]:25", "smtp:[10.0.0.2]:25"]


@pytest.mark.parametrize("value", [["error:no", "smtp:[10.0.0.1]"], "local", "error", "error:a\nb"])
def test_what_no_route_of_the_wiring_says(value: object) -> None:
    with pytest.raises(ValueError, match=r"answer|no next hop|control"):
        Wiring.model_validate({"relay": {"routes": {"example.com": value}}})


BY_SENDER = {
    "next_hop": "smtp:[10.0.0.1]",
    "sender_dependent_default_transport_maps": "inline:{ boss@example.com=smtp:[10.0.0.7] d@example.com=DUNNO }",
    "sender_dependent_relayhost_maps": "inline:{ @example.com=[10.0.0.8]:26 <>=bounces.example }",
}


@pytest.mark.parametrize(
    ("sender", "to", "expected"),
    [
        ("boss+x@example.com", "x@far.example", "smtp:[10.0.0.7]:25"),
        ("d@example.com", "x@far.example", "smtp:[10.0.0.8]:26"),
        ("e@example.com", "x@far.example", "smtp:[10.0.0.8]:26"),
        ("", "x@far.example", "smtp:bounces.example"),
        ("s@else.example", "x@far.example", "smtp:far.example"),
        ("boss@example.com", "x@example.org", "smtp:[10.0.0.1]:25"),
    ],
)
def test_next_hops_by_the_sender_are_for_strangers_domains(sender: str, to: str, expected: str) -> None:
    assert [str(hop) for hop in route(routes(BY_SENDER), to, sender).hops] == [expected]


@pytest.mark.parametrize("value", [":", ":[10.0.0.9]", " :x.example"])
def test_by_the_sender_a_transport_is_named(value: str) -> None:
    """Postfix: "null transport is not allowed", and its mail waits."""
    assert "names no transport" in sender_problem("sender_dependent_default_transport_maps", value)
    found = routes({"sender_dependent_default_transport_maps": "texthash:t"}, t=f"a@example.com {value}\n")
    with pytest.raises(Unavailable, match=r"t:1: .*names no transport"):
        route(found, "x@far.example", "a@example.com")


def test_tls_levels_by_the_most_exact_name() -> None:
    tls = {"smtp:[10.0.0.1]:26": "verify", "10.0.0.1": "encrypt", "mail.example": "none", "*": "verify"}
    found = routes({"tls": tls})
    assert found.tls_level(NextHop("smtp", "10.0.0.1", 26)) == "verify"
    assert found.tls_level(NextHop("smtp", "10.0.0.1", 25)) == "encrypt"
    assert found.tls_level(NextHop("smtp", "mail.example", 25, True)) == "none"
    assert found.tls_level(NextHop("smtp", "other.example", 25, True)) == "verify"
    plain = routes({})
    assert plain.tls_level(NextHop("smtp", "10.0.0.1", 25)) == "may"
    assert plain.tls_level(NextHop("lmtp", path="/run/l")) == "none"
