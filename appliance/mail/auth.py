"""What is known about who sent a message, as values: results of SPF, DKIM, ARC, DMARC (RFC 7208, 6376, 8617, 9989).

Contract: frozen; made by mailauth, read by checks, by the identity and by the writer of Authentication-Results. Domains
are lower-case A-labels without a final dot. A DNS failure is the word `temperror`: never `none`, `fail` or `permerror`.
"""

from typing import Any, Literal

import msgspec

#: Result words of RFC 8601 section 2.7.
Word = Literal["none", "neutral", "pass", "fail", "softfail", "policy", "permerror", "temperror"]


class SpfAsk(msgspec.Struct, frozen=True):
    """One question to SPF: the client's address, its HELO name, MAIL FROM ("" = `<>`: then HELO is the identity)."""

    address: str
    helo: str
    sender: str


class SpfTerm(msgspec.Struct, frozen=True, omit_defaults=True):
    """One term that was evaluated: in whose record, the term as written, what came of it ("match", "no match", "void",
    "include:pass", ...), and the records that decided it."""

    domain: str
    term: str
    result: str
    records: tuple[str, ...] = ()


class SpfReport(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True):
    """`scope` tells which identity was judged; `domain` is its domain. `matched` is the term that decided. `lookups` and
    `voids` are the counters of RFC 7208 4.6.4. `ttl`: seconds that this holds (0: ask again). `broad`: the record lets in
    so much of the Internet (`+all`, huge networks) that a pass proves nobody. `explanation` is the domain's text.
    `personal`: a macro of the local part was used: the result holds for this very sender. `until`: up to when (monotonic
    seconds) who asks the same is told the same, 0: nobody knows."""

    result: Word
    scope: Literal["mfrom", "helo"] = "mfrom"
    domain: str = ""
    matched: str = ""
    reason: str = ""
    explanation: str = ""
    record: str = ""
    terms: tuple[SpfTerm, ...] = ()
    lookups: int = 0
    voids: int = 0
    ttl: int = 0
    broad: bool = False
    personal: bool = False
    until: float = 0.0


class Signature(msgspec.Struct, frozen=True, kw_only=True):
    """One DKIM-Signature. `result` as RFC 8601 has it (`policy`: valid, but we do not accept it: weak key, sha1).
    `counts`: a pass that may count for DMARC and identity (whole body, From signed, nothing that may stand once added on
    top). `short`: l= leaves body octets unsigned. `digest` tells equal signatures apart (of b=), for replay."""

    result: Word
    domain: str = ""
    selector: str = ""
    identity: str = ""
    algorithm: str = ""
    bits: int = 0
    counts: bool = False
    short: bool = False
    testing: bool = False
    expired: bool = False
    reason: str = ""
    signature: str = ""
    digest: str = ""


class DkimReport(msgspec.Struct, frozen=True, kw_only=True):
    """All signatures in the order of the header, at most as many as the limit; `unread`: how many more there are."""

    signatures: tuple[Signature, ...] = ()
    unread: int = 0


class ArcReport(msgspec.Struct, frozen=True, kw_only=True):
    """The chain (RFC 8617 5.2): `result` is none, pass, fail or temperror; `sealers` are the d= of the seals, oldest
    first; `claims` the Authentication-Results payload that the newest, the oldest first, instances carry (text of each
    ARC-Authentication-Results behind i=)."""

    result: Word = "none"
    instances: int = 0
    sealers: tuple[str, ...] = ()
    claims: tuple[str, ...] = ()
    reason: str = ""


class DmarcReport(msgspec.Struct, frozen=True, kw_only=True):
    """`domain` is the author's (From), `policy_domain` where the record stands, `organizational` the organizational
    domain. `policy` is what the owner asks for this message (none, quarantine, reject; t=y has lowered it already).
    `facts` is what an aggregate report needs (RFC 9990): published tags, alignment, auth results."""

    result: Word
    domain: str = ""
    policy_domain: str = ""
    organizational: str = ""
    policy: Literal["", "none", "quarantine", "reject"] = ""
    spf_aligned: bool = False
    dkim_aligned: bool = False
    testing: bool = False
    record: str = ""
    reason: str = ""
    facts: dict[str, Any] = {}
