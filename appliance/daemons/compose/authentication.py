"""mail.ports.Authentication: one evaluation of SPF, DKIM and ARC for all checks of a transaction that ask.

Contract: see the port. The knobs are those of the policies in force: a reload makes a new one. What failure means for the
mail: a result `temperror`, whose meaning the asking check's file says.
"""

from typing import Any

from appliance.daemons.compose.signatures import Signatures
from appliance.daemons.compose.spf_memo import SpfMemo
from appliance.engine.rules import PolicySet
from appliance.mail.ports import Resolver
from appliance.mailauth.dkim import Rules
from appliance.mailauth.spf import Limits


class Authentication:
    """Made with the engine, for its policies."""

    def __init__(self, resolver: Resolver, policies: PolicySet) -> None:
        self._resolver, self._policies = resolver, policies
        knobs = self._knobs("spf")
        limits = Limits(knobs.void_limit, knobs.broad_ipv4_prefix, knobs.broad_ipv6_prefix)
        #: SPF by a call less: it is on the way of every message.
        self.spf = SpfMemo(resolver, limits, knobs.deadline).spf
        signatures = Signatures(resolver, self._dkim_rules)
        self.dkim, self.arc = signatures.dkim, signatures.arc

    def _dkim_rules(self, now: float) -> Rules:
        knobs = self._knobs("dkim")
        return Rules(
            now=now,
            bits=knobs.min_bits,
            signatures=knobs.signatures,
            skew=knobs.skew,
            testing_counts=knobs.testing_counts,
        )

    def _knobs(self, check: str) -> Any:
        return self._policies.checks[check].knobs
