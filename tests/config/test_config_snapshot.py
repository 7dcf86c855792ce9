"""build(): every mistake at once, with its place, whatever is broken; and what a good configuration becomes."""

from pathlib import Path
from typing import Any

import msgspec
import pytest

from appliance.config import blob
from appliance.config import snapshot as snapshot_module
from appliance.config.snapshot import ConfigError, Mistake, Snapshot, build
from appliance.protocol.smtp.address import Address
from tests.config.folders import WIRING, Folder


def mistakes(folder: Folder) -> list[Mistake]:
    with pytest.raises(ConfigError) as caught:
        build(blob.read(folder.main))
    return caught.value.mistakes


def told(folder: Folder) -> list[str]:
    """All mistakes as text, without the folder."""
    return [str(mistake).replace(f"{folder.path}/", "") for mistake in mistakes(folder)]


def good(folder: Folder) -> Snapshot:
    return build(blob.read(folder.main))


def test_a_compiled_table_that_is_not_there_is_made_by_postmap(folder: Folder) -> None:
    folder.wiring(WIRING + 'routes = ["btree:transport", "texthash:none"]\n')
    with pytest.raises(ConfigError) as caught:
        build(blob.read(folder.main))
    texts = [mistake.text for mistake in caught.value.mistakes]
    path = folder.path / "transport"
    assert f"{path}.db cannot be read: No such file or directory (postmap btree:{path} makes it)" in texts
    assert f"{folder.path}/none cannot be read: No such file or directory" in texts


def test_a_good_folder(folder: Folder) -> None:
    snapshot = good(folder)
    assert snapshot.wiring.gateway.state_dir == f"{folder.path}/state"
    assert snapshot.wiring.relay.next_hop == ("smtp:[10.0.0.25]:25",)
    assert snapshot.hash == snapshot.blob.hash and len(snapshot.hash) == 12
    assert snapshot.warnings == ()


def test_all_mistakes_of_all_files_at_once(folder: Folder) -> None:
    folder.wiring(
        WIRING.replace("state_dir", "state_dri")
        + """
[smpt]
x = 1
[smtp]
size_limt = 5
bare_lf = "normalise"
size_limit = "50M"
[queue]
retry_min = "60"
[[listen]]
name = "public"
address = "localhost:25"
xclient = ["10.0.0.1/8", "nonsense"]
tls = { certificate = "c.pem" }
[relay.routes]
"example.org" = ["smtp:10.0.0.1"]
[scanners.x]
kind = "clam"
[limits]
recipients = 5
errors_soft = true
"""
    )
    folder.write("policies/helo.toml", 'mode = "enforced"\nfoo = 1\n')
    folder.write("policies/size.toml", 'mode = "off"\n[on]\nover = \n')
    found = told(folder)
    expected = [
        'gateway.toml:3:1: unknown key "state_dri" in [gateway] (did you mean state_dir?)',
        "gateway.toml:13:1: unknown section [smpt] (did you mean smtp?)",
        'gateway.toml:16:1: unknown key "size_limt" in [smtp] (did you mean size_limit?)',
        'gateway.toml:17:11: smtp.bare_lf must be "normalize" or "reject", not "normalise" (did you mean normalize?)',
        'gateway.toml:18:14: smtp.size_limit must be a whole number, not "50M"',
        "gateway.toml:20:13: queue.retry_min: a duration is written",
        'gateway.toml:23:11: listen[1].address: "localhost" is no address',
        'gateway.toml:24:12: listen[1].xclient[0]: "10.0.0.1/8" has bits set behind its length',
        'gateway.toml:24:26: listen[1].xclient[1]: "nonsense" is no network',
        'gateway.toml:27:18: relay.routes.example.org[0]: "smtp:10.0.0.1" is no next hop: an address stands in brackets',
        'gateway.toml:29:8: scanners.x.kind must be "clamd"',
        "gateway.toml:31:14: limits.recipients must be at least 100, not 5",
        "gateway.toml:32:15: limits.errors_soft must be a whole number, not true",
        "policies/helo.toml:1:8:",
        "policies/helo.toml:2:",
        "policies/size.toml:3:8: no value",
    ]
    for text in expected:
        assert any(line.startswith(text) for line in found), f"{text}\n not in\n" + "\n".join(found)
    assert found == told(folder), "not deterministic"


def test_policies_are_checked_although_the_wiring_is_no_toml(folder: Folder) -> None:
    folder.wiring('[gateway\npolicies = "rules"\n')
    folder.write("rules/helo.toml", "foo = 1\n")
    found = told(folder)
    assert found[0].startswith("gateway.toml:1:9: expected ']'")
    assert any(line.startswith("rules/helo.toml:1:") for line in found)


@pytest.mark.parametrize(
    ("extra", "expected"),
    [
        ('[[listen]]\nname = "public"\naddress = "127.0.0.1:26"\n', '13:8: the name "public" is taken by listen[0]'),
        (
            '[[listen]]\nname = "b"\naddress = "127.0.0.1:2525"\n',
            "14:11: 127.0.0.1:2525 is the address of listen[0] already",
        ),
        (
            '[[milterd]]\naddress = "inet:127.0.0.1:2525"\n',
            "13:11: 127.0.0.1:2525 is the address of listen[0] already",
        ),
        (
            '[[milterd]]\naddress = "inet:0.0.0.0:2525"\n',
            "13:11: 0.0.0.0:2525 cannot be listened on beside 127.0.0.1:2525 of listen[0]",
        ),
        (
            '[[milterd]]\naddress = "inet:[::]:26"\n[[policyd]]\naddress = "inet:[::1]:26"\n',
            "15:11: [::1]:26 cannot be listened on beside [::]:26 of milterd[0]",
        ),
        (
            '[[milterd]]\n[[milterd]]\naddress = "unix:a"\n',
            '13:1: the name "milter" is taken by milterd[0]',
        ),
        (
            '[[listen]]\nname = "b"\naddress = "[::]:26"\ntls = { key = "k" }\n',
            "15:9: tls has a key without a certificate",
        ),
        (
            '[[listen]]\nname = "b"\naddress = "[::]:26"\nprotocol = "milter"\n',
            '15:12: protocol "milter" has a block of its',
        ),
        ('[[listen]]\nname = "b"\naddress = "[::]:26"\nprotocol = "policy"\n', "a block of its own, [[policyd]], and no"),
        ('[scanners.x]\nkind = "clamd"\n', '13:8: a scanner of kind clamd needs "address"'),
        ('[queue]\nretry_min = "2h"\n', "13:13: queue.retry_min is longer than retry_max"),
        ('[relay.routes]\n"a.example" = "smtp:[127.0.0.1]:2525"\n', "13:15: smtp:[127.0.0.1]:2525 is our own listen[0]"),
        (
            '[relay.routes]\nexample.org = "smtp:[10.0.0.1]"\n',
            "13:1: relay.routes.example: a key with dots must be quoted",
        ),
        ('[dns]\nzone = "no.zone"\n', "13:8: "),
        ('[logging]\nmetrics = "0.0.0.0:9000"\n', "13:11: logging.metrics listens on a loopback address"),
        ('[dns]\nnameservers = ["ns.example"]\n', '13:16: dns.nameservers[0]: "ns.example" is no address'),
        ("[limits]\nsize_limit = 5\n", 'unknown key "size_limit" in [limits]'),
        ('[smtp]\nbanner = "a\\r\\nb"\n', "13:10: smtp.banner"),
    ],
)
def test_what_does_not_fit_together(folder: Folder, extra: str, expected: str) -> None:
    folder.write("k", "a key")
    folder.wiring(WIRING + extra)
    found = told(folder)
    assert len(found) == 1, found
    assert expected in found[0]


@pytest.mark.parametrize(
    ("domain", "word"),
    [('".example.com"', "pcre"), ('"*.example.com"', "pcre"), ('"a b"', "no domain name"), ('"texthsh:x"', "texthash:")],
)
def test_relay_domains_are_exact(folder: Folder, domain: str, word: str) -> None:
    folder.wiring(WIRING.replace('["example.com"]', f"[{domain}]"))
    assert word in told(folder)[0]
    assert told(folder)[0].startswith("gateway.toml:10:12: relay.domains[0]: ")


def test_files_that_cannot_be_read_are_named_where_they_are_written(folder: Folder) -> None:
    folder.write("policies/access.toml", 'client = ["texthash:access/nope"]\n')
    (folder.path / "folder").mkdir()
    folder.wiring(
        WIRING.replace('"example.com"', '"texthash:nope"')
        + '[[listen]]\nname = "b"\naddress = "[::]:26"\ntls = { certificate = "c.pem", key = "folder" }\n'
    )
    assert told(folder) == [
        "gateway.toml:10:12: nope cannot be read: No such file or directory",
        "gateway.toml:15:23: c.pem cannot be read: No such file or directory",
        "gateway.toml:15:38: folder cannot be read: is not a regular file",
        "policies/access.toml:1:11: policies/access/nope cannot be read: No such file or directory",
    ]


def test_mistakes_in_tables_have_the_place_in_the_table(folder: Folder) -> None:
    folder.write("policies/access.toml", 'client = ["cidr:access/nets", "inline:{ a=OK, c }"]\n')
    folder.write("policies/access/nets", "10.0.0.0/8 OK\n10.0.0.1/8 OK\n")
    found = told(folder)
    assert found[0].startswith("policies/access.toml:1:31: item 2: ")
    assert found[1].startswith("policies/access/nets:2:1: ")


def test_a_scanner_that_a_policy_names_must_be_configured(folder: Folder, monkeypatch: pytest.MonkeyPatch) -> None:
    real = snapshot_module.compile_policies

    def naming(parsed: Any, **rest: Any) -> Any:
        """As if a check had a knob that names scanners."""
        policies, _ = real({name: file for name, file in parsed.items() if name != "scan.toml"}, **rest)
        return msgspec.structs.replace(policies, scanners=frozenset({"clamaw", "clamav"})), []

    monkeypatch.setattr(snapshot_module, "compile_policies", naming)
    folder.write("policies/scan.toml", 'mode = "enforce"\nscanners = ["clamav", "clamaw"]\n')
    folder.wiring(WIRING + '[scanners.clamav]\nkind = "clamd"\naddress = "unix:/run/c"\n')
    assert told(folder) == [
        'policies/scan.toml:2:23: scanner "clamaw" is not configured: [scanners.clamaw] is missing (did you mean clamav?)'
    ]


def test_a_milter_of_a_listener_that_is_not_there_is_a_mistake(folder: Folder) -> None:
    """Nobody would ever ask it, and nobody would say so."""
    one = '[[listen]]\nname = "submission"\nrole = "outbound"\naddress = "127.0.0.1:2587"\n'
    front = '[[milterd]]\nname = "front"\naddress = "inet:127.0.0.1:2589"\n'
    folder.wiring(WIRING + one + front)
    entry = 'milters = [{ name = "sign", address = "inet:127.0.0.1:8891", roles = "outbound", listeners = %s }]\n'
    folder.write("policies/milters.toml", entry % '["submission", "front"]')
    good(folder)
    folder.write("policies/milters.toml", entry % '"submision"')
    (wrong,) = told(folder)
    assert wrong == 'policies/milters.toml:1:94: no listener is called "submision" (did you mean submission?)'


def test_tables_of_policies_and_of_the_wiring(folder: Folder) -> None:
    folder.write("policies/access.toml", 'client = ["texthash:access/client", "inline:{ a=OK }"]\n')
    folder.write("policies/access/client", "192.0.2.1 REJECT\n")
    folder.write("domains", "example.org x\n")
    folder.wiring(WIRING.replace('["example.com"]', '["example.com", "texthash:domains"]'))
    snapshot = good(folder)
    assert snapshot.tables["texthash:access/client"].get("192.0.2.1") == (
        "REJECT",
        f"{folder.path}/policies/access/client:1",
    )
    assert snapshot.tables["inline:{ a=OK }"].get("a") == ("OK", "inline:1")
    assert snapshot.tables[f"texthash:{folder.path}/domains"].get("example.org") is not None
    assert f"{folder.path}/domains" in snapshot.table_files


def test_duplicates_in_a_table_are_warnings(folder: Folder) -> None:
    folder.write("policies/access.toml", 'client = "texthash:t"\n')
    folder.write("policies/t", "a OK\na REJECT\n")
    warnings = good(folder).warnings
    assert [(warning.line, warning.fatal) for warning in warnings] == [(2, False)]


def test_a_missing_policies_folder_means_the_shipped_policies(folder: Folder) -> None:
    folder.wiring(WIRING.replace("state_dir", 'policies = "elsewhere"\nstate_dir'))
    found = build_or_mistakes(folder)
    assert any("gateway.toml:3:12:" in str(mistake) and not mistake.fatal for mistake in found)


def build_or_mistakes(folder: Folder) -> list[Mistake]:
    try:
        return list(good(folder).warnings)
    except ConfigError as error:
        return error.mistakes


def test_the_operators_file_wins_over_the_shipped_one(folder: Folder) -> None:
    read = blob.read(folder.main)
    assert read.policies["stages.toml"] == f"{folder.path}/policies/stages.toml"
    assert Path(read.policies["relay.toml"]).parent == Path(blob.shipped_policies())


def test_a_transport_table_is_checked_value_by_value(folder: Folder) -> None:
    folder.write(
        "transport",
        "example.com smtp:[10.0.0.1]\nb.example local:\nc.example uucp:x\nd.example smtp:10.0.0.1\n"
        "e.example smtp:[127.0.0.1]:2525\n",
    )
    folder.wiring(WIRING.replace("next_hop", 'routes = "texthash:transport"\nnext_hop'))
    assert [line.split(": ")[0] for line in told(folder)] == [
        "transport:2:1",
        "transport:3:1",
        "transport:4:1",
        "transport:5:1",
    ]
    assert told(folder)[3].endswith("smtp:[127.0.0.1]:2525 is our own listen[0]: mail would go round in a loop")


def test_what_a_mailertable_cannot_mean_here_is_named(folder: Folder) -> None:
    folder.write(
        "mailertable", "a.example esmtp:[10.0.0.1]\nb.example local:joe\nc.example error:5.1.1:550 no\n. procmail:x\n"
    )
    folder.wiring(WIRING.replace("next_hop", 'routes = "sendmail_mailertable:mailertable"\nnext_hop'))
    lines = told(folder)
    assert [line.split(": ")[0] for line in lines] == ["mailertable:2:1", "mailertable:4:1"]
    assert all("delivers to mailboxes, and there are none here" in line for line in lines)


def test_tables_whose_octets_did_not_change_are_not_opened_again(folder: Folder) -> None:
    folder.write("policies/access.toml", 'client = ["texthash:a", "texthash:b"]\n')
    folder.write("policies/a", "x OK\n")
    folder.write("policies/b", "x OK\n")
    before = good(folder)
    folder.write("policies/b", "x REJECT\n")
    after = build(blob.read(folder.main), before)
    assert after.tables["texthash:a"] is before.tables["texthash:a"]
    assert after.tables["texthash:b"].get("x") == ("REJECT", f"{folder.path}/policies/b:1")
    assert after.hash != before.hash


@pytest.mark.parametrize(
    "data",
    [b"\xff\xfe", b"\0", b"\xef\xbb\xbf[gateway]\n", b"a = {\n}\n", b"[", b"relay = 5\n", b"listen = 1\nscanners = []\n"],
)
def test_no_content_makes_it_crash(folder: Folder, data: bytes) -> None:
    folder.write("gateway.toml", data)
    folder.write("policies/relay.toml", data)
    folder.write("policies/stages.toml", data)
    assert mistakes(folder)


def test_without_a_next_hop_the_demo_inbox_takes_the_mail(folder: Folder) -> None:
    folder.wiring(WIRING.replace('next_hop = "smtp:[10.0.0.25]:25"\n', ""))
    snapshot = good(folder)
    assert snapshot.wiring.relay.next_hop == (f"lmtp:unix:{folder.path}/state/run/inbox.sock",)
    assert [warning.line for warning in snapshot.warnings] == [9]
    assert Address("a", "example.com", "a@example.com").domain in snapshot.wiring.relay.domains


def test_a_port_of_all_addresses_of_one_kind_is_free_for_the_other(folder: Folder) -> None:
    folder.wiring('[[milterd]]\naddress = "inet:[::]:2525"\n[[policyd]]\naddress = "inet:127.0.0.2:2525"\n')
    assert len([*good(folder).wiring.fronts()]) == 2
