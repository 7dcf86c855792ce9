"""xtext (RFC 3461 section 4): any octets as printable ASCII without blank, `+` and `=`.

Contract: `encode` is exact; `decode` takes what Postfix takes (a literal `=`) and raises ProtocolError on anything that
is not xtext. What failure means for the mail: the parameter that carried it is refused with 501.
"""

import re

from appliance.protocol.errors import ProtocolError

_PLAIN = re.compile(rb"[!-*,-<>-~]*+")
_SPECIAL = re.compile(rb"[^!-*,-<>-~]")
_XTEXT = re.compile(r"(?>(?:[!-*,-~]|\+[0-9A-Fa-f]{2})*)")
_HEX = re.compile(rb"\+([0-9A-Fa-f]{2})")


def encode(data: bytes) -> str:
    """`data` as xtext, hexadecimal digits in upper case."""
    if _PLAIN.fullmatch(data):
        return data.decode("ascii")
    return _SPECIAL.sub(lambda match: b"+%02X" % match[0][0], data).decode("ascii")


def is_xtext(text: str) -> bool:
    """Is `text` xtext, with or without a literal `=`?"""
    return bool(_XTEXT.fullmatch(text))


def decode(text: str) -> bytes:
    """The octets that `text` stands for. Raises ProtocolError."""
    if not is_xtext(text):
        raise ProtocolError("not xtext", "501 5.5.4 Error: bad xtext")
    return _HEX.sub(lambda match: bytes((int(match[1], 16),)), text.encode("ascii"))
