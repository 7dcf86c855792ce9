"""Macros and names of SPF records (RFC 7208 section 7): strict, in linear time, whatever the record says.

Contract: pure. Raises ValueError for what the grammar does not allow. pyspf's own functions for this are quadratic in the
length of a term, cut a long name once only and take what is no macro.
"""

import re
from collections.abc import Callable
from urllib.parse import quote

_MACRO = re.compile(r"%(?:([%_-])|\{([slodipvhcrt])([0-9]{0,3})(r?)([.+,/_=-]*)\})", re.IGNORECASE)
_END = re.compile(r"%(?:[%_-]|\{[^}]*\})\Z")
_TOP = re.compile(r"(?![0-9]+\Z)[0-9a-z](?:[0-9a-z-]*[0-9a-z])?", re.IGNORECASE)
_MODIFIER = re.compile(r"([a-z][a-z0-9_.-]*)=(.*)\Z", re.IGNORECASE | re.DOTALL)
_LITERAL = {"%": "%", "_": " ", "-": "%20"}
#: Letters that stand in explanations only.
_EXPLAINING = frozenset("crt")
MAX_NAME = 253
_NAME = re.compile(r"[ !#-\[\]-~]*")


def expand(text: str, value: Callable[[str], str], explaining: bool) -> str:
    """`text` with its macros replaced; `value(letter)` gives what a letter stands for."""
    if "%" not in text:
        return text
    pieces, end = [], 0
    for found in _MACRO.finditer(text):
        pieces.append(_plain(text[end : found.start()]))
        end = found.end()
        literal, letter, digits, reverse, delimiters = found.groups()
        pieces.append(_LITERAL[literal] if literal else _macro(letter, digits, reverse, delimiters, value, explaining))
    pieces.append(_plain(text[end:]))
    return "".join(pieces)


def check(text: str, explaining: bool = True) -> None:
    """Raises ValueError if `expand` would."""
    expand(text, lambda letter: "", explaining)


def modifiers(record: str) -> tuple[str, str]:
    """The record with `redirect=` as its only modifier, and the domain-spec of `exp=` ("" for none). Names may be in any
    case; unknown modifiers are left out, but must be well-formed (RFC 7208 section 6)."""
    version, *terms = record.split(" ")
    kept, specs = [version], {"redirect": "", "exp": ""}
    for term in terms:
        found = _MODIFIER.match(term) if "=" in term else None
        if found is None:
            kept.append(term)
            continue
        name, value = found[1].lower(), found[2]
        if name not in specs:
            check(value)
            continue
        if specs[name]:
            raise ValueError(f"{name}= stands twice")
        check_spec(value)
        check(value, explaining=False)
        specs[name] = value
        if name == "redirect":
            kept.append(f"redirect={value}")
    return " ".join(kept), specs["exp"]


def _plain(text: str) -> str:
    if "%" in text:
        raise ValueError(f"not a macro: {text[text.index('%') :][:20]}")
    return text


def _macro(letter: str, digits: str, reverse: str, delimiters: str, value: Callable[[str], str], explaining: bool) -> str:
    small = letter.lower()
    if small in _EXPLAINING and not explaining:
        raise ValueError(f"the macro {letter} stands in explanations only")
    if digits and int(digits) == 0:
        raise ValueError("a macro that keeps 0 parts")
    found = value(small)
    if digits or reverse or delimiters:
        parts = re.split(f"[{re.escape(delimiters)}]", found) if delimiters else found.split(".")
        parts = parts[::-1] if reverse else parts
        found = ".".join(parts[-int(digits) :] if digits else parts)
    return found if letter == small else quote(found, safe="~")


def check_spec(spec: str) -> None:
    """A domain-spec ends in a macro or in a top label that is not all digits. Raises ValueError."""
    if _END.search(spec[-300:]):
        return
    _, dot, top = spec.removesuffix(".").rpartition(".")
    if not dot or not _TOP.fullmatch(top):
        raise ValueError("not a fully qualified domain name")


def shortened(name: str) -> str:
    """At most 253 characters: labels on the left are removed (RFC 7208 7.3)."""
    if len(name) <= MAX_NAME:
        return name
    return name[-MAX_NAME - 1 :].partition(".")[2]


def askable(name: str) -> bool:
    """Whether a name may go to a name server: labels of 1 to 63 printable ASCII characters, no quote, no backslash."""
    if not 0 < len(name) <= MAX_NAME or name == "@" or not _NAME.fullmatch(name):
        return False
    return all(0 < len(label) < 64 for label in name.split("."))
