"""`postgate selftest` looks at what others are given: scanners the message as it came, as mail, and each part decoded;
the inside nothing that was forged."""

from pathlib import Path

import pytest

from tests.interop.selftest_mutants import mutant
from tests.interop.selftest_runs import only, selftest, wiring

ROW = "decoded parts for scanners"


@pytest.mark.parametrize(
    ("mistake", "told"),
    [
        ("parts are not offered", ["antivirus:clean", *(f"{way} was not given" for way in ("base64", "nested"))]),
        ("one part is not offered", ["nested was not given decoded"]),
        ("messages are not scanned as they came", ["the message was not given as it came"]),
        ("scanners get messages without their beginning", ["what was given does not begin like mail"]),
    ],
)
def test_a_gateway_that_keeps_something_from_scanners_is_found_out(tmp_path: Path, mistake: str, told: list[str]) -> None:
    played = mutant(tmp_path, mistake, "--config", wiring(tmp_path), *only("clean mail", ROW))
    assert set(played.named("miss")) == {ROW}, (played.rows, played.said)
    assert [text for text in told if text not in played.named("miss")[ROW]] == [], played.named("miss")


def test_who_offers_no_parts_is_told_by_which_line(tmp_path: Path) -> None:
    config = wiring(tmp_path, antivirus="\nparts_limit = 0\n")
    played = selftest(tmp_path, "--config", config, *only("clean mail", ROW))
    assert f"parts_limit = 0 in {tmp_path}/policies/antivirus.toml:2" in played.named("skipped")[ROW], played.rows


@pytest.mark.parametrize("mistake", ["", "results by one's own authserv_id stay", "fields of strangers stay"])
def test_results_are_forged_in_every_name_that_is_ours(tmp_path: Path, mistake: str) -> None:
    named = 'authserv_id = "mail.example.com"\nstrip_fields = ["X-Seen-*"]\n'
    words = ("--config", wiring(tmp_path, gateway=named), *only("forged"))
    played = mutant(tmp_path, mistake, *words) if mistake else selftest(tmp_path, *words)
    assert set(played.named("miss" if mistake else "ok")) == {"forged fields"}, (played.rows, played.said)
