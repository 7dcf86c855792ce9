"""The rewriter: one set of settings, asked about senders, recipients and blind copies.

Contract: the order is Postfix's: sender_canonical_maps or recipient_canonical_maps, canonical_maps, masquerading; for
recipients then virtual aliases and, at our own names, aliases, again and again until nothing changes. Whoever asks gets
the steps as well. What failure means for the mail: Unavailable puts off (451), Refused is 550.
"""

from collections.abc import Awaitable, Coroutine
from typing import TypeVar

from appliance.addresses import canonical, values
from appliance.addresses.expansion import Expansion, Owner, Refused, Step, Unreasonable
from appliance.addresses.maps import AddressMap
from appliance.addresses.masquerade import Masquerade
from appliance.addresses.settings import Settings
from appliance.addresses.virtual import BUILT_IN, LOOKUPS, OWNER, Member, Virtual
from appliance.mail.later import answered, any_of, then
from appliance.mail.lookup import Found
from appliance.mail.ports import Hit, Table
from appliance.protocol.smtp.address import Address

T = TypeVar("T")
PLACES = ("envelope_sender", "envelope_recipient", "header_sender", "header_recipient")


class Rewriter:
    """Built by the composition; asked by the front."""

    def __init__(self, settings: Settings) -> None:
        self.settings = settings

        def named(name: str, kind: str) -> AddressMap:
            tables: tuple[Table, ...] = getattr(settings, name)
            return AddressMap(name, tables, settings.origin, settings.delimiter, kind in settings.propagate)

        self._canonical = [
            (named("sender_canonical_maps", "canonical"), settings.sender_canonical_classes),
            (named("recipient_canonical_maps", "canonical"), settings.recipient_canonical_classes),
            (named("canonical_maps", "canonical"), settings.canonical_classes),
        ]
        self._virtual = Virtual(
            settings,
            named("virtual_alias_maps", "virtual"),
            named("alias_maps", "alias"),
            self.only_aliases,
            lambda address, steps: self.one(address, "envelope_recipient", steps),
        )
        self._sender_bcc = named("sender_bcc_maps", "")
        self._recipient_bcc = named("recipient_bcc_maps", "")
        self._stages = {place: self._of(place) for place in PLACES}
        maps = [*(one for one, _ in self._canonical), self._virtual.virtual, self._virtual.aliases]
        tables = [table for one in (*maps, self._sender_bcc, self._recipient_bcc) for table in one.tables]
        tables += [*settings.masquerade_exception_tables, *settings.alias_domain_tables]
        #: Whether every answer is at hand: no table has to be asked over a wire.
        self.at_once = settings.relayed_at_once and all(table.at_once for table in tables)
        #: Whether any header field could change.
        self.of_headers = bool(self._stages["header_sender"] or self._stages["header_recipient"])

    def _of(self, place: str) -> list[canonical.Stage]:
        """What is done to an address in one of PLACES, in its order."""
        settings = self.settings
        found = [
            canonical.stage(one, settings.is_own) for one, classes in self._canonical if one.tables and place in classes
        ]
        if settings.masquerade_domains and place in settings.masquerade_classes:
            found.append(Masquerade(settings).apply)
        return found

    # ------------------------------------------------------------------ the envelope

    async def sender(self, address: Address) -> tuple[Address, tuple[Step, ...]]:
        """The envelope's sender as it is relayed, and how it came to that."""
        steps: list[Step] = []
        return await self.one(address, "envelope_sender", steps), tuple(steps)

    async def recipient(self, address: Address) -> Expansion:
        """Who gets the mail for a recipient. Raises Unavailable, Refused."""
        steps: list[Step] = []
        try:
            rewritten = await self.one(address, "envelope_recipient", steps)
            if not rewritten.local:
                last = f"{steps[-1].setting} {steps[-1].place}" if steps else "RCPT"
                raise Unreasonable(f"{last}: a recipient cannot be null")
            members = await self._virtual.expand(rewritten, steps)
            owners = await self._owners(members, steps) if any(one.owner for one in members) else {}
        except Unreasonable as why:
            why.steps = tuple(steps)
            raise
        is_list = any(step.setting == OWNER and step.before == rewritten.text for step in steps)
        return Expansion(rewritten, tuple(one.address for one in members), tuple(steps), owners, is_list)

    async def _owners(self, members: tuple[Member, ...], steps: list[Step]) -> dict[str, Owner]:
        """Whom the members of lists get their mail from, as it is sent, by their addresses. Raises Unreasonable where
        they lead to more addresses than are looked up for one recipient."""
        known: dict[Address, Owner] = {}
        found: dict[str, Owner] = {}
        reached, most = 0, LOOKUPS * self.settings.expansion_limit
        for address, owner in members:
            if owner is None:
                continue
            if owner not in known:
                sender = await self.one(owner, "envelope_sender", steps)
                sender = sender if sender.local else owner  # nobody is no owner: what comes back went to the poster
                known[owner] = Owner(sender, await self.told(sender))
                reached += 1 + len(known[owner].told)
                if reached > most:
                    raise Unreasonable(f"<{values.shown(owner.text)}>: owners lead to more than {most} addresses")
            found[address.text.lower()] = known[owner]
        return found

    async def told(self, sender: Address) -> tuple[Address, ...]:
        """Who gets the notices for a sender: whom its aliases lead to. Raises Unavailable."""
        try:
            members = await self._virtual.expand(sender, []) if sender.local else ()
        except Refused:
            return ()
        return tuple([one.address for one in members if not await answered(self.only_aliases(one.address.domain))])

    async def reached(self, address: Address) -> Expansion | None:
        """The same; None where nobody is reached: it leads to names alone that do not exist where only aliases are.
        Postmaster is reached always (RFC 5321 4.5.1)."""
        found = await self.recipient(address)
        for final in found.finals:
            if not await answered(self.only_aliases(final.domain)):
                return found
        home = self.settings.home
        if not home or address.local.lower() != "postmaster" or not await answered(self.only_aliases(address.domain)):
            return None
        final = address._replace(domain=home, text=f"{address.local}@{home}")
        return found._replace(
            finals=(final,), steps=(*found.steps, Step("alias_maps", BUILT_IN, address.text, (final.text,)))
        )

    async def one(self, address: Address, place: str, steps: list[Step]) -> Address:
        """An address in one of PLACES behind canonical maps and masquerading; the null one stays as it is."""
        for stage in self._stages[place]:
            if address.local:
                address = await stage(address, steps)
        return address

    # ------------------------------------------------------------------ blind copies

    async def always_bcc(self) -> list[Expansion]:
        """Who gets a copy of every message."""
        if not self.settings.always_bcc:
            return []
        return [await self._copy("always_bcc", "[addresses]", "", self.settings.always_bcc)]

    async def sender_bcc(self, sender: Address) -> list[Expansion]:
        """Who gets a copy of what a sender (as it is relayed) sends; of the null sender's mail nobody."""
        return await self._blind(self._sender_bcc, sender)

    async def recipient_bcc(self, recipient: Address) -> list[Expansion]:
        """Who gets a copy of the mail for a recipient as canonical maps left it (Expansion.address)."""
        return await self._blind(self._recipient_bcc, recipient)

    async def _blind(self, one: AddressMap, address: Address) -> list[Expansion]:
        found = await one.find(address, self.settings.is_own(address.domain))
        if found is None:
            return []
        try:
            named = values.read(found.value, self.settings.origin)
        except ValueError as why:
            raise Unreasonable(f"{one.name} {found.place}: {why}") from None
        return [await self._copy(one.name, found.place, address.text, to.text) for to in named]

    async def _copy(self, setting: str, place: str, whose: str, to: str) -> Expansion:
        try:
            expansion = await self.recipient(values.address(to, self.settings.origin))
        except ValueError as why:
            raise Unreasonable(f"{setting} {place}: {why}") from None
        except Refused as why:
            raise Unreasonable(f"{setting} {place}: a copy for <{to}>, which {why.place} refuses: {why.text}") from None
        return expansion._replace(steps=(Step(setting, place, whose, (to,)), *expansion.steps))

    # ------------------------------------------------------------------ who is known

    def covers(self, address: Address) -> Found | Awaitable[Found | None] | None:
        """The entry that makes an address a known recipient: of a canonical, a virtual alias or an alias map. Raises
        Unavailable."""
        return self.now(self._covers(address))

    async def _covers(self, address: Address) -> Found | None:
        own = self.settings.is_own(address.domain)
        for one in (self._canonical[1][0], self._canonical[2][0], self._virtual.virtual):
            if (found := await one.find(address, own)) is not None:
                return found
        return await self._virtual.alias(address)

    def is_ours(self, domain: str) -> bool | Awaitable[bool]:
        """Whether mail for a domain is taken: it is relayed, or consists of aliases. Raises Unavailable."""
        return then(self.settings.is_relayed(domain), lambda relayed: relayed or self.is_alias_domain(domain))

    def only_aliases(self, domain: str) -> bool | Awaitable[bool]:
        """Whether a domain is ours for its aliases alone: who has none cannot be reached. Raises Unavailable."""
        return then(self.settings.is_relayed(domain), lambda relayed: not relayed and self.is_alias_domain(domain))

    def is_alias_domain(self, domain: str) -> bool | Awaitable[bool]:
        """Whether a domain stands as one of aliases, or is one of our own names. Raises Unavailable."""
        settings = self.settings
        if not domain:
            return False
        if domain in settings.own or domain in settings.alias_domains:
            return True
        maps = settings.virtual_alias_maps if settings.map_domains else ()
        tables = [*settings.alias_domain_tables, *(table for table in maps if not table.pattern)]
        return any_of(then(table.get(domain), _is_there) for table in tables)

    def now(self, work: Coroutine[object, None, T]) -> T | Awaitable[T]:
        """The answer at once where every table has its own at hand, else the work to await."""
        if not self.at_once:
            return work
        try:
            work.send(None)
        except StopIteration as done:
            answer: T = done.value
            return answer
        work.close()
        raise RuntimeError("a table in memory did not answer at once")


def _is_there(hit: Hit | None) -> bool:
    return hit is not None
