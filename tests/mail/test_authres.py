"""Our Authentication-Results and Received-SPF: what a stranger chose can neither end a value nor begin a field (A8)."""

import itertools
import random
import re

import authres as peer
import pytest

from appliance.mail import apply, authres


def written(*results: str, served: str = "mx.example.com") -> bytes:
    return apply.field(authres.field(served, results))


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("example.com", "example.com"),
        ("_dmarc.example.com", "_dmarc.example.com"),
        ("user@example.com", "user@example.com"),
        ("user+tag=x/y@example.com", "user+tag=x/y@example.com"),
        ('"two words"@example.com', '"two words"@example.com'),
        ("@example.com", "@example.com"),
        ("2001:db8::1", '"2001:db8::1"'),
        ("ab/cd+ef==", '"ab/cd+ef=="'),
        ("a b;c=(d)", '"a b;c=(d)"'),
        ("user@ex_ample.com", '"user@ex_ample.com"'),
        ("", ""),
        ('say "x"', ""),
        ("back\\slash", ""),
        ("line\r\nX-Evil: yes", ""),
        ("tab\there", ""),
        ("nul\0", ""),
        ("b\xfccher", ""),
        ("x" * 321, ""),
        ("m\xfcller@example.com", "example.com"),
        ('a"b@example.com', "example.com"),
        ("m\xfcller@example.com\r\nX: y", ""),
        ("\u2028@example.com", "example.com"),
    ],
)
def test_a8_a_value_fits_the_grammar_or_is_left_out(text: str, expected: str) -> None:
    assert authres.value(text) == expected


def test_a_result_with_reason_and_properties() -> None:
    found = authres.result("dkim", "fail", {"header.d": "example.com", "header.b": "ab/c"}, "body hash")
    assert found == 'dkim=fail reason="body hash" header.d=example.com header.b="ab/c"'


def test_a_reason_is_no_address() -> None:
    assert authres.result("spf", "fail", reason="a@example.com") == 'spf=fail reason="a@example.com"'
    assert authres.result("spf", "fail", reason="timeout") == "spf=fail reason=timeout"


def test_what_does_not_fit_is_left_out_and_the_rest_stays() -> None:
    found = authres.result("spf", "pass", {"smtp.mailfrom": "x\r\ny", "smtp.helo": "mx.example.org"}, 'a"b')
    assert found == "spf=pass smtp.helo=mx.example.org"


@pytest.mark.parametrize(("method", "word"), [("spf", "pass;x"), ("s pf", "pass"), ("", "pass"), ("spf", "")])
def test_our_own_words_are_keywords(method: str, word: str) -> None:
    with pytest.raises(ValueError, match="not a method"):
        authres.result(method, word)


def test_our_own_property_names_are_ptype_and_property() -> None:
    with pytest.raises(ValueError, match="not a property"):
        authres.result("spf", "pass", {"mailfrom": "example.com"})


def test_the_field_has_a_line_for_each_result() -> None:
    found = written("spf=pass smtp.mailfrom=example.com", "dkim=none")
    assert found == (
        b"Authentication-Results: mx.example.com;\r\n\tspf=pass smtp.mailfrom=example.com;\r\n\tdkim=none\r\n"
    )


def test_without_a_result_it_says_none() -> None:
    assert written() == b"Authentication-Results: mx.example.com;\r\n\tnone\r\n"


@pytest.mark.parametrize(
    "text",
    [
        "spf=pass; dmarc=pass",
        "spf=pass\r\nX-Evil: yes",
        "spf=pass smtp.mailfrom=a (b)",
        'spf=pass smtp.mailfrom="a',
        "spf",
        "",
        "spf=pass  smtp.mailfrom=a",
    ],
)
def test_a8_a_text_that_nobody_built_by_the_grammar_is_left_out(text: str) -> None:
    assert written(text, "dkim=none") == written("dkim=none")


def test_a_long_result_is_folded_outside_its_quotes() -> None:
    reason = "a reason of many words " * 5
    found = written(authres.result("dmarc", "fail", {"header.from": "a" * 60 + ".example"}, reason.strip()))
    lines = found.split(b"\r\n")
    assert all(line.startswith(b"\t") for line in lines[1:-1])
    assert reason.strip().encode() in found
    assert b"\r\n\theader.from=" in found


def test_lines_are_filled() -> None:
    """What holds no quote is folded by a shorter way: alike, each line as full as it can be."""
    dice = random.Random(4)
    for _ in range(5000):
        words = ["w" * dice.choice((1, 2, 9, 30, 68, 69, 70, 71, 76, 77, 78, 90)) for _ in range(dice.randrange(1, 9))]
        found = authres._folded(" ".join(words))
        assert found.split() == words
        lines, room = found.split("\n\t"), 77
        for line, following in itertools.pairwise([*lines, "w" * 99]):
            assert len(line) <= room or " " not in line
            assert len(line) + 1 + len(following.split(" ")[0]) > room
            room = 69
        assert authres._folded(f'{" ".join(words)} "a b"').startswith(found), "as with a quote"


def test_a8_hostile_values_come_back_as_one_field_with_our_results() -> None:
    """An independent parser reads what we wrote, whatever strangers chose."""
    dice = random.Random(8)
    letters = "ab.-_@;=()\"'\\ <>\r\n\t\0,/:[]\x7f\xe9\u2028%"
    for _ in range(2000):
        hostile = "".join(dice.choice(letters) for _ in range(dice.randrange(1, 24)))
        properties = {"smtp.mailfrom": hostile, "smtp.helo": hostile[::-1]}
        raw = written(authres.result("spf", "softfail", properties, hostile), "dkim=none")
        assert re.fullmatch(rb"[\t\r\n -~]*", raw)
        assert len(re.findall(rb"^[^\t]", raw, re.MULTILINE)) == 1
        read = peer.AuthenticationResultsHeader.parse(raw.decode("ascii").rstrip("\r\n").replace("\r\n", ""))
        assert [(found.method, found.result) for found in read.results] == [("spf", "softfail"), ("dkim", "none")]


def test_received_spf() -> None:
    edit = authres.received_spf(
        "pass",
        {"client-ip": "2001:db8::1", "envelope-from": "a@example.com", "helo": "mx.example.com", "identity": "mailfrom"},
        "mx.example.net: allowed",
    )
    found = apply.field(edit).replace(b"\r\n\t", b" ")
    assert found == (
        b'Received-SPF: pass (mx.example.net: allowed) client-ip="2001:db8::1"; envelope-from="a@example.com"; '
        b"helo=mx.example.com; identity=mailfrom\r\n"
    )


@pytest.mark.parametrize("hostile", ["a\\", "a\r\nX: y", "\xe9", 'q"'])
def test_a8_received_spf_leaves_out_what_does_not_fit(hostile: str) -> None:
    assert apply.field(authres.received_spf("fail", {"helo": hostile}, hostile)) == b"Received-SPF: fail\r\n"


def test_a8_a_comment_of_received_spf_has_no_brackets() -> None:
    assert apply.field(authres.received_spf("fail", {}, "a) client-ip=192.0.2.1 (b")) == b"Received-SPF: fail\r\n"


def test_a8_linear_in_long_values() -> None:
    assert authres.value("a." * 100_000) == ""
    assert written("spf=pass smtp.mailfrom=" + "a." * 100_000 + '"', "dkim=none") == written("dkim=none")


def test_a_result_is_written_alike_whether_its_beginning_is_known_or_not() -> None:
    dice, fitting = random.Random(5), 0
    values = (
        "example.com",
        "@example.com",
        '"a b"',
        '"x/y"',
        "",
        "a b",
        '"',
        "m\xfc",
        "b" * 30,
        "c" * 64,
        f'"{"d/" * 20}"',
    )
    for _ in range(20_000):
        words = [f"header.{dice.choice('abdis')}={dice.choice(values)}" for _ in range(dice.randrange(6))]
        odd = (
            dice.choice(("reason=ok", 'reason="not so"', "nothing", " ", "", "a=b", "header.d=x  header.i=y"))
            if dice.random() < 0.2
            else ""
        )
        text = " ".join(["dkim=pass", *([odd] if odd else []), *words])
        whole = authres._folded(text) if authres._is_result(text) else ""
        assert authres._written(text) == whole, text
        fitting += bool(whole) and "\n" in whole
    assert fitting > 1000
