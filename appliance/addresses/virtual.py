"""Virtual aliases and aliases: one recipient becomes several, again and again (Postfix cleanup_map1n, local's aliases).

Contract: what an entry of virtual_alias_maps gives besides the first goes to the end of the list and is looked up in its
turn, what an alias gives stands where the alias stood. An address that an entry expands into itself is final. Members of
a list that has an owner (`owner-list`) get their mail from that; a list within it may have its own. Beyond a limit
(results, changes of one address, length of an address, look-ups) nothing of it is used: Unreasonable. Results that say
the same are one, the first.
What failure means for the mail: put off, with the place of the last entry.
"""

from collections.abc import Awaitable, Callable
from typing import NamedTuple

from appliance.addresses import values
from appliance.addresses.expansion import Refused, Step, Unreasonable
from appliance.addresses.maps import AddressMap, Answer
from appliance.addresses.settings import Settings
from appliance.addresses.values import address as mailbox
from appliance.addresses.values import shown
from appliance.mail.later import answered
from appliance.mail.lookup import Found
from appliance.protocol.smtp.address import Address, quoted

BUILT_IN = "built in"
#: What the steps call the entry that gives a list its owner.
OWNER = "owner_request_special"
#: Look-ups for one recipient, as a multiple of virtual_alias_expansion_limit.
LOOKUPS = 10


class Member(NamedTuple):
    """Who gets the mail, and the owner of the innermost list with one that led there."""

    address: Address
    owner: Address | None = None


class Virtual:
    """`virtual` maps first; `aliases` for local parts at our own names. `canonical(address, steps)`: what a recipient is
    called that mail is forwarded to."""

    def __init__(
        self,
        settings: Settings,
        virtual: AddressMap,
        aliases: AddressMap,
        only_aliases: Callable[[str], bool | Awaitable[bool]],
        canonical: Callable[[Address, list[Step]], Awaitable[Address]],
    ) -> None:
        self.virtual, self.aliases, self._only_aliases = virtual, aliases, only_aliases
        self._settings, self._canonical = settings, canonical

    async def expand(self, address: Address, steps: list[Step]) -> tuple[Member, ...]:
        """The final recipients. Raises Unavailable, Refused (of an address that leads to nobody else)."""
        settings, found = self._settings, [Member(address)]
        itself, passed = set[str](), set[str]()
        asked = at = 0
        while at < len(found):
            changes = 0
            while (before := found[at].address.text.lower()) not in itself:
                asked += 1
                if changes >= settings.recursion_limit or asked > LOOKUPS * settings.expansion_limit:
                    raise self._too_much(address, "aliases lead to aliases without end", steps)
                answer = await self._look_up(found[at].address, alone=len(found) == 1)
                if answer is None:
                    break
                changes += 1
                texts = tuple(one.text for one in answer.addresses)
                steps.append(Step(answer.setting, answer.found.place, found[at].address.text, texts))
                if answer.setting == self.aliases.name and answer.found.place != BUILT_IN:
                    found[at : at + 1] = await self._forwarded(found[at], answer, passed, steps)
                    asked += settings.owner_request_special
                else:
                    first, *rest = [Member(one, found[at].owner) for one in answer.addresses]
                    found[at] = first
                    found += rest
                if len(found) > settings.expansion_limit:
                    raise self._too_much(address, f"more than {settings.expansion_limit} recipients", steps)
                if any(text.lower() == before for text in texts):
                    itself.add(before)
            at += 1
        finals: dict[str, Member] = {}
        for one in found:
            finals.setdefault(one.address.text.lower(), one)
        return tuple(finals.values())

    async def _forwarded(self, whom: Member, answer: Answer, passed: set[str], steps: list[Step]) -> list[Member]:
        """Who an alias forwards to, from whom: what is not ours is rewritten once more, as mail that is sent anew."""
        owner = await self._owner(whom.address, answer.found, passed, steps) or whom.owner
        members = []
        for one in answer.addresses:
            if not self._settings.is_own(one.domain):
                one = await self._canonical(one, steps)
                self._sound(answer._replace(addresses=[one]))
            members.append(Member(one, owner))
        return members

    async def _owner(self, whom: Address, found: Found, passed: set[str], steps: list[Step]) -> Address | None:
        """The owner of this alias, if it has one (Postfix aliases(5)). An owner who is reached by the list alone is none:
        what comes back would go to the list, again and again."""
        settings, name = self._settings, found.key.lower()
        passed.add(name)
        if not settings.owner_request_special or f"owner-{name}" in passed:
            return None
        entry = await self.aliases.owner(name)
        if entry is None:
            return None
        try:
            owner = mailbox(quoted(f"owner-{name}"), settings.origin)
            if settings.expand_owner_alias and len(named := values.read(entry.value, settings.origin)) == 1:
                [owner] = named
        except ValueError as why:
            raise Unreasonable(f"{self.aliases.name} {entry.place}: {why}") from None
        steps.append(Step(OWNER, entry.place, whom.text, (owner.text,)))
        return owner

    async def _look_up(self, address: Address, alone: bool) -> Answer | None:
        try:
            entry = await self.virtual.find(address, self._settings.is_own(address.domain))
            if entry is not None:
                return self._sound(self.virtual.read(address, entry))
            entry = await self.alias(address)
            if entry is None:
                return None
            if entry.place == BUILT_IN:
                return Answer([mailbox(entry.value, self._settings.origin)], entry, self.aliases.name)
            return self._sound(self.aliases.read(address, entry))
        except Refused as why:
            if alone:
                raise
            raise Unreasonable(f"{why.place}: <{shown(address.text)}>, to whom others lead, is refused") from None

    async def alias(self, address: Address) -> Found | None:
        """What becomes of a local part at one of our own names: the alias. Postmaster's without any, there and where only
        aliases are, is that of our first domain (RFC 5321 4.5.1)."""
        settings, own = self._settings, self._settings.is_own(address.domain)
        if own and (found := await self.aliases.names(address)) is not None:
            return found
        home = settings.home
        if not home or home == address.domain or address.local.lower() != "postmaster":
            return None
        if not own and not await answered(self._only_aliases(address.domain)):
            return None
        return Found(address.local, f"postmaster@{home}", BUILT_IN)

    def _sound(self, answer: Answer) -> Answer:
        """The answer, if each of its addresses can be a recipient."""
        limit, where = self._settings.address_length_limit, f"{answer.setting} {answer.found.place}"
        for one in answer.addresses:
            if len(one.text) > limit:
                raise Unreasonable(f"{where}: <{shown(one.text, 60)}> has more than {limit} letters")
            if not one.local:
                raise Unreasonable(f"{where}: a recipient cannot be null")
        return answer

    def _too_much(self, address: Address, what: str, steps: list[Step]) -> Unreasonable:
        last = f", last by {steps[-1].setting} {steps[-1].place}" if steps else ""
        return Unreasonable(f"<{shown(address.text)}>: {what}{last}")
