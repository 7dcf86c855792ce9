"""Contents, reports and ports that are made up, for tests of checks that judge authentication."""

from collections.abc import Awaitable, Iterator, Mapping
from typing import Any, TypeVar

from appliance import tables
from appliance.mail.auth import ArcReport, DkimReport, SpfAsk, SpfReport
from appliance.mail.context import Client, Context, Recipient
from appliance.mail.ports import Content, Ports, Site, Unavailable
from appliance.protocol.smtp.address import NULL_SENDER, Address
from tests.mailauth.dmarc_zone import Zone

TRACE = b"Received: from a (b [192.0.2.1])\r\n\tby mx.example.com;\r\n\tMon, 1 Jan 2024 12:00:00 +0000\r\n"
OURS = frozenset({"example.com"})
T = TypeVar("T")
NOW = 1_790_000_000.0  # 2026-09-21


class Text:
    """A content in memory."""

    def __init__(self, fields: bytes, complete: bool = True, top: bytes = TRACE) -> None:
        self.header, self.header_complete = top + fields + b"\r\n", complete
        self.size = len(self.header) + 6

    def chunks(self, size: int = 65536) -> Iterator[bytes]:
        yield self.header + b"body\r\n"

    def open_fd(self) -> int:
        raise NotImplementedError


class Said:
    """An Authentication port that says what it was made with; `asked` are the questions."""

    def __init__(
        self,
        spf: SpfReport | None = None,
        dkim: DkimReport | None = None,
        arc: ArcReport | None = None,
        later: bool = False,
    ) -> None:
        self._spf, self._dkim, self._arc = spf or SpfReport(result="none"), dkim or DkimReport(), arc or ArcReport()
        self._later = later
        self.asked: list[SpfAsk] = []

    def spf(self, ask: SpfAsk) -> SpfReport | Awaitable[SpfReport]:
        self.asked.append(ask)
        return soon(self._spf) if self._later else self._spf

    def dkim(self, content: Content) -> DkimReport | Awaitable[DkimReport]:
        return soon(self._dkim) if self._later else self._dkim

    def arc(self, content: Content) -> ArcReport | Awaitable[ArcReport]:
        return soon(self._arc) if self._later else self._arc


async def soon(value: T) -> T:
    return value


class Firsts:
    """Ages that are told; `keys` are what was asked for."""

    def __init__(self, age: float = 0.0, away: bool = False) -> None:
        self._age, self._away = age, away
        self.keys: list[str] = []

    async def age(self, key: str, keep: float) -> float:
        self.keys.append(key)
        if self._away:
            raise Unavailable("stated is away")
        return self._age


class Resolver:
    """A resolver over a zone of policies."""

    def __init__(self, zone: Zone) -> None:
        self.query = zone.query

    def cached(self, name: str, rtype: str) -> None:
        return None


def ports(
    authentication: Said | None = None,
    zone: Zone | None = None,
    firsts: Firsts | None = None,
    lists: Mapping[str, str] | None = None,
    **site: Any,
) -> Ports:
    """`lists`: table specifications with the text of each file."""
    opened = {spec: tables.open_table(spec, lambda _, text=text: text.encode()) for spec, text in (lists or {}).items()}
    where = Site(**{"hostname": "mx.example.com", "is_ours": OURS.__contains__, "our_domains": ("example.com",)} | site)
    return Ports(
        site=where,
        tables=opened,
        resolver=Resolver(zone or Zone({})),  # type: ignore[arg-type]
        authentication=authentication or Said(),
        firsts=firsts,
    )


def address(text: str) -> Address:
    local, _, domain = text.rpartition("@")
    return Address(local, domain, text) if text else NULL_SENDER


def asked(fields: bytes | Text = b"From: a@example.org\r\n", sender: str = "a@example.org", **more: Any) -> Context:
    """A question at stage message."""
    client = more.pop("client", Client(address="198.51.100.7", name="mail.example.net", proof="pass"))
    facts: dict[str, Any] = {
        "stage": "message",
        "client": client,
        "helo": "mail.example.net",
        "sender": address(sender),
        "recipients": (Recipient(address=address("user@example.com")),),
        "content": fields if isinstance(fields, Text) else Text(fields),
        "now": NOW,
    }
    return Context(**(facts | more))
