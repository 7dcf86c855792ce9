"""Compiled policies as values: what each check is told, and what is done about what it finds. Nothing here changes."""

from collections.abc import Callable, Mapping
from typing import Literal

import msgspec

from appliance.checks import knobs
from appliance.engine.exceptions import Exemption
from appliance.engine.plan import Plan
from appliance.mail.context import Context
from appliance.mail.replies import Refusal
from appliance.mail.verdict import Action, Verdict
from appliance.protocol.smtp.address import Address

Mode = Literal["enforce", "monitor", "off"]
MODES: tuple[Mode, ...] = ("enforce", "monitor", "off")

#: Combinations of exceptions in force at once that are kept ready, per check.
_KEPT = 4096


class Ruling(msgspec.Struct, frozen=True):
    """What the policy makes of one outcome. `argument` belongs to prepend, bcc, redirect, filter."""

    action: Action
    argument: str = ""
    reply: Refusal | None = None
    mode: Mode = "enforce"


class CheckPolicy(msgspec.Struct, frozen=True, kw_only=True):
    """One check's file. `rulings` has every outcome; `_derived` keeps the policies under exceptions, by which apply."""

    name: str
    mode: Mode
    knobs: knobs.Policy
    rulings: Mapping[str, Ruling]
    exceptions: tuple[Exemption, ...] = ()
    derive: Callable[[tuple[Exemption, ...]], "CheckPolicy"] | None = None
    derived: dict[tuple[int, ...], "CheckPolicy"] = msgspec.field(default_factory=dict)

    def is_quiet(self, verdict: Verdict) -> bool:
        """Whether nothing follows from the verdict, for anybody."""
        return self.rulings[verdict.outcome].action is Action.DUNNO and not self.exceptions and not verdict.edits

    def under(self, ctx: Context, recipient: Address | None) -> "CheckPolicy":
        """This policy as it is for this client, sender and recipient."""
        if not self.exceptions:
            return self
        applying = tuple(item for item in self.exceptions if item.matches(ctx, recipient))
        if not applying or self.derive is None:
            return self
        key = tuple(item.index for item in applying)
        found = self.derived.get(key)
        if found is None:
            found = self.derive(applying)
            if len(self.derived) < _KEPT:
                self.derived[key] = found
        return found


class PolicySet(msgspec.Struct, frozen=True, kw_only=True):
    """All policy files. `tables` are the specs that any policy names; `scanners` the names of scanners that one names."""

    checks: Mapping[str, CheckPolicy]
    plan: Plan
    tables: frozenset[str] = frozenset()
    scanners: frozenset[str] = frozenset()
