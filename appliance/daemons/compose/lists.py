"""The DNS lists, policy services and milters that the policies of a snapshot name, as those who watch them want them.

Contract: pure. What failure means for the mail: nothing; a list that is not watched is asked all the same.
"""

from appliance.checks import dnsbl, milters, policy_services
from appliance.connectors.dns_lists import Wanted
from appliance.engine.rules import CheckPolicy, PolicySet
from appliance.mail.dns_list import parse_site
from appliance.mail.milter import Milter
from appliance.mail.policy_service import Service


def wanted_lists(policies: PolicySet) -> list[Wanted]:
    """Each list once for each kind it holds, those that only an exception names included."""
    found: dict[Wanted, None] = {}
    for told in _told(policies, dnsbl.NAME):
        knobs = told.knobs
        assert isinstance(knobs, dnsbl.Policy)
        without = {zone.lower().rstrip(".") for zone in knobs.without_test_entry}
        for subject in dnsbl.SUBJECTS:
            for text in getattr(knobs, subject):
                zone = parse_site(text).zone
                found[Wanted(zone, dnsbl.kind_of(subject), zone not in without)] = None
    return list(found)


def wanted_services(policies: PolicySet) -> tuple[Service, ...]:
    """Each policy service once."""
    found: dict[Service, None] = {}
    for told in _told(policies, policy_services.NAME):
        knobs = told.knobs
        assert isinstance(knobs, policy_services.Policy)
        found |= dict.fromkeys(map(policy_services.reached, knobs.services))
    return tuple(found)


def wanted_milters(policies: PolicySet) -> tuple[Milter, ...]:
    """Each milter once."""
    found: dict[Milter, None] = {}
    for told in _told(policies, milters.NAME):
        knobs = told.knobs
        assert isinstance(knobs, milters.Policy)
        found |= dict.fromkeys(map(milters.reached, knobs.milters))
    return tuple(found)


def _told(policies: PolicySet, name: str) -> list[CheckPolicy]:
    """A check's policy with those that only an exception makes; none where it is off for everybody."""
    policy = policies.checks[name]
    if policy.mode == "off" and not policy.exceptions:
        return []
    return [policy, *(policy.derive((item,)) for item in policy.exceptions if policy.derive)]
