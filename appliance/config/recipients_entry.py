"""One `[recipients.NAME]` of the wiring file: where a list of known recipients comes from, and how often.

Contract: pure; `complaints` sees the entry as written, `order` one with absolute paths. Every kind uses some of the keys:
one that another kind has is a mistake, as it would mean nothing.
"""

import re
from collections.abc import Iterator, Mapping, Sequence
from typing import Annotated, Literal
from urllib.parse import urlsplit

from pydantic import BaseModel, BeforeValidator, ConfigDict, Field

from appliance.config.fields import Domains, Flag, Name, Span, checked, lone
from appliance.tables.known import ENUMERABLE, Origin, fields
from appliance.tables.known.keep import Order

Line = Annotated[str, Field(max_length=4000, pattern=r"^[^\x00\r\n]*$")]
Lines = Annotated[tuple[Line, ...], BeforeValidator(lone)]
FieldPath = Annotated[str, checked(fields.path)]

#: Keys that not every kind has, and the kinds that have them.
_OF_KINDS: dict[str, frozenset[str]] = {
    **dict.fromkeys(("base", "filter", "attributes", "bind_dn", "starttls", "skip_disabled"), frozenset({"ldap"})),
    **dict.fromkeys(("addresses", "next_link", "user", "token_url", "client_id", "scope", "proxy"), frozenset({"http"})),
    **dict.fromkeys(("password_file", "tls_ca"), frozenset({"ldap", "http"})),
    "query": frozenset({"map"}),
}
_SCHEMES = {"ldap": ("ldaps", "ldap", "ldapi"), "http": ("https", "http")}
_HERE = ("127.0.0.1", "::1", "localhost")
_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9_.-]*\Z")
_PROXY = re.compile(r"http://([A-Za-z0-9.-]+|\[[0-9A-Fa-f:.]+\])(:[0-9]{1,5})?/?\Z")
_PATH = tuple[str | int, ...]


class RecipientsEntry(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True)

    kind: Literal["ldap", "csv", "http", "map"]
    source: Annotated[Lines, Field(min_length=1)]
    base: Lines = ()
    filter: Line = ""
    attributes: Lines = ("mail", "proxyAddresses")
    bind_dn: Line = ""
    starttls: Flag = False
    skip_disabled: Flag = False
    addresses: Annotated[tuple[FieldPath, ...], BeforeValidator(lone)] = ("[]",)
    next_link: Line = ""
    user: Line = ""
    token_url: Line = ""
    client_id: Line = ""
    scope: Line = ""
    proxy: Line = ""
    query: Line = ""
    password_file: str = ""
    tls_ca: str = ""
    domains: Domains = ()
    every: Span = 3600.0
    timeout: Span = 600.0
    most_shrink: Annotated[float, Field(ge=0, le=100)] = 10.0
    stale_after: Span = 86400.0


Entries = dict[Name, RecipientsEntry]


def order(name: str, entry: RecipientsEntry, folder: str, ours: Sequence[str], secret: str) -> Order:
    """One sync of `name` into `folder`; `ours`: the domains of [relay]."""
    origin = Origin(**{key: getattr(entry, key) for key in Origin.__struct_fields__})
    return Order(
        name=name,
        folder=folder,
        origin=origin,
        secret=secret,
        domains=entry.domains or tuple(ours),
        most_shrink=entry.most_shrink,
        timeout=entry.timeout,
    )


def first_line(octets: bytes) -> str:
    """The password of a password_file."""
    return octets.split(b"\n", 1)[0].rstrip(b"\r").decode("utf-8", "replace")


def complaints(lists: Mapping[str, RecipientsEntry], ours: Sequence[str]) -> Iterator[tuple[_PATH, str]]:
    """(path below the file, what is wrong with it). `ours`: [relay] domains."""
    for name, entry in lists.items():
        at = ("recipients", name)
        if not _NAME.match(name):
            yield at, f'"{name}" names a file: begin with a letter or a digit'
        for key, kinds in _OF_KINDS.items():
            if entry.kind not in kinds and getattr(entry, key) != RecipientsEntry.model_fields[key].default:
                yield (*at, key), f"{key} is of kind {' or '.join(sorted(kinds))}, not of {entry.kind}"
        for index, source in enumerate(entry.source):
            place: _PATH = (*at, "source", index) if len(entry.source) > 1 else (*at, "source")
            yield from ((place, text) for text in _source(entry, source))
        yield from (((*at, key), text) for key, text in _together(entry))
        yield from (((*at, key), text) for key, text in _domains(entry, ours))


def _source(entry: RecipientsEntry, source: str) -> Iterator[str]:
    if schemes := _SCHEMES.get(entry.kind):
        yield from _url(source, schemes, bool(entry.password_file), entry.starttls)
    elif entry.kind == "map":
        kind, _, name = source.partition(":")
        if kind not in ENUMERABLE or not name:
            yield f'"{source}": write "type:file" of {", ".join(ENUMERABLE)}'
        elif (kind == "sqlite") != bool(entry.query):
            yield 'sqlite, and only that, needs a query, for example "SELECT address FROM alias"'


def _url(text: str, schemes: tuple[str, ...], secret: bool, starttls: bool = False) -> Iterator[str]:
    try:
        place = urlsplit(text)
        host = place.hostname or ""
        place.port  # noqa: B018 - raises for what is none
    except ValueError as error:
        yield f'"{text}": {error}'
        return
    if place.scheme not in schemes or not (host or place.scheme == "ldapi"):
        yield f'"{text}": write {schemes[0]}://host/'
    elif "@" in place.netloc:
        yield f'"{text}": a password does not stand in an address: see password_file'
    elif place.scheme == "http" and host not in _HERE:
        yield f'"{text}": plain http goes to this machine only: write https'
    elif place.scheme == "ldap" and secret and not starttls and host not in _HERE:
        yield f'"{text}": the password would be sent in clear: write ldaps://, or starttls = true'


def _together(entry: RecipientsEntry) -> Iterator[tuple[str, str]]:
    if entry.kind == "ldap" and not entry.base:
        yield "kind", 'a list of kind ldap needs "base", for example "dc=example,dc=com"'
    if entry.filter and not _paired(entry.filter):
        yield "filter", 'write a filter as RFC 4515 has it, for example "(&(mail=*)(objectClass=person))"'
    if entry.stale_after <= entry.every:
        yield "stale_after", "each list would be stale before it is fetched again: write more than `every`"
    if entry.starttls and any(not source.startswith("ldap://") for source in entry.source):
        yield "starttls", "starttls is for ldap:// only"
    if entry.bind_dn and not entry.password_file:
        yield "bind_dn", 'bind_dn needs "password_file": without a password a directory takes it for nobody'
    if entry.token_url:
        yield from (("token_url", text) for text in _url(entry.token_url, ("https", "http"), True))
        if not entry.client_id or not entry.password_file:
            yield "token_url", 'token_url needs "client_id" and "password_file" (the client\'s secret)'
        if entry.user:
            yield "user", "token_url says already how to log in"
    elif entry.client_id or entry.scope:
        yield "client_id" if entry.client_id else "scope", 'means nothing without "token_url"'
    if entry.proxy and not _PROXY.match(entry.proxy):
        yield "proxy", f'"{entry.proxy}": write "http://host:port"'
    if entry.user and not entry.password_file:
        yield "user", 'user needs "password_file"'
    if len({urlsplit(source).netloc for source in entry.source}) > 1 and entry.kind == "http":
        yield "source", "addresses of one host stand here: what is secret is for that host (make a second list)"


def _paired(text: str) -> bool:
    """Whether this is one parenthesis with all that it holds (in values they stand as \\28 and \\29)."""
    depth = 0
    for at, letter in enumerate(text):
        depth += {"(": 1, ")": -1}.get(letter, 0)
        if depth <= 0 and at < len(text) - 1:
            return False
    return depth == 0 and text.startswith("(")


def _domains(entry: RecipientsEntry, ours: Sequence[str]) -> Iterator[tuple[str, str]]:
    """A source must not add recipients of domains for which it does not speak."""
    if any(":" in domain for domain in entry.domains):
        yield "domains", "domains stand here by their names, not as tables"
    elif not entry.domains and any(":" in domain for domain in ours):
        yield "kind", '[relay] domains names a table: write in "domains" for which ones this source speaks'
    elif named := [domain for domain in ours if ":" not in domain]:
        for domain in entry.domains:
            if domain not in named and len(named) == len(ours):
                yield "domains", f'"{domain}" is none of [relay] domains'
