"""scand: whatever parses hostile content does so here, one short-lived process a message.

Contract: appliance.daemons.skeleton.Daemon. The dispatcher (daemon.py) speaks to the workers and parses nothing; the
nursery (nursery.py) is a slim process, exec'd with nothing of our memory, that forks one child a job; the child reads
(protocol.mime) and dies. What failure means for the mail: a child that dies, or takes too long, is a message that was
not inspected (threats C6); the next message is not touched by it.
"""

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from appliance.config.terms import Terms
    from appliance.daemons.skeleton import LeanBirth, Serving


def create(birth: "LeanBirth") -> "Serving[Terms]":
    """Imported late: the nursery imports this package, too, and must stay slim."""
    from appliance.daemons.scand.daemon import Scand

    return Scand(birth)
