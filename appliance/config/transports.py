"""What an entry of a transport table means (Postfix transport(5)).

Contract: pure. A value is `transport:nexthop`; a transport without a nexthop means the mail's own domain, a nexthop
without a transport leaves the transport as it is, ":" leaves both. `smtp` and `relay` are one; several next hops stand
with commas or blanks between them and are tried in order. `error:`, `retry:` and `discard:` are answers instead of ways.
A transport of one's own is a name of `[filters]` (config.filters).
What failure means for the mail: a value that is no way here (`local:`, a transport that nobody knows, a control
character) raises ValueError: the mail waits, `postgate check` names the line.
"""

import re
from collections.abc import Callable
from typing import NamedTuple

from appliance.config.values import Kind, NextHop, parse_next_hop

#: Transports by their names, as Postfix's master.cf and Sendmail's mailertables have them.
RELAYING: dict[str, Kind] = {"smtp": "smtp", "relay": "smtp", "esmtp": "smtp", "lmtp": "lmtp"}
ANSWERING: dict[str, Kind] = {"error": "error", "retry": "retry", "discard": "discard"}
#: What error(8) says where the entry says nothing, and the codes that it gives.
UNDELIVERABLE = "Address is undeliverable"
CODES = {"error": "5.0.0", "retry": "4.0.0", "discard": "2.0.0"}
#: Letters of a value, and next hops in it: more is no entry that somebody meant.
LONGEST, MOST = 2048, 32
_NAME = re.compile(r"[A-Za-z0-9_.-]{1,40}\Z")
_FINAL = frozenset({"local", "virtual", "maildrop", "procmail", "prog", "cyrus", "pipe", "uucp", "uucp-dom", "bsmtp"})
_STATUS = re.compile(r"[ \t]*([245]\.\d{1,3}\.\d{1,3})(?:[ \t]+|\Z)")
_CONTROL = re.compile("[\x00-\x08\x0a-\x1f\x7f-\x9f\u2028\u2029]")
_SERVICE = re.compile(r"(.*):([A-Za-z][A-Za-z0-9-]*)\Z")
_ADDRESS = re.compile(r"(\d{1,3}(?:\.\d{1,3}){3})((?::\d+)?)")
_PORTS = {"smtp": "25", "lmtp": "24", "submission": "587"}


class Way(NamedTuple):
    """`hops` (): as without the entry. `own`: the nexthop is the mail's own domain, so that "no such domain" is final."""

    hops: tuple[NextHop, ...]
    own: bool = False


#: What a transport of one's own and its nexthop mean for a domain, None: there is none of that name. Raises ValueError.
Own = Callable[[str, str, str], Way | None]


def nobodys(transport: str, nexthop: str, domain: str) -> Way | None:
    """Where no transport is one's own."""
    return None


def parse_transport(value: str, domain: str, unchanged: Kind = "smtp", own: Own = nobodys) -> Way:
    """What `value` means for mail to `domain`. `unchanged`: the transport where it names none. Raises ValueError."""
    if len(value) > LONGEST:
        raise ValueError(f'"{value[:40]}..." has {len(value)} letters, a transport has {LONGEST} at most')
    if _CONTROL.search(value):
        raise ValueError(f'"{_CONTROL.sub("?", value)}" has a control character in it')
    transport, colon, rest = value.strip().partition(":")
    if not transport and not rest.strip():
        return Way(())
    if (answer := ANSWERING.get(transport)) is not None:
        return Way((_answer(answer, rest.strip(), domain),))
    kind = RELAYING.get(transport, unchanged if colon and not transport else None)
    if kind is None:
        if (way := own(transport, rest.strip(), domain)) is not None:
            return way
        raise ValueError(_unknown(transport, colon, value))
    if not rest.strip():
        if not domain:
            raise ValueError(f'"{value}" sends to the domain of an address, and this one has none')
        return Way((own_hop(kind, domain),), own=kind == "smtp")
    return Way(nexthops(kind, rest, transport))


def nexthops(kind: Kind, text: str, transport: str = "") -> tuple[NextHop, ...]:
    """Those that stand behind the colon of `transport:`. Raises ValueError."""
    texts = text.replace(",", " ").split()
    if len(texts) > MOST:
        raise ValueError(f'"{text[:40]}..." names {len(texts)} next hops, {MOST} are the most')
    return tuple(_hop(kind, one.removeprefix(f"{transport}:") if transport else one) for one in texts)


def own_hop(kind: Kind, domain: str) -> NextHop:
    """The mail's own domain as its next hop: by MX records in SMTP, an address literal is the host itself."""
    host = domain.strip("[]").removeprefix("IPv6:")
    if kind == "lmtp":
        return NextHop("lmtp", host, 24)
    return NextHop("smtp", host, 25, not domain.startswith("["))


def _answer(kind: Kind, text: str, domain: str) -> NextHop:
    """error(8), discard(8): a status in front of the text; one of the wrong class counts for nothing."""
    text = "".join(letter if letter.isprintable() else "?" for letter in text.replace("\t", " "))
    if kind == "discard":
        text = text or domain
    found = _STATUS.match(text)
    status = found[1] if found and found[1][0] == CODES[kind][0] else CODES[kind]
    if found:
        return NextHop(kind, status, path=text[found.end() :] or "(description unavailable)")
    return NextHop(kind, status, path=text or UNDELIVERABLE)


def _hop(kind: Kind, text: str) -> NextHop:
    bare = text.removeprefix("inet:")
    if bare.startswith("unix:") and not bare.startswith("unix:/"):
        raise ValueError(f'"{text}": the path of a socket begins with / in a table')
    if (found := _SERVICE.match(bare)) and not bare.startswith("unix:") and not bare.endswith("]"):
        if (port := _PORTS.get(found[2].lower())) is None:
            raise ValueError(f'"{text}": write the port as a number')
        bare = f"{found[1]}:{port}"
    if kind == "lmtp" and (found := _ADDRESS.fullmatch(bare)):  # it knows no MX, so that Postfix does without brackets
        bare = f"[{found[1]}]{found[2]}"
    return parse_next_hop(f"{kind}:{bare}")


def _unknown(transport: str, colon: str, value: str) -> str:
    if not colon:
        return f'"{value}" is no transport: write smtp:[host]:port, smtp:domain or lmtp:unix:/path'
    if transport.lower() in _FINAL:
        return f'"{value}": {transport}: delivers to mailboxes, and there are none here: mail goes on to next hops only'
    known = "smtp, relay, lmtp, error, retry and discard are, and the names of [filters]"
    return f'"{value}": no transport is called "{transport}": {known}'


def is_answer(text: str) -> bool:
    """Whether this is an answer instead of a way."""
    return text.partition(":")[0] in ANSWERING and ":" in text


def is_named(text: str) -> bool:
    """Whether this has the form of a transport of one's own; `config.cross_filters` says whether there is one."""
    transport, colon, _ = text.partition(":")
    return bool(colon and _NAME.match(transport)) and transport not in RELAYING and transport not in ANSWERING


def written_hop(text: str) -> NextHop:
    """A next hop of `[relay.routes]`, an answer, or a transport of one's own. Raises ValueError."""
    if is_named(text) and not _CONTROL.search(text):
        transport, _, nexthop = text.partition(":")
        return NextHop("filter", transport, path=nexthop.strip())
    return parse_transport(text, "discarded").hops[0] if is_answer(text) else parse_next_hop(text)


def alone(texts: tuple[str, ...]) -> tuple[str, ...]:
    """An answer, and a transport of one's own, have nothing beside them. Raises ValueError."""
    for text in texts if len(texts) > 1 else ():
        if is_answer(text):
            raise ValueError(f'"{text}" is an answer: no next hop is tried before or behind it')
        if is_named(text):
            raise ValueError(f'"{text}" is no next hop, or it stands alone: a filter has no next hop beside it')
    return texts


def transport_problem(value: str, own: Own = nobodys) -> str:
    """Why a transport table may not have this value, "" if it may."""
    try:
        parse_transport(value, "example.com", own=own)
    except ValueError as why:
        return str(why)
    return ""


def parse_of_sender(value: str, domain: str, own: Own = nobodys) -> Way:
    """An entry of sender_dependent_default_transport_maps; DUNNO: as without. Raises ValueError."""
    if value.strip().upper() == "DUNNO":
        return Way(())
    if value.strip().startswith(":"):
        raise ValueError(f'"{value}" names no transport, and by the sender it must: write smtp{value.strip()}')
    return parse_transport(value, domain, own=own)


def parse_relayhost(value: str) -> tuple[NextHop, ...] | None:
    """An entry of sender_dependent_relayhost_maps: a nexthop without a transport; DUNNO (None): as without. Raises
    ValueError."""
    if value.strip().upper() == "DUNNO":
        return None
    return parse_transport(f"smtp:{value.strip()}", "").hops


def sender_problem(key: str, value: str, own: Own = nobodys) -> str:
    """Why a table of sender_dependent_`key` may not have this value, "" if it may."""
    try:
        if key.endswith("relayhost_maps"):
            parse_relayhost(value)
        else:
            parse_of_sender(value, "example.com", own)
    except ValueError as why:
        return str(why)
    return ""
