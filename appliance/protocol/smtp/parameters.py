"""Values of the parameters of MAIL and RCPT (RFC 1870, 6152, 6531, 3461, 4954).

Contract: a value is checked against its own RFC and handed on as it was sent; xtext is not decoded, because it is
relayed as it is. What failure means for the mail: MAIL or RCPT is refused with 501 or 555 and has no effect.
"""

import re
from collections.abc import Callable
from typing import NamedTuple, Protocol, TypeVar

from appliance.protocol.errors import ProtocolError
from appliance.protocol.smtp.xtext import is_xtext

KNOWN_PARAMETERS = {
    "MAIL": frozenset({"SIZE", "BODY", "SMTPUTF8", "RET", "ENVID", "AUTH"}),
    "RCPT": frozenset({"NOTIFY", "ORCPT"}),
}
#: Lengths of RFC 3461: ENVID 4.4, ORCPT 4.2.
MAX_ENVID = 100
MAX_ORCPT = 500

_NOTIFY_WORDS = frozenset({"SUCCESS", "FAILURE", "DELAY"})
_ADDRESS_TYPE = re.compile(r"[A-Za-z0-9-]+")
#: utf-8-addr-xtext and -unitext of RFC 6533 section 3.
_UTF8_XTEXT = re.compile(r"(?>(?:[!-*,-<>-\[\]-~\x80-\U0010ffff]|\\x\{[0-9A-Fa-f]{1,6}\}|\+[0-9A-Fa-f]{2})*)")


class MailParameters(NamedTuple):
    """Of MAIL: `size` octets (0: not said), `body` "", "7BIT" or "8BITMIME", `ret` "", "FULL" or "HDRS", `envid` and
    `auth` xtext as sent."""

    size: int = 0
    body: str = ""
    smtputf8: bool = False
    ret: str = ""
    envid: str = ""
    auth: str = ""


class RcptParameters(NamedTuple):
    """Of RCPT: `notify` upper case ("NEVER", or of SUCCESS,FAILURE,DELAY), `orcpt` "type;xtext" as sent; "" if absent."""

    notify: str = ""
    orcpt: str = ""


class _Parsed(Protocol):
    @property
    def parameters(self) -> tuple[tuple[str, str], ...]: ...


def mail_parameters(command: _Parsed) -> MailParameters:
    """The checked values of a MAIL command. Raises ProtocolError with `reply`."""
    values = dict(command.parameters)
    if values.get("SMTPUTF8"):
        raise _refused("SMTPUTF8 takes no value")
    return MailParameters(
        _read(values, "SIZE", _size, 0),
        _read(values, "BODY", _body, ""),
        "SMTPUTF8" in values,
        _read(values, "RET", _ret, ""),
        _read(values, "ENVID", _envid, ""),
        _read(values, "AUTH", _auth, ""),
    )


def rcpt_parameters(command: _Parsed) -> RcptParameters:
    """The checked values of a RCPT command. Raises ProtocolError with `reply`."""
    values = dict(command.parameters)
    return RcptParameters(_read(values, "NOTIFY", _notify, ""), _read(values, "ORCPT", _orcpt, ""))


_Value = TypeVar("_Value")


def _read(values: dict[str, str], keyword: str, check: Callable[[str], _Value], absent: _Value) -> _Value:
    return check(values[keyword]) if keyword in values else absent


def _refused(text: str) -> ProtocolError:
    return ProtocolError(text, f"501 5.5.4 Error: {text}")


def _size(value: str) -> int:
    if not (value.isascii() and value.isdigit() and len(value) <= 20):
        raise _refused("bad SIZE")
    return int(value)


def _body(value: str) -> str:
    if value.upper() not in ("7BIT", "8BITMIME"):
        raise ProtocolError("unknown BODY", "555 5.5.4 Unsupported option: this value of BODY")
    return value.upper()


def _ret(value: str) -> str:
    if value.upper() not in ("FULL", "HDRS"):
        raise _refused("bad RET")
    return value.upper()


def _envid(value: str) -> str:
    if not value or len(value) > MAX_ENVID or not is_xtext(value):
        raise _refused("bad ENVID")
    return value


def _auth(value: str) -> str:
    if not value or not is_xtext(value):
        raise _refused("bad AUTH")
    return value


def _notify(value: str) -> str:
    words = value.upper().split(",")
    if words != ["NEVER"] and (not _NOTIFY_WORDS.issuperset(words) or len(set(words)) != len(words)):
        raise _refused("bad NOTIFY")
    return ",".join(words)


def _orcpt(value: str) -> str:
    kind, separator, address = value.partition(";")
    xtext = _UTF8_XTEXT.fullmatch(address) if kind.lower() == "utf-8" else is_xtext(address)
    if not (separator and address and xtext and _ADDRESS_TYPE.fullmatch(kind)) or len(value.encode()) > MAX_ORCPT:
        raise _refused("bad ORCPT")
    return value
