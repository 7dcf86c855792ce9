"""One address looked up in a list of maps, and the answer read (Postfix mail_addr_map(3)).

Contract: keys are those of mail.lookup.rewrite_keys; an extension that no key had (user+ext found as user) goes to every
result if `propagate` says so; "@other" keeps the user. Raises Unavailable (a table), Unreasonable (the answer), Refused.
"""

from collections.abc import Sequence
from typing import NamedTuple

from appliance.addresses import values
from appliance.addresses.expansion import Refused, Unreasonable
from appliance.mail.later import answered
from appliance.mail.lookup import Found, Key, rewrite_keys, search, split_extension
from appliance.mail.ports import Table
from appliance.protocol.smtp.address import Address, AddressError, parse_address, quoted


class Answer(NamedTuple):
    """What an entry of `setting` makes of an address: at least one."""

    addresses: list[Address]
    found: Found
    setting: str


class AddressMap:
    """`name` is the setting ("virtual_alias_maps"). `propagate`: unmatched extensions go to the results."""

    def __init__(self, name: str, tables: Sequence[Table], origin: str, delimiter: str, propagate: bool) -> None:
        self.name, self.tables = name, tables
        self._origin, self._delimiter, self._propagate = origin, delimiter, propagate

    async def find(self, address: Address, local: bool) -> Found | None:
        """The entry for an address. `local`: its domain is one of our own names."""
        if not self.tables or not address.local:
            return None
        return await answered(search(self.tables, rewrite_keys(address, self._delimiter, local=local)))

    async def names(self, address: Address) -> Found | None:
        """The entry for its local part alone: aliases(5) have no domains."""
        if not self.tables or not address.local:
            return None
        bare = split_extension(address.local, self._delimiter)[0]
        keys = [Key(address.local, True), *([Key(bare)] if bare != address.local else [])]
        return await answered(search(self.tables, keys))

    async def owner(self, name: str) -> Found | None:
        """The entry of the owner of the list `name`."""
        return await answered(search(self.tables, [Key(f"owner-{name}", True)]))

    def read(self, address: Address, found: Found) -> Answer:
        """What an entry makes of an address. Raises Unreasonable, Refused."""
        if refusal := values.refusal(found.value):
            raise Refused(*refusal, found.place)
        bare = split_extension(address.local, self._delimiter)[0]
        rest = address.local[len(bare) :]
        unmatched = rest if rest and found.key in _without(bare, address.domain) else ""
        try:
            user = quoted(bare if unmatched else address.local)
            results = values.read(found.value, self._origin, user)
            if unmatched and self._propagate:
                results = [_extended(one, unmatched) for one in results]
        except (ValueError, AddressError) as why:
            raise Unreasonable(f"{self.name} {found.place}: {why}") from None
        return Answer(results, found, self.name)


def _without(bare: str, domain: str) -> tuple[str, ...]:
    """The keys that leave the extension out."""
    return f"{bare}@{domain}", f"{quoted(bare)}@{domain}", bare, quoted(bare)


def _extended(address: Address, extension: str) -> Address:
    if not address.local:
        return address
    return parse_address(f"{quoted(address.local + extension)}@{address.domain}".encode(), utf8=True)[0]
