"""Arguments of XCLIENT and XFORWARD: another client's facts, told by one whom we trust to know them.

Contract: names upper case, values decoded from xtext and checked against their kind; `[UNAVAILABLE]` and
`[TEMPUNAVAIL]` come out as they are. Who may send these commands at all is the session's affair (threats B12).
What failure means for the mail: the command is refused with 501 and nothing of it is taken.
"""

import ipaddress
import re
from collections.abc import Callable, Mapping
from functools import lru_cache

from appliance.protocol.errors import ProtocolError
from appliance.protocol.smtp import xtext

XCLIENT = ("NAME", "ADDR", "PORT", "PROTO", "HELO", "REVERSE_NAME", "LOGIN", "DESTADDR", "DESTPORT")
XFORWARD = ("NAME", "ADDR", "PORT", "PROTO", "HELO", "IDENT", "SOURCE")
UNAVAILABLE = "[UNAVAILABLE]"
TEMPORARILY_UNAVAILABLE = "[TEMPUNAVAIL]"

MAX_ARGUMENT = 512
MAX_VALUE = 255

_CONTROL = re.compile("[\x00-\x1f\x7f-\x9f]")


def parse_attributes(verb: str, argument: str) -> dict[str, str]:
    """The attributes of an XCLIENT or XFORWARD command: NAME to value. Raises ProtocolError with `reply`.

    Addresses come out compressed, without "IPV6:" and without brackets; PORT as digits; PROTO and SOURCE upper case.
    """
    known = XCLIENT if verb == "XCLIENT" else XFORWARD
    if len(argument) > MAX_ARGUMENT or not argument:
        raise _bad(verb, "attribute syntax")
    attributes: dict[str, str] = {}
    for word in argument.split():
        name, separator, value = word.partition("=")
        name = name.upper()
        if not separator or name not in known:
            raise _bad(verb, "attribute name")
        if name in attributes:
            raise _bad(verb, "attribute syntax")
        attributes[name] = _value(verb, name, value)
    return attributes


def _bad(verb: str, what: str) -> ProtocolError:
    return ProtocolError(f"bad {verb} {what}", f"501 5.5.4 Error: bad {verb} {what}")


def _value(verb: str, name: str, value: str) -> str:
    if value.upper() == UNAVAILABLE or (value.upper() == TEMPORARILY_UNAVAILABLE and name.endswith("NAME")):
        return value.upper()
    try:
        text = xtext.decode(value).decode("utf-8", "backslashreplace")
        if not text or len(value) > MAX_VALUE or _CONTROL.search(text):
            raise ValueError(name)
        return _CHECKS.get(name, str)(text)
    except (ProtocolError, ValueError) as error:
        raise _bad(verb, f"{name} value") from error


def _address(text: str) -> str:
    if text[:5].upper() == "IPV6:":
        text = text[5:]
    if "%" in text:
        raise ValueError("scope")
    return str(ipaddress.ip_address(text))


def _port(text: str) -> str:
    if not (text.isascii() and text.isdigit() and len(text) <= 5 and int(text) <= 65535):
        raise ValueError("port")
    return str(int(text))


def _one_of(*words: str) -> Callable[[str], str]:
    def check(text: str) -> str:
        if text.upper() not in words:
            raise ValueError(text)
        return text.upper()

    return check


_CHECKS: dict[str, Callable[[str], str]] = {
    "ADDR": _address,
    "DESTADDR": _address,
    "PORT": _port,
    "DESTPORT": _port,
    "PROTO": _one_of("SMTP", "ESMTP"),
    "SOURCE": _one_of("LOCAL", "REMOTE"),
}


def format_xforward(attributes: Mapping[str, str], offered: str, limit: int = MAX_ARGUMENT) -> list[bytes]:
    """XFORWARD commands (with CRLF, at most `limit` octets each) for those `attributes` that EHLO offered.

    Unknown ("" or absent) attributes are left out, as smtp(8) does; a value that is too long as well.
    """
    names = offered.upper().split()
    words = [
        f" {name}={value}" for name in XFORWARD if name in names and (value := _encoded(name, attributes.get(name, "")))
    ]
    commands: list[str] = []
    for word in words:
        if not commands or len(commands[-1]) + len(word) + 2 > limit:
            commands.append("XFORWARD")
        commands[-1] += word
    return [f"{command}\r\n".encode("ascii") for command in commands]


@lru_cache(maxsize=4096)
def _encoded(name: str, value: str) -> str:
    if name == "ADDR" and ":" in value:
        value = f"IPV6:{value}"
    encoded = xtext.encode(value.encode())
    return encoded if len(encoded) <= MAX_VALUE else ""
