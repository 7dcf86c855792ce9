"""The ports: what checks may ask for, as Protocols. Adapters live in stores, tables, net, connectors;
only daemons/compose.py joins the two.

Every asynchronous port either answers, or raises Unavailable (DNS away, store away, peer away): the caller turns that
into the outcome `temperror`, never into pass and never into fail.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Iterator, Mapping, Sequence
from typing import TYPE_CHECKING, Protocol

import msgspec

from appliance.mail.lines import Ask, Found
from appliance.mail.scan import ScanResult
from appliance.protocol.errors import TableUnavailable as TableUnavailable
from appliance.protocol.errors import Unavailable as Unavailable  # the port's error; net may not import mail

if TYPE_CHECKING:
    from appliance.mail.auth import ArcReport, DkimReport, SpfAsk, SpfReport
    from appliance.mail.context import Context
    from appliance.mail.dns_list import Kind
    from appliance.mail.edits import Edit
    from appliance.mail.greylisting import Greylist, StrangersAtSight
    from appliance.mail.identity import Identity
    from appliance.mail.inspection import Inspection
    from appliance.mail.lookup import Found as Known
    from appliance.mail.milter import Milters
    from appliance.mail.policy_service import PolicyServices
    from appliance.mail.verdict import Verdict
    from appliance.protocol.dns import Answer
    from appliance.protocol.mime import Limits
    from appliance.protocol.smtp.address import Address


class Content(Protocol):
    """A received message, our Received field on top, as it will be stored. Nobody cares whether it is RAM or a file."""

    @property
    def size(self) -> int: ...

    @property
    def header(self) -> bytes:
        """The header block up to and including the empty line, at most 512 KB of it (`header_complete` says)."""

    @property
    def header_complete(self) -> bool: ...

    def chunks(self, size: int = 65536) -> Iterator[bytes]:
        """The whole content from its start, in pieces; may be called again."""

    def open_fd(self) -> int:
        """A new read-only descriptor on the content (the caller closes it): a file or a sealed memfd."""


class Resolver(Protocol):
    """DNS (design section 8). Raises Unavailable on SERVFAIL, timeout, exhausted budget; never invents `none`."""

    async def query(self, name: str, rtype: str) -> Answer: ...

    async def query_all(self, questions: Sequence[tuple[str, str]]) -> list[Answer | Unavailable]:
        """The (name, type) questions asked together, their answers in that order; one that has none does not raise."""

    def cached(self, name: str, rtype: str) -> Answer | None:
        """An answer that is at hand without IO, else None."""


class DnsLists(Protocol):
    """Health of the DNS lists that the policies name: tested at start and daily (RFC 5782 section 5)."""

    def trouble(self, zone: str, kind: Kind) -> str:
        """Why this list is not asked at the moment, "" if it is."""

    def heard(self, zone: str, kind: Kind, why: str) -> None:
        """What came of a question: "" an answer, else what was wrong. A list that keeps failing is tested at once."""


#: What a table has for a key: (value, where it stands: "file:line", or the table), or None.
Hit = tuple[str, str]


class Table(Protocol):
    """A lookup table `type:name`. Keys are searched as given (fixed-string tables fold case themselves)."""

    #: True for cidr, regexp, pcre, tcp, socketmap: only the full key is offered, no partial keys.
    pattern: bool
    #: True for tables in memory: what they answer need never be awaited.
    at_once: bool

    def get(self, key: str) -> Hit | Awaitable[Hit | None] | None:
        """The answer, at once where it is at hand (tables in memory), else something to await. Raises Unavailable, now
        or then, if the table cannot answer."""


class Aliases(Protocol):
    """Maps that rewrite recipients ([addresses]). Raises Unavailable, now or then."""

    def covers(self, address: Address) -> Known | Awaitable[Known | None] | None:
        """The entry that makes an address a known recipient, whatever it leads to."""

    def only_aliases(self, domain: str) -> bool | Awaitable[bool]:
        """Whether a domain of ours consists of aliases: who has no entry is unknown there."""


class LineRules(Protocol):
    """Tables asked about the lines of a message."""

    def search(self, content: Content, ask: Ask) -> Found | Awaitable[Found]:
        """At once where little is to be done. Raises Unavailable if a table or the content cannot be read."""


class Authentication(Protocol):
    """SPF, DKIM, ARC of the transaction at hand (mailauth). One evaluation for all who ask: each result is remembered as
    long as DNS allows (SPF), or as long as the content lives. Never raises: what DNS could not answer is `temperror`."""

    def spf(self, ask: SpfAsk) -> SpfReport | Awaitable[SpfReport]: ...

    def dkim(self, content: Content) -> DkimReport | Awaitable[DkimReport]: ...

    def arc(self, content: Content) -> ArcReport | Awaitable[ArcReport]: ...


class Identities(Protocol):
    """What is remembered of senders (stated). Raises Unavailable."""

    def known(self, identity: Identity) -> Identity | Awaitable[Identity]:
        """The same identity with its age and counts; at once where it is at hand."""

    def accepted(self, keys: Sequence[str]) -> None:
        """Mail of these identities (`Identity.key`) was accepted; nobody waits for it."""


class Firsts(Protocol):
    """When something was met first (stated). Raises Unavailable."""

    async def age(self, key: str, keep: float) -> float:
        """Seconds since the first question for `key`, 0.0 for this being the first; forgotten `keep` seconds after it."""


class RateAsk(msgspec.Struct, frozen=True):
    """Take `cost` from the token bucket `key`, which holds `limit` and refills in `period` seconds."""

    key: str
    cost: float
    limit: float
    period: float


class Rates(Protocol):
    async def take(self, asks: Sequence[RateAsk], now: float) -> list[float]:
        """For each ask what is left after it; negative = over the limit (nothing is taken then)."""


class Probe(msgspec.Struct, frozen=True):
    """What call-ahead found: `known`, `unknown`, `blind` (the next hop accepts every address) or `unverifiable`."""

    state: str
    reply: str = ""
    at: float = 0.0
    source: str = ""


class Recipients(Protocol):
    """Call-ahead to the next hop with its cache (positive, negative, probe limits)."""

    def cached(self, address: Address) -> Probe | None: ...

    async def probe(self, address: Address) -> Probe: ...


class Conversation(Protocol):
    """One check's talk with somebody outside over one SMTP session. Whoever has the session closes it, once."""

    def ask(self, ctx: Context, edits: Sequence[Edit]) -> Verdict | Awaitable[Verdict]:
        """The verdict at this stage. Stages may be left out (others had decided): the Context has what was missed.
        `edits` (at message) are those in force so far. It has deadlines of its own; a question may be cancelled."""

    def reset(self) -> None:
        """The transaction is over, however it ended."""

    def close(self) -> None:
        """The session is over."""


class Scanner(Protocol):
    """One configured scanner (one entry of `[scanners.NAME]`). Never raises: trouble is ScanResult kind `error`."""

    name: str
    kind: str

    async def scan(self, content: Content, ctx: Context) -> ScanResult: ...

    async def scan_parts(self, inspection: Inspection, ctx: Context, most: int, octets: int) -> list[ScanResult]:
        """Each part on its own, at most `most` with so many octets in all. What is not clean, one clean answer for all
        others; kind `skipped`: not all was offered."""


class Inspector(Protocol):
    """Hostile content, taken apart in a process of its own (scand). Raises Unavailable if that process fails."""

    async def inspect(self, content: Content, limits: Limits | None = None) -> Inspection:
        """Remembered as long as the content lives; without `limits` those of the check `attachments`."""


class Clock(Protocol):
    """Wall time for display, greylist and lifetimes; monotonic time for every timer."""

    def wall(self) -> float: ...

    def monotonic(self) -> float: ...


class Undeliverable(msgspec.Struct, frozen=True):
    """An entry "error:" of a transport table: the reply ("550 5.1.1 text"), and "file:line"."""

    reply: str
    place: str


class Site(msgspec.Struct, frozen=True, kw_only=True):
    """Facts of this installation that checks need. `is_ours(domain)` is exact (lower case A-labels); it is something to
    await where only a table that is not in memory knows.
    `authserv_id` is our name in Authentication-Results ("": the host name). `is_relay(address)`: a trusted relay of
    ours. `strip_fields`: header fields that only our own side may write ("X-Spam-*"). `undeliverable(address)`: the
    refusal that the transport table has for it ("error:"), None if it has none. Raises Unavailable."""

    hostname: str
    is_ours: Callable[[str], bool | Awaitable[bool]]
    our_domains: tuple[str, ...] = ()
    size_limit: int = 52428800
    recipient_delimiter: str = "+"
    our_addresses: tuple[str, ...] = ()
    authserv_id: str = ""
    is_relay: Callable[[str], bool] = lambda address: False
    strip_fields: tuple[str, ...] = ()
    undeliverable: Callable[[Address], Undeliverable | Awaitable[Undeliverable | None] | None] = lambda address: None

    def is_postmaster(self, address: Address) -> bool:
        """Ours, without a domain or at the name of this host: it takes mail everywhere (RFC 5321 4.5.1)."""
        return address.local.lower() == "postmaster" and address.domain in ("", self.hostname.lower())


class Ports(msgspec.Struct, frozen=True, kw_only=True):
    """Everything a check can reach. `tables` maps the spec an operator wrote ("texthash:access/client") to its table.
    A None port is not configured: the check answers as its documentation says for that case."""

    site: Site
    tables: Mapping[str, Table] = {}
    resolver: Resolver | None = None
    greylist: Greylist | None = None
    strangers: StrangersAtSight | None = None
    rates: Rates | None = None
    recipients: Recipients | None = None
    scanners: Mapping[str, Scanner] = {}
    inspector: Inspector | None = None
    authentication: Authentication | None = None
    identities: Identities | None = None
    firsts: Firsts | None = None
    lines: LineRules | None = None
    dns_lists: DnsLists | None = None
    policy_services: PolicyServices | None = None
    milters: Milters | None = None
    aliases: Aliases | None = None
    mailbox: Callable[[Context, Address], Verdict | Awaitable[Verdict]] | None = None  # what check `recipient` says of it
