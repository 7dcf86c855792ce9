"""Restriction names that policy services answer and that ask: DNS, DNS lists, or who has a mailbox here."""

import asyncio
import re
from pathlib import Path
from typing import Any

import pytest

from appliance.checks import policy_services
from appliance.checks.recipient import Policy as Lists
from appliance.daemons.compose.mailboxes import mailbox
from appliance.engine.exceptions import Exemption, compile_test
from appliance.engine.rules import CheckPolicy
from appliance.mail import restrictions, restrictions_asked
from appliance.mail.context import Client, Context, Recipient, Tls
from appliance.mail.login import Login
from appliance.mail.ports import Ports, Probe, Unavailable
from appliance.mail.verdict import Verdict
from appliance.protocol.dns import Answer
from appliance.protocol.smtp.address import Address, parse_address
from appliance.tables import open_table
from tests.checks.dns import Dns
from tests.checks.test_check_policy_services import SITE, Services, _settled, context, policy

RECORDS = {
    "example.org MX": ["10 mx.example.org"],
    "plain.example A": ["192.0.2.1"],
    "six.example AAAA": ["2001:db8::1"],
    "null.example MX": ["0 ."],
    "text.example TXT": ["v=spf1 -all"],
    "mail.example.org A": ["192.0.2.7"],
    "half.example A": ["192.0.2.1"],
    "7.2.0.192.bl.example A": ["127.0.0.2"],
    "7.2.0.192.bl.example TXT": ["see https://bl.example/"],
    "7.2.0.192.error.example A": ["127.255.255.254"],
    "7.2.0.192.other.example A": ["127.0.0.9"],
    "mail.example.org.names.example A": ["127.0.1.2"],
    "example.com.names.example A": ["127.0.1.2"],
}
LIST = "inline:{anna@example.com=ok}"
AWAY = ("away.example", "7.2.0.192.away.example")


class Names(Dns):
    """A name that has any record exists."""

    def _answer(self, name: str, rtype: str) -> Answer:
        exists = any(key.split()[0] == name for key in self.records)
        return super()._answer(name, rtype)._replace(exists=exists)


def to(text: str) -> Recipient:
    return Recipient(address=parse_address(text.encode())[0])


def sent_by(text: str) -> Address:
    return parse_address(text.encode())[0] if text else Address("", "", "")


def told(answer: str, ctx: Context, **ports: Any) -> Verdict:
    """What comes of this answer of a service."""
    known = {"resolver": Names(RECORDS, AWAY), "site": SITE} | ports
    stages = {"stages": list(policy_services.STAGES), "roles": ["inbound", "outbound"]}
    asked = policy_services.check(
        ctx, policy({"name": "one"} | stages), Ports(policy_services=Services(one=answer), **known)
    )
    assert not isinstance(asked, Verdict)

    async def settled() -> Verdict:
        return await asked

    return asyncio.run(settled())


@pytest.mark.parametrize("name", ["sender", "recipient"])
@pytest.mark.parametrize(
    ("domain", "outcome", "reply"),
    [
        ("example.org", "dunno", ""),
        ("plain.example", "dunno", ""),
        ("six.example", "dunno", ""),
        ("example.com", "dunno", ""),
        ("[192.0.2.1]", "dunno", ""),
        ("nowhere.example", "defer", "450 {unknown}: Domain not found"),
        ("text.example", "defer", "450 {unknown}: Domain not found"),
        ("null.example", "reject", "{null}: Domain does not accept mail (nullMX)"),
        ("away.example", "defer_if_permit", "450 {unknown}: Domain cannot be looked up"),
    ],
)
def test_domains_that_are_not_known(name: str, domain: str, outcome: str, reply: str) -> None:
    """Ours are not looked up, nor are address literals."""
    address = f"x@{domain}"
    ctx = context(sender=sent_by(address)) if name == "sender" else context(recipient=to(address))
    words = {
        "sender": {"unknown": "4.1.8 Sender address rejected", "null": "550 5.7.27 Sender address rejected"},
        "recipient": {"unknown": "4.1.2 Recipient address rejected", "null": "556 5.1.10 Recipient address rejected"},
    }
    found = told(f"reject_unknown_{name}_domain", ctx)
    assert (found.outcome, found.reply) == (outcome, reply.format(**words[name]))
    assert outcome == "dunno" or f"one: reject_unknown_{name}_domain: " in found.reason


def test_a_domain_with_an_address_is_known_although_its_mx_is_away() -> None:
    class Half(Names):
        async def query(self, name: str, rtype: str) -> Any:
            if rtype == "MX":
                raise Unavailable("timed out")
            return await super().query(name, rtype)

    ctx = context(sender=sent_by("x@half.example"))
    assert told("reject_unknown_sender_domain", ctx, resolver=Half(RECORDS)).outcome == "dunno"
    ctx = context(sender=sent_by("x@nowhere.example"))
    assert told("reject_unknown_sender_domain", ctx, resolver=Half(RECORDS)).outcome == "defer_if_permit"


@pytest.mark.parametrize("sender", [None, sent_by("")])
def test_nobody_is_neither_unknown_nor_listed(sender: Address | None) -> None:
    ctx = context(sender=sender, recipient=None)
    for name in ("unknown_sender_domain", "unlisted_sender", "rhsbl_sender bl.example", "unknown_recipient_domain"):
        assert told(f"reject_{name}", ctx).outcome == "dunno"
    for name in ("unlisted_recipient", "rhsbl_recipient bl.example"):
        assert told(f"reject_{name}", ctx).outcome == "dunno"


@pytest.mark.parametrize(
    ("helo", "outcome"),
    [
        ("mail.example.org", "dunno"),
        ("example.org.", "dunno"),
        ("[192.0.2.1]", "dunno"),
        ("[192.0.2.01]", "dunno"),
        ("[0.1.2.3]", "reject"),
        ("nowhere.example", "defer"),
        ("no name", "defer"),
        ("away.example", "defer_if_permit"),
        ("", "dunno"),
    ],
)
def test_helo_names_that_are_not_known(helo: str, outcome: str) -> None:
    assert told("reject_unknown_helo_hostname", context(helo=helo)).outcome == outcome


# ---------------------------------------------------------------------- mailboxes


class Inside:
    """Call-ahead: the next hop knows `known`; "away" cannot be verified."""

    def cached(self, address: Address) -> Probe | None:
        return None

    async def probe(self, address: Address) -> Probe:
        return Probe({"known": "known", "away": "unverifiable"}.get(address.local, "unknown"), "550 no")


def boxes(mode: Any = "enforce", exceptions: Any = (), derive: Any = None, **knobs: Any) -> dict[str, Any]:
    """Ports with the mailboxes of a policy `recipient`."""
    ports = Ports(site=SITE, tables={LIST: open_table(LIST, lambda path: b"")}, recipients=Inside())
    made = CheckPolicy(
        name="recipient", mode=mode, knobs=Lists(**knobs), rulings={}, exceptions=exceptions, derive=derive
    )
    return {"mailbox": mailbox(made, ports)}


@pytest.mark.parametrize(
    ("address", "outcome"),
    [
        ("anna@example.com", "dunno"),
        ("anna+more@example.com", "dunno"),
        ("postmaster@example.com", "dunno"),
        ("nobody@example.com", "reject"),
        ("nobody@example.org", "dunno"),
    ],
)
def test_who_is_on_no_list(address: str, outcome: str) -> None:
    ports = boxes(tables=(LIST,), callahead=False)
    found = told("reject_unlisted_recipient", context(recipient=to(address)), **ports)
    assert (found.outcome, found.reply) == (
        outcome,
        "550 5.1.1 Recipient address rejected: User unknown" if outcome == "reject" else "",
    )
    found = told("reject_unlisted_sender", context(sender=sent_by(address)), **ports)
    assert (found.outcome, found.reply) == (
        outcome,
        "550 5.1.0 Sender address rejected: User unknown" if outcome == "reject" else "",
    )


@pytest.mark.parametrize(("local", "outcome"), [("known", "dunno"), ("else", "reject"), ("away", "defer_if_permit")])
def test_the_inside_is_asked_as_for_any_recipient(local: str, outcome: str) -> None:
    ctx = context(recipient=to(f"{local}@example.com"))
    assert told("reject_unlisted_recipient", ctx, **boxes()).outcome == outcome
    verified = told("reject_unverified_recipient", ctx, **boxes())
    assert verified.outcome == ("dunno" if outcome == "dunno" else "defer_if_permit")
    assert verified.reply in ("", "450 4.1.1 Recipient address rejected: unverified address")


def test_where_the_check_is_off_nobody_is_unknown() -> None:
    ctx = context(recipient=to("nobody@example.com"))
    found = told("reject_unlisted_recipient", ctx, **boxes("off"))
    assert found.outcome == "defer_if_permit" and "the check recipient is off" in found.reason


def test_exceptions_of_the_check_hold_here_too() -> None:
    test = compile_test("client_address", "192.0.2.0/24")
    item = Exemption(index=0, tests=(test,), facts=frozenset({"client_address"}), sets={"mode": "off"})
    off = CheckPolicy(name="recipient", mode="off", knobs=Lists(), rulings={})
    ports = boxes(exceptions=(item,), derive=lambda _: off, tables=(LIST,), callahead=False)
    ctx = context(recipient=to("nobody@example.com"))
    assert told("reject_unlisted_recipient", ctx, **ports).outcome == "defer_if_permit"
    other = context(recipient=to("nobody@example.com"), client=Client(address="198.51.100.1"))
    assert told("reject_unlisted_recipient", other, **ports).outcome == "reject"


# ---------------------------------------------------------------------- DNS lists


@pytest.mark.parametrize(
    ("answer", "outcome", "said"),
    [
        ("reject_rbl_client bl.example", "reject", "Client host [192.0.2.7] blocked using bl.example"),
        ("reject_rbl_client bl.example=127.0.0.[2..4]", "reject", "Client host [192.0.2.7] blocked using bl.example"),
        ("reject_rbl_client bl.example=127.0.0.4", "dunno", ""),
        ("reject_rbl_client empty.example, reject", "reject", ""),
        ("reject_rbl_client away.example", "warn", ""),
        ("reject_rbl_client error.example", "warn", ""),
        ("warn_if_reject reject_rbl_client bl.example", "warn", ""),
        ("reject_rbl_client empty.example reject_rbl_client other.example", "reject", "[192.0.2.7] blocked"),
        ("reject_rhsbl_client names.example", "reject", "Client host [mail.example.org] blocked"),
        ("reject_rhsbl_helo names.example", "reject", "Helo command [mail.example.org] blocked"),
        ("reject_rhsbl_reverse_client names.example", "dunno", ""),
        ("reject_rhsbl_sender names.example", "dunno", ""),
        ("reject_rhsbl_recipient names.example", "reject", "Recipient address [example.com] blocked"),
        ("permit_dnswl_client bl.example, reject", "ok", ""),
        ("permit_dnswl_client empty.example", "dunno", ""),
        ("permit_dnswl_client away.example", "defer_if_reject", ""),
        ("permit_rhswl_client names.example, reject", "ok", ""),
        ("reject_rbl_client", "temperror", ""),
        ("reject_rbl_client no_list!", "temperror", ""),
    ],
)
def test_dns_lists(answer: str, outcome: str, said: str) -> None:
    """As with Postfix: a block list that is away lists nobody, and the log says so."""
    found = told(answer, context())
    assert found.outcome == outcome
    assert said in found.reply and (not said or found.reply.startswith("554 5.7.1 Service unavailable; "))
    if outcome == "warn" and "warn_if" not in answer:
        assert "says nothing of 192.0.2.7" in found.reason


def test_an_allow_list_never_speaks_for_a_relay_and_private_addresses_are_not_asked_about() -> None:
    other = context(recipient=to("x@elsewhere.example"))
    assert told("permit_dnswl_client bl.example", other).outcome == "dunno"
    dns = Dns(RECORDS)
    assert (
        told("reject_rbl_client bl.example", context(client=Client(address="10.0.0.1")), resolver=dns).outcome == "dunno"
    )
    assert not dns.asked


@pytest.mark.parametrize(
    ("name", "facts", "outcome", "reply"),
    [
        ("reject_unknown_client_hostname", {"proof": "none"}, "defer", "450 4.7.25 Client host rejected: "),
        ("reject_unknown_client_hostname", {"proof": "fail"}, "defer", "450 4.7.25 Client host rejected: "),
        ("reject_unknown_client_hostname", {"proof": "temperror"}, "defer", "450 4.7.25 Client host rejected: "),
        ("reject_unknown_client_hostname", {"proof": "unknown"}, "dunno", ""),
        ("reject_unknown_reverse_client_hostname", {}, "defer", "450 4.7.1 Client host rejected: "),
        ("reject_unknown_reverse_client_hostname", {"reverse_name": "a.example"}, "dunno", ""),
    ],
)
def test_clients_without_a_name(name: str, facts: dict[str, Any], outcome: str, reply: str) -> None:
    """As Postfix is shipped: they are put off, since DNS may have been wrong."""
    found = told(name, context(client=Client(address="192.0.2.7", **facts)))
    assert found.outcome == outcome and found.reply.startswith(reply)


@pytest.mark.parametrize(
    ("recipient", "authorised"),
    [("user@example.com", True), ("postmaster", True), ("x@elsewhere.example", False), ("", None)],
)
def test_destinations(recipient: str, authorised: bool | None) -> None:
    """A bare postmaster is ours; before RCPT there is nothing to judge."""
    ctx = context(recipient=to(recipient)) if recipient else context("mail", recipient=None)
    no = "dunno" if authorised is not False else ""
    said = {name: told(f"{name}_destination", ctx) for name in ("permit_auth", "reject_unauth", "defer_unauth")}
    assert said["permit_auth"].outcome == ("ok" if authorised else "dunno")
    assert said["reject_unauth"].outcome == (no or "reject") and said["defer_unauth"].outcome == (no or "defer")
    if authorised is False:
        assert said["reject_unauth"].reply == "554 5.7.1 Recipient address rejected: Relay access denied"
        assert said["defer_unauth"].reply == "454 4.7.1 Recipient address rejected: Relay access denied"


@pytest.mark.parametrize(("recipient", "outcome"), [("postmaster", "dunno"), ("", "dunno"), ("joe@host", "reject")])
def test_short_domains_of_recipients(recipient: str, outcome: str) -> None:
    """A bare postmaster needs none; before RCPT there is nothing to judge."""
    ctx = context(recipient=to(recipient)) if recipient else context("mail", recipient=None)
    assert told("reject_non_fqdn_recipient", ctx).outcome == outcome


def test_a_bounce_to_several_is_refused_and_own_people_are_let_through() -> None:
    several = context("data", sender=sent_by(""), recipient=None, recipients=(to("a@example.com"), to("b@example.com")))
    found = told("reject_multi_recipient_bounce", several)
    assert (found.outcome, found.reply) == ("reject", "550 5.5.3 Multi-recipient bounce")
    one = context("data", sender=sent_by(""), recipient=None, recipients=(to("a@example.com"),))
    assert told("reject_multi_recipient_bounce", one).outcome == "dunno"
    assert told("permit_mynetworks, reject", context(role="outbound")).outcome == "ok"
    assert told("permit_sasl_authenticated, reject", context()).outcome == "reject"
    assert told("permit_sasl_authenticated, reject", context(login=Login("anna"))).outcome == "ok"


@pytest.mark.parametrize(
    ("client", "outcome"),
    [
        (Client(address="local"), "ok"),
        (Client(address="127.0.0.1"), "ok"),
        (Client(address="::1"), "ok"),
        (Client(address="192.0.2.25", server_address="192.0.2.25"), "ok"),
        (Client(address="192.0.2.7", server_address="192.0.2.25"), "dunno"),
        (Client(address="192.0.2.7"), "dunno"),
    ],
)
def test_this_host_itself(client: Client, outcome: str) -> None:
    assert told("permit_inet_interfaces", context(client=client)).outcome == outcome


@pytest.mark.parametrize(
    ("old", "facts"),
    [
        ("reject_unknown_client", {"client": Client(address="192.0.2.7", proof="none")}),
        ("reject_invalid_hostname", {"helo": "a..b"}),
        ("reject_non_fqdn_hostname", {"helo": "host"}),
        ("reject_unknown_hostname", {"helo": "nowhere.example"}),
        ("reject_unknown_address", {"sender": sent_by("x@nowhere.example")}),
        ("check_recipient_maps", {"recipient": to("nobody@example.com")}),
        ("reject_rbl", {}),
    ],
)
def test_names_of_old_mean_what_they_are_called_now(old: str, facts: dict[str, Any]) -> None:
    argument, ports = " bl.example" if old == "reject_rbl" else "", boxes(tables=(LIST,), callahead=False)
    found = told(old + argument, context(**facts), **ports)
    now = told(restrictions.OLD[old] + argument, context(**facts), **ports)
    assert (found.outcome, found.reply) == (now.outcome, now.reply) and now.outcome in ("reject", "defer")
    assert found.reason.startswith(f"one: {old}"), "as the service has said it"


@pytest.mark.parametrize("of", ["sender", "authenticated_sender", "known_sender", "unauthenticated_sender"])
def test_nobody_has_logged_in(of: str) -> None:
    """As in a Postfix without SASL: the log says that it is in vain."""
    found = told(f"reject_{of}_login_mismatch", context())
    assert found.outcome == "warn" and "nobody has logged in" in found.reason


@pytest.mark.parametrize(
    ("of", "refused"),
    [("sender", True), ("authenticated_sender", True), ("known_sender", False), ("unauthenticated_sender", False)],
)
def test_whoever_logged_in_at_the_mta_in_front_owns_no_address_here(of: str, refused: bool) -> None:
    anna = Login("anna", "PLAIN")
    found = told(f"reject_{of}_login_mismatch, permit", context(login=anna))
    reply = "553 5.7.1 Sender address rejected: not owned by user anna"
    assert (found.outcome, found.reply) == (("reject", reply) if refused else ("ok", ""))
    assert told(f"reject_{of}_login_mismatch, permit", context(login=anna, sender=sent_by(""))).outcome == "ok"


def test_certificates_of_clients_permit_nothing() -> None:
    ctx = context(client=Client(address="192.0.2.7", tls=Tls("TLSv1.3", "x", 256, "client.example")))
    for name in ("permit_tls_clientcerts", "permit_tls_all_clientcerts"):
        assert told(f"{name} reject", ctx).outcome == "reject"


@pytest.mark.parametrize(("seconds", "slept"), [("0", 0), ("1", 1), ("10", 10), ("11", 10), ("9" * 400, 10)])
def test_sleep_is_bounded(seconds: str, slept: int) -> None:
    services = Services(one=f"sleep {seconds}, reject")
    asked = policy_services.check(context(), policy({"name": "one"}), Ports(site=SITE, policy_services=services))
    assert not isinstance(asked, Verdict)
    assert asyncio.run(_settled(asked)).outcome == "reject"
    assert services.slept == [slept]


@pytest.mark.parametrize("answer", ["sleep", "sleep x", "sleep -1", "sleep 1.5", "sleep \u0661"])
def test_sleep_is_followed_by_a_number(answer: str) -> None:
    found = told(answer, context())
    assert found.outcome == "temperror" and "sleep" in found.reason


def test_what_has_no_meaning_is_put_off_and_named() -> None:
    found = told("reject_unverified_sender", context())
    assert found.outcome == "temperror"
    assert found.reason == "one: reject_unverified_sender is no restriction that means something here"
    assert told("reject_unauth_pipelining", context(signs=frozenset({"pipelining"}))).reply.startswith("503 5.5.0 ")


def test_the_page_names_them_all_and_no_other() -> None:
    """docs/hooks.md: each name that it lists is evaluated, and each that is evaluated is listed."""
    page = (Path(__file__).resolve().parents[2] / "docs/hooks.md").read_text()
    told_of = page.partition("Restriction names are evaluated as far as they")[2].partition("Others put the mail off")[0]
    short = re.findall(r"`reject_rhsbl_client`((?:, `_\w+`)+)", told_of)[0]
    written = told_of.replace(short, re.sub(r"`_", "`reject_rhsbl_", short))
    named = set(re.findall(r"`((?:permit|reject|defer|warn_if)\w*)(?: LIST)?`", written))
    lists = {name for name in named if re.search("rbl_|rhsbl|dnswl|rhswl", name)}
    assert lists == restrictions_asked.LISTS and "`sleep SECONDS`" in told_of
    old = set(restrictions.OLD)
    assert named - lists == {
        "warn_if_reject",
        *restrictions.NAMES,
        *restrictions_asked.NAMES,
        *old - {"check_recipient_maps"},
    }
    assert "`check_recipient_maps`" in told_of and old.isdisjoint(restrictions.OLD.values())
    for name in named - lists - {"warn_if_reject", "reject_rbl"}:
        assert told(name, context(), **boxes()).outcome != "temperror", name
