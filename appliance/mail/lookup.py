"""Which keys are looked up for a client, a name, an address, and in which order (Postfix access(5), address maps).

Contract: a list of tables is searched table by table for one key before the next (shorter) key; the first hit ends
the search. Pattern tables see full keys only. Keys keep their case: fixed-string tables fold it themselves. A search is
answered at once while the tables are (mail/later.py); else it goes on, in the same order, where it is awaited.
What failure means for the mail: an unreadable table or an empty result raises Unavailable (outcome `temperror`).
"""

import ipaddress
from collections.abc import Awaitable, Iterable, Iterator, Sequence
from contextvars import ContextVar
from functools import lru_cache
from itertools import chain
from typing import NamedTuple

from appliance.mail.ports import Hit, Ports, Table, TableUnavailable
from appliance.protocol.smtp.address import Address, quoted

#: The key of the null sender (Postfix smtpd_null_access_lookup_key).
NULL_SENDER = "<>"
#: Mailboxes whose name is never cut at a delimiter.
_WHOLE = frozenset({"mailer-daemon", "postmaster", "double-bounce"})


class Key(NamedTuple):
    """One key; `full` keys are offered to every table, the others to fixed-string tables only."""

    text: str
    full: bool = False


#: Makes a named tuple without a call of Python.
_new = tuple.__new__


@lru_cache(maxsize=1024)
def _of_domain(domain: str) -> Key:
    return Key(f"@{domain}")


class Found(NamedTuple):
    """A hit: the key that matched, its value, "file:line"."""

    key: str
    value: str
    place: str


Searched = Found | None | Awaitable[Found | None]


class Waiting:
    """Of one question to a check: how many tables it waits for. What is given up meanwhile is not taken back."""

    __slots__ = ("tables",)

    def __init__(self) -> None:
        self.tables = 0


#: That of the question at hand; who sets a deadline sets it, to know what was missed.
waiting: ContextVar[Waiting | None] = ContextVar("waiting", default=None)


async def heard(asked: Awaitable[Hit | None]) -> Hit | None:
    """What a table answers. Raises Unavailable."""
    note = waiting.get()
    if note is None:
        return await asked
    note.tables += 1
    try:
        found = await asked
    except Exception:
        note.tables -= 1
        raise
    note.tables -= 1
    return found


def opened(specs: Iterable[str], ports: Ports) -> list[Table]:
    """The tables of these names. Raises TableUnavailable if one is not open."""
    try:
        return [ports.tables[spec] for spec in specs]
    except KeyError as error:
        raise TableUnavailable(error.args[0], f"{error.args[0]} is not open") from None


def search(tables: Sequence[Table], keys: Iterable[Key]) -> Searched:
    """The first hit, or None. Raises Unavailable if a table cannot answer or answers with nothing."""
    rest = iter(keys)
    for key in rest:
        for place, table in enumerate(tables):
            if table.pattern and not key.full:
                continue
            if found := table.get(key.text):
                if isinstance(found, tuple):
                    return _found(key, found)
                further = chain(((key, other) for other in tables[place + 1 :]), ((k, t) for k in rest for t in tables))
                return _search_on(key, found, further)
    return None


async def _search_on(key: Key, asked: Awaitable[Hit | None], further: Iterable[tuple[Key, Table]]) -> Found | None:
    """The rest of a search, from a table that was asked and has no answer yet."""
    if found := await heard(asked):
        return _found(key, found)
    for key, table in further:
        if table.pattern and not key.full:
            continue
        answer = table.get(key.text)
        if found := answer if answer is None or isinstance(answer, tuple) else await heard(answer):
            return _found(key, found)
    return None


def _found(key: Key, hit: Hit) -> Found:
    if not hit[0]:
        raise TableUnavailable(hit[1], f"{hit[1]}: empty result for {key.text}")
    return _new(Found, (key.text, *hit))


def client_keys(name: str, address: str, dotted: bool = False) -> list[Key]:
    """check_client_access: the name and its parents ("unknown" as it is), the address, the address cut from the right."""
    return [*domain_keys(name, dotted), *network_keys(address)]


def network_keys(address: str) -> Iterator[Key]:
    """The address, then without its last part, repeatedly: 192.0.2.1, 192.0.2, 192.0, 192; IPv6 text at its colons."""
    if address:
        yield Key(address, True)
    delimiter = ":" if ":" in address else "."
    while delimiter in address:
        address = address.rpartition(delimiter)[0]
        if address:
            yield Key(address)


def domain_keys(name: str, dotted: bool = False) -> Iterator[Key]:
    """The name, then each parent domain down to the top-level label; an address (literal or not) has no parents.
    `dotted`: parents as `.example.com` (Postfix where parent_domain_matches_subdomains does not have the use)."""
    name = name.rstrip(".")
    if not name:
        return
    yield Key(name, True)
    if name.startswith("[") or is_address(name):
        return
    while "." in name:
        name = name.partition(".")[2]
        if name:
            yield Key(f".{name}" if dotted else name)


def address_keys(address: Address, delimiter: str = "+", dotted: bool = False) -> list[Key]:
    """check_sender_access, check_recipient_access: user+ext@dom; user@dom; dom and its parents; user+ext@; user@. For the
    null sender "<>" alone. `delimiter`: a set of characters (recipient_delimiter)."""
    if not address.local and not address.domain:
        return [Key(NULL_SENDER, True)]
    bare = split_extension(address.local, delimiter)[0]
    locals_ = [address.local] if bare == address.local else [address.local, bare]
    return [
        *_mailboxes(locals_, address.domain),
        *(Key(key.text) for key in domain_keys(address.domain, dotted)),
        *(Key(f"{local}@") for local in locals_),
    ]


def address_map_keys(address: Address, delimiter: str = "+") -> list[Key]:
    """Lists of recipients (Postfix relay_recipient_maps): user+ext@dom; user@dom; @dom."""
    local, domain = address.local, address.domain
    bare = split_extension(local, delimiter)[0]
    if bare == local and domain:  # the usual case
        return [_new(Key, (f"{local}@{domain}", True)), _of_domain(domain)]
    locals_ = [local] if bare == local else [local, bare]
    return [*_mailboxes(locals_, domain), Key(f"@{domain}")]


def rewrite_keys(address: Address, delimiter: str = "+", *, local: bool = False) -> list[Key]:
    """Maps that rewrite (Postfix virtual(5), canonical(5), generic(5)): user+ext@dom; user@dom; where the domain is the
    `local` one also user+ext, user; @dom. A local part that needs quotes is looked up with them, then without, but not in
    tables of patterns: what `$1` finds could be read as several addresses."""
    bare = split_extension(address.local, delimiter)[0]
    locals_ = [address.local] if bare == address.local else [address.local, bare]
    first = quoted(address.local)
    written = [(form, form == first) for name in locals_ for form in dict.fromkeys((quoted(name), name))]
    domain = address.domain
    return [
        *(Key(f"{form}@{domain}" if domain else form, full) for form, full in written),
        *(Key(form) for form, _ in written if local and domain),
        Key(f"@{domain}"),
    ]


def transport_keys(address: Address, delimiter: str = "+") -> list[Key]:
    """transport(5): user+ext@dom; user@dom; dom; .parent ...; *. Pattern tables see the full address only. A local part
    that needs quotes is looked up with them, then without."""
    names = [key.text for key in domain_keys(address.domain)]
    return [
        *(rewrite_keys(address, delimiter)[:-1] if address.local else []),
        *(Key(name, not address.local) for name in names[:1]),
        *(Key(f".{name}") for name in names[1:]),
        Key("*", True),
    ]


def sender_keys(address: Address, delimiter: str = "+") -> list[Key]:
    """Next hops by their sender (Postfix sender_dependent_relayhost_maps): user+ext@dom; user@dom; @dom. For the null
    sender "<>" alone."""
    return rewrite_keys(address, delimiter) if address.local or address.domain else [Key(NULL_SENDER, True)]


def _mailboxes(locals_: list[str], domain: str) -> Iterator[Key]:
    for index, local in enumerate(locals_):
        yield Key(f"{local}@{domain}" if domain else local, index == 0)


def split_extension(local: str, delimiter: str) -> tuple[str, str]:
    """(user, extension): cut at the first character of the set `delimiter`, unless it stands first. Names that the mail
    system itself uses stay whole (Postfix recipient_delimiter, owner_request_special)."""
    at = end = len(local)
    for letter in delimiter:
        if (found := local.find(letter, 0, at)) >= 0:
            at = found
    if at in (0, end) or (folded := local.lower()) in _WHOLE or ("-" in delimiter and _is_list_address(folded)):
        return local, ""
    return local[:at], local[at + 1 :]


def _is_list_address(local: str) -> bool:
    return local.startswith("owner-") or local.endswith("-request")


def is_address(text: str) -> bool:
    """True for the text of an IPv4 or IPv6 address."""
    try:
        ipaddress.ip_address(text)
    except ValueError:
        return False
    return True
