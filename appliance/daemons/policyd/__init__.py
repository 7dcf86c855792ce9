"""policyd: lends the gateway's judgement to Postfix as a policy server (design sections 1, 3, 5).

Contract: see appliance.daemons.skeleton.Daemon. Every request that can be read gets one answer, at the latest behind the
front's deadline; it is judged by the same engine as mail that the SMTP server takes, as far as the protocol tells what
the checks need. A reload is in force for the next message; drain answers what has been asked. What failure means for the
mail: an error of ours is the front's default answer; a worker that dies leaves Postfix to its next attempt.
"""

from appliance.daemons.compose import Composition
from appliance.daemons.fronts.worker import Worker
from appliance.daemons.policyd.front import Front
from appliance.daemons.policyd.rules import Rules
from appliance.daemons.skeleton import Birth, Daemon


def create(birth: Birth) -> Daemon:
    """One worker."""
    return Worker(birth, Rules, _front)


def _front(rules: Rules, composition: Composition, birth: Birth) -> Front:
    return Front(rules, birth.index)
