"""`postgate check` and `postgate table` as commands: output, JSON, exit codes."""

import json

import trustme
from click.testing import CliRunner

from appliance.cli import check, table
from tests.config.folders import WIRING, Folder


def test_good(folder: Folder) -> None:
    done = CliRunner().invoke(check.command, ["--config", folder.main])
    assert done.exit_code == 0, done.output
    assert done.output.startswith(
        "good: mx.example.com, public (inbound) on 127.0.0.1:2525; 1 domain to smtp:[10.0.0.25]:25;"
    )


def test_mistakes(folder: Folder) -> None:
    folder.wiring(WIRING.replace("next_hop", "next_hopp"))
    done = CliRunner().invoke(check.command, ["--config", folder.main])
    assert done.exit_code == 1
    assert f'{folder.main}:11:1: unknown key "next_hopp" in [relay] (did you mean next_hop?)\n' in done.output


def test_warnings_do_not_fail(folder: Folder) -> None:
    folder.wiring(WIRING.replace('["example.com"]', "[]"))
    done = CliRunner().invoke(check.command, ["--config", folder.main])
    assert done.exit_code == 0
    assert f"{folder.main}:10:11: warning: relay.domains is empty" in done.output


def test_a_network_in_a_table_of_exact_keys_is_a_warning_with_its_place(folder: Folder) -> None:
    folder.write(
        "policies/access.toml",
        'client = [\n  "inline:{ 192.0.2.0/24=REJECT }",\n  "texthash:access/client",\n'
        '  "unionmap:{inline:{ 10/8=OK }, static:OK}",\n  "cidr:access/nets",\n]\n',
    )
    client = folder.write("policies/access/client", "198.51.100 REJECT\n198.51.100.0/24 REJECT\n")
    folder.write("policies/access/nets", "203.0.113.0/24 REJECT\n")
    done = CliRunner().invoke(check.command, ["--config", folder.main])
    told = [line for line in done.output.splitlines() if "never matches here" in line]
    assert done.exit_code == 0, done.output
    access = f"{folder.path}/policies/access.toml"
    assert [line.partition(" warning: ")[0] for line in told] == [f"{access}:2:3:", f"{access}:4:3:", f"{client}:2:1:"]
    assert all("a cidr: table" in line for line in told)


def test_lists_behind_a_public_resolver_are_a_warning(folder: Folder) -> None:
    folder.wiring(WIRING + '[dns]\nnameservers = ["192.0.2.53", "8.8.8.8:53"]\n')
    assert "public resolver" not in CliRunner().invoke(check.command, ["--config", folder.main]).output  # no list is on
    folder.write("policies/dnsbl.toml", 'client = ["bl.example.net"]\n')
    done = CliRunner().invoke(check.command, ["--config", folder.main])
    assert done.exit_code == 0, done.output
    assert (
        f"{folder.main}:13:15: warning: DNS lists do not answer a public resolver (8.8.8.8 (Google)): run" in done.output
    )
    folder.wiring(WIRING + '[dns]\nnameservers = ["192.0.2.53"]\n')
    assert "public resolver" not in CliRunner().invoke(check.command, ["--config", folder.main]).output


def test_call_ahead_that_may_go_round_is_a_warning(folder: Folder) -> None:
    """milterd asks the next hop, which is the Postfix that asks milterd."""

    def told() -> str:
        done = CliRunner().invoke(check.command, ["--config", folder.main])
        assert done.exit_code == 0, done.output
        return done.output

    here = WIRING.replace("smtp:[10.0.0.25]:25", "smtp:[127.0.0.1]:10026")
    assert here != WIRING
    folder.wiring(here)
    assert "call-ahead" not in told()  # nobody asks us
    front = '[[milterd]]\naddress = "inet:127.0.0.1:10041"\n'
    folder.wiring(here + front)
    assert "warning: call-ahead asks smtp:[127.0.0.1]:10026 for recipients: if that is the MTA which asks milt" in told()
    folder.wiring(WIRING + front)
    assert "call-ahead" not in told()  # another machine
    folder.wiring(here + front)
    folder.write("policies/recipient.toml", "callahead = false\n")
    assert "call-ahead" not in told()


def test_could_not_run(folder: Folder) -> None:
    done = CliRunner().invoke(check.command, ["--config", f"{folder.main}.none"])
    assert done.exit_code == 2
    assert "cannot be read: No such file or directory" in done.output


def test_a_certificate_that_no_listener_could_use_is_a_mistake(folder: Folder) -> None:
    one, other = (trustme.CA().issue_cert("mx.example.com") for _ in range(2))
    folder.write("chain.pem", one.cert_chain_pems[0].bytes())
    folder.write("key.pem", other.private_key_pem.bytes())
    folder.wiring(WIRING.replace("[relay]", 'tls = { certificate = "chain.pem", key = "key.pem" }\n[relay]'))
    done = CliRunner().invoke(check.command, ["--config", folder.main])
    assert done.exit_code == 1
    assert f'{folder.main}:9:23: listener "public": {folder.path}/chain.pem: the key does not belong to' in done.output
    folder.write("key.pem", one.private_key_pem.bytes())
    assert CliRunner().invoke(check.command, ["--config", folder.main]).exit_code == 0
    folder.write("chain.pem", "rubbish")
    done = CliRunner().invoke(check.command, ["--config", folder.main])
    assert (done.exit_code, "chain.pem: no certificate in it" in done.output) == (1, True)


def test_a_zone_file_that_is_none_is_a_mistake(folder: Folder) -> None:
    folder.wiring(WIRING + '[dns]\nzone = "names"\n')
    folder.write("names", "; names\nmx.example.com. IN A 192.0.2.1\n")
    done = CliRunner().invoke(check.command, ["--config", folder.main])
    assert done.exit_code == 1
    assert f'{folder.path}/names:2:1: no zone file: no time to live: write "$TTL 300" in the first line' in done.output
    folder.write("names", "$TTL 300\nmx.example.com. IN A 192.0.2.300\n")
    done = CliRunner().invoke(check.command, ["--config", folder.main])
    assert (done.exit_code, f"{folder.path}/names:2:1: no zone file: the value" in done.output) == (1, True)
    folder.write("names", "$TTL 300\nmx.example.com. IN AB 192.0.2.3\n")
    done = CliRunner().invoke(check.command, ["--config", folder.main])
    assert (done.exit_code, f"{folder.path}/names:2:1: no zone file: unknown" in done.output) == (1, True)
    folder.write("names", "$TTL 300\nmx.example.com. IN A 192.0.2.1\n")
    assert CliRunner().invoke(check.command, ["--config", folder.main]).exit_code == 0


def test_how_a_list_is_written(folder: Folder) -> None:
    folder.wiring(WIRING.replace("[[listen]]", "[listen]") + '[dns]\nnameservers = "127.0.0.1"\n[queue]\nmax = 1\n')
    output = CliRunner().invoke(check.command, ["--config", folder.main]).output
    assert "listen must be a list, not a table: write [[listen]]" in output
    assert 'dns.nameservers must be a list, not "127.0.0.1": write ["127.0.0.1"]' in output
    folder.wiring(WIRING.replace("[relay]", 'tls = { cert = "a" }\n[relay]').replace("mx.example.com", "mx"))
    output = CliRunner().invoke(check.command, ["--config", folder.main]).output
    assert 'unknown key "cert" in [listen[0].tls] (there are certificate, key)' in output


def test_a_host_name_without_a_domain_is_warned_of(folder: Folder) -> None:
    folder.wiring(WIRING.replace("mx.example.com", "mx"))
    done = CliRunner().invoke(check.command, ["--config", folder.main])
    assert (done.exit_code, f"{folder.main}:2:12: warning: gateway.hostname: others expect" in done.output) == (0, True)


def test_json(folder: Folder) -> None:
    done = CliRunner().invoke(check.command, ["--config", folder.main, "--json"])
    good = json.loads(done.output)
    assert (done.exit_code, good["ok"], good["mistakes"]) == (0, True, [])
    assert good["next_hop"] == ["smtp:[10.0.0.25]:25"]
    folder.wiring("[smtp]\nx = 1\n")
    done = CliRunner().invoke(check.command, ["--config", folder.main, "--json"])
    bad = json.loads(done.output)
    assert (done.exit_code, bad["ok"]) == (1, False)
    first = bad["mistakes"][0]
    assert (first["file"], first["line"], first["column"], first["fatal"]) == (folder.main, 2, 1, True)
    done = CliRunner().invoke(check.command, ["--config", "/nonexistent/x", "--json"])
    assert done.exit_code == 2 and json.loads(done.output)["ok"] is False


def test_table(folder: Folder) -> None:
    path = folder.write("nets.cidr", "10.0.0.0/8 REJECT inside\n")
    done = CliRunner().invoke(table.command, [path, "10.1.2.3"])
    assert (done.exit_code, done.output) == (0, f"10.1.2.3\tREJECT inside\t{path}:1\n")
    done = CliRunner().invoke(table.command, [f"cidr:{path}", "192.0.2.1", "--json"])
    assert done.exit_code == 1
    assert json.loads(done.output) == {"key": "192.0.2.1", "value": None, "place": None}
    done = CliRunner().invoke(table.command, ["inline:{ a=b }", "a"])
    assert (done.exit_code, done.output) == (0, "a\tb\tinline:1\n")
    assert CliRunner().invoke(table.command, ["hash:x", "a"]).exit_code == 2
    assert CliRunner().invoke(table.command, [f"{path}.none", "a"]).exit_code == 2
