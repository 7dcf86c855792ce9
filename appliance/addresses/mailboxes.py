"""Where the addresses stand in a list of mailboxes: a header field's value, or what a table answers (RFC 5322 3.4, read
as leniently as Postfix reads it).

Contract: `spans` is total and linear; it gives places in the very text, so that whoever replaces an address leaves names,
comments, groups and folding as they were. Words without anything between them are mailboxes of their own, as if a comma
stood there. What failure means for the mail: nothing fails; what is no mailbox is not found.
"""

import re
from collections.abc import Iterator
from typing import NamedTuple

_TOKEN = re.compile(
    r'(?P<blank>[ \t\r\n]++)|(?P<quoted>"(?>(?:[^"\\]|\\.)*)(?:"|\Z))|(?P<literal>\[(?>(?:[^\]\\]|\\.)*)(?:\]|\Z))'
    r'|(?P<open>\()|(?P<sign>[<>,;:@.])|(?P<atom>(?>(?:[^ \t\r\n"\[(<>,;:@.\\]|\\.|\\\Z)+))',
    re.DOTALL,
)
_IN_COMMENT = re.compile(r"[()]|\\.|[^()\\]++|\\\Z", re.DOTALL)
_ENDS = frozenset(",;:")
_JOINS = frozenset("@.")


class Span(NamedTuple):
    """A mailbox's address: `text` without the blanks and comments that may stand in it, at [start, end)."""

    start: int
    end: int
    text: str


class _Piece(NamedTuple):
    start: int
    end: int
    text: str


def spans(text: str) -> Iterator[Span]:
    """The addresses in their order."""
    words: list[_Piece] = []
    pieces = iter(_pieces(text))
    for piece in pieces:
        if piece.text == "<":
            words.clear()  # what stood before it is a name
            inner = _bracketed(pieces)
            if inner:
                yield _joined(inner)
        elif piece.text == ">":
            words.clear()
        elif piece.text in _ENDS:
            if piece.text != ":":  # a group's name, or a route, is no address
                yield from _runs(words)
            words.clear()
        else:
            words.append(piece)
    yield from _runs(words)


def _bracketed(pieces: Iterator[_Piece]) -> list[_Piece]:
    """What stands up to the ">", without the route before it."""
    inner: list[_Piece] = []
    for piece in pieces:
        if piece.text == ">":
            break
        if piece.text == ":":
            inner.clear()
        else:
            inner.append(piece)
    return inner


def _runs(words: list[_Piece]) -> Iterator[Span]:
    """Words that an @ or a dot joins are one address, others are several."""
    run: list[_Piece] = []
    for word in words:
        if run and not (word.text in _JOINS or run[-1].text in _JOINS):
            yield _joined(run)
            run = []
        run.append(word)
    if run:
        yield _joined(run)


def _joined(run: list[_Piece]) -> Span:
    return Span(run[0].start, run[-1].end, "".join(piece.text for piece in run))


def _pieces(text: str) -> Iterator[_Piece]:
    """Tokens without blanks and comments."""
    at = 0
    while at < len(text):
        found = _TOKEN.match(text, at)
        if found is None:  # a lone sign that begins nothing
            at += 1
        elif found["open"]:
            at = _comment(text, at + 1)
        else:
            at = found.end()
            if found["blank"] is None:
                yield _Piece(found.start(), at, found[0])


def _comment(text: str, at: int) -> int:
    """Where the comment ends whose "(" stands before `at`."""
    depth = 1
    while depth and (found := _IN_COMMENT.match(text, at)):
        depth += {"(": 1, ")": -1}.get(found[0], 0)
        at = found.end()
    return at
