"""What a map answers, as addresses; and why some answers are none.

Contract: a value is read as Postfix reads it: mailboxes with commas (or only blanks) between them, a name without a
domain is one of ours. A program, a file, an included list is never run, opened or read: it is a mistake that
`postgate check` names; met at run time, it puts the mail off. Raises ValueError with what is wrong.
"""

import re

from appliance.addresses.mailboxes import spans
from appliance.protocol.smtp.address import NULL_SENDER, Address, AddressError, parse_address

#: Between commas outside quotes: what no mailbox begins with.
_ITEM = re.compile(r'(?>(?:[^,"\\]|\\.|"(?>(?:[^"\\]|\\.)*)(?:"|\Z)|\\\Z)+)', re.DOTALL)
_DOING = re.compile(r'\s*+(?!"(?>(?:[^"\\]|\\.)*)"[ \t]*@|/[^\s"]*@)(?:"?(?:(\|)|(:include:)|(/))|(\\))', re.IGNORECASE)
_WHAT = (
    "a program is not run here",
    "a list in a file is not read here",
    "a file is not written here",
    "there are no mailboxes here",
)
#: Nearly every value: an address, a name, or "@domain".
_PLAIN = re.compile(r"[A-Za-z0-9_+=-]*+(?:@(?>(?:[A-Za-z0-9]++(?>(?:-++[A-Za-z0-9]++)*)\.)*)[A-Za-z]{2,}+)?")
_REFERENCE = re.compile(r"\$(?:\d+|\(\d+\)|\{\d+\})")
_CONTROL = re.compile("[\x00-\x08\x0a-\x1f\x7f]")
_REFUSAL = re.compile(r"error:(?:([45]\.\d{1,3}\.\d{1,3})(?:[ \t]+|\Z))?(.*)\Z", re.IGNORECASE)


def read(value: str, origin: str, user: str = "") -> list[Address]:
    """The mailboxes of a value, those without a domain at `origin`; a value "@domain" is for `user`, a local part as it
    is written. Raises ValueError."""
    if problem := _doing(value):
        raise ValueError(problem)
    if value.startswith("@"):
        value = user + value
    if value.strip() == "<>":
        return [NULL_SENDER]
    found = [address(span.text, origin) for span in spans(value)]
    if not found:
        raise ValueError(f'"{shown(value)}" holds no address')
    return found


def address(text: str, origin: str) -> Address:
    """One mailbox. Raises ValueError."""
    try:
        return parse_address((text if has_domain(text) else f"{text}@{origin}").encode(), utf8=True)[0]
    except (AddressError, UnicodeEncodeError) as why:
        raise ValueError(f'"{shown(text)}" is no address: {why}') from None


def has_domain(text: str) -> bool:
    """Is there an @ outside quotes?"""
    return "@" in (text.rpartition('"')[2] if text.startswith('"') else text)


def _doing(value: str) -> str:
    """Why this value asks for something that a gateway does not do, or ""."""
    if _CONTROL.search(value):
        return f'"{shown(value)}" has a control character in it'
    for item in _ITEM.finditer(value):
        if found := _DOING.match(item[0]):
            what = _WHAT[(found.lastindex or 1) - 1]
            return f'"{shown(item[0].strip())}": {what}; mail is forwarded to addresses only'
    return ""


def refusal(value: str) -> tuple[str, str] | None:
    """(status, text) of a value "error:5.1.1 text" (Sendmail's virtusertable), None for any other."""
    found = _REFUSAL.match(value.strip())
    return (found[1] or "5.1.1", found[2].strip() or "no such mailbox here") if found else None


def problem(value: str) -> str:
    """Why a map may not have this value, "" if it may; `$1` and the like count as a letter."""
    if (value and _PLAIN.fullmatch(value)) or refusal(value):
        return ""
    try:
        read(_REFERENCE.sub("x", value), "example.com", "x")
    except ValueError as why:
        return str(why)
    return ""


def shown(text: str, most: int = 100) -> str:
    """A text as it can stand in a line of the log."""
    plain = "".join(letter if letter.isprintable() else "?" for letter in text[: most + 1])
    return plain if len(plain) <= most else f"{plain[:most]}..."
