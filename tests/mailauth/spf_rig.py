"""An SPF evaluation against a name server on loopback: real UDP, TCP and resolver, a zone of the test's own."""

from collections.abc import Mapping
from typing import Any

from appliance.mail.auth import SpfAsk, SpfReport
from appliance.mailauth.spf import Limits, evaluate
from appliance.net.resolver import Resolver
from tests.mailauth.vectors import Records, serve
from tests.net.nameserver import NameServer

CLIENT = "192.0.2.1"


def zone(**more: str | Records) -> dict[str, Records]:
    """Names of example.org by their first labels (`_` for the domain itself, `a__b` for a.b): a text is a TXT."""
    made: dict[str, Records] = {}
    for name, found in more.items():
        owner = "example.org" if name == "_" else f"{name.replace('__', '.')}.example.org"
        made[owner] = {"TXT": [found]} if isinstance(found, str) else found
    return made


class Rig:
    """`asked` are the questions that went over the wire, by name and type."""

    def __init__(self, server: NameServer, records: Mapping[str, Records], ttl: int = 300) -> None:
        serve(server, dict(records), ttl)
        self.server = server
        self.resolver = Resolver([server.address], timeout=0.4)

    @property
    def asked(self) -> list[tuple[str, str]]:
        return [(name.removesuffix("."), rtype) for name, rtype, how in self.server.asked if how == "udp"]

    async def judge(
        self,
        sender: str = "joe@example.org",
        address: str = CLIENT,
        helo: str = "mail.example.net",
        **limits: Any,
    ) -> SpfReport:
        answer = evaluate(self.resolver, SpfAsk(address, helo, sender), Limits(**limits))
        return answer if isinstance(answer, SpfReport) else await answer
