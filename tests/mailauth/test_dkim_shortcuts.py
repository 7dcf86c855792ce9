"""The short ways of signatures say what the long ones say, whatever stands in the message: the tag reader what dkimpy's
says, a field of a signer who is known what it says anew, a small body hashed in one what it is in pieces."""

import random
from collections.abc import Iterable, Sequence

import pytest

from appliance.daemons.fronts.content import RamContent
from appliance.mailauth import dkim_signature, dkimpy, tags
from appliance.mailauth.dkim_body import PIECE, BodyHash, Want, canonical, canonical_whole, hash_body
from appliance.mailauth.dkim_message import Message, relaxed_field, without_signature
from appliance.mailauth.dkim_signature import Kind, Signed, read_signature
from tests.mailauth.signing import HEADER, Letter, sign

ALPHABET = (b"a", b"b", b" b", b"bh", b"t", b"=", b"=", b";", b" ", b"\t", b"\r\n ", b"\x0b", b"\xe9", b"1", b"_", b":")


def texts(seed: int, count: int, alphabet: Sequence[bytes] = ALPHABET, most: int = 16) -> Iterable[bytes]:
    dice = random.Random(seed)
    for _ in range(count):
        yield b"".join(dice.choices(alphabet, k=dice.randrange(most)))


def by_dkimpy(text: bytes) -> dict[bytes, bytes] | str:
    try:
        return dict(dkimpy.dkim.util.parse_tag_value(text))
    except dkimpy.dkim.util.InvalidTagValueList as error:
        return type(error).__name__


def by_ours(text: bytes) -> dict[bytes, bytes] | str:
    try:
        return tags.read(text)
    except tags.TagTwice:
        return "DuplicateTag"
    except tags.NoTagList:
        return "InvalidTagSpec"


def test_tag_lists_are_read_as_dkimpy_reads_them() -> None:
    found = set()
    for text in (*texts(1, 30_000), b"", b";", b" ; ", b"a=1;", b"a=1;;", b"a=1; ", b"a=1 ;\x0c"):
        said = by_ours(text)
        assert said == by_dkimpy(text), text
        found.add(said if isinstance(said, str) else "tags")
        if isinstance(said, dict):
            assert list(said) == list(dkimpy.dkim.util.parse_tag_value(text)), "in the same order"
    assert found == {"DuplicateTag", "InvalidTagSpec", "tags"}


#: Values of each tag: what is usual, then what is wrong or odd in some way.
VALUES: dict[bytes, tuple[bytes | None, ...]] = {
    b"v": (b"1", b"2", b"", None),
    b"a": (b"rsa-sha256", b"RSA-SHA256", b"ed25519-sha256", b"rsa-sha1", b"dsa", b"", None, b"\xe9"),
    b"c": (b"relaxed/relaxed", None, b"simple", b"relaxed", b"Simple/Relaxed", b"no/simple", b"relaxed/no", b""),
    b"d": (
        b"example.org",
        b"EXAMPLE.org",
        b"example",
        b"",
        None,
        b"ex\xc3\xa4mple.org",
        b"a." * 126 + b"org",
        b"\xff.org",
    ),
    b"s": (b"s", b"", None, b"s.t", b"-", b"x" * 63),
    b"i": (
        None,
        b"@example.org",
        b"joe@mail.example.org",
        b"joe@example.net",
        b"1",
        b"2",
        b"12345",
        b"",
        b"\x01@example.org",
    ),
    b"h": (b"From:To", b"from : subject:\r\n\tfrom", b"to", b"", None, b"from:" + b"x:" * 300),
    b"q": (None, b"dns/txt", b"dns/other", b"dns/other : dns/txt"),
    b"l": (None, b"0", b"12", b"x", b"", b"9" * 76, b"9" * 77),
    b"t": (None, b"1700000000", b"x", b"", b"1" * 13),
    b"x": (None, b"1700000001", b"1600000000", b"x"),
    b"b": (b"AAAA", b"AA\r\n\t AA", b"A", b"!", b"", None, b"AAAA="),
    b"bh": (b"AAAA", b"AA AA", b"A", b"", None),
    b"cv": (None, b"none", b"PASS", b"fail", b"", b"\xe9"),
}


#: What is usual of ARC.
OF_KIND: dict[Kind, dict[bytes, bytes | None]] = {
    "dkim": {},
    "ams": {b"v": None, b"i": b"1"},
    "seal": {b"v": None, b"i": b"1", b"h": None, b"cv": b"none"},
}


def fields(seed: int, count: int, odd: float, kind: Kind) -> Iterable[bytes]:
    dice = random.Random(seed)
    for _ in range(count):
        chosen = {
            name: dice.choice(values) if dice.random() < odd else OF_KIND[kind].get(name, values[0])
            for name, values in VALUES.items()
        }
        order = list(chosen)
        if dice.random() < 0.2:
            dice.shuffle(order)
        yield b"X:" + b";".join(b" %b=%b" % (name, value) for name in order if (value := chosen[name]) is not None)


@pytest.mark.parametrize("kind", ["dkim", "ams", "seal"])
@pytest.mark.parametrize("odd", [0.05, 0.3])
def test_a_known_signer_is_read_as_a_new_one(kind: Kind, odd: float) -> None:
    dkim_signature._steady.cache_clear()
    reasons: set[str] = set()
    for place, field in enumerate(fields(2, 4000, odd, kind)):
        long_way = dkim_signature._anew(tags.read(field.partition(b":")[2]), kind, place)
        for _ in range(2):
            assert read_signature(field, place, kind) == long_way, field
        reasons.add(long_way.broken)
    assert len(reasons) > 5
    assert "" in reasons and dkim_signature._steady.cache_info().hits > 500, "the short way was taken"


def test_a2_what_is_remembered_of_a_signer_is_small() -> None:
    """A field may be long, its h= may name thousands: nothing of that is kept."""
    dkim_signature._steady.cache_clear()
    for number in range(20):
        names = b"from:" + b":".join([b"n%d" % number] * 200)
        field = b"X: v=1; a=rsa-sha256; d=example.org; s=s; bh=AAAA; b=AAAA; h=" + names
        assert len(read_signature(field, 0).names) == 201
        assert read_signature(
            b"X: v=1; z=%b; a=rsa-sha256; d=e%d.org; s=s; bh=AAAA; b=AAAA; h=from" % (b"z" * 3000, number), 0
        )
    assert dkim_signature._steady.cache_info().currsize == 0


BODIES = (b"a", b"b ", b" ", b"  ", b"\t", b"\r\n", b"\r\n", b"\r", b"\n", b" \r\n")


@pytest.mark.parametrize("relaxed", [False, True])
def test_a_body_in_one_is_canonical_as_in_pieces(relaxed: bool) -> None:
    for body in (*texts(3, 40_000, BODIES, 12), b"", b"\r\n", b" \r\n", b"a\r\n"):
        assert canonical_whole(body, relaxed=relaxed) == b"".join(canonical([body], relaxed=relaxed)), body
        cut = len(body) // 2
        assert canonical_whole(body, relaxed=relaxed) == b"".join(canonical([body[:cut], body[cut:]], relaxed=relaxed))


@pytest.mark.parametrize("relaxed", [False, True])
@pytest.mark.parametrize("algorithm", ["sha256", "sha1"])
@pytest.mark.parametrize("length", [None, 0, 3, 5, 7, 8, 10**70])
@pytest.mark.parametrize("body", [b"", b"\r\n", b"abc", b"a  b\r\n\r\n", b"abc\r\n\r\n", b"x" * PIECE])
def test_one_small_hash_is_what_it_is_among_others(
    relaxed: bool, algorithm: str, length: int | None, body: bytes
) -> None:
    letter, want = Letter(b"From: a@b.org\r\n\r\n" + body), Want(relaxed, algorithm, length)
    alone: dict[Want, BodyHash] = {}
    among: dict[Want, BodyHash] = {}
    list(hash_body(letter, [want], alone))
    list(hash_body(letter, [want, Want(not relaxed, "sha256", 1), Want(relaxed, "sha256", 2)], among))
    assert alone == {want: among[want]}


def plainly_without_signature(field: bytes) -> bytes:
    """RFC 6376 3.7, spec by spec."""
    name, colon, value = field.partition(b":")
    specs = value.split(b";")
    for number, spec in enumerate(specs):
        tag, equals, _ = spec.partition(b"=")
        if equals and tag.strip(b" \t\r\n") == b"b":
            specs[number] = tag + equals
            break
    return name + colon + b";".join(specs)


def test_the_signature_is_taken_out_wherever_it_stands() -> None:
    taken = 0
    for text in texts(4, 40_000):
        for field in (b"X:" + text, text, b"X: h=a:b=c;" + text):
            found = without_signature(field)
            assert found == plainly_without_signature(field), field
            taken += found != field
    assert taken > 1000


def test_relaxed_fields_have_single_blanks() -> None:
    for text in texts(5, 20_000, (b"X", b":", b" ", b"\t", b"\r\n ", b"  ", b"y")):
        name, _, value = text.partition(b":")
        words = value.replace(b"\r\n", b"").replace(b"\t", b" ").split(b" ")
        assert relaxed_field(text) == name.rstrip(b" \t").lower() + b":" + b" ".join(filter(None, words))


@pytest.mark.parametrize(
    "twice", [b"", b"From: eve@example.net\r\n", b"X: 1\r\nX: 2\r\n", b"no field\r\n", b"sUbject : y\r\n"]
)
def test_a4_a_field_that_stands_twice_is_seen(twice: bytes) -> None:
    header = HEADER + b"Subject: x\r\n" * (b"ubject" not in HEADER)
    message = Message(Letter(sign(header + b"\r\nbody\r\n").replace(b"\r\n\r\n", b"\r\n" + twice + b"\r\n", 1)))
    names = [field.partition(b":")[0].strip().lower() for field in message.fields]
    expected = ""
    if names.count(b"from") > 1 or names.count(b"subject") > 1:
        expected = f"{'from' if names.count(b'from') > 1 else 'subject'} stands more than once"
    elif b"no field" in twice:
        expected = "the header has a line that is no field"
    assert message.ambiguous() == expected
    assert isinstance(read_signature(message.fields[0], 0), Signed)


def test_fields_are_chosen_alike_whether_names_stand_once_or_more_often() -> None:
    dice, several = random.Random(9), 0
    for _ in range(5000):
        header = b"".join(
            b"%b: %d\r\n" % (dice.choice((b"A", b"b", b"B", b"C")), number) for number in range(dice.randrange(6))
        )
        message = Message(RamContent(header + b"\r\n"))
        names = [dice.choice((b"a", b"b", b"c", b"d")) for _ in range(dice.randrange(6))]
        own = dice.randrange(-1, 6)
        left = {name: [place for place in found if place != own] for name, found in message.places.items()}
        expected = [left[name].pop() for name in names if left.get(name)]
        assert message.select(names, own) == expected, (header, names, own)
        several += len(set(names)) < len(names)
    assert 1000 < several < 4000
