"""Relay attempts: what a stranger asks for, and which reply is the refusal of the check `relay` and of nobody else.

Contract: pure. Somebody else's refusal, that the mailbox is unknown for example, shows nothing about relaying.
"""

from typing import NamedTuple

from appliance.checks import relay
from appliance.cli.selftest.expect import Expected, expect
from appliance.cli.selftest.stranger import Reply
from appliance.engine.rules import PolicySet

NAME = relay.NAME


class Attempt(NamedTuple):
    """A recipient (`{}`: a domain of ours), and what the check must find in it; "": the command itself is wrong."""

    recipient: str
    finding: str

    def at(self, domain: str) -> str:
        return self.recipient.format(domain)


#: Ways to ask for relaying (threats B8): none of them may pass.
ATTEMPTS = (
    Attempt("victim@elsewhere.example", "not_ours"),
    Attempt("victim%elsewhere.example@{}", "trick"),
    Attempt("elsewhere.example!victim@{}", "trick"),
    Attempt('"victim@elsewhere.example"@{}', "trick"),
    Attempt("@{}:victim@elsewhere.example", "not_ours"),
    Attempt("victim@elsewhere.example@{}", ""),
    Attempt("victim@[127.0.0.1]", "not_ours"),
    Attempt("victim@sub.{}", "not_ours"),
)
#: Bad syntax of a recipient.
_SYNTAX = Expected("refuse", "501 refused", 501)


def refusal(policies: PolicySet, finding: str) -> Expected:
    """What the policies make of a finding; of what they let pass: that it is refused all the same."""
    if not finding:
        return _SYNTAX
    expected = expect(policies, (NAME, finding))
    return expected if expected.kind in ("refuse", "defer") else Expected("refuse", "550 refused", 550)


def before(policies: PolicySet) -> set[str]:
    """The checks that may refuse a recipient before relay is asked, as the order of the stages wants it."""
    found: set[str] = set()
    for step in policies.plan.steps.get(("inbound", "rcpt"), ()):
        if NAME in step:
            return found
        found.update(step)
    return found


def is_refusal(policies: PolicySet, finding: str, reply: Reply, soft_bounce: bool) -> bool:
    """Whether the reply is that of the check, as far as words can tell: a mailbox may be unknown with the same code."""
    expected, ruling = refusal(policies, finding), policies.checks[NAME].rulings[finding]
    if reply.code // 100 != (4 if soft_bounce else expected.code // 100):
        return False
    words = f"{ruling.reply.enhanced[1:]} {ruling.reply.text}" if ruling.reply is not None else ""
    return bool(before(policies)) or reply.text[1:].startswith(words)


def put_off(policies: PolicySet) -> list[str]:
    """What of relaying the operator puts off instead of refusing it."""
    return [finding for finding in ("not_ours", "trick") if refusal(policies, finding).kind == "defer"]
