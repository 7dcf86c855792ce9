"""milterd: lends the gateway's judgement to Postfix and Sendmail as a milter (design sections 1, 3, 5).

Contract: see appliance.daemons.skeleton.Daemon. It asks MTAs for the events that the active checks need, judges by the
same engine as the SMTP server, and answers every event within its deadline. A reload is in force for the next message
of every connection; drain finishes what runs. What failure means for the mail: a worker that dies leaves its MTAs to
their default action for this filter; nothing is ever kept here.
"""

from appliance.daemons.milterd.worker import Milterd
from appliance.daemons.skeleton import Birth, Daemon


def create(birth: Birth) -> Daemon:
    """One worker."""
    return Milterd(birth)
