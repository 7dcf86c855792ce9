"""Ports.mailbox: what the check `recipient` says of an address, for others who are to judge by that.

Contract: the check's policy with its exceptions is in force here, too. Raises Unavailable where the check is off. What
failure means for the mail: whoever asks puts it off.
"""

from collections.abc import Awaitable, Callable

from appliance.checks import recipient
from appliance.engine.rules import CheckPolicy
from appliance.mail.context import Context
from appliance.mail.ports import Ports, Unavailable
from appliance.mail.verdict import Verdict
from appliance.protocol.smtp.address import Address


def mailbox(policy: CheckPolicy, ports: Ports) -> Callable[[Context, Address], Verdict | Awaitable[Verdict]]:
    """By this policy, with these ports."""

    def ask(ctx: Context, address: Address) -> Verdict | Awaitable[Verdict]:
        under = policy.under(ctx, address)
        if under.mode == "off" or not isinstance(under.knobs, recipient.Policy):
            raise Unavailable("the check recipient is off")
        return recipient.judge(address, under.knobs, ports)

    return ask
