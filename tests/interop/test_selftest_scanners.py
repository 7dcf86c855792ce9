"""`postgate selftest` with scanners that are blind, and with policies that let pass what is found, or only watch."""

import asyncio
from pathlib import Path

import pytest

from appliance.cli.selftest import scripted
from tests.interop.selftest_runs import only, selftest, wiring
from tests.peers.clamd import Clamd
from tests.peers.ports import free_port

SEES = 'grep -q EICAR-STANDARD "$1" && { echo "$1: Test.A FOUND"; exit 1; }\nexit 0\n'


def program(folder: Path, name: str, script: str) -> str:
    """A virus scanner that is a program; its section."""
    path = folder / name
    path.write_text(f"#!/bin/sh\n{script}")
    path.chmod(0o755)
    return (
        f'[scanners.{name}]\nkind = "command"\ncommand = ["{path}", "{{file}}"]\npattern = ": (.+) FOUND$"\n'
        'exit_codes = { "0" = "clean", "1" = "infected" }\n'
    )


@pytest.mark.peer
@pytest.mark.parametrize("first", ["blind", "clamav"])
def test_a_blind_scanner_is_not_vouched_for_by_one_that_sees(tmp_path: Path, av: Clamd, first: str) -> None:
    """Whoever is asked first. All are asked again afterwards."""
    sections = [program(tmp_path, "blind", "exit 0\n"), f'[scanners.clamav]\nkind = "clamd"\naddress = "{av.address}"\n']
    order = '["blind", "clamav"]' if first == "blind" else '["clamav", "blind"]'
    named = (
        f'scanners = {order}\n[[exception]]\nmatch = {{ sender = "regular.example" }}\nset = {{ scanners = {order} }}\n'
    )
    config = wiring(
        tmp_path, "".join(sections), antivirus=f'{named}reason = "the one that is in force for our strangers"\n'
    )
    played = selftest(tmp_path, "--config", config, *only("EICAR", "your", "virus scanner away"))
    assert set(played.named("miss")) == {"your blind finds EICAR"}, (played.rows, played.said)
    assert "expected 550 refused, got 250 2.0.0 Ok" in played.named("miss")["your blind finds EICAR"]
    assert "antivirus:clean: blind alone is asked" in played.named("miss")["your blind finds EICAR"]
    found = played.named("ok")
    assert (
        "got 550 5.7.1" in found["your clamav finds EICAR"]
        and "clamav alone is asked" in found["your clamav finds EICAR"]
    )
    assert {"EICAR, plain", "your blind away", "your clamav away", "virus scanner away"} <= set(found), played.rows


def test_what_is_found_and_let_pass_is_told_with_file_and_line(tmp_path: Path) -> None:
    config = wiring(
        tmp_path,
        program(tmp_path, "blind", "exit 0\n") + program(tmp_path, "sees", SEES),
        antivirus='[on]\ninfected = "accept"\nerror = "dunno"\n',
        greylist='[on]\nearly = "accept"\n',
        dmarc='[on]\nreject = "mark"\ntemperror = "dunno"\n',
        spf='[on]\nfail = "accept"\ntemperror = "dunno"\n',
    )
    played = selftest(tmp_path, "--config", config, *only("EICAR", "DMARC", "SPF", "spoofed", "greylist: first", "away"))
    found, missed = played.named("ok"), played.named("miss")
    assert set(missed) == {"your blind finds EICAR"}, (played.rows, played.said)
    assert "got delivered, antivirus:clean" in missed["your blind finds EICAR"], "that it is delivered says nothing"
    passing, folder = "expected delivered though {0}, got delivered, {0}: {1}", f"{played.folder}/policies"
    infected = passing.format("antivirus:infected", f'[on] infected = "accept" in {folder}/antivirus.toml')
    assert found["EICAR, plain"] == found["EICAR, hidden in MIME"] == infected
    assert f'sees alone is asked; [on] infected = "accept" in {folder}/antivirus.toml' in found["your sees finds EICAR"]
    error = passing.format("antivirus:error", f'[on] error = "dunno" in {folder}/antivirus.toml')
    assert found["virus scanner away"] == found["your sees away"] == error
    assert found["SPF fail"] == passing.format("spf:fail", f'[on] fail = "accept" in {folder}/spf.toml')
    assert f'[on] reject = "mark" in {folder}/dmarc.toml' in found["DMARC reject"]
    assert f'[on] early = "accept" in {folder}/greylist.toml' in found["greylist: first, early, late"]
    for check in ("spf", "dmarc"):
        assert f'[on] temperror = "dunno" in {folder}/{check}.toml' in found["DNS away"]
    assert "antispam=error: what could not be scanned is not clean" in found["spam scanner away"], "as it is shipped"


def test_scanners_of_a_check_that_only_watches_are_asked(tmp_path: Path) -> None:
    nobody = f"127.0.0.1:{free_port()}"
    sections = f'[scanners.clamav]\nkind = "clamd"\naddress = "{nobody}"\n'
    sections += program(tmp_path, "blind", "exit 0\n") + program(tmp_path, "sees", SEES)
    config = wiring(tmp_path, sections, antivirus='mode = "monitor"\n')
    played = selftest(tmp_path, "--config", config, *only("clean mail", "EICAR", "your"))
    missed = played.named("miss")
    assert set(missed) == {"your clamav answers", "your blind finds EICAR"}, (played.rows, played.said)
    assert f"{nobody}: cannot connect" in missed["your clamav answers"]
    assert "expected delivered, antivirus:infected, got delivered, antivirus:clean" in missed["your blind finds EICAR"]
    found = played.named("ok")
    assert set(found) == {"clean mail", "your blind answers", "your sees answers", "your sees finds EICAR"}
    assert "expected delivered, antivirus:infected, got delivered, antivirus:infected" in found["your sees finds EICAR"]
    assert "EICAR, plain" in played.named("skipped")
    assert "your clamav does not answer" in played.named("skipped")["your clamav finds EICAR"]


EXCEPTION = (
    '[[exception]]\nmatch = {{ client_address = "{}" }}\nset = {{ {} }}\nreason = "{}"\n'  # as an operator writes it
)


def test_an_exception_that_fits_our_strangers_is_named_with_its_line_and_parts_that_are_not_offered_are_not_missed(
    tmp_path: Path,
) -> None:
    other = EXCEPTION.format("10.0.0.0/8", 'error = "hold"', "somebody else")
    ours = EXCEPTION.format("192.0.2.0/24", 'error = "accept"', "as agreed")
    config = wiring(
        tmp_path,
        antivirus=f'parts_limit = 0\nput_off = "0s"\n{other}{ours}',
        attachments='put_off = "0s"\n[on]\nundecided = "dunno"\n',
        spf=EXCEPTION.format("192.0.2.10", 'fail = "reject"', "strict"),
        dmarc=EXCEPTION.format("192.0.2.10", 'mode = "off"', "never"),
        rdns=EXCEPTION.format("203.0.113.0/24", 'none = "reject"', "no names"),
    )
    words = only("clean mail", "virus scanner away", "scand away", "SPF fail", "DMARC reject", "greylist: first")
    played = selftest(tmp_path, "--config", config, *words)
    assert played.named("miss") == {} and played.status == 0, (played.rows, played.said)
    skipped, folder = played.named("skipped"), f"{tmp_path}/policies"
    fits = "[[exception]] {}/{}.toml:{} ({}) fits this stranger: {}"
    assert fits.format(folder, "antivirus", 7, "as agreed", "delivered though") in skipped["virus scanner away"]
    assert fits.format(folder, "spf", 1, "strict", "550 refused") in skipped["SPF fail"]
    assert fits.format(folder, "dmarc", 1, "never", "dmarc is in mode off") in skipped["DMARC reject"]
    first = f"rdns stops this stranger first: none (203.0.113.9); [[exception]] {folder}/rdns.toml:1 (no names)"
    assert first in skipped["greylist: first, early, late"]
    passing = "expected delivered though attachments:undecided, got delivered, attachments:undecided: [on] undecided"
    assert played.named("ok")["scand away"].startswith(passing), played.rows


def test_scores_and_reasons_of_the_operator_are_what_is_expected(tmp_path: Path) -> None:
    config = wiring(tmp_path, greylist="reasons = []\n", antispam="reject_score = 2000\n")
    played = selftest(tmp_path, "--config", config, *only("GTUBE", "greylist"))
    assert played.named("miss") == {} and played.status == 0, played.rows
    assert "expected delivered, marked antispam=spam, got delivered, marked antispam=spam" in played.named("ok")["GTUBE"]
    skipped = played.named("skipped")
    assert set(skipped) == {"greylist: first, early, late", "greylist: a pool of addresses"}
    assert all("reasons of greylist" in why for why in skipped.values())


async def test_a_spam_scanner_that_calls_gtube_clean_is_named(tmp_path: Path) -> None:
    blind, sees = scripted.Scanner(scripted.spamd), scripted.Scanner(scripted.spamd)
    blind.mute = True
    sections = ""
    for name, scanner in (("blind", blind), ("sees", sees)):
        await scanner.up()
        sections += f'[scanners.{name}]\nkind = "spamd"\naddress = "127.0.0.1:{scanner.port}"\n'
    config = wiring(tmp_path, sections)
    played = await asyncio.to_thread(selftest, tmp_path, "--config", config, *only("your spam scanners"))
    for scanner in (blind, sees):
        await scanner.down()
    assert set(played.named("miss")) == {"your spam scanners"}, played.rows
    told = played.named("miss")["your spam scanners"]
    assert "expected 550 refused, got 550 5.7.1" in told and told.split(": found by")[0].endswith(", blind: clean")
