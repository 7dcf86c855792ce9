"""Words in access tables: a wrong one is a mistake of `postgate check`, with its place, before mail meets it."""

import pytest

from appliance.config import blob
from appliance.config.snapshot import ConfigError, build
from tests.config.folders import Folder


def told(folder: Folder) -> list[str]:
    with pytest.raises(ConfigError) as caught:
        build(blob.read(folder.main))
    return [str(mistake).replace(f"{folder.path}/", "") for mistake in caught.value.mistakes]


def test_every_word_that_is_no_action_is_told_with_its_line(folder: Folder) -> None:
    folder.write(
        "policies/access/client", "192.0.2.1 REJCET spam\n192.0.2.2 OK\n192.0.2.3 rejcet spam\n192.0.2.4 5500 x\n"
    )
    folder.write("policies/access/sender", "a@example.org REDIRECT nobody\nb@example.org 550 5.7.1 No\n")
    folder.write(
        "policies/access/rules", "if /x/\n/(.*)/ FILTER smtp\nendif\n/y(.)/ $1 REJECT\n/z/ HOLDD\n/w/ REJECT\tspam\n"
    )
    folder.write(
        "policies/access.toml",
        'recipient = ["pcre:access/rules", "inline:{ a=OK, {b=PREPEND nothing} }"]\n'
        'client = "texthash:access/client"\nsender = "texthash:access/sender"\n',
    )
    found = told(folder)
    assert found == [
        "policies/access.toml:1:35: item 2: prepend needs a header field",
        "policies/access/client:1:1: rejcet is no action of access(5) (did you mean reject?)",
        "policies/access/client:3:1: rejcet is no action of access(5) (did you mean reject?)",
        "policies/access/client:4:1: 5500 with a text behind it is no action of access(5)",
        "policies/access/rules:2:1: filter needs transport:destination",
        "policies/access/rules:5:1: holdd is no action of access(5) (did you mean hold?)",
        "policies/access/sender:1:1: redirect needs an address",
    ]


def test_tables_of_exceptions_are_looked_through_too(folder: Folder) -> None:
    folder.write("policies/access/partner", "x@example.org ALLOW\n")
    folder.write(
        "policies/access.toml",
        '[[exception]]\nmatch = { client_address = "192.0.2.1" }\nset = { sender = ["texthash:access/partner"] }\n'
        'reason = "r"\nowner = "o"\n',
    )
    assert told(folder) == ["policies/access/partner:1:1: allow is no action of access(5)"]


def test_a_table_of_another_check_holds_what_it_likes(folder: Folder) -> None:
    folder.write("list", "example.com whatever\n")
    folder.wiring('[gateway]\nstate_dir = "s"\n[relay]\ndomains = "texthash:list"\nnext_hop = "smtp:[192.0.2.1]:25"\n')
    assert build(blob.read(folder.main)).tables


def test_a_table_that_goes_wrong_in_a_reload_keeps_the_old_one(folder: Folder) -> None:
    folder.write("policies/access/sender", "a@example.org REJECT\n")
    before = build(blob.read(folder.main))
    folder.write("policies/access/sender", "a@example.org REJECTED\n")
    with pytest.raises(ConfigError, match=r"sender:1:1: rejected is no action of access\(5\)"):
        build(blob.read(folder.main), before)
    folder.write("policies/access/sender", "a@example.org REJECT\nb@example.org HOLD\n")
    assert build(blob.read(folder.main), before).hash != before.hash


def test_an_old_table_that_access_takes_up_now_is_looked_through(folder: Folder) -> None:
    folder.write("policies/recipients", "a@example.com yes\n")
    folder.write("policies/recipient.toml", 'tables = ["texthash:recipients"]\n')
    before = build(blob.read(folder.main))
    folder.write("policies/access.toml", 'recipient = ["texthash:recipients"]\n')
    with pytest.raises(ConfigError, match=r"recipients:1:1: yes is no action of access\(5\)"):
        build(blob.read(folder.main), before)


def test_trust_without_an_end_or_a_proof_is_told(folder: Folder) -> None:
    folder.write("policies/forwarders", "a.example until=2027-03-31 proof=name\nb.example proof=name\n")
    folder.write("policies/sealers", "a.example until=2027-03-31\nb.example until=soon\nc.example until=2027-01-01 x\n")
    folder.write(
        "policies/dmarc.toml",
        'trusted_forwarders = "texthash:forwarders"\ntrusted_sealers = "texthash:sealers"\n',
    )
    assert told(folder) == [
        "policies/forwarders:2:1: until=YYYY-MM-DD is missing: trust needs an end",
        "policies/sealers:2:1: until=soon is no day: write YYYY-MM-DD",
        "policies/sealers:3:1: x is not understood here: write until=2027-03-31",
    ]


def test_a_list_of_domains_that_is_none_is_told(folder: Folder) -> None:
    folder.write("policies/sources", "192.0.2.0/24 example.com, .example.net\n192.0.2.1 joe@example.com\n")
    folder.write("policies/own_domain.toml", 'sources = "cidr:sources"\n')
    folder.write("policies/impersonation.toml", 'people = ["inline:{ {jane.doe=example.com /x/} }"]\n')
    assert told(folder) == [
        "policies/impersonation.toml:1:11: item 1: /x/ is no domain: write example.com, .example.com for all below it, "
        'or "*"',
        'policies/sources:2:1: joe@example.com is no domain: write example.com, .example.com for all below it, or "*"',
    ]


def test_a_demand_for_tls_that_is_none_is_told(folder: Folder) -> None:
    folder.write("policies/access/tls", "bank.example required\nb.example require\n")
    folder.write("policies/tls.toml", 'senders = "texthash:access/tls"\nclients = "inline:{ c.example=TLS1.3 }"\n')
    found = told(folder)
    assert [text.partition(" is none of")[0] for text in found] == [
        "policies/access/tls:2:1: 'require'",
        "policies/tls.toml:2:11: item 1: 'TLS1.3'",
    ]


def test_trust_that_has_ended_is_a_warning(folder: Folder) -> None:
    folder.write("policies/forwarders", "a.example until=2020-03-31 proof=name\nb.example until=2999-12-31 proof=spf\n")
    folder.write("policies/dmarc.toml", 'trusted_forwarders = "texthash:forwarders"\n')
    assert [str(warning).replace(f"{folder.path}/", "") for warning in build(blob.read(folder.main)).warnings] == [
        "policies/forwarders:1:1: ended on 2020-03-31: without effect, remove it or set a later date"
    ]


def test_the_default_of_a_policy_service_is_told_with_what_is_near(folder: Folder) -> None:
    words = ("DUNO", "DEFER_IF_PERMT x", "PREPEND x", "sometimes", "4510 try later")
    lines = (
        f'{{ name = "s{number}", address = "inet:127.0.0.1:1", default = "{word}" }}' for number, word in enumerate(words)
    )
    folder.write("policies/policy_services.toml", "services = [\n" + ",\n".join(lines) + "\n]\n")
    assert [text.partition("policy_services.toml:")[2] for text in told(folder)] == [
        "2:56: duno is no action of access(5) (did you mean dunno?)",
        "3:56: defer_if_permt is no action of access(5) (did you mean defer_if_permit?)",
        "4:56: prepend needs a header field",
        "5:56: sometimes is no action of access(5)",
        "6:56: 4510 with a text behind it is no action of access(5)",
    ]
