"""A stranger who is stopped before that which a scenario is about: by what, and whether the configuration wants it so.

Contract: pure. Only what is true of a stranger by our own making (facts), and what the policies in force make of it, is a
reason. Whatever else stops a stranger is a miss of the scenario.
"""

import ipaddress
import re
from collections.abc import Iterable
from typing import NamedTuple

from appliance.checks import tls
from appliance.cli.selftest import excepted
from appliance.cli.selftest.places import file_of
from appliance.cli.selftest.who import NO_TLS, UNSIGNED, Finding, Who
from appliance.engine.rules import CheckPolicy, PolicySet

#: Its name servers do not answer.
UNREACHABLE = "unreachable.test"
_PART = re.compile(r"\b([a-z_]+):(\w+) \+")
_CLIENT = re.compile(r"^(?P<place>.*?): client (?P<key>\S+): ")


class Decided(NamedTuple):
    """What stopped a mail, as the mail log names it."""

    check: str
    outcome: str
    reason: str


def why(policies: PolicySet, folders: Iterable[str], who: Who, decided: Decided) -> str:
    """Why this configuration stops `who` there, with the file; "" if it does not say so. `folders`: where policies are,
    the operator's first."""
    policy = policies.checks.get(decided.check)
    if policy is None:
        return ""
    reason = f" ({decided.reason})" if decided.reason else ""
    first = f"{decided.check} stops this stranger first: {decided.outcome}{reason}"
    true = _is_true(policy, who, decided)
    if true and (wanted := _wanted(policy, decided.outcome)):
        return f"{first}; {wanted} in {file_of(decided.check, folders)}"
    if found := excepted.stops(policy, decided[:2], who, true):
        return f"{first}; {excepted.named(policies, ((decided.check, one) for one in found), folders)}"
    return ""


def asks(policies: PolicySet) -> bool:
    """Whether a stranger may be stopped by what it can do something about."""
    findings = [UNSIGNED, NO_TLS, *(("suspicion", outcome) for outcome in policies.checks["suspicion"].rulings)]
    return any(_may_want(policies.checks[check], outcome) for check, outcome in findings if _demands(policies, check))


def remedies(policies: PolicySet, who: Who, decided: Decided) -> set[Finding]:
    """What of that which stopped `who` it can do something about."""
    policy = policies.checks.get(decided.check)
    if policy is None or not _is_true(policy, who, decided):
        return set()
    found = {(decided.check, decided.outcome), *_PART.findall(decided.reason)}
    return found & who.facts() & {UNSIGNED, NO_TLS}


def _demands(policies: PolicySet, check: str) -> bool:
    """TLS is demanded by tables only."""
    knobs = policies.checks[check].knobs
    return not isinstance(knobs, tls.Policy) or bool(knobs.senders or knobs.clients)


def _is_true(policy: CheckPolicy, who: Who, decided: Decided) -> bool:
    check, outcome = decided.check, decided.outcome
    if check == "access":
        return is_listed(who.address, decided.reason)
    if check == "suspicion":
        parts = _PART.findall(decided.reason)
        return bool(parts) and set(parts) <= who.facts()
    if check == "tls" and isinstance(policy.knobs, tls.Policy) and not (policy.knobs.senders or policy.knobs.clients):
        return False
    if who.domain == UNREACHABLE and outcome == "temperror":
        return check in ("spf", "dmarc", "identity", "dnsbl", "own_domain")
    return (check, outcome) in who.facts()


def is_listed(address: str, reason: str) -> bool:
    """Whether a table of clients has this address: what `access` gives as its reason must name a network around it."""
    found = _CLIENT.match(reason)
    if found is None:
        return False
    key = found["key"]
    if address == key or address.startswith(f"{key.rstrip('.')}."):
        return True
    try:
        return ipaddress.ip_address(address) in ipaddress.ip_network(key, strict=False)
    except ValueError:
        return False


def _wanted(policy: CheckPolicy, outcome: str) -> str:
    """What the policy says of an outcome, if that stops mail."""
    if policy.mode == "enforce" and (ruling := policy.rulings.get(outcome)) and ruling.action in excepted.STOPPING:
        return f'[on] {outcome} = "{ruling.action.value}"'
    return ""


def _may_want(policy: CheckPolicy, outcome: str) -> bool:
    """Whether it says so of anybody."""
    return any(_wanted(told, outcome) for told in (policy, *(excepted.by(policy, (one,)) for one in policy.exceptions)))
