"""Envelope addresses: vectors of what is taken, what is refused, and that no spelling changes the judged domain."""

import time

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from appliance.protocol.smtp import address as module
from appliance.protocol.smtp.address import Address, AddressError, parse_address, parse_path, relay_tricks
from appliance.protocol.smtp.domain import parse_domain

# text, local, domain, external form, leniencies
TAKEN = [
    (b"user@example.com", "user", "example.com", "user@example.com", ""),
    (b"User.Name@EXAMPLE.Com", "User.Name", "example.com", "User.Name@example.com", ""),
    (b"!#$%&'*+-/=?^_`{|}~@example.com", "!#$%&'*+-/=?^_`{|}~", "example.com", "!#$%&'*+-/=?^_`{|}~@example.com", ""),
    (b"a@b", "a", "b", "a@b", ""),
    (b"a@xn--strae-oqa.de", "a", "xn--strae-oqa.de", "a@xn--strae-oqa.de", ""),
    (b"a@1and1.2com", "a", "1and1.2com", "a@1and1.2com", ""),
    (b"postmaster", "postmaster", "", "postmaster", ""),
    (b"PostMaster", "PostMaster", "", "PostMaster", ""),
    (b'"user"@example.com', "user", "example.com", "user@example.com", ""),
    (b'"a b"@example.com', "a b", "example.com", '"a b"@example.com', ""),
    (b'"a\\"b\\\\c"@example.com', 'a"b\\c', "example.com", '"a\\"b\\\\c"@example.com', ""),
    (b'"\\a"@example.com', "a", "example.com", "a@example.com", ""),
    (b'"a@b"@example.com', "a@b", "example.com", '"a@b"@example.com', ""),
    (b'"@evil.example:a"@example.com', "@evil.example:a", "example.com", '"@evil.example:a"@example.com', ""),
    (b'"..."@example.com', "...", "example.com", '"..."@example.com', ""),
    (b"a..b@example.com", "a..b", "example.com", '"a..b"@example.com', "odd_dots"),
    (b".a@example.com", ".a", "example.com", '".a"@example.com', "odd_dots"),
    (b"a.@example.com", "a.", "example.com", '"a."@example.com', "odd_dots"),
    (b"a@example.com.", "a", "example.com", "a@example.com", "trailing_dot"),
    (b"a@my_host.example.com", "a", "my_host.example.com", "a@my_host.example.com", "underscore"),
    (b"@relay.example:a@example.com", "a", "example.com", "a@example.com", "source_route"),
    (b"@x.example,@y.example:a@example.com", "a", "example.com", "a@example.com", "source_route"),
    (b"a@[192.0.2.1]", "a", "[192.0.2.1]", "a@[192.0.2.1]", ""),
    (b"a@[IPv6:2001:DB8:0:0::1]", "a", "[IPv6:2001:db8::1]", "a@[IPv6:2001:db8::1]", ""),
    (b"a@[ipv6:2001:db8::2]", "a", "[IPv6:2001:db8::2]", None, ""),
    (b"user%evil.example@example.com", "user%evil.example", "example.com", "user%evil.example@example.com", ""),
    (b"evil.example!user@example.com", "evil.example!user", "example.com", "evil.example!user@example.com", ""),
    (b"x" * 64 + b"@example.com", "x" * 64, "example.com", None, ""),
    (b"x" * 65 + b"@example.com", "x" * 65, "example.com", None, "long_local"),
    (b"x" * 256 + b"@example.com", "x" * 256, "example.com", None, "long_local"),
    (b"a@" + b"b" * 63 + b".example", "a", "b" * 63 + ".example", None, ""),
    (b"a@" + b".".join([b"b" * 63] * 3) + b"." + b"c" * 63, "a", ".".join(["b" * 63] * 3) + "." + "c" * 63, None, ""),
]


@pytest.mark.parametrize(("text", "local", "domain", "external", "lenient"), TAKEN)
def test_taken(text: bytes, local: str, domain: str, external: str | None, lenient: str) -> None:
    address, leniencies = parse_address(text)
    assert (address.local, address.domain, leniencies) == (local, domain, frozenset(lenient.split()))
    assert address.text == (external if external is not None else text.decode().replace("ipv6", "IPv6"))
    assert not address.utf8
    if lenient in ("", "source_route"):
        assert parse_address(text, strict=True) == (address, leniencies)
    else:
        with pytest.raises(AddressError):
            parse_address(text, strict=True)


REFUSED = [
    b"",
    b"user",
    b"root",
    b"@example.com",
    b"a@",
    b"a@.",
    b"a@.example.com",
    b"a@example..com",
    b"a@example.com..",
    b"a@b@c",
    b"a@example.com@evil.example",
    b'"a@b@c',
    b'"a"b@c',
    b'"a"b.c',
    b"a b.c",
    b"a(b.c",
    b"a,b.c",
    b'"a".b@c',
    b'a."b"@c',
    b'""@example.com',
    b'""',
    b'"a"',
    b"a b@example.com",
    b"a@exam ple.com",
    b" a@example.com",
    b"a@example.com ",
    b"a@-example.com",
    b"a@example-.com",
    b"a@exa$mple.com",
    b"a@example.com/evil",
    b"a@example.com%evil.example",
    b"a@example.com!evil.example",
    b"a@example.com:25",
    b"a@192.0.2.1",
    b"a@example.42",
    b"a@[192.0.2.1",
    b"a@192.0.2.1]",
    b"a@[192.0.2.256]",
    b"a@[192.0.2.01]",
    b"a@[192.0.2]",
    b"a@[0x7f.1]",
    b"a@[127.1]",
    b"a@[::1]",
    b"a@[IPv6:192.0.2.1]",
    b"a@[IPv6:fe80::1%eth0]",
    b"a@[IPv6:1::2::3]",
    b"a@[X400:c=de]",
    b"a@[]",
    b"a@[192.0.2.1].example.com",
    b"a@[192.0.2.1]@example.com",
    b"@:a@example.com",
    b"@relay.example,a@example.com",
    b"@relay.example:",
    b"@relay.example:@b.example:a@example.com",
    b"@rel ay.example:a@example.com",
    b"@192.0.2.1:a@example.com",
    b"a\0@example.com",
    b"a@example.com\0.evil.example",
    b"a@example.com\0",
    b'"a\0b"@example.com',
    b'"a\rb"@example.com',
    b'"a\nb"@example.com',
    b'"a\tb"@example.com',
    b'"a\\\nb"@example.com',
    b"a\x7f@example.com",
    b"a@example.com\r",
    b"a@example.com\n",
    b"a@example.com\r\nRCPT TO:<b@example.com>",
    b"<a@example.com>",
    b"a(comment)@example.com",
    b"a,b@example.com",
    b"a;b@example.com",
    b"a:b@example.com",
    b"a\\@b@example.com",
    b"a[b@example.com",
    b"x" * 257 + b"@example.com",
    b"a@" + b"b" * 64 + b".example",
    b"a@" + b".".join([b"b" * 63] * 4) + b".c",
    b"\xff@example.com",
]


@pytest.mark.parametrize("text", REFUSED)
@pytest.mark.parametrize("utf8", [False, True])
def test_refused(text: bytes, utf8: bool) -> None:
    with pytest.raises(AddressError) as caught:
        parse_address(text, utf8=utf8)
    assert not caught.value.needs_utf8


# U-labels by IDNA2008: what the old IDNA2003 codec would have mapped elsewhere stays itself (RFC 5894 7.2).
U_LABELS = [
    ("straße.de", "xn--strae-oqa.de"),
    ("βόλος.com", "xn--nxasmm1c.com"),
    ("BÜCHER.example", "xn--bcher-kva.example"),
    ("bu\u0308cher.example", "xn--bcher-kva.example"),
    ("例え.テスト", "xn--r8jz45g.xn--zckzah"),
    ("пример.испытание", "xn--e1afmkfd.xn--80akhbyknj4f"),
]


@pytest.mark.parametrize(("name", "a_labels"), U_LABELS)
def test_u_labels_become_a_labels(name: str, a_labels: str) -> None:
    address, lenient = parse_address(f"user@{name}".encode(), utf8=True)
    assert (address.domain, address.text, lenient) == (a_labels, f"user@{a_labels}", frozenset())
    assert not address.utf8, "with A-labels it can go where SMTPUTF8 is not offered"
    with pytest.raises(AddressError) as caught:
        parse_address(f"user@{name}".encode())
    assert caught.value.needs_utf8


@pytest.mark.parametrize(
    "name",
    [
        "exam\uff50le.com",  # full width: compatibility maps it to another name
        "example\u3002com",  # ideographic full stop: must not become a dot
        "example\uff0ecom",
        "\u212aelvin.com",  # Kelvin sign: its lower case is ASCII
        "exa\u200dmple.com",
        "exa\u00admple.com",
        "a\u2024b.com",
        "\u0308a.com",
        "★.com",
        "ab--ü.com",
        "-ü.com",
        "ü-.com",
        "ü" * 60 + ".com",
        "ü" * 64 + ".com",
        "ex\u00e4mple.com\u0085",
        "ü@ü.com",
    ],
)
def test_u_labels_refused(name: str) -> None:
    with pytest.raises(AddressError):
        parse_address(f"user@{name}".encode(), utf8=True)


def test_local_parts_in_utf8() -> None:
    address, _ = parse_address("Jürgen.Ü@example.com".encode(), utf8=True)
    assert address == Address("Jürgen.Ü", "example.com", "Jürgen.Ü@example.com", True)
    address, _ = parse_address('"Jü rgen"@example.com'.encode(), utf8=True)
    assert address == Address("Jü rgen", "example.com", '"Jü rgen"@example.com', True)
    for control in "\x80\x85\x9f\u2028\u2029":
        with pytest.raises(AddressError):
            parse_address(f"a{control}b@example.com".encode(), utf8=True)
    with pytest.raises(AddressError):
        parse_address(("ü" * 129 + "@example.com").encode(), utf8=True)


# text behind FROM: or TO:, address, rest, leniencies
PATHS = [
    (b"<>", "", b"", ""),
    (b"<> SIZE=1", "", b" SIZE=1", ""),
    (b" <>", "", b"", "space_after_colon"),
    (b"<a@b.c>", "a@b.c", b"", ""),
    (b"<a@b.c> SIZE=1 X", "a@b.c", b" SIZE=1 X", ""),
    (b"<a@b.c>\tSIZE=1", "a@b.c", b"\tSIZE=1", ""),
    (b" \t<a@b.c>", "a@b.c", b"", "space_after_colon"),
    (b"a@b.c", "a@b.c", b"", "no_brackets"),
    (b" a@b.c SIZE=1", "a@b.c", b" SIZE=1", "no_brackets space_after_colon"),
    (b"< a@b.c >", "a@b.c", b"", "space_in_brackets"),
    (b'<"a> SIZE=1 "@b.c> SIZE=2', '"a> SIZE=1 "@b.c', b" SIZE=2", ""),
    (b'<"\\">"@b.c> X', '"\\">"@b.c', b" X", ""),
    (b'"a b"@b.c X', '"a b"@b.c', b" X", "no_brackets"),
    (b"<@x.example:a@b.c>", "a@b.c", b"", "source_route"),
    (b"<a..b@b.c.>", '"a..b"@b.c', b"", "odd_dots trailing_dot"),
]


@pytest.mark.parametrize(("text", "external", "rest", "lenient"), PATHS)
def test_paths(text: bytes, external: str, rest: bytes, lenient: str) -> None:
    address, behind, leniencies = parse_path(text)
    assert (address.text, behind, leniencies) == (external, rest, frozenset(lenient.split()))
    if leniencies - {"source_route"}:
        with pytest.raises(AddressError):
            parse_path(text, strict=True)
    else:
        assert parse_path(text, strict=True) == (address, behind, leniencies)


@pytest.mark.parametrize(
    "text",
    [
        b"",
        b" ",
        b"< >",
        b"<a@b.c",
        b"a@b.c>",
        b"<<a@b.c>>",
        b"<a@b.c>>",
        b"<a@b.c>SIZE=1",
        b"<a@b.c><d@e.f>",
        b"Name <a@b.c>",
        b'"Name" <a@b.c>',
        b'<"a@b.c>',
        b"<a@b.c\\>",
        b"<user>",
        b"user",
        b"<a @b.c>",
        b"\r\n<a@b.c>",
    ],
)
def test_paths_refused(text: bytes) -> None:
    with pytest.raises(AddressError):
        parse_path(text)


def test_strict_path_has_256_octets() -> None:
    domain = b".".join([b"b" * 63] * 3)
    fits = b"<" + b"a" * (256 - 3 - len(domain)) + b"@" + domain + b">"
    assert parse_path(fits, strict=True)[0].domain == domain.decode()
    with pytest.raises(AddressError):
        parse_path(b"<a" + fits[1:], strict=True)
    assert parse_path(b"<a" + fits[1:])[2] == {"long_path"}


@pytest.mark.parametrize(
    ("text", "trick"),
    [
        (b"user@example.com", ""),
        (b"user=example.org@example.com", ""),
        (b"postmaster", ""),
        (b"user%evil.example@example.com", "percent"),
        (b"evil.example!user@example.com", "bang"),
        (b"a!b%c@example.com", "bang"),
        (b'"user@evil.example"@example.com', "quoted_at"),
        (b'"@evil.example:user"@example.com', "source_route"),
        (b'"@evil.example:user@x.example"@example.com', "source_route"),
        (b"user@[192.0.2.1]", "literal"),
        (b"user@[IPv6:::1]", "literal"),
    ],
)
def test_relay_tricks_are_named(text: bytes, trick: str) -> None:
    assert relay_tricks(parse_address(text)[0]) == trick


SPECIAL = st.text(st.sampled_from(list('ab.@<>[]"\\ ,:;()%!-_x1\t\r\n\0ü\u212a')), max_size=24)
ANY_ADDRESS = st.one_of(
    SPECIAL.map(str.encode),
    st.binary(max_size=30),
    st.tuples(SPECIAL, SPECIAL).map(lambda pair: "@".join(pair).encode()),
    st.from_regex(rb'[a-z.]{1,8}@[a-z0-9.-]{1,12}|"[a-z\\ @]{0,6}"@[a-z.]{1,9}', fullmatch=True),
)


@settings(deadline=None)
@given(ANY_ADDRESS, st.booleans())
def test_total_and_stable(text: bytes, utf8: bool) -> None:
    """Any octets give an address or AddressError; what is relayed parses to exactly what was judged."""
    try:
        address, _ = parse_address(text, utf8=utf8)
    except AddressError:
        return
    again, lenient = parse_address(address.text.encode(), utf8=address.utf8)
    assert again == address
    assert not lenient - {"underscore", "long_local"}
    relayed, rest, _ = parse_path(b"<" + address.text.encode() + b">", utf8=address.utf8)
    assert (relayed, rest) == (address, b"")
    assert address.text.rpartition("@")[2] == (address.domain or address.text)
    assert address.domain == address.domain.lower() or address.domain.startswith("[")
    assert address.text.isprintable() or address.utf8


@settings(deadline=None)
@given(st.from_regex(rb"[A-Za-z0-9.!%+-]{1,12}@[A-Za-z0-9.-]{1,20}", fullmatch=True))
def test_the_short_way_and_the_long_way_agree(text: bytes) -> None:
    def outcome(fast: bool) -> object:
        try:
            return parse_address(text) if fast else module._parse_slowly(text.decode(), strict=False)
        except AddressError:
            return None

    assert outcome(fast=True) == outcome(fast=False)


@settings(deadline=None)
@given(st.binary(max_size=60), st.booleans(), st.booleans())
def test_paths_are_total(text: bytes, utf8: bool, strict: bool) -> None:
    try:
        _, rest, _ = parse_path(b"<" + text, utf8=utf8, strict=strict)
    except AddressError:
        return
    assert text.endswith(rest)
    assert rest[:1] in (b"", b" ", b"\t")


@pytest.mark.parametrize(
    "text",
    [
        b"<" + b"a" * 200_000,
        b"<" + b"a." * 100_000 + b"@",
        b"a@" + b"a-" * 100_000,
        b"a@" + b"-" * 200_000 + b"a",
        b'<"' + b"\\" * 200_001,
        b'<"' + b'\\"' * 100_000,
        b'<""' * 50_000,
        b"@a," * 60_000,
        b"@a:" * 60_000,
        b"(" * 200_000,
        ("<a@" + "ü" * 100_000 + ">").encode(),
        ("<a@" + "ü." * 60_000 + "!>").encode(),
    ],
)
def test_linear(text: bytes) -> None:
    """A quadratic parser would take minutes for these."""
    start = time.process_time()
    for octets in (text, text + b">"):
        with pytest.raises(AddressError):
            parse_path(octets, utf8=True)
    assert time.process_time() - start < 2


def test_domains_alone() -> None:
    assert parse_domain("Example.COM.") == ("example.com", frozenset({"trailing_dot"}))
    with pytest.raises(AddressError):
        parse_domain("example.com.", strict=True)
