"""regexp and pcre tables (Postfix regexp_table(5), pcre_table(5)): `/pattern/flags result`, `!`, `if` ... `endif`, `$1`.

Contract: the whole key is searched, the first rule that matches decides. One look-up may compute for 50 ms; then it
raises Unavailable (outcome `temperror`): a pattern that explodes on a hostile key delays one mail, no more.
"""

import re
import time
from collections.abc import Callable, Iterator
from functools import partial
from typing import Any, NamedTuple

import regex

from appliance.mail.ports import TableUnavailable
from appliance.tables.dialect import Dialect, Misplaced, Rewritten, counts_without_start, letters_escaped, rewritten
from appliance.tables.literal import prefix
from appliance.tables.rules import Builder, Line, Rule, first
from appliance.tables.text import BLANKS, Source

#: CPU seconds that one look-up may take.
TIMEOUT = 0.05
_WIDE = re.compile(r"(?<!\\)((?:\\\\)*)\\U([0-9a-f]{8})")
_DOLLAR = re.compile(r"\$(?:(\$)|(\d+)|\{(\d+)\}|\((\d+)\))?")
#: Letters that may follow the pattern; each toggles. True: on unless written.
_PCRE_FLAGS = {"i": True, "m": False, "s": True, "x": False, "A": False, "E": False, "U": False, "X": False}
_REGEXP_FLAGS = {"i": True, "x": True, "m": False}


class Pattern(NamedTuple):
    """A compiled pattern; `anchored` patterns match at the beginning only. `pieces`: the result, cut at its `$n`.
    `octets` compiles it for keys that are octets; these begin with `prefix` (lower case) where it matches."""

    compiled: Any
    anchored: bool
    pieces: tuple[str | int, ...] = ()
    octets: Callable[[], Any] | None = None
    prefix: bytes = b""


class LineError(Exception):
    """What is wrong with the rule in `line`."""

    def __init__(self, line: int, text: str) -> None:
        super().__init__(text)
        self.line = line


class Patterns:
    """Patterns in order."""

    pattern = True
    at_once = True

    def __init__(self, rules: list[Rule[Pattern]], source: Source) -> None:
        self.source = source
        self.rules = rules
        self._octets: list[Rule[Pattern]] | None = None

    def for_octets(self) -> list[Rule[Pattern]]:
        """The rules as they are for keys that are octets (header_checks): each octet is a character, letters are those of
        ASCII, as in Postfix. Compiled when they are first asked for. Raises LineError for a pattern that cannot be."""
        if self._octets is None:
            self._octets = [self._for_octets(rule) for rule in self.rules]
        return self._octets

    def _for_octets(self, rule: Rule[Pattern]) -> Rule[Pattern]:
        if rule.test.octets is None:
            return rule
        try:
            return rule._replace(test=rule.test._replace(compiled=rule.test.octets()))
        except (ValueError, regex.error) as why:
            text = f"the pattern cannot be read: {why.msg}" if isinstance(why, regex.error) else str(why)
            raise LineError(rule.line, text) from None

    def get(self, key: str) -> tuple[str, str] | None:
        """(value with its `$n` filled in, "file:line"), or None. Raises Unavailable when the time is up."""
        search = _Search(key)
        rule = self.find(key, search)
        if rule is None:
            return None
        return search.fill(rule), f"{self.source.path or 'inline'}:{rule.line}"

    def find(self, key: str, search: "_Search | None" = None) -> Rule[Pattern] | None:
        """The rule that decides for `key`. Raises Unavailable as get() does."""
        search = search or _Search(key)
        try:
            return first(self.rules, search.matches)
        except TimeoutError:
            place = self.source.path or "inline"
            why = f"{place}:{search.line(self.rules)}: the pattern took over {TIMEOUT * 1000:.0f} ms for this key"
            raise TableUnavailable(place, why) from None

    def entries(self) -> Iterator[tuple[str, str, int]]:
        return (("", rule.result, rule.line) for rule in self.rules if not rule.jump)


class _Search:
    """One look-up: the key, the last match, the time used."""

    def __init__(self, key: str) -> None:
        self.key = key
        self.found: Any = None
        self.test: Pattern | None = None
        self._wall = time.monotonic()
        self._cpu = time.thread_time()

    def matches(self, test: Pattern) -> bool:
        self.test = test
        # The wall clock is cheap but counts others' work too: the thread's own time decides.
        if time.monotonic() - self._wall > TIMEOUT and time.thread_time() - self._cpu > TIMEOUT:
            raise TimeoutError
        run = test.compiled.match if test.anchored else test.compiled.search
        self.found = run(self.key, timeout=TIMEOUT)
        return self.found is not None

    def line(self, rules: list[Rule[Pattern]]) -> int:
        return next((rule.line for rule in rules if rule.test is self.test), 0)

    def fill(self, rule: Rule[Pattern]) -> str:
        if len(rule.test.pieces) == 1 and isinstance(rule.test.pieces[0], str):
            return rule.test.pieces[0]
        return "".join(piece if isinstance(piece, str) else self.found[piece] or "" for piece in rule.test.pieces)


def pcre(lines: Iterator[tuple[int, str]], source: Source, *, substitution: bool = True) -> Patterns:
    """The rules of a pcre table."""
    return Patterns(Builder(source, _Parser(source, _PCRE_FLAGS, substitution)).read(lines), source)


def regexp(lines: Iterator[tuple[int, str]], source: Source, *, substitution: bool = True) -> Patterns:
    """The rules of a regexp table: POSIX extended (basic with flag x), leftmost-longest."""
    return Patterns(Builder(source, _Parser(source, _REGEXP_FLAGS, substitution)).read(lines), source)


class _Parser:
    """Makes a Pattern of a line; what is wrong becomes a flaw and the line is left out."""

    def __init__(self, source: Source, flags: dict[str, bool], substitution: bool) -> None:
        self.source = source
        self._flags = flags
        self._substitution = substitution

    def __call__(self, line: Line) -> tuple[Pattern, str] | None:
        try:
            return self._parse(line)
        except ValueError as why:
            at = why.at if isinstance(why, Misplaced) else 0
            self.source.flaw(*self.source.place(line.number, line.column + at), str(why))
            return None

    def _parse(self, line: Line) -> tuple[Pattern, str]:
        pattern, letters, result = cut(line.text)
        on = self._toggle(letters, len(pattern) + 2)
        posix = self._flags is _REGEXP_FLAGS
        if posix and (found := letters_escaped(pattern)):
            text = f"\\{found[0]} stands for nothing in a regexp table: write [0-9] or the like, or a pcre table"
            self.source.flaw(line.number, line.column, text, fatal=False)
        if not posix and (count := counts_without_start(pattern)):
            text = f"{count} is text to Postfix with PCRE2 before 10.43, and here: write {{0{count[1:]} or \\{count}"
            self.source.flaw(line.number, line.column, text, fatal=False)
        again = partial(compiled, pattern, on, posix=posix, octets=True)
        basic, verbose = posix and not on["x"], not posix and on["x"]
        start = prefix(pattern, multiline=on["m"], verbose=verbose, basic=basic)
        test = Pattern(self._compiled(pattern, on, posix), on.get("A", False), octets=again, prefix=start)
        if line.word:
            if result:
                self.source.flaw(line.number, line.column, "text after `if /pattern/` is ignored", fatal=False)
            return test, ""
        if not result:
            raise ValueError(f"/{pattern}/ has no result")
        pieces = self._pieces(result, line, test.compiled.groups, line.text.rindex(result))
        return test._replace(pieces=pieces), result

    @staticmethod
    def _compiled(pattern: str, on: dict[str, bool], posix: bool) -> Any:
        """Raises Misplaced, by the place in the line."""
        try:
            found = translated(pattern, on, posix=posix)
        except Misplaced as why:
            raise Misplaced(str(why), why.at + 1) from None
        try:
            return _compile(found.text, on, posix)
        except regex.error as why:
            at = 0 if why.pos is None else 1 + found.origin(why.pos)
            raise Misplaced(f"the pattern cannot be read: {why.msg}", at) from None

    def _toggle(self, letters: str, start: int) -> dict[str, bool]:
        on = dict(self._flags)
        for at, letter in enumerate(letters, start):
            if letter not in on:
                raise Misplaced(f'"{letter}" is no flag here (flags: {", ".join(on)})', at)
            on[letter] = not on[letter]
        return on

    def _pieces(self, result: str, line: Line, groups: int, start: int) -> tuple[str | int, ...]:
        pieces: list[str | int] = []
        at = 0
        for found in _DOLLAR.finditer(result):
            number = found[2] or found[3] or found[4]
            if number is None and found[1] is None:
                raise Misplaced("a `$` in the result is written `$$`; `$1` is the first group", start + found.start())
            pieces.append(result[at : found.start()] + ("$" if found[1] else ""))
            at = found.end()
            if number is not None:
                if why := self._no_reference(int(number), line, groups):
                    raise Misplaced(why, start + found.start())
                pieces.append(int(number))
        pieces.append(result[at:])
        return _joined(pieces)

    def _no_reference(self, number: int, line: Line, groups: int) -> str:
        """Why `$number` may not stand here, or ""."""
        if not self._substitution:
            return f"`${number}` is not allowed here: a stranger's text would choose the destination"
        if line.negate:
            return f"`${number}` has no meaning in a rule with `!`"
        if not 1 <= number <= groups:
            return f"`${number}` names a group that the pattern does not have (it has {groups})"
        return ""


def _joined(pieces: list[str | int]) -> tuple[str | int, ...]:
    """Neighbouring texts joined, so that a result without `$n` is one piece."""
    found: list[str | int] = []
    for piece in pieces:
        if isinstance(piece, str) and found and isinstance(found[-1], str):
            found[-1] += piece
        elif piece != "":
            found.append(piece)
    return tuple(found)


def cut(text: str) -> tuple[str, str, str]:
    """Pattern, flags, result of a rule. Raises ValueError if it is none."""
    delimiter = text[:1]
    if not delimiter or delimiter.isalnum():
        raise ValueError("a rule is written /pattern/flags result")
    end = 1
    while end < len(text) and text[end] != delimiter:
        end += 2 if text[end] == "\\" else 1
    if end >= len(text):
        raise ValueError(f"the pattern has no closing {delimiter} (a rule is written /pattern/flags result)")
    flags, result = re.match(r"([^ \t\r\v\f]*)(.*)", text[end + 1 :], re.DOTALL).groups()  # type: ignore[union-attr]
    return text[1:end], flags, result.strip(BLANKS)


def expression(text: str) -> Any:
    """A regular expression for lines of a program's output. Raises ValueError with what is wrong."""
    try:
        return regex.compile(text, regex.MULTILINE | regex.VERSION1)
    except regex.error as why:
        raise ValueError(f"no regular expression: {why}") from None


def compiled(pattern: str, on: dict[str, bool], *, posix: bool, octets: bool = False) -> Any:
    """The pattern for the `regex` library, for texts or for `octets`. Raises regex.error, ValueError."""
    text = translated(pattern, on, posix=posix).text
    return _compile(_WIDE.sub(_octet, text).encode("utf-8", "surrogateescape") if octets else text, on, posix)


def translated(pattern: str, on: dict[str, bool], *, posix: bool) -> Rewritten:
    """The pattern in the words of the `regex` library. Raises Misplaced."""
    if posix:
        return rewritten(pattern, Dialect(posix=True, basic=not on["x"], strict_end=not on["m"], caseless=on["i"]))
    return rewritten(pattern, Dialect(strict_end=on["E"] and not on["m"], ungreedy=on["U"], verbose=on["x"]))


def _compile(text: str | bytes, on: dict[str, bool], posix: bool) -> Any:
    multiline = regex.MULTILINE if on["m"] else 0
    if posix:
        flags = regex.POSIX | (multiline or regex.DOTALL)
    else:
        flags = multiline | (regex.DOTALL if on["s"] else 0) | (regex.VERBOSE if on["x"] else 0)
    return regex.compile(text, flags | regex.VERSION1 | (regex.IGNORECASE if on["i"] else 0))


def _octet(found: "re.Match[str]") -> str:
    number = int(found[2], 16)
    if number > 0xFF:
        raise ValueError(f"\\x{{{number:x}}} is no octet")
    return f"{found[1]}\\x{number:02x}"
