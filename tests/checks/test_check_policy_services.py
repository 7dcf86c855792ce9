"""Policy services of others: what they are asked, and what each of their answers does."""

import asyncio
from collections.abc import Mapping
from typing import Any

import pytest
from pydantic import ValidationError

from appliance.checks import policy_services
from appliance.checks.policy_services import Asked, Policy
from appliance.daemons.fronts.content import RamContent
from appliance.engine.pipeline import Engine
from appliance.engine.policy import compile_policies
from appliance.mail.context import Client, Context, Recipient, Tls
from appliance.mail.login import Login
from appliance.mail.policy_service import Service, attributes
from appliance.mail.ports import Ports, Site, Unavailable
from appliance.mail.verdict import Decision, Verdict
from appliance.protocol.policy import ATTRIBUTES, Answer, parse_answer
from appliance.protocol.smtp.address import parse_address

SITE = Site(hostname="mx.example.com", is_ours=lambda domain: domain == "example.com")


def context(stage: str = "rcpt", **more: Any) -> Context:
    known: dict[str, Any] = {
        "stage": stage,
        "transaction": "4jTRANSACTION",
        "client": Client(address="192.0.2.7", port=54321, name="mail.example.org", proof="pass"),
        "helo": "mail.example.org",
        "sender": parse_address(b'"odd one"@example.org')[0],
        "recipient": Recipient(address=parse_address(b"user@example.com")[0]),
    }
    return Context(**(known | more))


class Services:
    """Says what is scripted, by the service's name; an exception is raised."""

    def __init__(self, **answers: str | Exception) -> None:
        self.answers, self.asked = answers, list[tuple[str, Mapping[str, str]]]()
        self.slept: list[float] = []

    async def pause(self, seconds: float) -> None:
        self.slept.append(seconds)

    async def ask(self, service: Service, attributes: Mapping[str, str], transaction: str) -> Answer:
        self.asked.append((service.name, attributes))
        said = self.answers[service.name]
        if isinstance(said, Exception):
            raise said
        return parse_answer(f"action={said}\n".encode())


def policy(*services: dict[str, Any]) -> Policy:
    return Policy.model_validate({"services": [{"address": "inet:127.0.0.1:10023"} | one for one in services]})


def test_so_long_they_may_take() -> None:
    made = policy(
        {"name": "a", "timeout": "5s"}, {"name": "b", "stages": ["rcpt", "data"]}, {"name": "c", "stages": "mail"}
    )
    assert policy_services.patience(made, "rcpt") == 15.0 and policy_services.patience(made, "data") == 10.0
    assert policy_services.patience(made, "helo") == 0.0


def told(answer: str | Exception, ctx: Context | None = None, **more: Any) -> Verdict:
    services = Services(one=answer)
    asked = policy_services.check(
        ctx or context(), policy({"name": "one"} | more), Ports(site=SITE, policy_services=services)
    )
    return asked if isinstance(asked, Verdict) else asyncio.run(_settled(asked))


async def _settled(asked: Any) -> Verdict:
    found = await asked
    assert isinstance(found, Verdict)
    return found


@pytest.mark.parametrize(
    ("answer", "outcome", "reply", "argument"),
    [
        ("DUNNO", "dunno", "", ""),
        ("dunno whatever", "dunno", "", "whatever"),
        ("OK", "ok", "", ""),
        ("RELAY", "ok", "", ""),
        ("123456", "ok", "", ""),
        ("", "ok", "", ""),
        ("REJECT", "reject", "", ""),
        ("REJECT Go away", "reject", "554 5.7.1 Recipient address rejected: Go away", ""),
        ("550 5.7.23 SPF says no", "reject", "550 5.7.23 Recipient address rejected: SPF says no", ""),
        ("450 Busy", "defer", "450 4.7.1 Recipient address rejected: Busy", ""),
        ("421 4.3.2 Bye", "hangup", "421 4.3.2 Recipient address rejected: Bye", ""),
        ("521 Bye", "hangup", "521 5.7.1 Recipient address rejected: Bye", ""),
        ("DEFER", "defer", "", ""),
        ("DEFER_IF_PERMIT Greylisted", "defer_if_permit", "450 4.7.1 Recipient address rejected: Greylisted", ""),
        ("DEFER_IF_REJECT x", "defer_if_reject", "450 4.7.1 Recipient address rejected: x", ""),
        ("DISCARD gone", "discard", "", "gone"),
        ("HOLD look", "hold", "", "look"),
        ("FILTER smtp:[127.0.0.1]:10025", "filter", "", "smtp:[127.0.0.1]:10025"),
        ("REDIRECT trap@example.com", "redirect", "", "trap@example.com"),
        ("BCC copy@example.com", "bcc", "", "copy@example.com"),
        ("PREPEND X-A: b c", "prepend", "", "X-A: b c"),
        ("WARN hm", "warn", "", "hm"),
        ("INFO hm", "info", "", "hm"),
        ("HANGUP", "hangup", "", ""),
        ("REDIRECT a b@example.com", "temperror", "", ""),
        ("BCC @", "temperror", "", ""),
        ("hash:/etc/passwd", "temperror", "", ""),
        ("no_such_restriction", "temperror", "", ""),
        ("250 ok", "temperror", "", ""),
        ("4505 spam", "temperror", "", ""),
        ("5500 spam", "temperror", "", ""),
        ("DEFER\tLater", "defer", "450 4.7.1 Recipient address rejected: Later", ""),
        ("permit", "ok", "", ""),
        ("permit_mynetworks, reject", "reject", "", ""),
        ("permit_auth_destination reject", "ok", "", ""),
        ("reject_unauth_destination", "dunno", "", ""),
        ("warn_if_reject reject", "warn", "", ""),
        ("reject_unknown_client_hostname", "dunno", "", ""),
        ("defer", "defer", "", ""),
    ],
)
def test_every_answer_is_acted_on(answer: str, outcome: str, reply: str, argument: str) -> None:
    verdict = told(answer)
    assert (verdict.outcome, verdict.reply) == (outcome, reply)
    if argument and outcome not in ("dunno",):
        assert verdict.argument == argument
    assert verdict.shared is (outcome in policy_services.OF_MESSAGE)
    assert outcome in policy_services.OUTCOMES
    if outcome == "temperror":
        assert verdict.reason.startswith("one: ")


@pytest.mark.parametrize(
    ("answer", "needs"),
    [
        *((f"PREPEND{text}", "a header field") for text in ("", " nothing", " X Y: z", " nothing, reject")),
        *((f"{word}{text}", "an address") for word in ("REDIRECT", "BCC") for text in ("", " nobody")),
        *((f"FILTER{text}", "transport:destination") for text in ("", " x")),
    ],
)
@pytest.mark.parametrize("stage", ["rcpt", "message"])
def test_what_lacks_its_argument_is_not_done_and_told(answer: str, needs: str, stage: Any) -> None:
    """As by Postfix: the next in the list goes on."""
    verdict = told(answer, context(stage=stage), stages=[stage])
    assert (verdict.outcome, verdict.argument, verdict.more) == ("warn", "", ())
    assert verdict.reason == f"one: {answer}: {answer.split()[0].lower()} needs {needs}, not done"


@pytest.mark.parametrize(
    ("name", "bad", "good", "code"),
    [
        ("reject_non_fqdn_sender", {"sender": b"joe@host"}, {"sender": b"joe@a.example"}, "504 5.5.2 Sender address"),
        ("reject_non_fqdn_recipient", {"recipient": b"joe@host"}, {}, "504 5.5.2 Recipient address"),
        ("reject_non_fqdn_helo_hostname", {"helo": "host"}, {"helo": "[192.0.2.7]"}, "504 5.5.2 Helo command"),
        ("reject_invalid_helo_hostname", {"helo": "a..b"}, {"helo": "host"}, "501 5.5.2 Helo command"),
        ("reject_invalid_helo_hostname", {"helo": "[192.0.2]"}, {"helo": "a.example."}, "501 5.5.2 Helo command"),
        ("reject_invalid_helo_hostname", {"helo": "192.0.2"}, {"helo": "192.0.2.7"}, "501 5.5.2 Helo command"),
        ("reject_invalid_helo_hostname", {"helo": "192.0.2.256"}, {"helo": "192.0.2.7."}, "501 5.5.2 Helo command"),
        ("reject_invalid_helo_hostname", {"helo": "2001:db8::1%eth0"}, {"helo": "2001:DB8::1"}, "501 5.5.2 Helo command"),
        ("reject_invalid_helo_hostname", {"helo": "ipv6:2001:db8::1"}, {"helo": "[IPv6:2001:db8::1]"}, "501 5.5.2 Helo"),
        ("reject_non_fqdn_helo_hostname", {"helo": "192.0.2.7"}, {"helo": "a.example"}, "504 5.5.2 Helo command"),
        ("reject_non_fqdn_helo_hostname", {"helo": "2001:db8::1"}, {"helo": "a.example."}, "504 5.5.2 Helo command"),
    ],
)
def test_restrictions_that_need_nothing_but_the_envelope(
    name: str, bad: dict[str, Any], good: dict[str, Any], code: str
) -> None:
    def made(words: dict[str, Any]) -> Context:
        known = dict(words)
        if "sender" in known:
            known["sender"] = parse_address(known["sender"])[0]
        if "recipient" in known:
            known["recipient"] = Recipient(address=parse_address(known["recipient"])[0])
        return context(**known)

    refused = told(name, made(bad))
    assert refused.outcome == "reject" and refused.reply.startswith(code)
    assert told(name, made(good)).outcome == "dunno"
    assert told(f"warn_if_reject {name}", made(bad)).outcome == "warn"


def test_a_session_in_clear_is_put_off_where_encryption_is_required() -> None:
    put_off = told("reject_plaintext_session")
    assert (put_off.outcome, put_off.reply) == ("defer", "450 4.7.1 Session encryption is required")
    safe = context(client=Client(address="192.0.2.7", tls=Tls("TLSv1.3", "TLS_AES_256_GCM_SHA384", 256)))
    assert told("reject_plaintext_session", safe).outcome == "dunno"


@pytest.mark.parametrize("there", [True, False, None])
def test_domains_of_ours_may_be_in_a_table_that_is_asked(there: bool | None) -> None:
    async def asked(domain: str) -> bool:
        if there is None:
            raise Unavailable("away")
        return there

    ports = Ports(
        site=Site(hostname="mx.example.com", is_ours=asked), policy_services=Services(one="permit_auth_destination")
    )
    found = policy_services.check(context(), policy({"name": "one"}), ports)
    assert not isinstance(found, Verdict)
    assert asyncio.run(_settled(found)).outcome == {True: "ok", False: "dunno", None: "temperror"}[there]


def test_what_has_no_message_yet_or_no_more_is_a_warning() -> None:
    early = context("connect", sender=None, recipient=None, helo="")
    assert told("HOLD", early, stages=["connect"]).outcome == "warn"
    assert told("REJECT x", early, stages=["connect"]).reply == "554 5.7.1 Client host rejected: x"
    late = context("message", recipient=None)
    assert told("PREPEND X: y", late, stages=["message"]).outcome == "warn"
    assert told("HOLD", late, stages=["message"]).outcome == "hold"


@pytest.mark.parametrize(
    ("default", "outcome"),
    [("DEFER_IF_PERMIT", "defer_if_permit"), ("DUNNO", "dunno"), ("451\t4.3.5 Later", "defer"), ("HOLD", "hold")],
)
def test_one_that_is_away_has_said_its_default(default: str, outcome: str) -> None:
    verdict = told(Unavailable("policy service one: connecting to inet:127.0.0.1:1: refused (0.0 s)"), default=default)
    assert verdict.outcome == outcome
    assert "by default" in verdict.reason and "refused (0.0 s)" in verdict.reason


def test_several_are_asked_in_order_until_one_decides() -> None:
    services = Services(a="PREPEND X-A: 1", b="DEFER_IF_PERMIT later", c="REJECT no", d="DUNNO")
    asked = policy_services.check(
        context(), policy(*({"name": name} for name in "abcd")), Ports(site=SITE, policy_services=services)
    )
    verdict = asyncio.run(_settled(asked))
    assert [name for name, _ in services.asked] == ["a", "b", "c"]
    assert [one.outcome for one in (verdict, *verdict.more)] == ["prepend", "defer_if_permit", "reject"]


@pytest.mark.parametrize(
    ("conditions", "wanted"),
    [
        ({}, True),
        ({"clients": ["192.0.2.0/24"]}, True),
        ({"clients": ["198.51.100.0/24"]}, False),
        ({"sender_domains": ["Example.org"]}, True),
        ({"sender_domains": [".example.org"]}, False),
        ({"sender": "a@m\u00fcller.example", "sender_domains": ["M\u00fcller.example", "x.example"]}, True),
        ({"sender": "a@m\u00fcller.example", "sender_domains": [".\u00fcller.example"]}, False),
        ({"recipient_domains": [".com"]}, True),
        ({"recipient_domains": ["example.net"]}, False),
        ({"roles": ["outbound"]}, False),
        ({"stages": ["data"]}, False),
    ],
)
def test_conditions(conditions: dict[str, Any], wanted: bool) -> None:
    sender = parse_address(conditions.pop("sender", "a@example.org").encode(), utf8=True)[0]
    assert (told("REJECT", context(sender=sender), **conditions).outcome == "reject") is wanted


@pytest.mark.parametrize(
    "condition",
    [
        {"sender_domains": ["*.example.com"]},
        {"recipient_domains": ["@example.com"]},
        {"recipient_domains": ["example.com example.net"]},
        {"recipient_domains": [""]},
        {"stages": []},
        {"roles": []},
        {"timeout": "0s"},
    ],
)
def test_a_condition_that_nothing_meets_is_a_mistake(condition: dict[str, Any]) -> None:
    with pytest.raises(ValidationError):
        policy({"name": "one"} | condition)


def test_the_request_is_a_whole_one() -> None:
    ctx = context(client=Client(address="2001:db8::7", tls=Tls("TLSv1.3", "AES", 256)), helo="a b<c>", declared_size=99)
    asked = attributes(ctx, "in")
    assert ("request", *asked) == ATTRIBUTES
    assert asked["client_address"] == "2001:db8::7" and asked["client_port"] == "unknown"
    assert asked["server_address"] == "" and asked["server_port"] == ""
    for address, said in (("2001:db8::25", "2001:db8::25"), ("local", "127.0.0.1")):
        known = attributes(context(client=Client(address="192.0.2.7", server_address=address, server_port=587)))
        assert (known["server_address"], known["server_port"]) == (said, "587")
    assert asked["helo_name"] == "a?b?c?" and asked["sender"] == "odd one@example.org"
    assert asked["recipient"] == "user@example.com" and asked["recipient_count"] == "0"
    assert asked["instance"] == "4jTRANSACTION" and asked["queue_id"] == "" and asked["size"] == "99"
    assert asked["encryption_protocol"] == "TLSv1.3" and asked["policy_context"] == "in"
    two = (Recipient(address=parse_address(b"a@example.com")[0]), Recipient(address=parse_address(b"b@example.com")[0]))
    data = attributes(context("data", recipient=None, recipients=two))
    assert (data["recipient"], data["recipient_count"], data["queue_id"]) == ("", "2", "4jTRANSACTION")
    one = attributes(context("message", recipient=None, recipients=two[:1]))
    assert (one["protocol_state"], one["recipient"]) == ("END-OF-MESSAGE", "a@example.com")
    trace = b"Received: from a (a [192.0.2.1])\r\n\tby mx.example.com (Postgate) with ESMTP id 4j;\r\n\tMon\r\n"
    content = RamContent(trace + b"Subject: x\r\n\r\n")
    for stage, size in (("data", "99"), ("message", "14")):
        known = attributes(context(stage, recipient=None, recipients=two, declared_size=99, content=content))
        assert known["size"] == size, "what came counts for more than what was announced, without our own field"
    connect = attributes(context("connect", sender=None, recipient=None))  # asked late, the name is known already
    assert [connect[name] for name in ("protocol_state", "instance", "protocol_name", "helo_name")] == [
        "CONNECT",
        "",
        "SMTP",
        "",
    ]
    assert attributes(context("helo", esmtp=False))["protocol_state"] == "HELO"


def test_who_logged_in_at_the_mta_in_front() -> None:
    told = attributes(context(login=Login("anna", "PLAIN", "anna@example.org", "128")))
    names = ("sasl_method", "sasl_username", "sasl_sender")
    assert [told[name] for name in names] == ["PLAIN", "anna", "anna@example.org"]
    assert [attributes(context())[name] for name in names] == ["", "", ""]


@pytest.mark.parametrize(
    "wrong",
    [
        {"name": "a", "address": "127.0.0.1:10023"},
        {"name": "a", "address": "unix:relative"},
        {"name": "a", "address": []},
        {"name": "a", "address": "inet:x:0"},
        {"name": "a b"},
        {"name": "a", "default": "whatever"},
        {"name": "a", "default": "4510 try later"},
        {"name": "a", "stages": ["nowhere"]},
        {"name": "a", "clients": ["nonsense"]},
        {"name": "a", "unknown": 1},
    ],
)
def test_mistakes_of_the_file(wrong: dict[str, Any]) -> None:
    with pytest.raises(ValidationError):
        policy(wrong)


def test_names_are_there_once() -> None:
    with pytest.raises(ValidationError, match="twice"):
        policy({"name": "a"}, {"name": "a"})
    assert Asked(name="a", address="unix:/x").stages == ("rcpt",)  # type: ignore[arg-type]


def engine(services: Services, *listed: dict[str, Any]) -> Engine:
    stages: dict[str, list[str]] = {stage: [] for stage in ("connect", "helo", "mail", "message")}
    stages |= {"rcpt": ["relay", "recipient", "policy_services"], "data": ["policy_services"]}
    known = [{"address": "inet:127.0.0.1:1"} | one for one in listed]
    policies, wrong = compile_policies(
        {
            "stages.toml": {"inbound": stages},
            "policy_services.toml": {"services": known},
            "recipient.toml": {"callahead": False},
        }
    )
    assert not [complaint for complaint in wrong if complaint.fatal]
    return Engine(policies, Ports(site=SITE, policy_services=services))


def test_without_services_no_stage_asks_any() -> None:
    idle = engine(Services())
    assert not idle.stands("inbound", "data") and not idle.stands("inbound", "connect")
    assert engine(Services(a="DUNNO"), {"name": "a", "stages": ["data"]}).stands("inbound", "data")


def test_a_field_that_one_recipient_brought_is_for_all_of_them() -> None:
    """policyd-spf says PREPEND at the first recipient of a message and DUNNO at the others: still one message."""
    services = Services(spf="PREPEND Received-SPF: pass")
    judged = engine(services, {"name": "spf"})

    async def both() -> list[Any]:
        first = await judged.ask(context())  # type: ignore[misc]
        assert isinstance(first, Decision) and first.verb == "accept"
        services.answers["spf"] = "DUNNO"
        two = tuple(Recipient(address=parse_address(octets)[0]) for octets in (b"user@example.com", b"b@example.com"))
        second = await judged.ask(context(recipient=two[1], recipients=two[:1], trail=first.verdicts))  # type: ignore[misc]
        trail = first.verdicts + second.verdicts
        groups = judged.message(context("message", recipient=None, recipients=two, trail=trail))
        assert isinstance(groups, list)
        return groups

    (group,) = asyncio.run(both())
    assert group.recipients == (0, 1)
    assert [(edit.name, edit.value) for edit in group.decision.edits] == [("Received-SPF", "pass")]
