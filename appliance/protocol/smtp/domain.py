"""The part behind the @: a domain name in A-labels, or an address literal (RFC 5321 4.1.2 and 4.1.3, RFC 5890 to 5892).

Contract: total, exact, linear; one value for each name, so that what is judged is what is relayed to. U-labels become
A-labels by IDNA2008's own arithmetic (lower case, NFC, Punycode); the standard library's codec is IDNA2003 and would
send "straße" to "strasse", which is somebody else. Characters that IDNA2008 does not allow outright are refused; labels
that need its contextual rules (joiners, a few dots) too. What failure means for the mail: the address is refused, 5xx.
"""

import ipaddress
import re
import unicodedata

from appliance.protocol.errors import ProtocolError

#: Octets of a label in DNS (RFC 1035 2.3.4) and of a domain in SMTP (RFC 5321 4.5.3.1.2).
MAX_LABEL = 63
MAX_DOMAIN = 255

_LABEL = re.compile(r"(?!-)[a-z0-9_-]+(?<!-)")
#: Categories of PVALID code points (RFC 5892 2.1): lower-case and modifier letters, marks, decimal digits.
_LETTERS = frozenset({"Ll", "Lo", "Lm", "Mn", "Mc", "Nd"})
#: PVALID although case folding would change them (RFC 5892 2.6).
_STABLE_EXCEPTIONS = frozenset("ßς")


class AddressError(ProtocolError):
    """Not an address that SMTP allows. `needs_utf8`: it would be one after MAIL ... SMTPUTF8."""

    def __init__(self, text: str, *, needs_utf8: bool = False) -> None:
        super().__init__(text)
        self.needs_utf8 = needs_utf8


def parse_domain(text: str, *, strict: bool = False) -> tuple[str, frozenset[str]]:
    """`text` as lower-case A-labels or a canonical literal, and the leniencies used.

    Lenient takes one trailing dot ("trailing_dot") and underscores ("underscore"). Raises AddressError.
    """
    if text.startswith("["):
        return parse_literal(text), frozenset()
    lenient = set()
    if text.endswith("."):
        lenient.add("trailing_dot")
        text = text[:-1]
    labels = [_label(label) for label in text.split(".")]
    if any("_" in label for label in labels):
        lenient.add("underscore")
    if labels[-1].isdigit():
        raise AddressError("the top-level domain is a number: an address literal needs brackets")
    domain = ".".join(labels)
    if len(domain) > MAX_DOMAIN:
        raise AddressError(f"domain is longer than {MAX_DOMAIN} octets")
    if strict and lenient:
        raise AddressError(f"domain is not strict: {', '.join(sorted(lenient))}")
    return domain, frozenset(lenient)


def _label(text: str) -> str:
    label = text.lower() if text.isascii() else _a_label(text)
    if not label:
        raise AddressError("empty label in the domain")
    if len(label) > MAX_LABEL:
        raise AddressError(f"label of the domain is longer than {MAX_LABEL} octets")
    if not _LABEL.fullmatch(label):
        raise AddressError("character that no domain has, or a hyphen at the border of a label")
    return label


def _a_label(text: str) -> str:
    # Before any work per character: no label that is longer can fit, each character takes an octet at least.
    if len(text) > MAX_LABEL:
        raise AddressError(f"label of the domain is longer than {MAX_LABEL} octets")
    label = unicodedata.normalize("NFC", text.lower())
    if unicodedata.category(label[0]).startswith("M") or label[2:4] == "--" or label[-1] == "-" or label[0] == "-":
        raise AddressError("label of the domain begins or ends as none may")
    for character in label:
        if not _permitted(character):
            raise AddressError(f"U+{ord(character):04X} is not permitted in a domain")
    # What lower case made plain ASCII (the Kelvin sign) ends with a hyphen here, which no label may.
    return "xn--" + label.encode("punycode").decode("ascii")


def _permitted(character: str) -> bool:
    if character.isascii():
        return character.isalnum() or character == "-"
    if character in _STABLE_EXCEPTIONS:
        return True
    folded = unicodedata.normalize("NFKC", unicodedata.normalize("NFKC", character).casefold())
    return folded == character and unicodedata.category(character) in _LETTERS


def parse_literal(text: str) -> str:
    """An address literal with its brackets, canonical: "[192.0.2.1]", "[IPv6:2001:db8::1]". Raises AddressError."""
    body = text[1:-1] if text.startswith("[") and text.endswith("]") else ""
    try:
        if body[:5].lower() == "ipv6:":
            # A scope ("%eth0") means something on one host only; the constructor would take it.
            if "%" in body:
                raise ValueError("scope")
            return f"[IPv6:{ipaddress.IPv6Address(body[5:])}]"
        return f"[{ipaddress.IPv4Address(body)}]"
    except ValueError as error:
        raise AddressError("not an IPv4 or IPv6 address literal") from error
