"""What becomes of a mail that was taken: it arrives inside, is kept or dropped by a policy, or is waited for in vain.

Contract: nothing is waited for longer than its patience, of which less is left once a mail did not come: a configuration
that delivers nothing must not cost a self-test its two minutes.
"""

import asyncio
from typing import NamedTuple

from appliance.cli.selftest.expect import KEPT
from appliance.cli.selftest.gateway import Gateway
from appliance.cli.selftest.inner import Inner
from appliance.cli.selftest.stranger import Reply

#: Seconds that a mail may take to arrive inside, the first that does not and all others.
ARRIVAL, LATER = 15.0, 3.0


class Became(NamedTuple):
    """`arrived`: as it came inside. `lost`: it is nowhere where a policy could have put it."""

    got: str
    arrived: bytes | None = None
    lost: bool = False


class Fate:
    """Of mails of one self-test."""

    def __init__(self, gateway: Gateway, inner: Inner) -> None:
        self._gateway, self._inner = gateway, inner
        self.patience = ARRIVAL

    async def of(self, token: str, sender: str, reply: Reply, patience: float = 0.0) -> Became:
        """Of the mail that got this reply, a 250. `patience`: seconds, where one's own are not enough."""
        began = asyncio.get_running_loop().time()
        while (arrived := await self._inner.has(token.encode(), 0.5)) is None:
            if where := await self.aside(sender):
                return Became(f"250, then kept in {where}")
            if self._gateway.has_dropped(reply):
                return Became("250, then dropped")
            if asyncio.get_running_loop().time() - began > (patience or self.patience):
                return await self._lost(sender, patience or self.patience)
        return Became("delivered", arrived)

    async def _lost(self, sender: str, waited: float) -> Became:
        self.patience = LATER
        where = await self._gateway.kept(sender)
        return Became(f"250, not delivered within {waited:.0f} s" + (f", kept in {where}" if where else ""), lost=True)

    async def kept(self, token: str, sender: str) -> str:
        """Where it is in the end, if it is not inside; it takes a moment until delivery has put it there."""
        until = asyncio.get_running_loop().time() + self.patience
        while not (where := await self.aside(sender)):
            if await self._inner.has(token.encode(), 0.05) or asyncio.get_running_loop().time() > until:
                return await self._gateway.kept(sender)
        return where

    async def aside(self, sender: str) -> str:
        """Where it is kept for good, or ""."""
        where = await self._gateway.kept(sender)
        return where if where in KEPT.values() else ""
