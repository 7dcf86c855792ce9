"""How long a message that could not be looked into is put off before it is taken with a mark (knob `put_off`).

Contract: the time counts from the first try of the same message (envelope sender and header as it came), whatever
address it comes from. What failure means for the mail: where nobody remembers first tries (stated away), Unavailable:
the check is `temperror`, the message is put off.
"""

from appliance.mail.context import Context
from appliance.mail.ports import Ports
from appliance.mailauth import origin

#: Shipped: longer than any overload that ends by itself, shorter than a sender's first warning about delay.
PUT_OFF = 7200.0
#: How long a first try is remembered: longer than any sender tries.
REMEMBER = 691200.0


async def waits(ctx: Context, name: str, put_off: float, ports: Ports) -> bool:
    """Whether the message of `ctx`, into which the check `name` could not look, may still be put off. Raises
    Unavailable."""
    if ctx.content is None or ports.firsts is None or not put_off:
        return False
    sender = ctx.sender.text if ctx.sender else ""
    key = f"{name}:{origin.fingerprint(sender, ctx.content.header)}"
    return await ports.firsts.age(key, max(REMEMBER, put_off)) < put_off
