"""Operators' regular expressions (POSIX extended and basic, PCRE) rewritten for the `regex` library.

Contract: rewrite() gives a pattern of the same meaning, for regex.VERSION1 (where inline flags are scoped as in PCRE);
what it does not know passes unchanged, so that the compiler complains about it, and Rewritten knows about which place of
the original. Raises Misplaced for a broken bracket.
"""

import re
from typing import NamedTuple

_CLASS = re.compile(r"\[(:\^?[a-z]+:|\.[^\]]+\.|=[^\]]=)\]")
_COUNT = re.compile(r"\{\d*,?\d*\}")
_OPEN_COUNT = re.compile(r"(?>(?:\\.|\[\^?\]?(?>(?:\\.|[^\]\\])*)\]|[^\\{\[]|\{(?!,\d+\}))*)(\{,\d+\})")
_HEX = re.compile(r"\\x\{([0-9A-Fa-f]{1,6})\}")
_QUOTED = re.compile(r"\\Q(.*?)(?:\\E|\Z)", re.DOTALL)
_BACK = re.compile(r"\\g\{(-?)([A-Za-z_0-9]+)\}|\\g(-?)(\d+)|\\k\{(\w+)\}|\\k'(\w+)'")


class Dialect(NamedTuple):
    """How a pattern is to be read. `posix`: a backslash in brackets is data. `basic`: ( ) { } + ? | are data unless
    escaped. `strict_end`: `$` only at the very end. `ungreedy`: quantifiers swap their greed. `verbose`: # comments.
    `caseless`: for `posix`."""

    posix: bool = False
    basic: bool = False
    strict_end: bool = False
    ungreedy: bool = False
    verbose: bool = False
    caseless: bool = False


#: Escapes outside brackets whose meaning differs; what is missing is the same in `regex`.
_VERTICAL = r"\n\x0b\f\r\x85"
_PCRE = {"\\Z": r"(?=\n?\Z)", "\\z": r"\Z", "\\e": r"\x1b", "\\N": r"[^\n]", "\\v": f"[{_VERTICAL}]"}
_POSIX = {"\\<": r"\m", "\\>": r"\M", "\\`": r"\A", "\\'": r"\Z"}
#: Letters that mean something behind a backslash in POSIX patterns (glibc's).
_POSIX_LETTERS = "wWsSbB"
_ESCAPED = re.compile(r"\\(?:\\|([A-Za-z]))")
#: Kinds of letters that are the same in either case, for `regex` where case is ignored, not for PCRE.
_CASED = re.compile(r"\\[pP]\{\^?(?:Lu|Ll|Lt|L&)\}")


class Misplaced(ValueError):
    """A mistake in a text, at an index of it."""

    def __init__(self, text: str, at: int) -> None:
        super().__init__(text)
        self.at = at


class Rewritten(NamedTuple):
    """`pieces`: where each begins in `text` and in the original."""

    text: str
    pieces: tuple[tuple[int, int], ...]

    def origin(self, position: int) -> int:
        """The index in the original of what stands at `position`."""
        return max((piece for piece in self.pieces if piece[0] <= position), default=(0, 0))[1]


class _Reader:
    """Walks one pattern; `groups` counts capturing groups so far (relative back references need it)."""

    def __init__(self, pattern: str, dialect: Dialect) -> None:
        self.text = pattern
        self.dialect = dialect
        self.at = 0
        self.groups = 0
        self.out: list[str] = []
        self.pieces: list[tuple[int, int]] = []
        self.length = 0

    def run(self) -> Rewritten:
        while self.at < len(self.text):
            letter = self.text[self.at]
            if letter == "\\":
                self.escape()
            elif letter == "[":
                self.bracket()
            elif letter in "*+?{" and self.quantifier():
                continue
            else:
                self.plain(letter)
        return Rewritten("".join(self.out), (*self.pieces, (self.length, len(self.text))))

    def plain(self, letter: str) -> None:
        dialect = self.dialect
        if dialect.basic and letter in "(){}+?|":
            self.put("\\" + letter, 1)
        elif letter == "$" and dialect.strict_end:
            self.put(r"\Z", 1)
        elif letter == "#" and dialect.verbose:
            end = self.text.find("\n", self.at)
            self.put("", len(self.text) - self.at if end < 0 else end - self.at)
        elif letter == "(" and self.text.startswith("(?", self.at):
            if re.match(r"\(\?(P?<[A-Za-z_]|')", self.text[self.at :]):
                self.groups += 1
            self.put("(?", 2)
        else:
            self.groups += letter == "("
            self.put(letter, 1)

    def put(self, text: str, consumed: int) -> None:
        self.pieces.append((self.length, self.at))
        self.out.append(text)
        self.length += len(text)
        self.at += consumed

    def escape(self) -> None:
        pair = self.text[self.at : self.at + 2]
        if self.dialect.basic and pair[1:] in set("(){}|+?"):
            self.groups += pair == "\\("
            self.put(pair[1:], 2)
        elif self.dialect.posix:
            self.put(self.posix_escape(pair), 2)
        else:
            self.pcre_escape(pair)

    def posix_escape(self, pair: str) -> str:
        """A letter that means nothing is itself; in lower case, where case is ignored, it is nothing at all (glibc)."""
        if pair[1:] != "0" and not (pair[1:].isalpha() and pair[1] not in _POSIX_LETTERS):
            return _POSIX.get(pair, pair)
        return "(?:(?!))" if self.dialect.caseless and pair[1].islower() else pair[1]

    def pcre_escape(self, pair: str) -> None:
        if found := _QUOTED.match(self.text, self.at):
            self.put(re.escape(found[1]), found.end() - self.at)
        elif found := _HEX.match(self.text, self.at):
            self.put(f"\\U{int(found[1], 16):08x}", found.end() - self.at)
        elif found := _BACK.match(self.text, self.at):
            name = found[2] or found[4] or found[5] or found[6]
            relative = found[1] or found[3]
            self.put(f"\\g<{self.groups + 1 - int(name) if relative else name}>", found.end() - self.at)
        elif found := _CASED.match(self.text, self.at):
            self.put(f"(?-i:{found[0]})", len(found[0]))
        else:
            self.put(_PCRE.get(pair, pair), 2)

    def quantifier(self) -> bool:
        """Swap greed where `ungreedy`. False: the letter is no quantifier here."""
        if self.dialect.basic and self.text[self.at] != "*":
            return False
        count = _COUNT.match(self.text, self.at)
        if self.text[self.at] == "{" and not count:
            return False
        if count and not self.dialect.posix and not count[0][1].isdigit():
            self.put("\\{", 1)  # text to PCRE2 before 10.43, see `counts_without_start`
            return True
        length = len(count[0]) if count else 1
        sign = self.text[self.at : self.at + length]
        if self.dialect.ungreedy:
            after = self.text[self.at + length : self.at + length + 1]
            self.put(
                sign if after == "?" else sign + after if after == "+" else sign + "?", length + (after in {"?", "+"})
            )
        else:
            self.put(sign, length)
        return True

    def bracket(self) -> None:
        """A bracket expression; everything that VERSION1 would take for a set operation is escaped."""
        start = self.at
        head = "[^" if self.text.startswith("[^", start) else "["
        self.put(head, len(head))
        first = self.at  # here a ] is a member
        while self.at == first or not self.text.startswith("]", self.at):
            if self.at >= len(self.text):
                raise Misplaced("this bracket is not closed", start)
            begins = len(self.out)
            if self.member() and self.text.startswith("-", self.at) and self.text[self.at + 1 : self.at + 2] not in "]":
                self.put("-", 1)
                self.member()
                self.caseless_range(begins)
        self.put("]", 1)

    def caseless_range(self, begins: int) -> None:
        """glibc reads a pattern without case in capitals: 0-z ends at Z, `_` is none of it."""
        for at in (begins, len(self.out) - 1):
            if self.dialect.posix and self.dialect.caseless and self.out[at].isascii():
                self.out[at] = self.out[at].upper()

    def member(self) -> bool:
        """Whether it is one character, behind which a hyphen makes a range."""
        letter = self.text[self.at]
        if found := _CLASS.match(self.text, self.at):
            self.put(found[0] if found[1][0] == ":" else re.escape(found[1][1:-1]), len(found[0]))
            return found[1][0] != ":"
        if letter == "\\" and self.dialect.posix:
            self.put("\\\\", 1)
        elif letter == "\\":
            found, pair = _HEX.match(self.text, self.at), self.text[self.at : self.at + 2]
            self.put(
                f"\\U{int(found[1], 16):08x}" if found else _VERTICAL if pair == "\\v" else pair,
                len(found[0]) if found else 2,
            )
        elif letter in "[]&~|-":
            self.put("\\" + letter, 1)
        else:
            self.put(letter, 1)
        return True


def letters_escaped(pattern: str) -> str:
    """The letters behind a backslash in a POSIX pattern that mean nothing but themselves."""
    found = dict.fromkeys(one[1] for one in _ESCAPED.finditer(pattern) if one[1] and one[1] not in _POSIX_LETTERS)
    return "".join(found)


def counts_without_start(pattern: str) -> str:
    """The first `{,n}` of a PCRE pattern, "" for none: text before PCRE2 10.43, {0,n} since then."""
    found = _OPEN_COUNT.match(pattern)
    return found[1] if found else ""


def rewrite(pattern: str, dialect: Dialect) -> str:
    """`pattern` in the words of `regex` (VERSION1)."""
    return rewritten(pattern, dialect).text


def rewritten(pattern: str, dialect: Dialect) -> Rewritten:
    """The same, with the places."""
    return _Reader(pattern, dialect).run()
