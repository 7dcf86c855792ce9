"""A check at RCPT with all filled in but the recipient and the moment: what `bind` of a check gives (engine/bound.py).

Contract: `ask` answers what check() would answer for the Context that it was bound to, with that recipient and moment; it
may answer None instead, and has asked nobody outside then: check() is to be asked. All tables answer at once where
anything is bound. What failure means for the mail: as in the check.
"""

from abc import ABC, abstractmethod
from collections.abc import Awaitable

from appliance.mail.greylisting import GreylistAnswer
from appliance.mail.verdict import Verdict
from appliance.protocol.smtp.address import Address


class Bind(ABC):
    """One check."""

    __slots__ = ()

    @abstractmethod
    def ask(self, address: Address, now: float) -> Verdict | Awaitable[Verdict] | None:
        """The check's answer. `now`: wall clock, seconds."""

    def usual(self, address: Address) -> bool:
        """Whether `ask` says the same of this address as of most others of its domain, but for the address itself. Only
        plain ones are asked about: in lower case, nothing to be quoted, no extension. False: it may be otherwise."""
        return False


class StepBind(Bind):
    """One that takes a step of the greylist."""

    __slots__ = ()

    @abstractmethod
    def step(self, address: Address, now: float) -> GreylistAnswer | Awaitable[GreylistAnswer]:
        """The store's answer about a usual address. Raises Unavailable."""

    def first(self, address: Address) -> bool:
        """Whether a usual address was never written to before by this sender: then the step is taken, and the answer is
        `first_answer`. False: nobody knows."""
        return False

    @abstractmethod
    def first_answer(self, now: float) -> GreylistAnswer:
        """What `step` answers such a one."""

    @abstractmethod
    def heard(self, address: Address, now: float, answer: GreylistAnswer) -> Verdict:
        """What `ask` answers if that is what the store says."""
