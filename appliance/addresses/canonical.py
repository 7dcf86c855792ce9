"""Canonical maps: one address becomes one other, again and again until no entry fits or one gives itself.

Contract: of several results the first counts (Postfix warns; so does `postgate check`). More than MOST changes in a row
are a loop: Unreasonable. What failure means for the mail: put off.
"""

from collections.abc import Awaitable, Callable

from appliance.addresses.expansion import Refused, Step, Unreasonable
from appliance.addresses.maps import AddressMap
from appliance.protocol.smtp.address import Address

#: Changes of one address by one list of maps (Postfix cleanup_map11: MAX_RECURSION).
MOST = 10

Stage = Callable[[Address, list[Step]], Awaitable[Address]]


def stage(one: AddressMap, is_own: Callable[[str], bool]) -> Stage:
    """What a list of maps does to an address."""

    async def apply(address: Address, steps: list[Step]) -> Address:
        first, place = address, ""
        for _ in range(MOST):
            if not address.local:
                return address
            found = await one.find(address, is_own(address.domain))
            if found is None:
                return address
            place = found.place
            try:
                new = one.read(address, found).addresses[0]
            except Refused as why:
                raise Unreasonable(f"{one.name} {why.place}: a refusal is no address") from None
            if new.text != address.text:
                steps.append(Step(one.name, place, address.text, (new.text,)))
            if new.text.lower() == address.text.lower():
                return new
            address = new
        raise Unreasonable(f"{one.name}: <{first.text}> is rewritten again and again (last by {place})")

    return apply
