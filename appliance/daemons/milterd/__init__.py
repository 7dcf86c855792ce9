"""milterd: lends the gateway's judgement to Postfix and Sendmail as a milter (design sections 1, 3, 5).

Contract: see appliance.daemons.skeleton.Daemon. It asks MTAs for the events that the active checks need, judges by the
same engine as the SMTP server, and answers every event within its deadline. A reload is in force for the next message
of every connection; drain finishes what runs. What failure means for the mail: a worker that dies leaves its MTAs to
their default action for this filter; nothing is ever kept here.
"""

from appliance.daemons.compose import Composition
from appliance.daemons.fronts.worker import Worker
from appliance.daemons.milterd.front import Front
from appliance.daemons.milterd.rules import Rules
from appliance.daemons.skeleton import Birth, Daemon


def create(birth: Birth) -> Daemon:
    """One worker."""
    return Worker(birth, Rules, _front)


def _front(rules: Rules, composition: Composition, birth: Birth) -> Front:
    return Front(rules, composition.client_name, str(birth.state_dir / "milter"), birth.index, composition.senders)
