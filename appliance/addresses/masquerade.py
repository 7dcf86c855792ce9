"""Masquerading: names of machines are cut off a domain (Postfix masquerade_domains).

Contract: the first domain of the list that is the address's, or a parent of it, decides: "!domain" and the domain itself
leave it alone. Names in masquerade_exceptions keep theirs. What failure means for the mail: a table of exceptions that
cannot answer raises Unavailable.
"""

from appliance.addresses.expansion import Step
from appliance.addresses.settings import Settings
from appliance.mail.later import answered
from appliance.protocol.smtp.address import Address, quoted

NAME = "masquerade_domains"


class Masquerade:
    def __init__(self, settings: Settings) -> None:
        self._domains = [(text.lstrip("!"), text.count("!") % 2 == 0) for text in settings.masquerade_domains]
        self._names, self._tables = settings.masquerade_exceptions, settings.masquerade_exception_tables

    async def apply(self, address: Address, steps: list[Step]) -> Address:
        """The address, its domain cut."""
        domain = self._cut(address.domain)
        if not domain or await self._excepted(address.local):
            return address
        new = address._replace(domain=domain, text=f"{quoted(address.local)}@{domain}")
        steps.append(Step(NAME, domain, address.text, (new.text,)))
        return new

    def _cut(self, domain: str) -> str:
        """The domain to put in its place, "" for none."""
        for name, cuts in self._domains:
            if domain == name:
                return ""
            if domain.endswith(f".{name}"):
                return name if cuts else ""
        return ""

    async def _excepted(self, local: str) -> bool:
        if local.lower() in self._names:
            return True
        for table in self._tables:
            if await answered(table.get(local)) is not None:
                return True
        return False
