"""Envelope addresses: one parser for all of them, total, exact and linear (RFC 5321 4.1.2, RFC 6531 3.3).

Contract: octets in, one `Address` out, or AddressError; nothing is guessed. `%` and `!` are letters of a local part like
any other, a source route is dropped and never used, `a@b@c` is refused, so no spelling makes this gateway relay to a
domain that was not judged. Lenient forms are named in the set that comes along; `strict` refuses them instead.
What failure means for the mail: the command is refused with 5xx and nothing was promised.

Lengths: a local part has at most 64 octets, lenient takes 256 ("long_local": SRS and VERP senders are longer in real
mail); a domain has at most 255; a path 256, lenient what the command line holds ("long_path").
"""

import re
from typing import NamedTuple

from appliance.protocol.smtp.domain import AddressError, parse_domain

__all__ = ["Address", "AddressError", "parse_address", "parse_path", "relay_tricks"]

MAX_LOCAL = 64
MAX_LENIENT_LOCAL = 256
MAX_PATH = 256

_ATEXT = rb"A-Za-z0-9!#$%&'*+/=?^_`{|}~-"
_DOT_ATOM = rb"[%b]++(?>(?:\.[%b]++)*)" % (_ATEXT, _ATEXT)
_LDH = rb"(?!-)[A-Za-z0-9-]{1,63}+(?<!-)"
#: The plain case, which is nearly all mail. What it does not match goes the long way; both agree where it matches.
_PLAIN = re.compile(rb"(%b)@(%b(?>(?:\.%b)*))" % (_DOT_ATOM, _LDH, _LDH))

#: A local part as it stands, up to the @ outside quotes: a quoted string, or anything that is not special.
_QUOTED = re.compile(r'"((?>(?:[^"\\]|\\.)*))"', re.DOTALL)
_UNQUOTED = re.compile(r"[^ @<>()\[\],;:\\\"]++")
_ATOMS = re.compile(
    r"[A-Za-z0-9!#$%&'*+/=?^_`{|}~\x80-\U0010ffff-]++(?>(?:\.[A-Za-z0-9!#$%&'*+/=?^_`{|}~\x80-\U0010ffff-]++)*)"
)
_PAIR = re.compile(r"\\(.)", re.DOTALL)
#: Controls of ASCII and of ISO 6429, and the two line ends that only Unicode knows.
_CONTROL = re.compile("[\x00-\x1f\x7f-\x9f\u2028\u2029]")
_ROUTE = re.compile(r"@[^@,: \"<>]++(?>(?:,@[^@,: \"<>]++)*):")
#: The path of a MAIL or RCPT as far as its brackets: quoted strings may hold brackets and blanks.
_BRACKETED = re.compile(rb'<((?>(?:[^"<>\\]|"(?>(?:[^"\\]|\\.)*)")*))>(?=[ \t]|\Z)', re.DOTALL)
_BARE = re.compile(rb'(?>(?:[^" \t<>\\]|"(?>(?:[^"\\]|\\.)*)")+)(?=[ \t]|\Z)', re.DOTALL)


#: The same as a whole MAIL or RCPT without parameters.
_USUAL = re.compile(rb"(?:MAIL FROM|RCPT TO):<(%b)@(%b(?>(?:\.%b)*))>" % (_DOT_ATOM, _LDH, _LDH))


class Address(NamedTuple):
    """One mailbox of an envelope, parsed once; the domain judged is the very value that is relayed to.

    `local`: the local part with quoting removed, case kept. `domain`: lower case, A-labels (IDNA), or an address literal
    "[192.0.2.1]" / "[IPv6:2001:db8::1]"; "" for `<>` and for a bare `postmaster`. `text`: external form, quoted where
    RFC 5321 demands it, without <>: what logs show and what is relayed. "" for `<>`. `utf8`: needs SMTPUTF8.
    """

    local: str
    domain: str
    text: str
    utf8: bool = False


#: What makes a route of a name.
_ROUTING = frozenset("!%@")
#: Makes one without a call of Python.
_new = tuple.__new__
NULL_SENDER = Address("", "", "")
_NOTHING: frozenset[str] = frozenset()


def parse_usual(line: bytes) -> tuple[str, str, Address] | None:
    """(verb, argument, address) of a command that is all as nearly every client writes it ("MAIL FROM:<a@example.com>"),
    None for whatever needs a closer look: then nothing is said of it."""
    found = _USUAL.fullmatch(line)
    if found is None or len(found[1]) > MAX_LOCAL or len(line) > MAX_PATH:
        return None
    text, local, domain = line.decode("ascii"), found[1].decode("ascii"), found[2].decode("ascii").lower()
    if domain.rpartition(".")[2].isdigit():
        return None
    return text[:4], text[5:], Address(local, domain, f"{local}@{domain}")


def parse_path(
    text: bytes, *, utf8: bool = False, strict: bool = False, origin: str = ""
) -> tuple[Address, bytes, frozenset[str]]:
    """The path behind "FROM:" or "TO:": (address, what follows it, leniencies). `<>` is the null sender.

    Leniencies: those of `parse_address`, and "space_after_colon", "space_in_brackets", "no_brackets", "long_path". What
    follows is b"" or begins with a blank. Raises AddressError.
    """
    path = text.lstrip(b" \t")
    lenient = {"space_after_colon"} if len(path) != len(text) else set()
    found = _BRACKETED.match(path)
    if found:
        inner = found[1].strip(b" \t")
        if len(inner) != len(found[1]):
            lenient.add("space_in_brackets")
    else:
        found = _BARE.match(path)
        if not found:
            raise AddressError("no path: brackets do not match or nothing stands there")
        inner = found[0]
        lenient.add("no_brackets")
    if len(inner) + 2 > MAX_PATH:
        lenient.add("long_path")
    if strict and lenient:
        raise AddressError(f"path is not strict: {', '.join(sorted(lenient))}")
    rest = path[found.end() :]
    if not inner and found[0] == b"<>":
        return NULL_SENDER, rest, frozenset(lenient)
    address, more = parse_address(inner, utf8=utf8, strict=strict, origin=origin)
    return address, rest, more | lenient if lenient else more


def parse_address(
    text: bytes, *, utf8: bool = False, strict: bool = False, origin: str = ""
) -> tuple[Address, frozenset[str]]:
    """What stands between the brackets: (address, leniencies). Raises AddressError; empty text is an error here.

    Only `postmaster` may stand without a domain (RFC 5321 4.1.1.3); with an `origin` other names are at that, unless
    they have a sign of a route in them. Leniencies: "no_domain", "source_route" (taken in strict too, RFC
    5321 asks for it; always dropped), "odd_dots" (`a..b`; quoted in `Address.text`), "long_local", "trailing_dot",
    "underscore". `utf8`: SMTPUTF8 is in force; U-labels of the domain become A-labels, the local part is kept as sent.
    """
    plain = _PLAIN.fullmatch(text)
    if plain and len(plain[1]) <= MAX_LOCAL and len(text) < MAX_PATH - 2:
        local, domain = plain[1].decode("ascii"), plain[2].decode("ascii").lower()
        if not domain.rpartition(".")[2].isdigit():
            return _new(Address, (local, domain, f"{local}@{domain}", False)), _NOTHING
    return _parse_slowly(_decode(text, utf8), strict, origin)


def _decode(text: bytes, utf8: bool) -> str:
    try:
        decoded = text.decode("utf-8")
    except UnicodeDecodeError as error:
        raise AddressError("address is not UTF-8") from error
    if not utf8 and not decoded.isascii():
        raise AddressError("address is not ASCII and SMTPUTF8 was not asked for", needs_utf8=True)
    if _CONTROL.search(decoded):
        raise AddressError("control character in the address")
    return decoded


def _parse_slowly(text: str, strict: bool, origin: str = "") -> tuple[Address, frozenset[str]]:
    lenient = set()
    if route := _ROUTE.match(text):
        _check_route(route[0])
        text = text[route.end() :]
        lenient.add("source_route")
    local, rest, odd = _local_part(text)
    if rest:
        domain, more = parse_domain(rest[1:], strict=strict)
        lenient |= more
    elif local.lower() == "postmaster":
        domain = ""
    elif origin and not _ROUTING & set(local):
        domain = origin
        lenient.add("no_domain")
    else:
        raise AddressError("no domain")
    if odd:
        lenient.add("odd_dots")
    size = len(local.encode())
    if size > MAX_LOCAL:
        lenient.add("long_local")
    if size > MAX_LENIENT_LOCAL or (strict and lenient - {"source_route"}):
        raise AddressError(f"local part is too long or odd: {', '.join(sorted(lenient))}")
    external = quoted(local) + ("@" + domain if domain else "")
    return Address(local, domain, external, not local.isascii()), frozenset(lenient)


def _check_route(route: str) -> None:
    for hop in route[:-1].split(","):
        parse_domain(hop[1:])


def _local_part(text: str) -> tuple[str, str, bool]:
    """(local part without quotes, "" or "@" and what follows, are its dots odd)."""
    if match := _QUOTED.match(text):
        local, odd = _PAIR.sub(r"\1", match[1]), False
    elif match := _UNQUOTED.match(text):
        local = match[0]
        odd = not _ATOMS.fullmatch(local)
        if odd and not _ATOMS.fullmatch(local.replace(".", "")):
            raise AddressError("character that needs quotes in a local part")
    if not match or not local:
        raise AddressError("no local part")
    rest = text[match.end() :]
    if rest and not rest.startswith("@"):
        raise AddressError("something stands between the local part and the @")
    return local, rest, odd


def quoted(local: str) -> str:
    """`local` as it is written in an address: in quotes only where RFC 5321 demands them."""
    if _ATOMS.fullmatch(local):
        return local
    return '"' + local.replace("\\", "\\\\").replace('"', '\\"') + '"'


def is_address(text: str) -> bool:
    """Is `text`, as an operator writes it (no brackets), an address with a domain?"""
    try:
        return "@" in text and bool(parse_address(text.encode(), utf8=True)[0].domain)
    except (AddressError, UnicodeEncodeError):
        return False


def relay_tricks(address: Address) -> str:
    """Which trick of open-relay hunters the spelling could be: "source_route", "quoted_at", "bang", "percent",
    "literal", or "". A word for the relay check, not a verdict: VERP senders have `%` and `=` honestly. A source
    route outside quotes was dropped by the parser and is told as leniency "source_route" instead."""
    local = address.local
    if local.startswith("@") and ":" in local:
        return "source_route"
    for sign, trick in (("@", "quoted_at"), ("!", "bang"), ("%", "percent")):
        if sign in local:
            return trick
    return "literal" if address.domain.startswith("[") else ""
