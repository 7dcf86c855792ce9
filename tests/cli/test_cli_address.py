"""`postgate address rewrite`: domains of others are said to be none of ours, with the place where ours are named."""

import json
from pathlib import Path

import pytest
from click.testing import CliRunner, Result

from appliance.cli import main

CONFIG = """\
[gateway]
hostname = "mx.example.com"
state_dir = "state"
[relay]
domains = ["example.com", "texthash:domains"]
next_hop = "smtp:[10.0.0.1]"
"""
MAPS = """\
[addresses]
virtual_alias_maps = "inline:{ shop.example=x, sales@shop.example=ann@far.example, far@example.com=ann@far.example }"
"""
OUT = """\
[[listen]]
name = "public"
[[listen]]
name = "ours"
role = "outbound"
address = "127.0.0.1:2526"
"""


class Site:
    def __init__(self, folder: Path) -> None:
        self.config = folder / "c.toml"
        (folder / "domains").write_text("example.org ok\n")

    def ask(self, address: str, *more: str, files: str = CONFIG + MAPS, what: str = "recipient") -> Result:
        self.config.write_text(files)
        words = ["address", "rewrite", what, address, *more, "--config", str(self.config)]
        return CliRunner().invoke(main, words)


@pytest.fixture
def site(tmp_path: Path) -> Site:
    return Site(tmp_path)


@pytest.mark.parametrize("files", [CONFIG, CONFIG + MAPS])
def test_a_domain_of_others_is_refused_and_says_where_ours_are_named(site: Site, files: str) -> None:
    done = site.ask("x@far.example", files=files)
    assert done.exit_code == 1
    last = f"refused: 550 5.7.1: far.example is none of [relay] domains ({site.config}:5:11), nor one of aliases"
    assert done.output.splitlines() == ["recipient <x@far.example>", last]
    assert json.loads(site.ask("x@far.example", "--json", files=files).output)["result"] == "refused"


def test_where_mail_of_our_own_goes_out_it_is_shown(site: Site) -> None:
    done = site.ask("x@far.example", files=CONFIG + MAPS + OUT)
    assert done.exit_code == 0
    assert done.output.splitlines()[1:] == [
        "= <x@far.example>",
        f"from outside it is refused (550 5.7.1): far.example is none of [relay] domains ({site.config}:5:11), nor one "
        'of aliases; mail that comes by "ours" goes there as shown',
    ]


@pytest.mark.parametrize(
    ("address", "to"),
    [
        ("ann@example.com", "ann@example.com"),
        ("ann@example.org", "ann@example.org"),
        ("sales@shop.example", "ann@far.example"),
        ("far@example.com", "ann@far.example"),
        ("postmaster", "postmaster@example.com"),
    ],
)
def test_what_is_ours_is_taken_wherever_it_leads(site: Site, address: str, to: str) -> None:
    done = site.ask(address)
    assert done.exit_code == 0 and done.output.endswith(f"= <{to}>\n"), done.output


def test_a_sender_may_be_from_anywhere(site: Site) -> None:
    done = site.ask("x@far.example", what="sender")
    assert done.exit_code == 0 and "none of" not in done.output


def test_a_table_of_domains_that_cannot_answer_is_no_refusal(site: Site, tmp_path: Path) -> None:
    (tmp_path / "away.cf").write_text(f"dbpath = {tmp_path}/none.db\nquery = SELECT 1 FROM t WHERE k = '%s'\n")
    done = site.ask("x@far.example", files=CONFIG.replace("texthash:domains", "sqlite:away.cf"))
    assert done.exit_code == 2 and "put off: " in done.output and "away.cf" in done.output


def test_members_of_a_list_are_shown_with_their_owner(site: Site) -> None:
    aliases = "inline:{ {list=ann@example.com, bob@far.example}, owner-list=boss, boss=carol@example.com }"
    files = f'{CONFIG}[addresses]\nalias_maps = "{aliases}"\n'
    done = site.ask("list@mx.example.com", files=files)
    assert done.exit_code == 0, done.output
    owner = "owner-list@mx.example.com"
    assert done.output.splitlines()[-2:] == [f"= <ann@example.com> from <{owner}>", f"= <bob@far.example> from <{owner}>"]
    assert done.output.count("  owner_request_special  ") == 1
    told = json.loads(site.ask("list@mx.example.com", "--json", files=files).output)
    assert told["owners"]["bob@far.example"] == {"sender": owner, "told": ["carol@example.com"]}
    assert site.ask("boss@mx.example.com", files=files).output.splitlines()[-1] == "= <carol@example.com>"
