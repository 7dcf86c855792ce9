"""Sendmail's texts (access, mailertable, virtusertable, genericstable, relay-domains, local-host-names), read as they
are.

Contract: each type sees full keys and searches them as Sendmail does; values are given in the words of access(5) and
transport(5). Entries of the access table for what is not looked up here (rates, TLS, authentication) are warnings. The
first entry of a key stays. What failure means for the mail: a look-up cannot fail; a flawed file never gets into
force.
"""

import re
from collections.abc import Callable, Iterator
from difflib import get_close_matches

from appliance.mail.lookup import is_address, network_keys
from appliance.tables.text import BLANKS, Source

_BLANK = re.compile(f"[{BLANKS}]+")
_TAG = re.compile(r"([A-Za-z_]+):(?=.)")
_ERROR = re.compile(
    r"error:(?:([245]\.\d{1,3}\.\d{1,3}):|(nouser|nohost|unavailable|tempfail|config|protocol)(?:[ \t]+|:))?(.*)\Z",
    re.IGNORECASE,
)
_CODE = re.compile(r"([45]\d\d)(?:[ \t-]+([245]\.\d{1,3}\.\d{1,3}))?[ \t]*(.*)\Z")
#: What Sendmail's error mailer makes of its words.
_NAMED = {
    "nouser": "5.1.1",
    "nohost": "5.1.2",
    "unavailable": "5.7.0",
    "tempfail": "4.3.0",
    "config": "5.3.5",
    "protocol": "5.5.0",
}
#: Tags of the access table that are read by one of our types; all others are told.
TAGS = {"connect": "sendmail_connect", "from": "sendmail_from", "to": "sendmail_to"}
_MAILERS = ("smtp", "esmtp", "smtp8", "dsmtp", "relay")
_WORDS = {"ok": "OK", "relay": "RELAY", "reject": "REJECT", "discard": "DISCARD", "skip": "DUNNO"}


class Sendmail:
    """Entries by their keys; `keys` gives those of a full key, each with what %1, %2, %3 stand for."""

    pattern = True
    at_once = True

    def __init__(self, source: Source, keys: Callable[[str], Iterator[tuple[str, tuple[str, ...]]]]) -> None:
        self.source, self._keys = source, keys
        self._values: dict[str, tuple[str, int]] = {}

    def add(self, line: int, key: str, value: str) -> None:
        known = self._values.setdefault(key.lower(), (value, line))
        if known[1] != line:
            self.source.flaw(line, 1, f'"{key}" stands in line {known[1]} already, which holds', fatal=False)

    def get(self, key: str) -> tuple[str, str] | None:
        """(value, "file:line"), or None."""
        for text, parts in self._keys(key.lower()):
            found = self._values.get(text)
            if found is not None:
                value = found[0]
                for number, part in enumerate(parts, 1):
                    value = value.replace(f"%{number}", part)
                return value, f"{self.source.path}:{found[1]}"
        return None

    def entries(self) -> Iterator[tuple[str, str, int]]:
        filled = re.compile("%[1-3]")
        return ((key, filled.sub("x", value), line) for key, (value, line) in self._values.items())


def _lines(data: bytes, source: Source) -> Iterator[tuple[int, str, str]]:
    """(line, key, value), as makemap(8) reads them: one entry a line, none goes on in the next."""
    for number, line in source.physical(data):
        text = line.strip(BLANKS)
        if not text or text.startswith("#"):
            continue
        key, *rest = _BLANK.split(text, maxsplit=1)
        if not rest:
            source.flaw(number, 1, f'"{key}" has no value: write key, white space, value')
            continue
        yield number, key, rest[0]


# -- access


def access(tag: str, data: bytes, source: Source) -> Sendmail:
    """The entries with this tag, and those without any (they come second for each key)."""
    keys = _client_keys if tag == "connect" else _sender_keys
    table = Sendmail(source, lambda key: ((f"{head}{text}", ()) for text in keys(key) for head in (f"{tag}:", "")))
    for number, key, value in _lines(data, source):
        found = _TAG.match(key)
        name = found[1].lower() if found else ""
        if name == "ipv6":
            name, found = "", None
        if name and name not in TAGS:
            source.flaw(number, 1, f"{key}: entries with this tag are not read here", fatal=False)
            continue
        bare = key[found.end() :] if found else key
        if bare.startswith("["):
            source.flaw(number, 1, f"{key}: clients without a name are told by the check rdns", fatal=False)
            continue
        bare = bare[5:] if bare.lower().startswith("ipv6:") else bare
        source.literal(number, len(key) - len(bare) + 1, bare)
        try:
            action = read_action(value)
        except ValueError as why:
            source.flaw(number, len(key) + 2, str(why))
            continue
        if not name or name == tag:
            table.add(number, f"{name}:{bare}" if name else bare, action)
    return table


def read_action(value: str) -> str:
    """A right-hand side of Sendmail's access table in the words of access(5). Raises ValueError."""
    text = value.strip().strip('"')
    if action := _WORDS.get(text.lower()):
        return action
    if text.lower().startswith("quarantine:"):
        return f"HOLD {text[11:].strip()}".rstrip()
    found = _ERROR.match(text)
    status, said = (found[1] or _NAMED.get((found[2] or "").lower(), ""), found[3]) if found else ("", text)
    code = _CODE.match(said.strip().strip('"'))
    if not code:
        near = get_close_matches(text.lower(), _WORDS, 1)
        hint = f" (did you mean {near[0].upper()}?)" if near else ""
        raise ValueError(f'"{value}" is no action of a Sendmail access table{hint}')
    return " ".join(filter(None, (code[1], status or code[2] or "", code[3].strip('"'))))


def _client_keys(key: str) -> Iterator[str]:
    """A name and its parents, or an address and what is left when its last part is taken off, again and again."""
    if is_address(key):
        yield from (one.text for one in network_keys(key))
        return
    while key:
        yield key
        key = key.partition(".")[2]


def _sender_keys(key: str) -> Iterator[str]:
    """user+detail@dom, user+*@dom, user@dom, user@, dom and its parents."""
    local, at, domain = key.rpartition("@")
    if not at:
        yield key
        return
    user, plus, _ = local.partition("+")
    users = [local, f"{user}+*", user] if plus else [local]
    yield from (f"{name}@{domain}" for name in users)
    yield from (f"{name}@" for name in users)
    yield from _client_keys(domain)


# -- mailertable, virtusertable, genericstable


def mailertable(data: bytes, source: Source) -> Sendmail:
    """domain, then .parent of it, "." for all others."""

    def keys(key: str) -> Iterator[tuple[str, tuple[str, ...]]]:
        domain = key.rpartition("@")[2]
        yield domain, ("",)
        labels = domain.split(".")
        for start in range(1, len(labels)):
            yield "." + ".".join(labels[start:]), (".".join(labels[:start]),)
        yield ".", (domain,)

    table = Sendmail(source, keys)
    for number, key, value in _lines(data, source):
        table.add(number, key, read_mailer(value))
    return table


def read_mailer(value: str) -> str:
    """`mailer:host` as transport(5) has it: [host] = no MX, hosts with colons between them are tried in their order."""
    mailer, _, rest = value.strip().partition(":")
    if mailer.lower() == "error":
        refusal = read_refusal(value)
        return f"retry:{refusal[6:]}" if refusal.startswith("error:4.") else refusal
    if mailer.lower() == "discard":
        return f"discard:{rest}"
    if mailer.lower() not in _MAILERS:
        return value.strip()
    hosts = [host for host in re.split(r":(?![^\[]*\])", rest) if host]
    return f"smtp:{','.join(hosts)}"


def read_refusal(value: str) -> str:
    """`error:D.S.N:550 text` and `error:nouser 550 text` as Postfix's error transport has them; others stay."""
    found = _ERROR.match(value.strip())
    if not found:
        return value.strip()
    code = _CODE.match(found[3].strip().strip('"'))
    status = found[1] or _NAMED.get((found[2] or "").lower()) or (code[2] if code else "") or "5.0.0"
    return f"error:{status} {(code[3] if code else found[3]).strip(chr(34))}".rstrip()


def virtusertable(data: bytes, source: Source) -> Sendmail:
    """The address as it is, then with its detail as a pattern, then without, then the domain alone."""

    def keys(key: str) -> Iterator[tuple[str, tuple[str, ...]]]:
        local, _, domain = key.rpartition("@")
        user, plus, detail = local.partition("+")
        parts = user, detail, f"+{detail}" if plus else ""
        yield f"{local}@{domain}", parts
        if detail:
            yield f"{user}++@{domain}", parts
        if plus:
            yield f"{user}+*@{domain}", parts
            yield f"{user}@{domain}", parts
        if detail:
            yield f"++@{domain}", parts
        if plus:
            yield f"+*@{domain}", parts
        yield f"@{domain}", parts

    table = Sendmail(source, keys)
    for number, key, value in _lines(data, source):
        table.add(number, key, read_refusal(value))
    return table


def genericstable(data: bytes, source: Source) -> Sendmail:
    """user+detail@dom, user+*@dom, user@dom, the same without a domain, then @dom."""

    def keys(key: str) -> Iterator[tuple[str, tuple[str, ...]]]:
        local, at, domain = key.rpartition("@") if "@" in key else (key, "", "")
        user, plus, detail = local.partition("+")
        users = [local, f"{user}+*", user] if plus else [local]
        yield from ((f"{name}@{domain}", (user, detail)) for name in users if at)
        yield from ((name, (user, detail)) for name in users)
        if at:
            yield f"@{domain}", (user, detail)

    table = Sendmail(source, keys)
    for number, key, value in _lines(data, source):
        table.add(number, key, value)
    return table


# -- classes


def names(data: bytes, source: Source, *, below: bool) -> Sendmail:
    """A file of names, one a line: relay-domains (`below`: and all names below them), local-host-names."""

    def keys(key: str) -> Iterator[tuple[str, tuple[str, ...]]]:
        texts = _client_keys(key) if below else iter((key,))
        return ((text, ()) for text in texts)

    table = Sendmail(source, keys)
    for number, line in source.physical(data):
        words = line.partition("#")[0].split()
        if len(words) > 1:
            source.flaw(number, 1, "one name a line")
        elif words:
            table.add(number, words[0].removeprefix("."), words[0])
    return table


READERS: dict[str, Callable[[bytes, Source], Sendmail]] = {
    "sendmail_connect": lambda data, source: access("connect", data, source),
    "sendmail_from": lambda data, source: access("from", data, source),
    "sendmail_to": lambda data, source: access("to", data, source),
    "sendmail_mailertable": mailertable,
    "sendmail_virtusertable": virtusertable,
    "sendmail_genericstable": genericstable,
    "sendmail_relay_domains": lambda data, source: names(data, source, below=True),
    "sendmail_local_host_names": lambda data, source: names(data, source, below=False),
}
