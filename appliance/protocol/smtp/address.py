"""placeholder"""

from typing import NamedTuple


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
