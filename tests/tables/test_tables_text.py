"""Table files as Postfix reads them: logical lines, keys, values, duplicates (postmap(1), readlline(3))."""

import time

import pytest

from appliance.tables import Opened, TableError, open_table


def texthash(data: bytes) -> Opened:
    return open_table("texthash:t", lambda path: {"t": data}[path])


def flaws(table: Opened) -> list[tuple[int, bool]]:
    return [(flaw.line, flaw.fatal) for flaw in table.source.flaws]


def test_a_value_comes_with_its_place() -> None:
    table = texthash(b"# comment\nexample.com  REJECT go away \nb.example\tOK\n")
    assert table.get("example.com") == ("REJECT go away", "t:2")
    assert table.get("b.example") == ("OK", "t:3")
    assert table.get("c.example") is None
    assert not table.pattern
    assert not table.source.flaws


def test_keys_fold_case_on_both_sides() -> None:
    assert texthash(b"Example.COM ok\n").get("eXample.com") == ("ok", "t:1")


def test_continuation_passes_over_comments_and_empty_lines() -> None:
    table = texthash(b"abc\n#x\n\n ghi\n\tjkl\nnext v\n")
    assert table.get("abc") == ("ghi\tjkl", "t:1")
    assert table.get("next") == ("v", "t:6")


def test_a_hash_later_in_the_line_is_data() -> None:
    assert texthash(b"a REJECT # 1\n").get("a") == ("REJECT # 1", "t:1")


def test_the_first_line_cannot_continue_anything() -> None:
    table = texthash(b"  a OK\nb OK\n")
    assert table.get("a") is None
    assert table.get("b") == ("OK", "t:2")
    assert flaws(table) == [(1, True)]


def test_first_of_two_entries_stays_with_a_warning() -> None:
    table = texthash(b"a one\nA two\n")
    assert table.get("a") == ("one", "t:1")
    assert flaws(table) == [(2, False)]


@pytest.mark.parametrize(
    ("line", "key", "value"),
    [
        (b'"a b"@example.com OK', '"a b"@example.com', "OK"),
        (b'"a\\"b c"@x OK now', '"a\\"b c"@x', "OK now"),
        (b"a\\ b OK", "a\\ b", "OK"),
        ("käse@x OK".encode(), "käse@x", "OK"),
        ("a\u00a0b OK".encode(), "a\u00a0b", "OK"),
    ],
)
def test_quotes_and_backslashes_protect_blanks_and_stay(line: bytes, key: str, value: str) -> None:
    assert texthash(line + b"\n").get(key) == (value, "t:1")


def test_what_is_no_entry_is_a_flaw_and_the_rest_holds() -> None:
    table = texthash(b"lonely\nroot: admin\n\xff\xfe bad\na\0b x\ngood OK")
    assert table.get("good") == ("OK", "t:5")
    assert table.get("root:") == ("admin", "t:2")
    assert flaws(table) == [(1, True), (2, False), (3, True), (4, True)]


@pytest.mark.parametrize("odd", ["\x1c", "\x1f", "\x85", "\u2028"])
def test_what_is_a_blank_for_others_is_data(odd: str) -> None:
    table = texthash(f"{odd}\na{odd}b c{odd}d \n".encode())
    assert table.get(f"a{odd}b") == (f"c{odd}d", "t:2")
    assert [(flaw.line, flaw.fatal, flaw.text[3:18]) for flaw in table.source.flaws] == [(1, True, " has no value: ")]


@pytest.mark.parametrize("line", ['"a b\\', '"', "\\", '"\\', 'a"\\'])
def test_quotes_without_an_end_are_a_key_without_a_value(line: str) -> None:
    table = texthash(f"{line}\n".encode())
    assert [flaw.text for flaw in table.source.flaws] == [f'"{line}" has no value: write key, white space, value']


def test_crlf_and_a_byte_order_mark() -> None:
    table = texthash(b"\xef\xbb\xbfa OK\r\nb\r\n more\r\n")
    assert table.get("a") == ("OK", "t:1")
    assert table.get("b") == ("more", "t:2")
    assert flaws(table) == [(1, False)]


@pytest.mark.parametrize(
    ("kind", "rest", "key", "value"),
    [
        ("texthash", b"a@example.com OK", "a@example.com", "OK"),
        ("cidr", b"192.0.2.0/24 OK", "192.0.2.1", "OK"),
        ("regexp", b"/^a/ OK", "a", "OK"),
        ("aliases", b"a: b", "a", "b"),
        ("postgrey_clients", b"mx.example.com", "mx.example.com", "mx.example.com"),
        ("sendmail_from", b"example.com OK", "example.com", "OK"),
        ("sendmail_relay_domains", b"example.com", "example.com", "example.com"),
    ],
)
def test_comments_may_be_in_any_charset(kind: str, rest: bytes, key: str, value: str) -> None:
    """Nothing looks at them, in Postfix and Sendmail as little; what is no comment has its flaw."""
    table = open_table(f"{kind}:t", {"t": b"# f\xfcr Stra\xdfe\n \t# \xfc\n" + rest + b"\n\xfc x\n#\0\n"}.__getitem__)
    hit = table.get(key)
    assert hit == (value, "t:3")
    assert flaws(table) == [(4, True), (5, True)]


def test_flaws_are_counted_not_piled_up_but_a_fatal_one_shows() -> None:
    table = texthash(b"".join(b"a %d\n" % n for n in range(1000)) + b"alone\n")
    assert len(table.source.flaws) < 60
    assert any(flaw.fatal and flaw.line == 1001 for flaw in table.source.flaws)


def test_a_million_lines_load_in_seconds_and_answer_in_microseconds() -> None:
    data = b"".join(b"user%d@example.com OK\n" % n for n in range(1_000_000))
    began = time.process_time()
    table = texthash(data)
    assert time.process_time() - began < 8
    began = time.process_time()
    for _ in range(100_000):
        table.get("user777777@example.com")
    assert (time.process_time() - began) / 100_000 < 3e-6
    assert table.get("user999999@example.com") == ("OK", "t:1000000")


def test_inline() -> None:
    table = open_table("inline:{ a=b, { c = d e, f }, G=h }", lambda _: b"")
    assert table.get("A") == ("b", "inline:1")
    assert table.get("c") == ("d e, f", "inline:2")
    assert table.get("g") == ("h", "inline:3")


def test_the_last_of_two_inline_entries_stays_with_a_warning() -> None:
    """As in Postfix, where the first of a file stays."""
    table = open_table("inline:{a=1, b=2, A=3}", lambda _: b"")
    assert table.get("a") == ("3", "inline:3")
    assert flaws(table) == [(1, False)]
    assert table.source.flaws[0].text == '"a" stands in line 3 already, which holds'


def test_inline_flaws_count_items() -> None:
    assert flaws(open_table("inline:{ a=b, c, a=d }", lambda _: b"")) == [(1, False), (2, True)]


@pytest.mark.parametrize("kind", ["union", "unionmap", "proxy:union"])
def test_union_is_another_name_of_unionmap(kind: str) -> None:
    found = open_table(f"{kind}:{{inline:{{a=1}}, inline:{{a=2}}}}", lambda _: b"").get("a")
    assert found is not None and found[0] == "1,2"


@pytest.mark.parametrize("text", ["static:REJECT", "static:{ REJECT }"])
def test_static_matches_everything(text: str) -> None:
    found = open_table(text, lambda _: b"").get("whatever")
    assert found is not None and found[0] == "REJECT"


@pytest.mark.parametrize(
    ("spec", "hint"),
    [
        ("texthsh:x", "did you mean texthash:"),
        ("hsh:/etc/postfix/access", "did you mean hash:"),
        ("pipemap:hash:x", "pipemap:{type:name"),
        ("unionmap:{hash:x, nothing:y}", "no table type"),
        ("union:{hash:x, nothing:y}", "no table type"),
        ("texthash:", "type:name"),
        ("inline:a=b", "inline:{"),
        ("inline:{a=b}}", "inline:{"),
        ("pcre:{ /a/ b }", "pcre:{ {"),
        ("/etc/postfix/access", "has no type"),
    ],
)
def test_a_specification_that_is_none_says_how_it_is_written(spec: str, hint: str) -> None:
    with pytest.raises(TableError, match=hint.replace("{", r"\{")):
        open_table(spec, lambda _: b"")


def test_aliases_as_sendmail_and_postfix_write_them() -> None:
    text = (
        b"# basic\npostmaster: root\nROOT:  admin@example.com,\n\tsecond@example.com\n"
        b'"odd one" : x@example.com\nprog: "|/bin/cat"\n'
    )
    table = open_table("aliases:t", lambda path: {"t": text}[path])
    assert table.get("Postmaster") == ("root", "t:2")
    assert table.get("root") == ("admin@example.com,\tsecond@example.com", "t:3")
    assert table.get("odd one") == ("x@example.com", "t:5")
    assert table.get("prog") == ('"|/bin/cat"', "t:6")
    assert flaws(table) == []


def test_what_is_no_alias_is_told() -> None:
    table = open_table("aliases:t", lambda _: b"root admin@example.com\nempty:\nok: a\nok: b\n")
    assert flaws(table) == [(1, True), (2, True), (4, False)]
    assert table.get("ok") == ("a", "t:3")


@pytest.mark.parametrize(
    "key",
    [
        "192.0.2.0/24",
        "10/8",
        "192.0.2.77/32",
        "10.0.0.0/255.0.0.0",
        "2001:db8::/32",
        "[2001:db8::]/32",
        "::ffff:10.0.0.1/128",
    ],
)
def test_a_network_that_is_looked_up_as_it_stands_never_matches_and_is_told(key: str) -> None:
    """Which address would be it? A file names the line, a table in place the item."""
    for table in (
        open_table(f"inline:{{ a=b, {key}=REJECT }}", lambda _: b""),
        texthash(f"a b\n{key} REJECT\n".encode()),
    ):
        assert flaws(table) == [(2, False)]
        (flaw,) = table.source.flaws
        assert f'"{key}" never matches here' in flaw.text and "cidr:" in flaw.text


@pytest.mark.parametrize(
    "key", ["192.0.2", "10", "a/b@example.com", "/24", "1/2@example.com", "example.com/24", "2001:db8"]
)
def test_what_is_no_network_with_a_length_is_not_told(key: str) -> None:
    assert flaws(open_table(f"inline:{{ {key}=REJECT }}", lambda _: b"")) == []
    assert flaws(texthash(f"{key} REJECT\n".encode())) == []


def test_a_table_made_of_others_has_their_flaws() -> None:
    spec = "unionmap:{inline:{ a=b, c }, texthash:t, inline:{ 192.0.2.0/24=x }}"
    table = open_table(spec, lambda _: b"k v\nalone\n")
    assert sorted((flaw.path, flaw.line, flaw.fatal) for flaw in table.source.flaws) == [
        ("", 1, False),
        ("", 2, True),
        ("t", 2, True),
    ]
