"""The answer of a transport table that names no server: `error:`, `retry:`, `discard:` (Postfix error(8), discard(8)).

Contract: what SmtpSession is for a next hop, without a connection; every recipient gets the same answer, as often as it
is asked. What failure means for the mail: "error" fails it for good, "retry" puts it off, "discard" is its end.
"""

from collections.abc import Iterator

from appliance.connectors.target import Target
from appliance.protocol.smtp.outgoing import Finished, Kind, Outgoing, Result

_KINDS: dict[str, Kind] = {"error": "failed", "retry": "deferred", "discard": "delivered"}


class FixedSession:
    """`service`: the transport that answers with `status` and `text`."""

    def __init__(self, service: str, status: str, text: str) -> None:
        self.service, self._status, self._text = service, status, text
        self.target = Target(host="none", lmtp=service == "discard")  # what is thrown away has arrived, as in Postfix
        self.uses, self.alive = 0, True
        #: Nobody behind it sends notices.
        self.dsn = False
        self.content_error: Exception | None = None

    async def send(self, message: Outgoing, content: bytes | Iterator[bytes]) -> Finished:
        """The content stays unread."""
        self.uses = 1  # no connection that could be stale
        result = Result(_KINDS[self.service], 0, self._status, self._text)
        return Finished((result,) * len(message.recipients), True)

    def quit(self) -> None:
        """Nothing is open."""
        self.alive = False
