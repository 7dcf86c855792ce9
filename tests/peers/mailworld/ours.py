"""Our own verdicts on the messages of the little Internet, by the functions that the checks use, over our resolver."""

import time
from typing import NamedTuple

from appliance.daemons.compose.signatures import Signatures
from appliance.daemons.compose.spf_memo import SpfMemo
from appliance.daemons.fronts.content import RamContent
from appliance.mail.auth import DkimReport, DmarcReport, SpfAsk, SpfReport
from appliance.mailauth import author, dmarc, spf
from appliance.mailauth.dkim import Rules
from appliance.net.resolver import Resolver
from tests.peers.mailworld.case import Case


class Ours(NamedTuple):
    spf: SpfReport
    dkim: DkimReport
    dmarc: DmarcReport
    flaws: tuple[str, ...]

    @property
    def words(self) -> tuple[str, ...]:
        return tuple(one.result for one in self.dkim.signatures)


class Judge:
    """One resolver for all messages, as a gateway has it."""

    def __init__(self, address: str) -> None:
        self._resolver = Resolver([f"{address}:53"])
        self._spf = SpfMemo(self._resolver, spf.Limits(), 20.0)
        self._signatures = Signatures(self._resolver, lambda now: Rules(now=now), time.time)

    async def judge(self, case: Case) -> Ours:
        of_spf = self._spf.spf(SpfAsk(case.address, case.helo, case.sender))
        of_spf = of_spf if isinstance(of_spf, SpfReport) else await of_spf
        content = RamContent(case.content)
        of_dkim = self._signatures.dkim(content)
        of_dkim = of_dkim if isinstance(of_dkim, DkimReport) else await of_dkim
        who = author.read(content.header)
        ask = dmarc.Ask(who.domain, of_spf, of_dkim, null_sender=not case.sender)
        found = await dmarc.evaluate(ask, self._resolver.query)
        return Ours(of_spf, of_dkim, found, who.flaws)
