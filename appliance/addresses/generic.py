"""Generic maps: what addresses become when mail leaves (Postfix generic(5)), the opposite of canonical maps.

Contract: one look-up for each address of envelope and header; what it gives is not looked up again, of several results
the first counts. The null sender stays. What failure means for the mail: Unavailable (a table), Unreasonable (a result
that is no address): it waits in the queue.
"""

from appliance.addresses.expansion import Refused, Step, Unreasonable
from appliance.addresses.maps import AddressMap
from appliance.protocol.smtp.address import Address


class Generic:
    """`own`: names of ours, at which a local part alone is a key."""

    def __init__(self, one: AddressMap, own: frozenset[str]) -> None:
        self._map, self._own = one, own

    async def one(self, address: Address, place: str, steps: list[Step]) -> Address:
        """What `address` is outside. A recipient never becomes the null address."""
        found = await self._map.find(address, address.domain in self._own)
        if found is None:
            return address
        try:
            new = self._map.read(address, found).addresses[0]
        except Refused as why:
            raise Unreasonable(f"{self._map.name} {why.place}: a refusal is no address") from None
        if not new.local and place == "envelope_recipient":
            raise Unreasonable(f"{self._map.name} {found.place}: a recipient cannot be null")
        if new.text != address.text:
            steps.append(Step(self._map.name, found.place, address.text, (new.text,)))
        return new
