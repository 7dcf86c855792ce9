"""smtpd: takes mail from strangers, has it judged, keeps it, and only then says 250 (design sections 5, 6, 13).

Contract: see appliance.daemons.skeleton.Daemon. It opens no configuration, policy or spool path: files for messages are
granted by delivery. A reload is in force for the next transaction of every session; drain finishes what runs.
What failure means for the mail: a worker that dies answered nothing that is not on disk.
"""

from appliance.daemons.skeleton import Birth, Daemon
from appliance.daemons.smtpd.worker import Smtpd


def create(birth: Birth) -> Daemon:
    """One worker."""
    return Smtpd(birth)
