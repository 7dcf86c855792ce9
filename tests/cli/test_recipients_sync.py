"""`postgate recipients sync` where no gateway runs: a list is kept whole, or the old one stays."""

from pathlib import Path

import pytest
from click.testing import CliRunner, Result

from appliance.cli.recipients import command
from appliance.cli.table import command as tables

PEOPLE = [f"u{number}@example.com" for number in range(100)]
WIRING = """\
[gateway]
state_dir = "state"
[relay]
domains = ["example.com"]
[recipients.staff]
kind = "csv"
source = "export.csv"
"""


class Site:
    def __init__(self, folder: Path) -> None:
        self.config, self.source, self.kept = folder / "c.toml", folder / "export.csv", folder / "state/recipients/staff"
        self.config.write_text(WIRING)

    def run(self, *words: str) -> Result:
        return CliRunner().invoke(command, [*words, "--config", str(self.config)])

    def sync(self, people: list[str], *more: str) -> tuple[int, str]:
        self.source.write_text("\n".join(["mail", *people]))
        done = self.run("sync", *more)
        return done.exit_code, done.output

    def known(self) -> int:
        return self.kept.read_text().count(" ok\n")


@pytest.fixture
def site(tmp_path: Path) -> Site:
    return Site(tmp_path)


def test_a_list_that_shrank_is_refused_unless_told(site: Site) -> None:
    assert site.sync([*PEOPLE, "x@other.example", "nobody"]) == (
        0,
        "staff: 100 recipients, +100 -0 (1 of other domains, 1 no address)\n",
    )
    assert site.sync(PEOPLE[:90])[0] == 0 and site.known() == 90
    code, said = site.sync(PEOPLE[:75])
    assert (code, site.known()) == (1, 90)
    assert "staff: the list of 90 stays: 15 of 90 recipients would go, over 10 %" in said
    assert site.sync([*PEOPLE[:75], *(f"new{n}@example.com" for n in range(15))])[0] == 1, "others do not make up for it"
    assert site.sync(PEOPLE[:75], "--force")[0] == 0 and site.known() == 75


def test_an_empty_list_is_refused_unless_told(site: Site) -> None:
    site.sync(PEOPLE)
    for more in ([], ["--force"]):
        code, said = site.sync(["x@other.example"], *more)
        assert (code, site.known()) == (1, 100) and "no recipient of ours (1 are of other domains" in said
    assert site.sync([], "--empty")[0] == 0 and site.known() == 0


def test_a_few_may_go_from_a_short_list_but_never_most_of_it(site: Site) -> None:
    site.sync(PEOPLE[:12])
    assert site.sync(PEOPLE[:6])[0] == 0
    assert site.sync(PEOPLE[:2])[0] == 1 and site.known() == 6


def test_a_dry_run_shows_who_comes_and_goes_and_keeps_nothing(site: Site) -> None:
    site.sync(PEOPLE)
    before = {path.name: path.read_bytes() for path in site.kept.parent.iterdir()}
    code, said = site.sync([*PEOPLE[1:], "New@Example.COM"], "--dry-run")
    assert code == 0
    changes = "+ new@example.com\n- u0@example.com\n"
    assert said == f"{changes}staff: would be 100 recipients, +1 -1 (0 of other domains, 0 no address)\n"
    assert {path.name: path.read_bytes() for path in site.kept.parent.iterdir()} == before


def test_a_source_that_is_away_leaves_the_old_list(site: Site) -> None:
    site.sync(PEOPLE)
    site.source.unlink()
    done = site.run("sync", "staff")
    assert done.exit_code == 1 and "export.csv: No such file or directory" in done.output and site.known() == 100
    shown = site.run("show", "U7+lists@example.com")
    assert shown.exit_code == 0 and f"{site.kept}:80" in shown.output


def test_a_list_that_there_is_not(site: Site) -> None:
    done = site.run("sync", "stuff")
    assert done.exit_code == 2 and "no [recipients.stuff]" in done.output
    site.config.write_text(WIRING.partition("[recipients")[0])
    assert "has no [recipients.NAME]" in site.run("sync").output


def test_the_list_is_a_table_like_others(site: Site) -> None:
    folder = site.config.parent / "policies"
    folder.mkdir()
    (folder / "recipient.toml").write_text('tables = ["synced:staff"]\n')

    def table(*words: str) -> Result:
        return CliRunner().invoke(tables, [*words, "--config", str(site.config)])

    away = table("check")
    assert away.exit_code == 1 and "WRONG synced:staff: " in away.output and "was never fetched" in away.output
    site.sync(PEOPLE)
    there = table("check")
    assert there.exit_code == 0 and "ok    synced:staff: 100 entries in memory" in there.output
    found = table("query", "synced:staff", "U7@example.com", "nobody@example.com")
    assert found.exit_code == 1
    assert found.output == f"U7@example.com\tok\t{site.kept}:80\nnobody@example.com\tnot found\n"


def test_where_no_list_was_there_none_stays(site: Site) -> None:
    done = site.run("sync")
    assert done.exit_code == 1
    assert done.output == f"staff: there is no list yet: {site.source}: No such file or directory\n"
    site.sync(PEOPLE)
    site.source.unlink()
    assert site.run("sync").output.startswith("staff: the list of 100 stays: ")
