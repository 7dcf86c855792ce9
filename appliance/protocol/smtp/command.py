"""Commands of clients: one line in, one `Command` out (RFC 5321 4.1, 4.5.3.1; RFC 1869, 3030, 3207, 4954, XCLIENT).

Contract: `parse` is total and linear; what it raises is a ProtocolError whose `reply` is the full text to answer. CR, LF,
NUL and other controls never get past it. It knows grammar, not order: whether MAIL may come now is the session's affair.
Lenient where only one meaning is possible, each case named in `Command.lenient`; `strict` refuses those.
What failure means for the mail: the command had no effect.

Leniencies: tab, leading_space, trailing_space, extra_space, extra_argument, helo_words, equals_in_value, and those of
`address.parse_path`.
"""

import re
from collections.abc import Callable
from functools import lru_cache
from typing import NamedTuple

from appliance.protocol.errors import ProtocolError
from appliance.protocol.smtp.address import Address, AddressError, parse_path, parse_usual
from appliance.protocol.smtp.attributes import parse_attributes
from appliance.protocol.smtp.parameters import (
    KNOWN_PARAMETERS,
    MailParameters,
    RcptParameters,
    mail_parameters,
    rcpt_parameters,
)

__all__ = [
    "BAD_ADDRESS",
    "VERBS",
    "Command",
    "MailParameters",
    "RcptParameters",
    "bdat_chunk",
    "mail_parameters",
    "parse",
    "parse_attributes",
    "rcpt_parameters",
    "wrong_protocol",
]

#: Verbs whose grammar is known here; others come out of `parse` too, for the session to answer 500 or 502.
VERBS = frozenset(
    {"EHLO", "HELO", "LHLO", "MAIL", "RCPT", "DATA", "BDAT", "RSET", "NOOP", "QUIT", "VRFY", "EXPN", "HELP"}
    | {"STARTTLS", "AUTH", "XCLIENT", "XFORWARD", "ETRN"}
)
_CONTROL = re.compile(rb"[\x00-\x08\x0a-\x1f\x7f]")
_VERB = re.compile(rb"([A-Za-z][A-Za-z0-9-]*+)(?:[ \t]++(.*))?", re.DOTALL)
_PARAMETER = re.compile(r"([A-Za-z0-9][A-Za-z0-9-]*+)(?:=([^\s\x00-\x20]++))?")
_BDAT = re.compile(r"([0-9]{1,20})(?: +([Ll][Aa][Ss][Tt]))?")
#: The answer to an address of MAIL or RCPT that cannot be read.
BAD_ADDRESS = {"MAIL": "501 5.1.7 Bad sender address syntax", "RCPT": "501 5.1.3 Bad recipient address syntax"}
#: Octets of a command that is remembered with what was read of it.
USUAL = 128
_BAD_SYNTAX = "500 5.5.2 Error: bad syntax"


class Command(NamedTuple):
    """One command. `verb` upper case; `argument` as sent, without surrounding blanks, 8-bit octets as "\\xNN".

    For MAIL and RCPT: `address` (`<>` has text "") and `parameters` as (KEYWORD, value as sent, "" if none), each keyword
    known and there once. `lenient` names what a strict parser would have refused, and "source_route".
    """

    verb: str
    argument: str = ""
    address: Address | None = None
    parameters: tuple[tuple[str, str], ...] = ()
    lenient: frozenset[str] = frozenset()


def parse(line: bytes, *, utf8: bool = False, strict: bool = False, origin: str = "") -> Command:
    """The command in `line` (with or without its CRLF). Raises ProtocolError with `reply` set.

    `utf8`: SMTPUTF8 may be used: for MAIL the listener offers it (and the line must then ask for it), for RCPT the MAIL
    of this transaction asked for it. `origin`: where names without a domain are at home; "" or `strict` refuse them.
    """
    return (_kept if len(line) <= USUAL else _parsed)(line, utf8, strict, origin)


def _parsed(line: bytes, utf8: bool, strict: bool, origin: str) -> Command:
    line = line.removesuffix(b"\r\n")
    if usual := parse_usual(line):
        return Command(*usual)
    if _CONTROL.search(line):
        bdat = line.lstrip(b" \t")[:4].upper() == b"BDAT"
        raise ProtocolError("control character in a command", _SYNTAX["BDAT"] if bdat else _BAD_SYNTAX)
    lenient: set[str] = set()
    bare = line.strip(b" \t")
    if len(bare) != len(line):
        lenient.add("leading_space" if line[:1] in (b" ", b"\t") else "trailing_space")
    if b"\t" in bare:
        lenient.add("tab")
    match = _VERB.fullmatch(bare)
    if not match:
        raise ProtocolError("no verb", _BAD_SYNTAX)
    verb, argument = match[1].decode("ascii").upper(), match[2] or b""
    if verb in ("MAIL", "RCPT"):
        command = _envelope(verb, argument, lenient, utf8, "" if strict else origin)
    else:
        command = _GRAMMAR.get(verb, _free)(verb, argument, lenient, utf8)
    if strict and command.lenient - {"source_route"}:
        raise ProtocolError(f"not strict: {', '.join(sorted(command.lenient))}", _SYNTAX.get(verb, _BAD_SYNTAX))
    return command


#: The same clients say the same names, and send to the same recipients. What is wrong is not remembered.
_kept = lru_cache(maxsize=2048)(_parsed)

_SYNTAX = {
    "EHLO": "501 5.5.4 Syntax: EHLO hostname",
    "HELO": "501 5.5.4 Syntax: HELO hostname",
    "LHLO": "501 5.5.4 Syntax: LHLO hostname",
    "MAIL": "501 5.5.4 Syntax: MAIL FROM:<address>",
    "RCPT": "501 5.5.4 Syntax: RCPT TO:<address>",
    # The octets behind a BDAT line that was not understood cannot be told from commands: the session must end.
    "BDAT": "521 5.5.4 Syntax: BDAT count [LAST]",
    "VRFY": "501 5.5.4 Syntax: VRFY address",
    "EXPN": "501 5.5.4 Syntax: EXPN list",
    "ETRN": "501 5.5.4 Syntax: ETRN domain",
    "AUTH": "501 5.5.4 Syntax: AUTH mechanism",
    "XCLIENT": "501 5.5.4 Syntax: XCLIENT attribute=value...",
    "XFORWARD": "501 5.5.4 Syntax: XFORWARD attribute=value...",
    **{verb: f"501 5.5.4 Syntax: {verb}" for verb in ("DATA", "RSET", "STARTTLS", "QUIT")},
}


def _text(argument: bytes) -> str:
    return argument.decode("ascii", "backslashreplace")


def _free(verb: str, argument: bytes, lenient: set[str], utf8: bool) -> Command:
    """NOOP, HELP and what is unknown: any argument or none."""
    return Command(verb, _text(argument), lenient=frozenset(lenient))


def _needed(verb: str, argument: bytes, lenient: set[str], utf8: bool) -> Command:
    if not argument:
        raise ProtocolError(f"{verb} without argument", _SYNTAX[verb])
    return Command(verb, _text(argument), lenient=frozenset(lenient))


def _hello(verb: str, argument: bytes, lenient: set[str], utf8: bool) -> Command:
    if b" " in argument or b"\t" in argument:
        lenient.add("helo_words")
    return _needed(verb, argument, lenient, utf8)


def _alone(verb: str, argument: bytes, lenient: set[str], utf8: bool) -> Command:
    if argument:
        raise ProtocolError(f"{verb} with argument", _SYNTAX[verb])
    return Command(verb, lenient=frozenset(lenient))


def _quit(verb: str, argument: bytes, lenient: set[str], utf8: bool) -> Command:
    if argument:
        lenient.add("extra_argument")
    return Command(verb, _text(argument), lenient=frozenset(lenient))


def _bdat(verb: str, argument: bytes, lenient: set[str], utf8: bool) -> Command:
    text = _text(argument)
    if not _BDAT.fullmatch(text):
        raise ProtocolError("BDAT that cannot be understood", _SYNTAX["BDAT"])
    return Command(verb, text, lenient=frozenset(lenient))


def bdat_chunk(command: Command) -> tuple[int, bool]:
    """(octets that follow the line, is it the last chunk) of a BDAT that `parse` took (RFC 3030)."""
    size, _, last = command.argument.partition(" ")
    return int(size), bool(last)


def _envelope(verb: str, argument: bytes, lenient: set[str], utf8: bool, origin: str) -> Command:
    keyword = b"FROM:" if verb == "MAIL" else b"TO:"
    if argument[: len(keyword)].upper() != keyword:
        raise ProtocolError(f"{verb} without {keyword.decode()}", _SYNTAX[verb])
    path = argument[len(keyword) :]
    # The path can only be read as UTF-8 when the MAIL line itself asks for it, behind the path (RFC 6531 3.4).
    asked = utf8 and (verb == "RCPT" or _asks_for_utf8(path))
    try:
        address, rest, more = parse_path(path, utf8=asked, origin=origin)
    except AddressError as error:
        raise ProtocolError(str(error), _address_reply(verb, error)) from error
    if verb == "MAIL" and address.text and not address.domain and origin:
        address = address._replace(domain=origin, text=f"{address.text}@{origin}")
        lenient.add("no_domain")
    if (verb == "MAIL" and address.text and not address.domain) or (verb == "RCPT" and not address.text):
        raise ProtocolError("address without a domain", _address_reply(verb, None))
    parameters = _parameters(verb, rest, lenient, utf8) if rest else ()
    return Command(verb, _text(argument), address, parameters, frozenset(lenient | more))


def _asks_for_utf8(path: bytes) -> bool:
    return any(word.upper() == b"SMTPUTF8" for word in path.replace(b"\t", b" ").split(b" ")[1:])


def _address_reply(verb: str, error: AddressError | None) -> str:
    if error and error.needs_utf8:
        return "553 5.6.7 Error: SMTPUTF8 is needed for this address"
    return BAD_ADDRESS[verb]


def _parameters(verb: str, rest: bytes, lenient: set[str], utf8: bool) -> tuple[tuple[str, str], ...]:
    try:
        text = rest.decode("utf-8" if utf8 else "ascii")
    except UnicodeDecodeError as error:
        raise ProtocolError("8-bit octet in a parameter", _SYNTAX[verb]) from error
    words = text.replace("\t", " ").split(" ")[1:]
    if "" in words:
        lenient.add("extra_space")
    parameters: dict[str, str] = {}
    for word in filter(None, words):
        match = _PARAMETER.fullmatch(word)
        if not match:
            raise ProtocolError("parameter that is not KEYWORD=value", _SYNTAX[verb] + " [parameters]")
        keyword, value = match[1].upper(), match[2] or ""
        if "=" in value:
            lenient.add("equals_in_value")
        if keyword not in KNOWN_PARAMETERS[verb] or (keyword == "SMTPUTF8" and not utf8):
            raise ProtocolError(f"unknown parameter {keyword}", f"555 5.5.4 Unsupported option: {keyword[:40]}")
        if keyword in parameters:
            raise ProtocolError(f"{keyword} twice", f"501 5.5.4 Error: {keyword} is given twice")
        parameters[keyword] = value
    return tuple(parameters.items())


_Grammar = Callable[[str, bytes, set[str], bool], Command]
_GRAMMAR: dict[str, _Grammar] = {
    **dict.fromkeys(("EHLO", "HELO", "LHLO"), _hello),
    **dict.fromkeys(("DATA", "RSET", "STARTTLS"), _alone),
    **dict.fromkeys(("VRFY", "EXPN", "ETRN", "AUTH", "XCLIENT", "XFORWARD"), _needed),
    "QUIT": _quit,
    "BDAT": _bdat,
}

_HTTP = re.compile(rb"(?:GET|POST|HEAD|PUT|DELETE|OPTIONS|CONNECT|TRACE|PATCH|PRI) ", re.IGNORECASE)
_SIP = re.compile(rb"[A-Z]+ [^ ]+ (?:SIP|RTSP)/[0-9]", re.IGNORECASE)
_HEADER = re.compile(rb"[A-Za-z][A-Za-z0-9-]*:(?:[ \t]|\Z)")


def wrong_protocol(first_line: bytes) -> str:
    """Which other protocol the first line of a client is: "http", "sip", "ssh", "tls", "proxy", "header" (a line of a
    message), "binary"; "" for what may be SMTP. `first_line` may be an unfinished line (threats B5)."""
    if first_line[:2] == b"\x16\x03" or (first_line[:1] == b"\x80" and first_line[2:3] == b"\x01"):
        return "tls"
    if first_line[:4] == b"SSH-":
        return "ssh"
    if first_line[:6] == b"PROXY " or first_line[:5] == b"\r\n\r\n\0":
        return "proxy"
    if first_line and first_line[0] not in b"\r\n\t" and not 0x20 <= first_line[0] < 0x7F:
        return "binary"
    if _SIP.match(first_line):
        return "sip"
    if _HTTP.match(first_line):
        return "http"
    return "header" if _HEADER.match(first_line) else ""
