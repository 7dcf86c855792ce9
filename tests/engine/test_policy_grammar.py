"""The grammar of policy files: every mistake at once, with its place and a hint; exceptions; the plan."""

from datetime import date
from typing import Any

import pytest

from appliance.engine.exceptions import end_of
from appliance.engine.plan import compile_plan
from appliance.engine.policy import Complaint, PolicySet, compile_policies
from appliance.mail.context import STAGES, Client, Tls
from appliance.mail.identity import Identity
from appliance.mail.verdict import Action
from appliance.protocol.smtp.address import Address
from tests.engine.scripted import check, context, recipient

REPLIES = {"reject": "550 5.7.1 No", "defer": "450 4.7.1 Later"}
CHECK = check("a", replies=REPLIES)
PLAN = {"inbound": {stage: ["a"] for stage in STAGES}}


def compiled(
    file: dict[str, Any], stages: dict[str, Any] | None = None, **more: Any
) -> tuple[PolicySet, list[Complaint]]:
    plan = stages if stages is not None else {"inbound": {stage: ["a"] if stage == "rcpt" else [] for stage in STAGES}}
    more.setdefault("checks", {"a": CHECK})
    return compile_policies({"stages.toml": plan, "a.toml": file}, today=date(2026, 11, 21), **more)


def complaints(file: dict[str, Any], **more: Any) -> list[tuple[tuple[str | int, ...], str]]:
    return [(c.path, c.text) for c in compiled(file, **more)[1]]


@pytest.mark.parametrize(
    ("file", "path", "text"),
    [
        ({"mod": "off"}, ("mod",), "unknown key mod (did you mean mode?)"),
        ({"limitt": 1}, ("limitt",), "unknown key limitt (did you mean limit?)"),
        ({"limit": "x"}, ("limit",), "must be a whole number, not 'x'"),
        ({"limit": -1}, ("limit",), "must be at least 0, not -1"),
        ({"wait": 5}, ("wait",), 'a duration is written "<number><s|m|h|d|w>", for example "90s" or "2d"'),
        ({"lists": "nofile"}, ("lists",), 'a table is written "type:name", for example'),
        ({"mode": "enforced"}, ("mode",), "mode is one of enforce, monitor, off, not 'enforced' (did you mean enforce?)"),
        ({"on": "reject"}, ("on",), "[on] must be a table"),
        ({"on": {"rejct": "defer"}}, ("on", "rejct"), "a has no outcome rejct (did you mean reject?)"),
        ({"on": {"fine": "rejected"}}, ("on", "fine"), "no action is called 'rejected' (did you mean reject?)"),
        ({"on": {"fine": "REJECT"}}, ("on", "fine"), "no action is called 'REJECT' (did you mean reject?)"),
        ({"on": {"fine": "tag"}}, ("on", "fine"), "no action is called 'tag' (there are accept, "),
        ({"on": {"fine": 5}}, ("on", "fine"), "no action is called 5"),
        ({"on": {"fine": "reject Go away"}}, ("on", "fine"), "reject takes no argument"),
        ({"on": {"fine": "bcc"}}, ("on", "fine"), "bcc needs an address, for example bcc audit@example.com"),
        ({"on": {"fine": "redirect a b@example.com"}}, ("on", "fine"), "redirect needs an address, for example redirect"),
        ({"on": {"fine": "prepend nothing"}}, ("on", "fine"), "prepend needs a header field"),
        ({"on": {"fine": "prepend X: a\r\nY: b"}}, ("on", "fine"), "an argument is one line"),
        ({"reply": {"reject": "5 No"}}, ("reply", "reject"), 'a reply is written "<code> <enhanced code> <text>"'),
        ({"reply": {"reject": "550 No"}}, ("reply", "reject"), 'a reply is written "<code> <enhanced code> <text>"'),
        ({"reply": {"reject": "250 2.0.0 Yes"}}, ("reply", "reject"), "the code of a refusal is 400 to 599, not 250"),
        ({"reply": {"reject": "550 4.7.1 No"}}, ("reply", "reject"), "the classes of 550 and 4.7.1 differ"),
        ({"reply": {"reject": "550 5.7.1 " + "x" * 400}}, ("reply", "reject"), "a reply has at most 400 characters"),
        ({"reply": {"reject": "550 5.7.1 a\nb"}}, ("reply", "reject"), "a reply is one line of printable ASCII"),
        ({"reply": {"reject": 7}}, ("reply", "reject"), "a reply is written"),
        ({"exception": {}}, ("exception",), "exceptions are written [[exception]]"),
    ],
)
def test_mistakes(file: dict[str, Any], path: tuple[str, ...], text: str) -> None:
    ((where, found),) = complaints(file)
    assert where[: len(path)] == path and found.startswith(text)


GOOD = {"match": {"client_address": "192.0.2.0/24"}, "set": {"mode": "off"}}


@pytest.mark.parametrize(
    ("exception", "path", "text"),
    [
        (GOOD | {"unti": 1}, ("unti",), "unknown key unti (did you mean until?)"),
        (GOOD | {"until": "2027-03-31"}, ("until",), "until is a date"),
        (GOOD | {"owner": 5}, ("owner",), "owner is a text"),
        ({"match": {}, "set": {"mode": "off"}}, (), "an exception needs match"),
        ({"match": {"sender": "x@y"}}, (), "an exception needs match"),
        (
            GOOD | {"match": {"client": "x"}},
            ("match", "client"),
            "nothing to match is called client (did you mean client_",
        ),
        (
            GOOD | {"match": {"client_address": "192.0.2.x"}},
            ("match", "client_address"),
            '"192.0.2.x" is no network: write',
        ),
        (
            GOOD | {"match": {"client_name": "*.example.org"}},
            ("match", "client_name"),
            '"*.example.org" matches nothing: write "example.org", ".example.org" for all below it',
        ),
        (
            GOOD | {"match": {"recipient_domain": "@example.com"}},
            ("match", "recipient_domain"),
            '"@example.com" matches nothing: write "example.com"',
        ),
        (GOOD | {"match": {"sender": "*@example.com"}}, ("match", "sender"), '"*@example.com" matches nothing'),
        (GOOD | {"match": {"tls": ["none", "SSLv3"]}}, ("match", "tls"), "SSLv3 is no version of TLS: none, TLSv1,"),
        (GOOD | {"match": {"sender": 5}}, ("match", "sender"), "must be a text, or a list of texts"),
        (GOOD | {"match": {"sender": []}}, ("match", "sender"), "must be a text, or a list of texts"),
        (GOOD | {"set": {"mod": "off"}}, ("set", "mod"), "unknown key mod (did you mean mode?)"),
        (GOOD | {"set": {"mode": "of"}}, ("set", "mode"), "mode is one of"),
        (GOOD | {"set": {"reject": "x"}}, ("set", "reject"), "no action is called 'x'"),
        (GOOD | {"set": {"limit": "x"}}, ("set", "limit"), "must be a whole number"),
    ],
)
def test_mistakes_of_exceptions(exception: dict[str, Any], path: tuple[str, ...], text: str) -> None:
    ((where, found),) = complaints({"exception": [GOOD, exception]})
    assert where == ("exception", 1, *path) and found.startswith(text)


def test_all_mistakes_are_reported_at_once_and_the_shipped_values_stand_in() -> None:
    file = {"mode": "x", "limit": "x", "nix": 1, "on": {"fine": "x"}, "reply": {"fine": "x"}}
    file |= {"exception": [{"match": {}}]}
    policies, found = compiled(file)
    assert [c.path for c in found if c.fatal] == [
        ("mode",),
        ("limit",),
        ("nix",),
        ("on", "fine"),
        ("reply", "fine"),
        ("exception", 0),
    ]
    policy = policies.checks["a"]
    assert (policy.mode, policy.knobs.limit, policy.rulings["fine"].action) == ("enforce", 7, Action.DUNNO)  # type: ignore[attr-defined]


def test_a_reply_of_the_other_class_is_a_warning() -> None:
    (found,) = compiled({"on": {"defer": "reject"}})[1]
    assert not found.fatal and found.text == "rejects, but its reply is a 450: 550 will be sent"
    (found,) = compiled({"on": {"reject": "defer_if_permit"}})[1]
    assert not found.fatal and "450 will be sent" in found.text


def test_an_unknown_file_is_a_mistake() -> None:
    found = compile_policies({"aa.toml": {}, "stages.toml": PLAN}, checks={"a": CHECK})[1]
    assert found == [Complaint("aa.toml", (), "no check has this name (did you mean a.toml?)")]


# -- when facts are known --------------------------------------------------------------------------------------------


def stages(*names: str) -> dict[str, Any]:
    return {"inbound": {stage: ["a"] if stage in names else [] for stage in STAGES}}


@pytest.mark.parametrize(
    ("places", "match", "sets", "delay", "wrong"),
    [
        (("connect",), "client_name", "limit", True, ""),
        (("connect",), "helo_name", "limit", True, "helo_name is not known yet at connect"),
        (("connect", "rcpt"), "sender", "limit", True, "sender is not known yet at connect"),
        (("connect",), "recipient", "reject", True, ""),
        (("connect",), "recipient", "reject", False, "recipient is not known yet at connect"),
        (("mail",), "sender", "limit", False, ""),
        (("helo",), "identity", "limit", True, "identity is not known yet at helo"),
        (("mail",), "recipient_domain", "mode", False, "recipient_domain is not known yet at mail"),
        (("rcpt",), "recipient", "limit", True, ""),
        (("message",), "recipient", "reject", True, ""),
        (("message",), "recipient", "limit", True, ""),
        (("data",), "recipient", "reject", True, "at data there may be many recipients: an outcome cannot depend"),
        (("data",), "sender", "limit", True, ""),
        ((), "recipient", "limit", True, ""),
    ],
)
def test_facts_must_be_known_in_time(places: tuple[str, ...], match: str, sets: str, delay: bool, wrong: str) -> None:
    value = {"limit": 1, "reject": "dunno", "mode": "off"}[sets]
    file = {"exception": [{"match": {match: "example.com"}, "set": {sets: value}}]}
    found = complaints(file, stages=stages(*places), delay_reject=delay)
    assert [path for path, _ in found] == ([("exception", 0, "match", match)] if wrong else [])
    assert not wrong or found[0][1].startswith(wrong)


# -- matching --------------------------------------------------------------------------------------------------------


def applies(match: dict[str, Any], recipient_text: str = "r@example.com", **more: Any) -> bool:
    policies, found = compiled({"exception": [{"match": match, "set": {"limit": 1}}]}, checks={"a": CHECK})
    assert not found
    told = policies.checks["a"].under(context(**more), recipient(recipient_text).address)
    return told.knobs.limit == 1  # type: ignore[attr-defined]


NULL = Address("", "", "")
ENCRYPTED = Client(address="192.0.2.1", tls=Tls("TLSv1.3", "TLS_AES_256_GCM_SHA384", 256))


@pytest.mark.parametrize(
    ("match", "more", "expected"),
    [
        ({"client_address": "192.0.2.0/24"}, {}, True),
        ({"client_address": ["198.51.100.1", "192.0.2.1"]}, {}, True),
        ({"client_address": "192.0.2.2"}, {}, False),
        ({"client_name": "mail.example.net"}, {}, True),
        ({"client_name": "MAIL.example.NET"}, {}, True),
        ({"client_name": ".example.net"}, {}, True),
        ({"client_name": "example.net"}, {}, False),
        ({"client_name": ".ample.net"}, {}, False),
        ({"helo_name": "mail.example.net"}, {"helo": "Mail.Example.Net"}, True),
        ({"helo_name": ".net"}, {"helo": ""}, False),
        ({"identity": "192.0.2.0/24"}, {}, True),
        ({"identity": "example.net"}, {"identity": Identity(name="example.net", proof="spf")}, True),
        ({"identity": "192.0.2.0/24"}, {"identity": Identity(name="example.net", proof="spf")}, False),
        ({"identity": ".example.net"}, {"identity": Identity(name="a.example.net", proof="dkim")}, True),
        ({"identity": ["x.example", "Example.net"]}, {"identity": Identity(name="example.net", proof="name")}, True),
        ({"tls": "none"}, {}, True),
        ({"tls": ["TLSv1.2", "TLSv1.3"]}, {}, False),
        ({"tls": ["TLSv1.2", "TLSv1.3"]}, {"client": ENCRYPTED}, True),
        ({"tls": "none"}, {"client": ENCRYPTED}, False),
        ({"sender": "S@Example.net"}, {}, True),
        ({"sender": "example.net"}, {}, True),
        ({"sender": "@example.net"}, {}, True),
        ({"sender": "<>"}, {}, False),
        ({"sender": "<>"}, {"sender": NULL}, True),
        ({"sender": "example.net"}, {"sender": NULL}, False),
        ({"sender": "example.net"}, {"sender": None}, False),
        ({"recipient": "r@example.com"}, {}, True),
        ({"recipient": "q@example.com"}, {}, False),
        ({"recipient_domain": "example.com"}, {}, True),
        ({"recipient_domain": ".com"}, {}, True),
        ({"sender": "example.net", "recipient": "q@example.com"}, {}, False),
        ({"sender": "example.net", "recipient": "r@example.com"}, {}, True),
    ],
)
def test_matching(match: dict[str, Any], more: dict[str, Any], expected: bool) -> None:
    assert applies(match, **more) is expected


def test_a_mapped_address_is_the_ipv4_address() -> None:
    client = context().client.__class__(address="::ffff:192.0.2.1")
    assert applies({"client_address": "192.0.2.0/24"}, client=client)
    assert not applies({"client_address": "192.0.2.0/24"}, client=client.__class__(address="local"))


def test_every_exception_that_matches_applies_and_the_first_wins() -> None:
    match = {"client_address": "192.0.2.1"}
    listed = [
        {"match": match, "set": {"limit": 1}},
        {"match": match, "set": {"limit": 2, "reject": "mark", "mode": "monitor"}},
        {"match": {"client_address": "198.51.100.1"}, "set": {"wait": "1s"}},
    ]
    policies, _ = compiled({"limit": 9, "wait": "2m", "exception": listed})
    told = policies.checks["a"].under(context(), None)
    assert (told.knobs.limit, told.knobs.wait, told.mode) == (1, 120.0, "monitor")  # type: ignore[attr-defined]
    assert told.rulings["reject"].action is Action.MARK and told.rulings["reject"].mode == "monitor"


def test_an_exception_ends_after_its_last_day() -> None:
    for day, text in ((date(2026, 11, 20), "ended on 2026-11-20: inactive"), (date(2026, 11, 21), "")):
        policies, found = compiled({"exception": [GOOD | {"until": day}]})
        assert [c.text[: len(text)] for c in found] == ([text] if text else []) and not any(c.fatal for c in found)
        policy = policies.checks["a"]
        assert policy.under(context(now=end_of(day) - 1), None).mode == "off"
        assert policy.under(context(now=end_of(day)), None).mode == "enforce"


def test_what_policies_name_is_collected_also_from_exceptions() -> None:
    file = {
        "lists": "texthash:one",
        "scanners": ["clamav"],
        "exception": [{"match": {"sender": "x@y"}, "set": {"lists": ["cidr:two"], "scanners": "other"}}],
    }
    policies, found = compiled(file)
    assert not found
    assert policies.tables == {"texthash:one", "cidr:two"} and policies.scanners == {"clamav", "other"}


# -- stages.toml -----------------------------------------------------------------------------------------------------

KNOWN = {name: check(name) for name in ("relay", "recipient", "greylist", "size")}
ONLY_RCPT = KNOWN["relay"]._replace(stages=("rcpt",))


@pytest.mark.parametrize(
    ("plan", "path", "text"),
    [
        ({"inbuond": {}}, ("inbuond",), "unknown key inbuond (did you mean inbound?)"),
        ({"deadline": 5}, ("deadline",), "a duration is written"),
        ({"deadline": "0s"}, ("deadline",), "a deadline is at least 1s"),
        ({"inbound": []}, ("inbound",), "must be a table of stages"),
        ({"inbound": {"rctp": []}}, ("inbound", "rctp"), "no stage rctp (did you mean rcpt?)"),
        ({"inbound": {"mail": "size"}}, ("inbound", "mail"), "must be a list of checks"),
        ({"inbound": {"mail": ["sise"]}}, ("inbound", "mail", 0), "no check sise (did you mean size?)"),
        ({"inbound": {"mail": ["size", ["size"]]}}, ("inbound", "mail", 1), "size stands here twice"),
        ({"inbound": {"mail": ["size", "relay"]}}, ("inbound", "mail", 1), "relay cannot stand at mail, only at rcpt"),
        ({"inbound": {"mail": [[]]}}, ("inbound", "mail", 0), "an inner list names at least one check"),
        (
            {"inbound": {"mail": [["size", ["relay"]]]}},
            ("inbound", "mail", 0),
            "an inner list holds names of checks only",
        ),
        ({"inbound": {"rcpt": ["recipient"]}}, ("inbound", "rcpt"), "relay must stand here"),
        ({"inbound": {"rcpt": ["relay", "greylist"]}}, ("inbound", "rcpt"), "recipient must stand here"),
        (
            {"inbound": {"rcpt": ["relay", "greylist", "recipient"]}},
            ("inbound", "rcpt"),
            "recipient must stand before greylist",
        ),
    ],
)
def test_mistakes_of_the_plan(plan: dict[str, Any], path: tuple[str, ...], text: str) -> None:
    checks = KNOWN | {"relay": ONLY_RCPT}
    policies, found = compile_policies({"stages.toml": plan}, checks=checks)
    assert [(c.file, c.path, c.fatal) for c in found] == [("stages.toml", path, True)]
    assert found[0].text.startswith(text)
    assert policies.plan == compile_policies({}, checks=checks)[0].plan  # the shipped plan stands in, gates and all


def test_a_check_that_is_not_installed_is_a_warning_unless_it_is_a_gate() -> None:
    without = {name: made for name, made in KNOWN.items() if name != "greylist"}
    policies, (found,) = compile_policies(
        {"stages.toml": {"inbound": {"rcpt": ["relay", "recipient", "greylist"]}}}, checks=without
    )
    assert not found.fatal and found.text == "greylist is not installed: not asked"
    assert policies.plan.steps["inbound", "rcpt"] == (("relay",), ("recipient",))


def test_an_installation_without_its_gates_is_none() -> None:
    without = {name: made for name, made in KNOWN.items() if name != "relay"}
    found = compile_plan({}, without)[1]
    assert [(c.path, c.fatal) for c in found] == [(("inbound", "rcpt"), True)]


def test_an_absent_stage_is_as_shipped_and_an_empty_one_is_empty() -> None:
    policies, found = compile_policies({"stages.toml": {"inbound": {"mail": []}}}, checks=KNOWN)
    assert not found and policies.plan.steps["inbound", "mail"] == ()
    assert policies.plan.steps["inbound", "rcpt"] == (("relay",), ("recipient",), ("greylist",))


def test_relay_without_force_is_an_open_relay_and_said_so() -> None:
    for mode in ("off", "monitor"):
        (found,) = compile_policies({"relay.toml": {"mode": mode}}, checks=KNOWN)[1]
        assert not found.fatal and "relays for everybody" in found.text
