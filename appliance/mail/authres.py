"""What we write into Authentication-Results (RFC 8601) and Received-SPF (RFC 7208 9.1): their grammar, in one place.

Contract: pure, never raises for what a stranger chose. A value is written as a token, as an address (dot-atom or quoted
local part, host name), or as a quoted string of printable ASCII that holds neither quote nor backslash; an address whose
local part does not fit is written as its domain alone; everything else is left out, never escaped by hope (threats A8).
Method, result word and property names are ours: one that is no keyword is a mistake (ValueError).
"""

import re
from collections.abc import Iterable, Mapping
from functools import lru_cache

from appliance.mail.edits import Edit

NAME = "Authentication-Results"
RECEIVED_SPF = "Received-SPF"

#: A value longer than this is left out: nobody needs it, and a line must stay under 998 octets.
MOST = 320
#: Lines are folded before this column where there is a blank to fold at.
WIDTH = 78

_KEYWORD = r"[A-Za-z0-9](?:[A-Za-z0-9-]*[A-Za-z0-9])?"
_WORD_CHARS = r"[A-Za-z0-9!#$%&'*+.^_`{|}~-]+"
_QUOTED = r'"[ !#-\[\]-~]*"'
_ATEXT = r"[A-Za-z0-9!#$%&'*+/=?^_`{|}~-]+"
_DOT_ATOM = rf"{_ATEXT}(?:\.{_ATEXT})*"
_LABEL = r"[A-Za-z0-9](?:[A-Za-z0-9-]{0,61}[A-Za-z0-9])?"
_HOST = rf"{_LABEL}(?:\.{_LABEL})*"
_MAILBOX = rf"(?:{_DOT_ATOM}|{_QUOTED})?@{_HOST}"
#: A word first: most values are one, and it is told by what stands behind it.
_VALUE = rf"(?:{_WORD_CHARS}(?= |\Z)|{_QUOTED}|{_MAILBOX})"

_is_token = re.compile(_WORD_CHARS).fullmatch
_is_dot_atom = re.compile(_DOT_ATOM).fullmatch
_is_mailbox = re.compile(_MAILBOX).fullmatch
_is_host = re.compile(_HOST).fullmatch
_is_quotable = re.compile(r"[ !#-\[\]-~]+").fullmatch
_is_keyword = re.compile(_KEYWORD).fullmatch
_is_property = re.compile(rf"{_KEYWORD}\.{_KEYWORD}").fullmatch
_is_comment = re.compile(r"[ !#-'*-\[\]-~]+").fullmatch
_is_result = re.compile(
    rf"{_KEYWORD}={_KEYWORD}(?: reason=(?:{_QUOTED}|{_WORD_CHARS}))?(?: {_KEYWORD}\.{_KEYWORD}={_VALUE})*"
).fullmatch
_is_last = re.compile(rf"{_KEYWORD}\.{_KEYWORD}={_VALUE}").fullmatch
_WORDS = re.compile(r'(?:"[^"]*"|[^" ])+')


def value(text: str) -> str:
    """`text` as it may stand behind a `=` of Authentication-Results; "" if it does not fit."""
    if not 0 < len(text) <= MOST:
        return ""
    if _is_token(text) or _is_mailbox(text):
        return text
    if _is_quotable(text):
        return f'"{text}"'
    host = text.rpartition("@")[2]
    return host if host != text and _is_host(host) else ""


def result(method: str, word: str, properties: Mapping[str, str] | None = None, reason: str = "") -> str:
    """One result for `Verdict.authres`: result("spf", "pass", {"smtp.mailfrom": "example.com"}) is
    "spf=pass smtp.mailfrom=example.com". A property or reason that does not fit is left out."""
    parts = [_verdict(method, word)]
    if reason and (text := value(reason)):
        parts.append(f"reason={text}" if text[0] == '"' or _is_token(text) else f'reason="{text}"')
    for name, content in (properties or {}).items():
        start = _property(name)
        if text := value(content):
            parts.append(start + text)
    return " ".join(parts)


@lru_cache(maxsize=256)
def _verdict(method: str, word: str) -> str:
    """The names are ours, and few."""
    if not (_is_keyword(method) and _is_keyword(word)):
        raise ValueError(f"not a method and a result: {method}={word}")
    return f"{method}={word}"


@lru_cache(maxsize=256)
def _property(name: str) -> str:
    if not _is_property(name):
        raise ValueError(f"not a property: {name}")
    return f"{name}="


def field(authserv_id: str, results: Iterable[str]) -> Edit:
    """The field with each result on lines of its own. A text that is no result as `result` writes it is left out."""
    fitting = [written for text in results if (written := _written(text))]
    return Edit("prepend", NAME, ";\n\t".join([value(authserv_id) or "localhost", *(fitting or ["none"])]))


def _written(text: str) -> str:
    """A result as it is written; "" if it is none. The last property of a signature's (header.b) is that of one message;
    what stands before is the same in many."""
    if " header.b=" not in text:
        return _remembered(text)
    start, _, last = text.rpartition(" ")
    if not (written := _remembered(start)) or not _is_last(last):
        return _remembered(text)
    if '"' in start or "  " in text:
        return _folded(text)
    line = written.rpartition("\n\t")[2]
    room = WIDTH - 1 if line is written else WIDTH - 9
    return f"{written} {last}" if len(line) + 1 + len(last) <= room else f"{written}\n\t{last}"


@lru_cache(maxsize=4096)
def _remembered(text: str) -> str:
    """As _written, of a text that stands in many messages."""
    return _folded(text) if _is_result(text) else ""


def received_spf(word: str, pairs: Mapping[str, str], comment: str = "") -> Edit:
    """A Received-SPF field: received_spf("pass", {"client-ip": "192.0.2.1", "helo": "mx.example.org"})."""
    if not _is_keyword(word):
        raise ValueError(f"not a result: {word}")
    listed = [f"{key}={text}" for key, content in pairs.items() if _is_keyword(key) and (text := _spf_value(content))]
    start = f"{word} ({comment})" if len(comment) <= MOST and _is_comment(comment) else word
    return Edit("prepend", RECEIVED_SPF, _folded(" ".join([start, "; ".join(listed)]).rstrip()))


def _spf_value(text: str) -> str:
    """dot-atom or quoted string."""
    if not 0 < len(text) <= MOST:
        return ""
    if _is_dot_atom(text):
        return text
    return f'"{text}"' if _is_quotable(text) else ""


def _folded(text: str) -> str:
    """Blanks outside quotes become line ends where a line would grow too long."""
    if '"' not in text and "  " not in text:
        return _folded_words(text.strip(" "))
    lines, width = [""], 0
    for word in _WORDS.findall(text):
        if lines[-1] and width + 1 + len(word) > WIDTH:
            lines.append("")
            width = 8
        lines[-1] = f"{lines[-1]} {word}" if lines[-1] else word
        width += 1 + len(word)
    return "\n\t".join(lines)


def _folded_words(text: str) -> str:
    """The same where every blank stands alone and may become a line's end."""
    lines, start, room = [], 0, WIDTH - 1
    while len(text) - start > room:
        end = text.rfind(" ", start, start + room + 1)
        if end < 0 and (end := text.find(" ", start)) < 0:
            break
        lines.append(text[start:end])
        start, room = end + 1, WIDTH - 9
    lines.append(text[start:])
    return "\n\t".join(lines)
