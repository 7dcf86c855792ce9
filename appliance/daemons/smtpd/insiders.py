"""Private addresses at a listener for strangers: a relay, a filter or a NAT of ours stands in front, and nobody said so.

Contract: said once when it begins; `degraded` for a day after the last such client, so that the alarm comes and goes.
Loopback and unix sockets are this machine and no sign. What failure means for the mail: nothing here; but SPF, lists,
greylist and rates judge a machine of ours instead of the client behind it (design section 8).
"""

from appliance.mail.network import is_inside
from appliance.observe import oplog

log = oplog.get("smtpd")
DAY = 86400.0
TEXT = "clients with private addresses come to an inbound listener, and [gateway] trusted_relays does not have them"


class Insiders:
    """Remembers when the last one came (seconds of the loop)."""

    def __init__(self) -> None:
        self._last: float | None = None

    def note(self, address: str, listener: str, now: float) -> None:
        """A stranger's client; most are none of these."""
        if not is_private(address):
            return
        if not self.degraded(now):
            log.warning("private client", address=address, listener=listener, hint=f"{TEXT}: is it a relay or a NAT?")
        self._last = now

    def degraded(self, now: float) -> list[str]:
        """In words, [] while there are none."""
        return [TEXT] if self._last is not None and now - self._last < DAY else []


def is_private(address: str) -> bool:
    """An address inside that is not this machine's own."""
    numeric = address[:1].isdigit() or ":" in address
    return numeric and not address.startswith("127.") and address != "::1" and is_inside(address)
