"""Making text fit for one log line: control characters escaped, length capped; and numbers of things in words.

Contract: what comes out has no control, bidirectional or line-breaking character and at most `CAP` characters, so that
nothing a stranger sends can forge or split a log line (threats P4).
"""

import os

#: No log line's text is longer.
CAP = 2000


def _escape(char: str) -> str:
    if char.isprintable():
        return char
    code = ord(char)
    if 0xDC80 <= code <= 0xDCFF:  # an octet that was not UTF-8 (surrogateescape)
        code -= 0xDC00
    if code < 0x100:
        return f"\\x{code:02x}"
    return f"\\u{code:04x}" if code < 0x10000 else f"\\U{code:08x}"


def clean(text: str, cap: int = CAP) -> str:
    """`text` with what is not printable escaped and cut to `cap` characters ("..." at its end then)."""
    if text.isprintable() and len(text) <= cap:
        return text
    short = "".join(map(_escape, text[: cap + 1]))
    return short if len(short) <= cap else short[: cap - 3] + "..."


def in_words(error: OSError) -> str:
    """The system's own words ("Connection refused"), without asyncio's or Python's around them."""
    if error.errno and type(error).__module__ == "builtins":  # others (TLS, names) have numbers of their own
        return os.strerror(error.errno)
    return error.strerror or str(error)


def counted(number: int, one: str, more: str = "") -> str:
    """For people: 1 message, 2 messages. `more` where it is not `one` with an s."""
    return f"{number} {one if number == 1 else more or one + 's'}"
