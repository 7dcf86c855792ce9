"""cidr, regexp and pcre tables (protocols 2.5, 2.6)."""

import time

import pytest

from appliance.mail.ports import Unavailable
from appliance.tables import Opened, open_table
from appliance.tables.literal import prefix


def table(kind: str, text: str) -> Opened:
    return open_table(f"{kind}:t", lambda _: text.encode())


def value(kind: str, text: str, key: str) -> str | None:
    found = table(kind, text).get(key)
    return found and found[0]


CIDR = "192.0.2.1 one\n192.0.2.0/24 net\n[2001:db8::]/32 six\n2001:db9::1 single\n0.0.0.0/0 all\n"


@pytest.mark.parametrize(
    ("key", "expected"),
    [
        ("192.0.2.1", "one"),
        ("192.0.2.2", "net"),
        ("198.51.100.1", "all"),
        ("2001:db8:1::5", "six"),
        ("2001:db9::1", "single"),
        ("2001:db9::2", None),
        ("mail.example.com", None),
        ("192.0.2", None),
        ("", None),
    ],
)
def test_cidr_first_match_wins(key: str, expected: str | None) -> None:
    assert value("cidr", CIDR, key) == expected


def test_cidr_order_beats_length() -> None:
    assert value("cidr", "10.0.0.0/8 wide\n10.1.1.1 narrow\n", "10.1.1.1") == "wide"


def test_cidr_negation_and_blocks() -> None:
    text = (
        "IF 10.0.0.0/8\nif !10.1.0.0/16\n10.2.0.0/16 two\nendif\n10.1.0.0/16 one\nENDIF\n"
        "!10.0.0.0/8 outside\n10.0.0.0/8 rest\n"
    )
    assert value("cidr", text, "10.2.3.4") == "two"
    assert value("cidr", text, "10.1.3.4") == "one"
    assert value("cidr", text, "10.3.3.4") == "rest"
    assert value("cidr", text, "192.0.2.1") == "outside"
    # a rule says nothing about addresses of the other family, with `!` as little as without
    assert value("cidr", text, "2001:db8::1") is None
    assert value("cidr", "if !10.0.0.0/8\n::/0 six\nendif\n::/0 rest\n", "2001:db8::1") == "rest"


def test_cidr_flaws() -> None:
    opened = table(
        "cidr", "192.0.2.1/24 host bits\n192.0.2.300 x\n192.0.2.0/24\nif 10.0.0.0/8\n10.0.0.1 ok\nendif\nendif\n"
    )
    assert [(flaw.line, flaw.fatal) for flaw in opened.source.flaws] == [(1, True), (2, True), (3, True), (7, True)]
    assert opened.get("10.0.0.1") == ("ok", "t:5")


def test_cidr_inline() -> None:
    assert open_table("cidr:{ {192.0.2.0/24 REJECT no}, {::/0 OK} }", lambda _: b"").get("192.0.2.7") == (
        "REJECT no",
        "inline:1",
    )


def test_a_large_cidr_table_is_not_searched_line_by_line() -> None:
    opened = table("cidr", "".join(f"10.{n >> 8}.{n & 255}.0/24 r{n}\n" for n in range(60000)))
    began = time.process_time()
    for _ in range(2000):
        opened.get("10.200.7.1")
    assert time.process_time() - began < 0.5
    assert opened.get("10.200.7.1") == ("r51207", "t:51208")


def test_unpaired_if_is_a_flaw() -> None:
    assert [flaw.line for flaw in table("pcre", "if /a/\n/b/ c\n").source.flaws] == [1]


@pytest.mark.parametrize(
    ("rule", "place", "word"),
    [
        ("/foo(bar/ X", "(bar/", "missing )"),
        ("if !/x$(/\nendif", "/", "missing )"),  # `$` is longer in the rewritten pattern
        ("/$$$a**/ X", "*/", "multiple repeat"),
        ("/ab[[:foo:]]/ X", "]/", "unknown property"),
        ("/a[b/ X", "[b", "not closed"),
        ("/a/qi X", "qi", '"q" is no flag'),
        ("/a/  b $1", "$1", "names a group"),
        ("/(a)/ $1 $x", "$x", "written `$$`"),
        ("/a/i  b\n   c ($2)", "$2", "names a group"),
        ("/(a)/ b\n# note\n  /c\n  $2", "$2", "names a group"),
    ],
)
@pytest.mark.parametrize("kind", ["pcre", "regexp"])
def test_a_mistake_is_told_at_its_place(kind: str, rule: str, place: str, word: str) -> None:
    """`place`: what stands there, for what is not closed the end of the pattern or the place behind it."""
    (flaw,) = table(kind, "/ok/ OK\n" + rule + "\n").source.flaws
    line = ("/ok/ OK\n" + rule).split("\n")[flaw.line - 1]
    assert word in flaw.text, flaw
    if word == "missing )":
        assert line[flaw.column - 1] == "/", (flaw, line)
    else:
        assert line[flaw.column - 1 :].startswith(place), (flaw, line)


@pytest.mark.parametrize(
    ("rule", "key", "expected"),
    [
        ("/^a.c$/ hit", "ABC", "hit"),  # caseless by default
        ("/^a.c$/i hit", "ABC", None),  # i toggles
        ("/a.c/ hit", "xa\ncx", "hit"),  # dot matches newline by default
        ("/a.c/s hit", "xa\ncx", None),
        ("/^b$/ hit", "a\nb", None),
        ("/^b$/m hit", "a\nb", "hit"),
        ("/a b # c/x hit", "ab", "hit"),
        ("/b/A hit", "ab", None),
        ("/a$/ hit", "a\n", "hit"),
        ("/a$/E hit", "a\n", None),
        ("/<(.+)>/U got $1", "<a><b>", "got a"),
        ("/<(.+)>/ got $1", "<a><b>", "got a><b"),
        ("/<(.+?)>/U got $1", "<a><b>", "got a><b"),
        ("/^/X hit", "a", "hit"),
        ("!/x/ hit", "a", "hit"),
        ("!/x/ hit", "x", None),
        ("|a\\|b| hit", "a|b", "hit"),
        ("/(a)|(b)/ <$2>", "a", "<>"),
        ("/(.)(.)/ ${2}$(1)$$1", "ab", "ba$1"),
        (r"/^\Qa.b\E$/ hit", "a.b", "hit"),
        (r"/^\Qa.b\E$/ hit", "axb", None),
        (r"/\x{41}b/i hit", "Ab", "hit"),
        (r"/(a)\g{-1}/ hit", "aa", "hit"),
        (r"/(?<n>a)\k{n}/ hit", "aa", "hit"),
        ("/[[:digit:]]{3}/ hit", "a123", "hit"),
        ("/[a&&b]/ hit", "&", "hit"),  # no set operations in PCRE
        ("/[[a]/ hit", "[", "hit"),
        ("/a(?i)B/i hit", "ab", "hit"),
        ("/a(?i)B/i hit", "Ab", None),
        ("/(?|x(a)|y(b))/ $1", "yb", "b"),
        (r"/a\Kb/ hit", "ab", "hit"),
        (r"/^\N{2}$/ hit", "a:", "hit"),
        (r"/^\N$/ hit", "\n", None),
        (r"/^\v$/ hit", "\f", "hit"),
        (r"/^[^\v]$/ hit", "\x85", None),
        (r"/^\p{Lu}+$/ hit", "ABc", None),  # where case is ignored, too
        ("/^[+--]+$/ hit", "+,-", "hit"),  # a range up to the hyphen
        ("/^[a-c-]+$/ hit", "b-", "hit"),
        (r"/^[\w--]+$/ hit", "a-", "hit"),  # behind a class it is a hyphen
    ],
)
def test_pcre(rule: str, key: str, expected: str | None) -> None:
    opened = table("pcre", rule + "\n")
    assert not opened.source.flaws
    found = opened.get(key)
    assert (found and found[0]) == expected


@pytest.mark.parametrize(
    ("rule", "key", "expected"),
    [
        ("/^A+$/ hit", "aaa", "hit"),
        ("/^A+$/i hit", "aaa", None),
        ("/(a|ab)(c|bcd)/ $1-$2", "abcd", "a-bcd"),  # leftmost-longest, not leftmost-first
        ("/^(a|ab)/ $1", "abc", "ab"),
        ("/^a\\(b\\)+$/x $1", "ab+", "b"),  # basic: escaped parentheses group, a plus is a plus
        ("/^[\\.]$/ hit", "\\", "hit"),  # a backslash in brackets is data
        ("/[[:alpha:][:digit:]_]+/ hit", "_", "hit"),
        ("/^b$/ hit", "a\nb", None),
        ("/^b$/m hit", "a\nb", "hit"),
        ("/a$/ hit", "a\n", None),  # only at the very end
        ("/\\<foo\\>/ hit", "a foo b", "hit"),
        ("/\\<foo\\>/ hit", "afoo", None),
        ("/[]a]/ hit", "]", "hit"),
        ("/^[]-a]$/i hit", "_", "hit"),
        ("/^[%--]+$/ hit", "&+-", "hit"),
        ("/^[0-z]$/ hit", "_", None),
        ("/^[0-z]$/ hit", "z", "hit"),
        ("/^[0-z]$/i hit", "_", "hit"),
    ],
)
def test_regexp(rule: str, key: str, expected: str | None) -> None:
    opened = table("regexp", rule + "\n")
    assert not opened.source.flaws
    found = opened.get(key)
    assert (found and found[0]) == expected


def test_a_letter_that_means_nothing_in_a_regexp_is_told() -> None:
    """Whoever writes it means a digit, and has no rule in Postfix either."""
    opened = table("regexp", "/a/ x\n/^(\\d|\\x)\\w\\\\d/i hit\n/\\d/ any\n")
    told = [(flaw.line, flaw.fatal, flaw.text[:22]) for flaw in opened.source.flaws]
    assert told == [(2, False, "\\d stands for nothing "), (3, False, "\\d stands for nothing ")]
    assert opened.get("db\\d") == ("hit", "t:2") and opened.get("1b\\d") is None and opened.get("d") is None


def test_blocks() -> None:
    text = "if /@example\\.com$/\n/^a/ a\n!/^b/ not b\nendif\nif !/@/\n/./ no at\nendif\n/./ rest\n"
    assert value("pcre", text, "ann@example.com") == "a"
    assert value("pcre", text, "carl@example.com") == "not b"
    assert value("pcre", text, "bob@example.com") == "rest"
    assert value("pcre", text, "local") == "no at"


@pytest.mark.parametrize(
    ("rule", "word"),
    [
        ("/(/ x", "missing"),
        ("/[a/ x", "not closed"),
        ("/a/", "no result"),
        ("/a/Q x", "no flag"),
        ("/a x", "closing"),
        ("a/ x", "/pattern/flags result"),
        ("/a/ $1", "group"),
        ("!/(a)/ $1", "!"),
        ("/a/ costs $", r"\$\$"),
    ],
)
def test_a_wrong_rule_is_left_out_and_named(rule: str, word: str) -> None:
    opened = table("pcre", f"{rule}\n/./ rest\n")
    assert [flaw.line for flaw in opened.source.flaws] == [1]
    assert opened.source.flaws[0].fatal
    assert word.replace("\\", "") in opened.source.flaws[0].text
    assert opened.get("zzz") == ("rest", "t:2")


def test_substitution_can_be_forbidden() -> None:
    opened = open_table("pcre:t", lambda _: b"/(.*)/ smtp:[$1]\n", substitution=False)
    assert opened.source.flaws and opened.get("x") is None


def test_an_exploding_pattern_is_unavailable_in_time() -> None:
    opened = table("pcre", "/a/i first\n" + r"/^(?:(?:\w+\s?)*\W?)*\d$|(?:(\w)\1?)*(?:\w\w?)*(?:x+x+)+y/ x" + "\n")
    key = "x" * 4000
    began = time.process_time()
    with pytest.raises(Unavailable, match="t:2"):
        opened.get(key)
    assert time.process_time() - began < 0.5


def test_many_slow_patterns_share_one_budget() -> None:
    """One of them is slow, but within the time; hundreds of them are not."""
    rule, key = r"/(x+)x+\1[^x]/ y" + "\n", "x" * 60
    assert table("pcre", rule).get(key) is None
    opened = table("pcre", rule * 400)
    began = time.process_time()
    with pytest.raises(Unavailable):
        opened.get(key)
    assert time.process_time() - began < 0.2


@pytest.mark.parametrize(
    ("pattern", "expected"),
    [
        ("^Subject: x", b"subject: x"),
        ("^X-A:.*", b"x-a:"),
        ("^X-A?:", b"x-"),
        ("^X-A{0}:", b"x-"),
        ("^X-A+", b"x-"),
        (r"^a\.b\w", b"a.b"),
        ("^(a|b)", b""),
        ("^a(b|c)", b"a"),
        ("^a|b", b""),
        ("^a[|]", b""),
        (r"^a\|b", b"a"),
        (r"^a\Q(\E|b", b""),
        ("a", b""),
        ("^", b""),
        ("^\u00e4", b""),
    ],
)
def test_what_a_key_must_begin_with(pattern: str, expected: bytes) -> None:
    assert prefix(pattern, multiline=False, verbose=False, basic=False) == expected
    for doubt in ("multiline", "verbose", "basic"):
        ways = {"multiline": False, "verbose": False, "basic": False} | {doubt: True}
        assert prefix(pattern, **ways) == b""


@pytest.mark.parametrize(
    ("pattern", "named"),
    [("a{,2}", "{,2}"), ("[{,2}]a{2,}b{2}", ""), ("a\\{,2}", ""), ("[]a]b{,10}?", "{,10}"), ("a{,}", ""), ("(x", "")],
)
def test_a_count_without_a_start_is_named(pattern: str, named: str) -> None:
    told = [flaw.text for flaw in table("pcre", f"/{pattern}/ OK\n").source.flaws if not flaw.fatal]
    assert [text.partition(" ")[0] for text in told] == ([named] if named else [])
