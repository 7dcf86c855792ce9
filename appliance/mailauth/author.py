"""Who the author is, read from the octets of the header by one strict parser (threats A4, "Composition Kills").

Contract: pure, total, linear, no recursion. DMARC hangs on which From is read, so a header is read as every plausible
reader would: either there is exactly one From field with exactly one mailbox that all show alike, or `flaws` names
each way in which they may differ. `domains` are all that some reader may take for the author's.
What failure means for the mail: nothing here; the check `dmarc` says what becomes of mail with flaws (shipped: refused).

Taken without a flaw, because all readers agree: harmless comments beside the address, `Name.With.Dots <a@b>`, raw 8-bit
display names, an unquoted display name that repeats the very address, a trailing dot, U-labels (they become A-labels).
"""

import re
from functools import lru_cache
from itertools import islice

import msgspec

from appliance.mail.ports import Content
from appliance.mailauth.encoded import decode
from appliance.mailauth.header import CRLF, cut
from appliance.protocol.smtp.domain import AddressError, parse_domain

#: A From field longer than this is cut by some readers.
MOST = 8192
#: From fields and domains that are looked at; more change nothing.
MANY = 16
#: A value up to this length is remembered with what was read of it.
USUAL = 256

#: What is no part of a printable field name; a fold within the name too.
_ODD = rb"(?>(?:[\x00-\x09\x0b-\x20\x7f-\xff]|\n(?=[ \t]))*)"
#: Both begin with the end of a line: that is found fast.
_FROM = re.compile(
    rb"\n(?![ \t])" + _ODD + rb"f" + _ODD + rb"r" + _ODD + rb"o" + _ODD + rb"m" + _ODD + rb":", re.IGNORECASE
)
_NAME = re.compile(rb"from(?:([ \t]+)|([ \t]*\n[ \t\n]*))?:", re.IGNORECASE)
_VALUE = re.compile(rb"[^\n]*(?:\n[ \t][^\n]*)*")
#: A line at which some readers end the header: empty, only blanks, or neither a field nor a continuation.
_BREAK = re.compile(rb"\n(?:[ \t]*\n|(?![ \t])(?![!-9;-~]++[ \t]*+:)[^\n])")
#: A line of nothing but blanks, where only CRLF ends lines.
_BLANK_LINE = re.compile(rb"\n[ \t]++\r")
_TRACE_ONLY = re.compile(rb"\n(?:(?:received|return-path)[ \t]*:[^\n]*\n(?:[ \t][^\n]*\n)*)*\n*\Z", re.IGNORECASE)

#: Our own field on top goes on behind its date: the message begins with a line that looks like a continuation.
_LEADING = re.compile(rb"\nReceived: (?:[^\n]*+\n[ \t]){1,6}?[^\n]* \d\d:\d\d:\d\d [+-]\d{4}(?: \(\w+\))?\n[ \t]")

_TOKEN_AT = re.compile(
    r'(?P<blank>[ \t\n]+)|(?P<quoted>"(?>(?:[^"\\]|\\.)*)")|(?P<angle><(?>(?:[^<>"\\]|"(?>(?:[^"\\]|\\.)*)")*)>)'
    r'|(?P<comment>\([^()\\]*+\))|(?P<word>[^ \t\n"<>(),:;\\]+)|(?P<special>.)',
    re.DOTALL,
)
_SPECIAL = {",": "several_mailboxes", ":": "group", ";": "group", "(": "comment", ")": "comment", "\\": "escape"}
_CONTROL = re.compile("[\x01-\x08\x0b-\x1f\x7f-\x9f\u2028\u2029]")
_BLANK_FOLD = re.compile(r"\n[ \t]*\n")
_HARMLESS = re.compile(r'\([^()<>@,;:"\\]*\)')
_QUOTED_LOCAL = re.compile(r'"((?:[^"\\]|\\.)*)"@([^@]*)', re.DOTALL)
_LOCAL = re.compile(r"[A-Za-z0-9!#$%&'*+/=?^_`{|}~.\x80-\ud7ff\ue000-\U0010ffff-]+")
_PAIR = re.compile(r"\\(.)", re.DOTALL)
_DOMAINS = re.compile(r"@[ \t\n]*([^\s@<>()\[\],;:\\\"?=]{1,255})")


class Author(msgspec.Struct, frozen=True):
    """`address` ("local@domain", the domain as A-labels) and `domain` are "" where there is none; `name` is the display
    name as a reader shows it. `flaws`: in which ways readers may differ, () = none."""

    address: str = ""
    domain: str = ""
    name: str = ""
    flaws: tuple[str, ...] = ()
    domains: tuple[str, ...] = ()


class _Mailbox(msgspec.Struct):
    """What is being found out of one value."""

    local: str = ""
    domain: str = ""
    name: str = ""
    flaws: list[str] = []
    address: str = ""


def read(header: bytes, complete: bool = True) -> Author:
    """The author of the message whose header block this is. `complete` False: there is more of it than is shown."""
    block = b"\n" + header.replace(b"\r\n", b"\n").replace(b"\r", b"\n")
    found = list(islice(_FROM.finditer(block), MANY))
    flaws = [] if complete else ["long_header"]
    if not found:
        flaws.append("leading_blank_line" if _TRACE_ONLY.match(block) else "none")
        return Author(flaws=tuple(flaws))
    if len(found) > 1:
        flaws.append("two_fields")
    if _LEADING.match(block):
        flaws.append("leading_blank")
    if _BREAK.search(block, 0, found[-1].start() + 1):
        flaws.append("broken_header")
    values = []
    for name in found:
        flaws += _name_flaws(name[0][1:])
        value = _VALUE.match(block, name.end())
        octets = value[0] if value else b""
        flaws += ["too_long"] if len(octets) > MOST else []
        values.append(octets[:MOST].decode("utf-8", "surrogateescape"))
    mailbox = (_usual if len(values[0]) <= USUAL else _mailbox)(values[0])
    flaws += mailbox.flaws
    domains = [mailbox.domain]
    if flaws:
        domains += [domain for value in values for domain in _all_domains(value)]
    return Author(
        address=mailbox.address,
        domain=mailbox.domain,
        name=mailbox.name,
        flaws=tuple(dict.fromkeys(flaws)),
        domains=tuple(dict.fromkeys(domain for domain in domains if domain))[:MANY],
    )


def _at_sight(header: bytes) -> Author | None:
    """As read, of a whole header in which every reader sees the same lines, and one plain From; None for others."""
    ends = header.count(CRLF)
    fields, places, regular = cut(header)
    own = places.get(b"from", ())
    if not regular or len(own) != 1 or not ends == header.count(b"\n") == header.count(b"\r"):
        return None
    field, first = fields[own[0]], fields[0]
    if not field.startswith(b"From:") or len(field) > USUAL or _BLANK_LINE.search(header):
        return None
    above = first[: first.rfind(CRLF)] if CRLF in first else b""
    if b" +" in above or b" -" in above:  # the zone of a date, perhaps that of our own field, which goes on (_LEADING)
        return None
    box = _usual(field[5:].replace(CRLF, b"\n").decode("utf-8", "surrogateescape"))
    if box.flaws or not box.domain:
        return None
    return Author(address=box.address, domain=box.domain, name=box.name, domains=(box.domain,))


#: Several checks of one message ask for its author.
@lru_cache(maxsize=64)
def _remembered(header: bytes, complete: bool) -> Author:
    return (_at_sight(header) if complete else None) or read(header, complete)


_SMALL = 65536


def of(content: Content) -> Author:
    """The author of a message."""
    header, complete = content.header, content.header_complete
    return _remembered(header, complete) if len(header) <= _SMALL else read(header, complete)


def _name_flaws(name: bytes) -> list[str]:
    if name == b"From:":
        return []
    plain = _NAME.fullmatch(name)
    if plain is None:
        return ["odd_name"]
    return ["folded_name"] if plain[2] else ["space_before_colon"] if plain[1] else []


def _all_domains(value: str) -> list[str]:
    """Every domain that stands behind an @, also in encoded words, as far as it is one."""
    found = []
    for text in (value, decode(value)):
        for name in islice(_DOMAINS.finditer(text), MANY):
            if domain := _domain(name[1]):
                found.append(domain)
    return found


def _domain(text: str) -> str:
    try:
        return parse_domain(text)[0]
    except AddressError:
        return ""


def _mailbox(value: str) -> _Mailbox:
    """The one mailbox of `value`, with all that speaks against it."""
    box, text = _Mailbox(flaws=[]), value.strip(" \t\n")
    if "\0" in text:
        box.flaws.append("nul")
    if _CONTROL.search(text):
        box.flaws.append("control")
    if _BLANK_FOLD.search(value.rstrip(" \t\n")):
        box.flaws.append("blank_fold")
    tokens = [(str(found.lastgroup), found[0]) for found in _TOKEN_AT.finditer(text)]
    box.flaws += [_SPECIAL.get(token, "unbalanced") for kind, token in tokens if kind == "special"]
    box.flaws += ["comment" for kind, token in tokens if kind == "comment" and not _HARMLESS.fullmatch(token)]
    angles = [index for index, (kind, _) in enumerate(tokens) if kind == "angle"]
    if len(angles) > 1:
        box.flaws.append("several_addresses")
    if angles:
        _bracketed(box, tokens, angles[0])
    else:
        _bare(box, tokens)
    box.name = _display(box, box.name)
    box.address = _plain(f"{box.local}@{box.domain}") if box.domain else ""
    return box


#: Who wrote once writes again; nobody changes what is found here. Each worker keeps 1 MB of values at most.
_usual = lru_cache(maxsize=2048)(_mailbox)


def _bracketed(box: _Mailbox, tokens: list[tuple[str, str]], at: int) -> None:
    """`Name <address>`: what stands before is the name, behind it only a comment may follow."""
    _address(box, tokens[at][1][1:-1])
    if any(kind in ("word", "quoted") for kind, _ in tokens[at + 1 :]):
        box.flaws.append("trailing_text")
    own = f"{box.local}@{box.domain}".lower()
    for kind, token in tokens[:at]:
        if kind == "word" and "@" in token and token.lower() != own:
            box.flaws.append("second_address")
    box.name = _joined(tokens[:at]) or _joined(tokens[at + 1 :])


def _bare(box: _Mailbox, tokens: list[tuple[str, str]]) -> None:
    """`address`, perhaps with a comment before or behind it, which is the name then."""
    parts = [(kind, token) for kind, token in tokens if kind not in ("blank", "comment")]
    first = next((index for index, (kind, _) in enumerate(tokens) if kind not in ("blank", "comment")), 0)
    inside = tokens[first : first + len(parts)]
    text = "".join(token for _, token in parts)
    if not text:
        box.flaws.append("no_address")
    elif inside != parts:
        whole = [kind for kind, _ in tokens[first:]]
        last = len(whole) - next(i for i, kind in enumerate(reversed(whole)) if kind not in ("blank", "comment"))
        box.flaws.append("comment" if "comment" in whole[:last] else "blank_in_address" if "@" in text else "no_domain")
    _address(box, text)
    box.name = _joined([token for token in tokens if token[0] == "comment"])


def _joined(tokens: list[tuple[str, str]]) -> str:
    """A phrase as it is shown: quotes and brackets of comments off."""
    shown = []
    for kind, token in tokens:
        if kind == "quoted":
            shown.append(_PAIR.sub(r"\1", token[1:-1]))
        elif kind == "comment":
            shown.append(token[1:-1])
        elif kind != "angle":
            shown.append(" " if kind == "blank" else token)
    return " ".join("".join(shown).split())


def _display(box: _Mailbox, name: str) -> str:
    shown = decode(name)
    if shown != name and (set(shown) & {"\0", "\n"} or _CONTROL.search(shown)):
        box.flaws.append("nul" if "\0" in shown else "control")
    return _plain(shown)


def _plain(text: str) -> str:
    """Without the halves of characters that octets which are no UTF-8 have become."""
    return text.encode("utf-8", "replace").decode("utf-8")


def _address(box: _Mailbox, text: str) -> None:
    """addr-spec, as strict as all readers together."""
    if not text.strip():
        box.flaws.append("no_address")
        return
    if "=?" in text and "?=" in text:
        box.flaws.append("encoded_domain" if "=?" in text.rpartition("@")[2] else "encoded_address")
    quoted = _QUOTED_LOCAL.fullmatch(text)
    if quoted is not None:
        local, at, domain = _PAIR.sub(r"\1", quoted[1]), "@", quoted[2]
        if not _LOCAL.fullmatch(local.replace(" ", "")):
            box.flaws.append("quoted_local")
    else:
        if text[0] == "@":
            box.flaws.append("route" if ":" in text else "no_local")
        box.flaws += [flaw for letter, flaw in (("(", "comment"), (",", "several_mailboxes")) if letter in text]
        local, at, domain = text.rpartition("@")
        if "@" in local and text[0] != "@":
            box.flaws.append("several_at")
        elif at and not _LOCAL.fullmatch(local):
            box.flaws.append("blank_in_address" if re.search(r"\s", text) else "odd_local")
    if not at or not domain:
        box.flaws.append("no_domain")
    elif domain.startswith("["):
        box.flaws.append("address_literal")
    elif found := _domain(domain):
        box.local, box.domain = local, found
    else:
        box.flaws.append("blank_in_address" if re.search(r"\s", domain) else "bad_domain")
