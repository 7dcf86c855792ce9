"""`postgate selftest` plays EICAR to each virus scanner alone, of whatever kind: amavisd and YARA rules too."""

import shutil
import tempfile
from pathlib import Path

import pytest

from tests.interop.selftest_mutants import mutant
from tests.interop.selftest_runs import Played, only, selftest, wiring
from tests.interop.test_selftest_scanners import SEES, program
from tests.peers import amavis
from tests.peers.amavis import Amavis
from tests.peers.clamd import Clamd

RULES = '[scanners.rules]\nkind = "yara"\n'
ROW = "your {} finds EICAR"


def rule(name: str, text: str, kind: str = "infected") -> str:
    return f'rule {name} {{ meta: kind = "{kind}" strings: $a = "{text}" condition: $a }}\n'


def played_with(folder: Path, text: str) -> Played:
    """With rules of one's own in place of the shipped one for EICAR; a second scanner would vouch for them."""
    config = wiring(folder, RULES + program(folder, "sees", SEES))
    (folder / "policies" / "yara").mkdir()
    (folder / "policies" / "yara" / "eicar.yar").write_text(text)
    return selftest(folder, "--config", config, *only("finds EICAR", "your rules answers"))


def test_the_shipped_rules_find_eicar(tmp_path: Path) -> None:
    pytest.importorskip("yara_x", reason="the extra yara is not installed")
    played = selftest(tmp_path, "--config", wiring(tmp_path, RULES), *only("finds EICAR"))
    assert played.status == 0 and set(played.named("ok")) == {ROW.format("rules")}, (played.rows, played.said)
    assert "got 550 5.7.1" in played.named("ok")[ROW.format("rules")]
    assert "rules alone is asked" in played.named("ok")[ROW.format("rules")]


def test_a_gateway_that_does_not_hear_its_rules_is_found_out(tmp_path: Path) -> None:
    pytest.importorskip("yara_x", reason="the extra yara is not installed")
    played = mutant(
        tmp_path, "what rules find is not told", "--config", wiring(tmp_path, RULES), *only("finds EICAR", "clean")
    )
    assert set(played.named("miss")) == {ROW.format("rules")} and "clean mail" in played.named("ok"), played.rows


def test_a_rule_for_eicar_that_does_not_fit_it_is_a_miss(tmp_path: Path) -> None:
    pytest.importorskip("yara_x", reason="the extra yara is not installed")
    played = played_with(tmp_path, rule("My_EICAR", "EICAR-STANDARD-ANTIVIRUS-TEST-FILE?"))
    assert played.status == 1 and set(played.named("miss")) == {ROW.format("rules")}, (played.rows, played.said)
    assert "antivirus:clean" in played.named("miss")[ROW.format("rules")]
    assert ROW.format("sees") in played.named("ok")


def test_rules_without_one_for_eicar_are_skipped_and_what_their_kind_says_is_expected(tmp_path: Path) -> None:
    pytest.importorskip("yara_x", reason="the extra yara is not installed")
    for folder in ("none", "weak"):
        (tmp_path / folder).mkdir()
    none = played_with(tmp_path / "none", rule("Mine", "something else"))
    assert none.status == 0 and "no rule in policies/yara" in none.named("skipped")[ROW.format("rules")], none.rows
    weak = played_with(tmp_path / "weak", rule("Eicar", "EICAR-STANDARD-ANTIVIRUS-TEST-FILE!", "suspicious"))
    told = weak.named("ok")[ROW.format("rules")]
    assert "got kept in quarantine" in told and 'Eicar has kind = "suspicious"' in told


def test_names_by_which_eicar_is_less_than_infected_are_told_with_their_line(tmp_path: Path) -> None:
    names = '\nnames = { "Test.*" = "suspicious" }\n'
    config = wiring(tmp_path, program(tmp_path, "sees", SEES), antivirus=names)
    played = selftest(tmp_path, "--config", config, *only("finds EICAR"))
    assert played.status == 0, (played.rows, played.said)
    told = played.named("ok")[ROW.format("sees")]
    assert "expected kept in quarantine, got kept in quarantine" in told
    assert f"Test.A: {tmp_path}/policies/antivirus.toml:2 has names by which that is suspicious" in told


@pytest.mark.peer
def test_amavisd_is_asked_alone_by_am_pdp(tmp_path: Path, av: Clamd) -> None:
    if not amavis.available():
        pytest.skip("Debian package amavisd-new is not installed, or we are not root")
    root = Path(tempfile.mkdtemp(dir="/tmp", prefix="pg-am"))
    judge = Amavis(root / "amavis", av)
    try:
        more = f'[scanners.amavis]\nkind = "amavis"\naddress = "127.0.0.1:{judge.port}"\nfolder = "{judge.folder}"\n'
        config = wiring(tmp_path, more + program(tmp_path, "sees", SEES))
        well = selftest(tmp_path, "--config", config, *only("finds EICAR", "your amavis"))
        av.stop()
        blind = selftest(tmp_path, "--config", config, *only("finds EICAR", "your amavis answers"))
    finally:
        judge.stop()
        shutil.rmtree(root, ignore_errors=True)
    assert well.status == 0, (well.rows, well.said)
    assert set(well.named("ok")) == {"your amavis answers", "your amavis away", ROW.format("amavis"), ROW.format("sees")}
    assert "got 550 5.7.1" in well.named("ok")[ROW.format("amavis")]
    assert set(blind.named("miss")) == {ROW.format("amavis")}, "amavisd calls clean what its own scanner did not see"
    assert "antivirus:clean: amavis alone is asked" in blind.named("miss")[ROW.format("amavis")]
