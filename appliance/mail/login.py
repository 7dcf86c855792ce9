"""Who has logged in at the MTA that asks us. Nobody logs in at our own SMTP server.

Contract: a fact that the MTA in front tells of its own client, by the milter or the policy protocol; never from a header
field nor from an SMTP client. What failure means for the mail: none; who is not told of has not logged in.
"""

import msgspec


class Login(msgspec.Struct, frozen=True, gc=False):
    """`user` is never empty. `author` is what MAIL FROM's AUTH= named, `strength` the SASL layer's (SSF); "" where the
    MTA does not say."""

    user: str
    method: str = ""
    author: str = ""
    strength: str = ""
