"""syncd: fetches the lists of known recipients ([recipients.NAME]) on their schedule, and when an operator asks.

What failure means for the mail: nothing at once: each list of the last good time stays in force, and grows old.
"""

from appliance.daemons.skeleton import Birth, Daemon
from appliance.daemons.syncd.daemon import Syncd


def create(birth: Birth) -> Daemon:
    return Syncd(birth)
