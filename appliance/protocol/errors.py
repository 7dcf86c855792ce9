"""The errors of the ground floor: the peer broke the protocol, or it could not answer. Anything else that escapes
a codec is our bug."""


class ProtocolError(Exception):
    """The peer's bytes are not the protocol. The text is for the log; `reply` (if any) is what to answer."""

    def __init__(self, text: str, reply: str = "") -> None:
        super().__init__(text)
        self.reply = reply


class Unavailable(Exception):
    """The thing asked (DNS, store, peer) could not answer: outcome `temperror`. The text is for the log only."""

    #: The lookup table that could not, "type:name", if it was one.
    table = ""


class TableUnavailable(Unavailable):
    """A lookup table could not answer."""

    def __init__(self, table: str, text: str) -> None:
        super().__init__(text)
        self.table = table
