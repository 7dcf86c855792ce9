"""What a key must begin with so that a pattern can match it at all: most rules of header_checks(5) begin with a field's
name, and comparing a few octets costs a tenth of a search.

Contract: prefix() is b"" where anything is in doubt; a key whose beginning in lower case is another one does not match.
"""

import re

LONGEST = 64
_LITERAL = re.compile(r"[A-Za-z0-9 :@_,;/=-]|\\[.:@/;=-]")


def prefix(pattern: str, *, multiline: bool, verbose: bool, basic: bool) -> bytes:
    """In lower case. `verbose`: blanks and comments in the pattern mean nothing; `basic`: POSIX basic syntax."""
    if multiline or verbose or basic or not pattern.startswith("^") or _alternatives(pattern):
        return b""
    found: list[str] = []
    at = 1
    while len(found) < LONGEST and (literal := _LITERAL.match(pattern, at)):
        found.append(literal[0][-1])
        at = literal.end()
    if pattern[at : at + 1] in ("*", "?", "+", "{"):  # the last one is repeated, or not there
        found = found[:-1]
    return "".join(found).lower().encode()


def _alternatives(pattern: str) -> bool:
    """Whether a `|` may stand outside of parentheses."""
    depth, at = 0, 0
    while at < len(pattern) and "|" in pattern:
        letter = pattern[at]
        if letter == "\\":
            if pattern[at + 1 : at + 2] == "Q":
                return True
            at += 1
        elif letter == "[" or (letter == "|" and depth == 0):
            return True
        depth += (letter == "(") - (letter == ")")
        at += 1
    return False
