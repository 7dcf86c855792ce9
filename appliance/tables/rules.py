"""Rules in order with `if` ... `endif`: what cidr, regexp and pcre tables share. The first rule that matches decides.

Contract: a block whose `if` does not match is jumped over in one step; unpaired `if` and `endif` are flaws.
"""

import re
from collections.abc import Callable, Iterator
from typing import Generic, NamedTuple, TypeVar

from appliance.tables.text import BLANKS, Source

Test = TypeVar("Test")
_WORD = re.compile(r"(if|endif)(?![A-Za-z0-9])", re.IGNORECASE)


class Line(NamedTuple):
    """One logical line of a rule file: `word` is "if", "endif" or ""; `text` the rest, starting in `column`."""

    number: int
    word: str
    negate: bool
    text: str
    column: int


class Rule(NamedTuple, Generic[Test]):
    """`jump` > 0 marks an `if`: the index to go on at when it does not match."""

    test: Test
    negate: bool
    result: str
    line: int
    jump: int = 0


def split(number: int, text: str) -> Line:
    """Take `if`, `endif` and `!` off a logical line."""
    rest, word = text, ""
    if found := _WORD.match(text):
        word, rest = found[1].lower(), text[found.end() :].lstrip(BLANKS)
    negate = False
    while rest.startswith("!"):
        negate, rest = not negate, rest[1:].lstrip(BLANKS)
    return Line(number, word, negate, rest.rstrip(BLANKS), len(text) - len(rest) + 1)


class Builder(Generic[Test]):
    """Collects rules; `parse` gives the test and the result of a line, or None after it has noted a flaw."""

    def __init__(self, source: Source, parse: Callable[[Line], tuple[Test, str] | None]) -> None:
        self.source = source
        self.rules: list[Rule[Test]] = []
        self._parse = parse
        self._open: list[tuple[int, int]] = []

    def read(self, lines: Iterator[tuple[int, str]]) -> list[Rule[Test]]:
        for number, text in lines:
            self._take(split(number, text))
        for _, number in self._open:
            self.source.flaw(number, 1, "this `if` has no `endif`")
        while self._open:
            self._close()
        return self.rules

    def _take(self, line: Line) -> None:
        if line.word == "endif":
            self._endif(line)
            return
        parsed = self._parse(line)
        if line.word == "if":
            self._open.append((len(self.rules) if parsed else -1, line.number))
        if parsed:
            self.rules.append(Rule(parsed[0], line.negate, parsed[1], line.number))

    def _endif(self, line: Line) -> None:
        if line.text:
            self.source.flaw(line.number, line.column, "text after `endif` is ignored", fatal=False)
        if not self._open:
            self.source.flaw(line.number, 1, "this `endif` has no `if`")
            return
        self._close()

    def _close(self) -> None:
        index, _ = self._open.pop()
        if index >= 0:
            self.rules[index] = self.rules[index]._replace(jump=len(self.rules))


def first(rules: list[Rule[Test]], matches: Callable[[Test], bool | None]) -> Rule[Test] | None:
    """The first rule whose test holds for the key that `matches` knows. None of `matches`: the rule says nothing about
    such keys, with `!` as little as without."""
    index = 0
    while index < len(rules):
        rule = rules[index]
        found = matches(rule.test)
        hit = found is not None and found is not rule.negate
        if rule.jump:
            index = index + 1 if hit else rule.jump
        elif hit:
            return rule
        else:
            index += 1
    return None
