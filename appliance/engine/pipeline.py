"""Asks the checks of a stage and judges what they found."""

from collections.abc import Awaitable

from appliance.engine.judge import Combined, Group, combine
from appliance.engine.rules import PolicySet
from appliance.mail.context import Context
from appliance.mail.ports import Ports
from appliance.mail.verdict import Decision

__all__ = ["Combined", "Engine", "Group", "combine"]


class Engine:
    """Contract in docs/architecture.md; being written."""

    def __init__(self, policies: PolicySet, ports: Ports, delay_reject: bool = True, soft_bounce: bool = False) -> None:
        self.policies = policies
        self.ports = ports

    def ask(self, ctx: Context) -> Decision | Awaitable[Decision]:
        raise RuntimeError("being written")

    def message(self, ctx: Context) -> list[Group] | Awaitable[list[Group]]:
        raise RuntimeError("being written")
