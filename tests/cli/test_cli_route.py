"""`postgate route`: the table, the line and the next hop of an address, and as what its mail leaves."""

import json
import re
import sqlite3
from pathlib import Path

import pytest
from click.testing import CliRunner, Result

from appliance.cli import main

CONFIG = """\
[gateway]
hostname = "mx.example.com"
state_dir = "state"
[relay]
domains = ["example.com", "example.org"]
next_hop = "smtp:[10.0.0.1]"
routes = ["texthash:transport", "sqlite:more.cf"]
sender_dependent_relayhost_maps = "inline:{ @example.com=[10.0.0.8] }"
[relay.tls]
"lmtp:unix:/run/lmtp" = "none"
"*" = "verify"
[addresses]
smtp_generic_maps = "inline:{ ann@corp.local=ann.smith@example.com }"
lmtp_generic_maps = "inline:{ ann@corp.local=archived@example.com }"
[filters.mailman]
command = ["/bin/cat"]
flags = "X"
[filters.archive]
next_hop = "lmtp:unix:/run/archive"
delivers = true
[filters.scan]
next_hop = "smtp:[127.0.0.1]:10024"
"""
TRANSPORT = """\
boss@example.com    smtp:[10.0.0.2]:26, b.example
.sub.example        lmtp:unix:/run/lmtp
gone@example.com    error:5.1.6 moved
later@example.com   retry:4.3.0 soon
hole@example.com    discard:
same@example.com    :
lists.example.com   mailman:
.lists.example.com  mailman:other
news.example.com    archive:
vip@example.com     scan:
"""


@pytest.fixture
def ask(tmp_path: Path):
    (tmp_path / "postgate.toml").write_text(CONFIG)
    (tmp_path / "transport").write_text(TRANSPORT)
    (tmp_path / "more.cf").write_text(f"dbpath = {tmp_path}/t.db\nquery = SELECT v FROM t WHERE k = '%s'\n")
    with sqlite3.connect(tmp_path / "t.db") as db:
        db.execute("CREATE TABLE t (k, v)")
        db.executemany(
            "INSERT INTO t VALUES (?, ?)", [("db@example.com", "smtp:[10.0.0.9]"), ("bad@example.com", "local:")]
        )
    db.close()

    def run(*words: str) -> Result:
        return CliRunner().invoke(main, ["route", *words, "--config", str(tmp_path / "postgate.toml")])

    return run


@pytest.mark.parametrize(
    ("words", "code", "lines"),
    [
        (["boss+x@example.com"], 0, ["transport:1", "boss@example.com  smtp:[10.0.0.2]:26, b.example"]),
        (["boss@example.com"], 0, ["= smtp:[10.0.0.2]:26  (TLS: verify)", "= smtp:b.example  (TLS: verify, by MX)"]),
        (["x@a.sub.example"], 0, ["= lmtp:unix:/run/lmtp  (TLS: none)", "by [relay] routes"]),
        (["ann@example.org"], 0, ["by [relay] next_hop", "= smtp:[10.0.0.1]:25"]),
        (["same@example.com"], 0, ["transport:6", "by [relay] next_hop"]),
        (["db@example.com"], 0, ["more.cf", "= smtp:[10.0.0.9]:25"]),
        (["x@far.example"], 0, ["by the domain of the address", "= smtp:far.example"]),
        (["x@far.example", "--sender", "a@example.com"], 0, ["sender_dependent_relayhost_maps", "= smtp:[10.0.0.8]:25"]),
        (["ann@example.org", "--sender", "ann+l@corp.local"], 0, ["<ann+l@corp.local> -> <ann.smith@example.com>"]),
        (["x@lists.example.com"], 0, ["transport:7", "= mailman:  ([filters.mailman], a command: delivers)"]),
        (["x@a.lists.example.com"], 0, ["transport:8", "= mailman:other  ([filters.mailman]"]),
        (["x@news.example.com"], 0, ["= archive:  ([filters.archive], lmtp:unix:/run/archive: delivers)"]),
        (
            ["x@news.example.com", "--sender", "ann@corp.local"],
            0,
            ["lmtp_generic_maps", "<ann@corp.local> -> <archived@example.com>"],
        ),
        (
            ["vip@example.com", "--sender", "ann@corp.local"],
            0,
            [
                "= scan:  ([filters.scan], smtp:[127.0.0.1]:10024: hands back)\nwhat it hands back goes on:\n",
                "  by [relay] next_hop\n  smtp_generic_maps",
                "<ann@corp.local> -> <ann.smith@example.com>\n= smtp:[10.0.0.1]:25",
            ],
        ),
        (["gone@example.com"], 1, ["= error:5.1.6 moved"]),
        (["later@example.com"], 1, ["= retry:4.3.0 soon"]),
        (["hole@example.com"], 1, ["= discard:2.0.0 example.com"]),
        (["bad@example.com"], 2, ["not known", "local: delivers to mailboxes"]),
        (["no address"], 2, ["is no address"]),
        (["<>"], 2, ["nobody can be sent to"]),
    ],
)
def test_what_is_shown(ask, words: list[str], code: int, lines: list[str]) -> None:
    done = ask(*words)
    assert done.exit_code == code, done.output
    assert [line for line in lines if line not in done.output] == [], done.output


def test_as_json(ask) -> None:
    told = json.loads(ask("boss@example.com", "--json").output)
    assert told["result"] == "goes" and told["key"] == "boss@example.com" and told["place"].endswith("transport:1")
    assert [hop["hop"] for hop in told["hops"]] == ["smtp:[10.0.0.2]:26", "smtp:b.example"]


def test_a_filter_as_json(ask) -> None:
    told = json.loads(ask("vip@example.com", "--json").output)
    assert told["result"] == "goes" and told["value"] == "scan:" and told["leaves"] == []
    assert told["hops"] == [{"hop": "scan:", "filter": "scan", "delivers": False, "through": ["smtp:[127.0.0.1]:10024"]}]
    assert told["behind"]["hops"][0]["hop"] == "smtp:[10.0.0.1]:25" and "behind" not in told["behind"]


def test_a_database_that_is_away_is_named(ask, tmp_path: Path) -> None:
    (tmp_path / "t.db").unlink()
    done = ask("ann@example.com")
    assert done.exit_code == 2 and "more.cf" in done.output and "not known" in done.output


PAGE = Path(__file__).resolve().parent.parent.parent / "docs/transport.md"


def test_the_recipe_of_the_page(tmp_path: Path) -> None:
    blocks = dict(re.findall(r"^```\w+ (\S+)\n(.*?)^```$", PAGE.read_text(), re.MULTILINE | re.DOTALL))
    (tmp_path / "generic").write_text(blocks["generic"])
    head = '[gateway]\nhostname = "mx.example.com"\n[relay]\ndomains = ["example.com"]\nnext_hop = "smtp:[10.0.0.1]"\n'
    (tmp_path / "postgate.toml").write_text(head + blocks["wiring.toml"])

    def leaves(sender: str, to: str) -> list[str]:
        words = ["route", to, "--sender", sender, "--json", "--config", str(tmp_path / "postgate.toml")]
        return [step["to"] for step in json.loads(CliRunner().invoke(main, words).output)["leaves"]]

    assert leaves("ann@corp.local", "x@far.example") == ["ann.smith@example.com"]
    assert leaves("root@mx.example.com", "bob@corp.local") == ["postmaster@example.com", "bob@example.com"]
    assert leaves("ann@corp.local", "x@example.com") == []


# ---------------------------------------------------------------------- ways that lead back


def where(tmp_path: Path, text: str) -> str:
    """Place of a value in the wiring file."""
    for number, line in enumerate((tmp_path / "postgate.toml").read_text().splitlines(), 1):
        if line.startswith(text):
            return f"{tmp_path}/postgate.toml:{number}:{len(text) + 4}"
    raise AssertionError(text)


def test_an_entry_of_a_database_that_leads_back(ask, tmp_path: Path) -> None:
    """No check of the files sees that."""
    with sqlite3.connect(tmp_path / "t.db") as db:
        db.execute("INSERT INTO t VALUES ('back@example.com', 'smtp:[127.0.0.1]:2525')")
        db.execute("INSERT INTO t VALUES ('half@example.com', 'smtp:[127.0.0.1]:2525, [10.0.0.3]')")
        db.execute("INSERT INTO t VALUES ('other@example.com', 'smtp:[127.0.0.1]:10025')")
    db.close()
    done = ask("back@example.com")
    assert done.exit_code == 1
    assert '= smtp:[127.0.0.1]:2525  (TLS: verify)\n    that is listener "public" of this gateway\n' in done.output
    last = f"loops: mail would come back to this gateway: name another server at sqlite:{tmp_path}/more.cf"
    assert done.output.endswith(f"{last}\n")
    told = json.loads(ask("back@example.com", "--json").output)
    assert told["result"] == "loops" and told["hops"][0]["own"] == 'listener "public" of this gateway'
    half = ask("half@example.com")
    assert half.exit_code == 0 and "that is listener" in half.output and "loops" not in half.output
    assert "that is" not in ask("other@example.com").output


def test_a_name_without_a_domain_that_leads_back(ask, tmp_path: Path) -> None:
    done = ask("nodomain")
    assert done.exit_code == 1
    assert done.output == (
        "<nodomain@mx.example.com> from <>\n  by the domain of the address\n"
        "= smtp:mx.example.com  (TLS: verify, by MX)\n"
        "    that is this gateway's own name, unless its MX records name others: DNS is not asked\n"
        "loops: mail would come back to this gateway: mx.example.com is none of [relay] domains "
        f"({where(tmp_path, 'domains')}); it needs a next hop of its own in [relay] routes, or aliases for its names "
        "in [addresses]\n"
    )


def test_a_next_hop_by_our_own_name_that_leads_back(ask, tmp_path: Path) -> None:
    config = tmp_path / "postgate.toml"
    config.write_text(config.read_text().replace("[10.0.0.1]", "[mx.example.com]"))
    done = ask("ann@example.com")
    assert done.exit_code == 1 and "    that is this gateway's own name\n" in done.output
    assert done.output.endswith(f"name another server at {where(tmp_path, 'next_hop')}\n")
    config.write_text(config.read_text().replace("[mx.example.com]", "[mx.example.com]:10025"))
    assert ask("ann@example.com").exit_code == 0
