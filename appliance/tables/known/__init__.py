"""Lists of known recipients that are fetched from where recipients are kept: a directory, a file, a server, a map.

`fetch(origin, secret, at)` gives every address as its source has it; keep.py makes the table of them, job.py does both in
a process of its own (launch.py). Contract: all or nothing: a source that fails, or ends early, raises Failed with what to
do, so that half a list never counts as one. What failure means for the mail: the list of the last good time stays.
"""

import importlib
from collections.abc import Callable, Iterable

import msgspec

from appliance.tables.kinds import COMPILED
from appliance.tables.known.texts import Entry

#: kind -> module with `fetch`. Loaded when it is used: ldap needs a library.
KINDS = {"csv": "files", "map": "files", "ldap": "ldap", "http": "http"}
#: The types of maps whose keys can be listed.
ENUMERABLE = ("texthash", *COMPILED, "sqlite")
#: Octets that a file or a page may have, and all pages together; addresses that a list may have.
LARGEST, ALL_PAGES, MOST = 128 * 1024 * 1024, 1024 * 1024 * 1024, 1_000_000


class Failed(Exception):
    """The source gave no list; the text says why. `soon`: trying again before the usual time may help (it does not help
    against a wrong password, and a directory may close the account for it)."""

    def __init__(self, text: str, *, soon: bool = True) -> None:
        super().__init__(text)
        self.soon = soon


class Origin(msgspec.Struct, frozen=True, kw_only=True):
    """Where one [recipients.NAME] comes from, with absolute paths. `source`: of ldap, servers of which one is enough; of
    all other kinds, what is united."""

    kind: str
    source: tuple[str, ...]
    base: tuple[str, ...] = ()
    filter: str = ""
    attributes: tuple[str, ...] = ()
    bind_dn: str = ""
    starttls: bool = False
    skip_disabled: bool = False
    query: str = ""
    addresses: tuple[str, ...] = ()
    next_link: str = ""
    user: str = ""
    token_url: str = ""
    client_id: str = ""
    scope: str = ""
    proxy: str = ""
    tls_ca: str = ""


#: Told of each step: whom is asked, and for what. Whoever ends a fetch that takes too long says the last of them.
At = Callable[[str], object]


def fetch(origin: Origin, secret: str, at: At) -> Iterable[Entry]:
    """Every address. Blocks as long as the source does. Raises Failed."""
    module = importlib.import_module(f"{__name__}.{KINDS[origin.kind]}")
    ask: Callable[[Origin, str, At], Iterable[Entry]] = module.fetch
    return ask(origin, secret, at)
