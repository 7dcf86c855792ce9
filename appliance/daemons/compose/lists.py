"""The DNS lists that the policies of a snapshot name, as the watch over them wants them.

Contract: pure. What failure means for the mail: nothing; a list that is not watched is asked all the same.
"""

from appliance.checks import dnsbl
from appliance.connectors.dns_lists import Wanted
from appliance.engine.rules import PolicySet
from appliance.mail.dns_list import parse_site


def wanted_lists(policies: PolicySet) -> list[Wanted]:
    """Each list once for each kind it holds, those that only an exception names included."""
    policy = policies.checks[dnsbl.NAME]
    if policy.mode == "off" and not policy.exceptions:
        return []
    derived = [policy.derive((item,)) for item in policy.exceptions if policy.derive]
    found: dict[Wanted, None] = {}
    for told in (policy, *derived):
        knobs = told.knobs
        assert isinstance(knobs, dnsbl.Policy)
        without = {zone.lower().rstrip(".") for zone in knobs.without_test_entry}
        for subject in dnsbl.SUBJECTS:
            for text in getattr(knobs, subject):
                zone = parse_site(text).zone
                found[Wanted(zone, dnsbl.kind_of(subject), zone not in without)] = None
    return list(found)
