"""What the fronts share: SMTP server, policy server and milter server are thin translators before one engine.

`trace` writes the field on top of a message, `content` has a message, `events` tells the journal of one.
"""
