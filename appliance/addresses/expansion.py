"""What became of an address, step by step, and what cannot become of one.

Contract: frozen values. What failure means for the mail: Unreasonable is Unavailable: the mail is put off with 451 and a
line that names table and line; Refused is 550 for the address that the client named.
"""

from collections.abc import Mapping, Sequence
from typing import NamedTuple

from appliance.addresses.values import shown
from appliance.mail.ports import Unavailable
from appliance.protocol.smtp.address import Address

#: Addresses that a line shows of a long list.
SHOWN = 5


class Unreasonable(Unavailable):
    """A map that cannot be meant so: a loop, an explosion, a value that is no address. `steps` led there, if any did."""

    steps: "tuple[Step, ...]" = ()


class Refused(Exception):
    """A map says that there is no such address ("error:5.1.1 text")."""

    def __init__(self, status: str, text: str, place: str) -> None:
        self.status, self.text, self.place = status, shown(text, 200).encode("ascii", "replace").decode("ascii"), place
        super().__init__(self.text)

    @property
    def reply(self) -> str:
        return f"{'450' if self.status.startswith('4') else '550'} {self.status} {self.text}"


class Step(NamedTuple):
    """One change: which setting did it, "file:line" of the entry, from what to what."""

    setting: str
    place: str
    before: str
    after: tuple[str, ...]

    def __str__(self) -> str:
        return f"{self.setting} {self.place}: <{shown(self.before)}> -> {listed(self.after)}"


def listed(addresses: Sequence[str]) -> str:
    """Addresses for a line of the log, the first few of many."""
    text = ", ".join(f"<{shown(one)}>" for one in addresses[:SHOWN])
    return text if len(addresses) <= SHOWN else f"{text} and {len(addresses) - SHOWN} more"


class Owner(NamedTuple):
    """The owner of a list: `sender` of what goes to its members, and who is `told` when one of them cannot be reached:
    what the owner's own alias leads to (nobody where that leads nowhere)."""

    sender: Address
    told: tuple[Address, ...]


class Expansion(NamedTuple):
    """`address` is the recipient as canonical maps and masquerading left it, `finals` who gets the mail, without
    repetitions; `owners` of those who are members of a list that has one, by their address in lower case. `is_list`: it
    is itself such a list."""

    address: Address
    finals: tuple[Address, ...]
    steps: tuple[Step, ...] = ()
    owners: Mapping[str, Owner] = {}
    is_list: bool = False

    @property
    def is_expanded(self) -> bool:
        """Did aliases make others of it?"""
        return [one.text for one in self.finals] != [self.address.text]
