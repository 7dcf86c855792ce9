"""A stranger with a mail: what is true of it by our own making, and which [[exception]]s fit it.

Contract: pure. An identity that only the gateway finds out is taken for whatever it may be.
"""

import time
from typing import NamedTuple

from appliance.cli.selftest.scene import DOMAIN, HONEST, MAILBOX, NAMELESS, OTHER, OURS
from appliance.cli.selftest.scene_services import name_of
from appliance.engine.exceptions import Exemption
from appliance.engine.rules import CheckPolicy
from appliance.mail.context import Client, Context, Tls
from appliance.mail.identity import Identity
from appliance.mail.network import network
from appliance.protocol.smtp.address import parse_address

Finding = tuple[str, str]
#: What the zone file, and our mails, make true of a sender's domain.
_OF_DOMAINS: dict[str, tuple[Finding, ...]] = {
    "plain.example": (("spf", "none"), ("dmarc", "none"), ("identity", "unproven")),
    "pool.example": (("dmarc", "none"),),
    "spffail.example": (("spf", "fail"), ("dmarc", "none"), ("identity", "unproven")),
    DOMAIN: (("own_domain", "spoofed"), ("spf", "fail"), ("dmarc", "none"), ("identity", "unproven")),
}
#: What a stranger can do something about.
UNSIGNED, NO_TLS = ("dkim", "none"), ("tls", "missing")


class Who(NamedTuple):
    """`more`: what is true of this mail alone. `tls`: the version of TLS, if there is any."""

    address: str
    domain: str
    tls: str = ""
    signed: bool = False
    more: tuple[Finding, ...] = ()
    sender: str = ""
    helo: str = ""

    def facts(self) -> set[Finding]:
        """What checks must find about it."""
        found = {*_OF_DOMAINS.get(self.domain, ()), *self.more}
        if self.address in (NAMELESS, OTHER):
            found.add(("rdns", "none"))
        if not self.tls:
            found.add(NO_TLS)
        if not self.signed:
            found.add(UNSIGNED)
        return found | {("arc", "none")}

    def context(self, identity: str = "") -> Context:
        """As the gateway sees it."""
        name = "mail.regular.example" if self.address == HONEST else name_of(self.address) or "unknown"
        encrypted = Tls(self.tls, "", 0) if self.tls else None
        return Context(
            stage="message",
            client=Client(address=self.address, name=name, tls=encrypted),
            helo=self.helo,
            sender=parse_address((self.sender or f"selftest@{self.domain}").encode(), utf8=True)[0],
            identity=Identity(name=identity) if identity else None,
            now=time.time(),
        )

    def fitting(self, policy: CheckPolicy) -> tuple[Exemption, ...]:
        """The operator's exceptions of a check that fit it, in the order of the file."""
        mailbox = parse_address(MAILBOX.encode(), utf8=True)[0]
        plain = self.context()
        names = {self.domain, plain.client.name, network(self.address)}
        may_be = [self.context(name) for name in names]
        return tuple(
            one
            for one in policy.exceptions
            if one.reason != OURS and any(one.matches(ctx, mailbox) for ctx in (plain, *may_be))
        )
