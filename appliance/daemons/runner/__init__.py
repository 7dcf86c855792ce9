"""runner: programs that look at content, and content lent as a file to scanners that share our disk.

Contract: appliance.daemons.skeleton.Daemon. It runs only while a scanner or a filter of the configuration needs it, as a
user of its own: smtpd and delivery start no program. They name a scanner or a filter and hand over a descriptor; the
program, its arguments, folder and limits are the configuration's. What failure means for the mail: while it is away, or a
program fails, content is "not scanned", or put off.
"""

from appliance.daemons.runner import strays
from appliance.daemons.runner.daemon import Runner
from appliance.daemons.skeleton import Birth, Daemon


def create(birth: Birth) -> Daemon:
    strays.adopt()
    return Runner(birth)
