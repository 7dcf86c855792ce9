"""Reload: in all processes or in none; cold start with broken files; tables by themselves (design section 4)."""

import os
import signal
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

from tests.daemons.master.conftest import Master, kill, until


def greetings(master: Master) -> set[str]:
    return {master.greeting()[1] for _ in range(16)}


def test_a_reload_reaches_every_process(running: Master) -> None:
    before = running.ask("status")
    running.write("new.example.com")
    assert not running.ask("status")["on_disk"]["same"]
    outcome = running.ask("reload")
    assert outcome["good"], outcome
    after = running.ask("status")
    assert {worker["health"]["greeting"] for worker in after["workers"]} == {"new.example.com"}
    assert {worker["health"]["hash"] for worker in after["workers"]} == {after["running"]} != {before["running"]}
    assert {worker["pid"] for worker in after["workers"]} == {worker["pid"] for worker in before["workers"]}
    assert greetings(running) == {"new.example.com"}


def test_one_refusal_keeps_the_old_everywhere(running: Master) -> None:
    before = running.ask("status")["running"]
    (running.state / "refuse.smtpd.1").touch()
    running.write("new.example.com")
    outcome = running.ask("reload")
    assert not outcome["good"]
    assert "smtpd.1 refused: ValueError: no, thank you" in outcome["text"]
    after = running.ask("status")
    assert {worker["health"]["hash"] for worker in after["workers"]} == {before}
    assert greetings(running) == {"mx.example.com"}
    (running.state / "refuse.smtpd.1").unlink()
    assert running.ask("reload")["good"]


def test_broken_files_change_nothing_and_all_mistakes_are_told(running: Master) -> None:
    running.write(more='[queue]\nretry_mni = "1s"\nlifetime = 5\n')
    outcome = running.ask("reload")
    assert not outcome["good"]
    assert f"{running.config}:" in outcome["text"]
    assert "retry_mni" in outcome["text"] and "lifetime" in outcome["text"]
    assert greetings(running) == {"mx.example.com"}
    assert "nothing was changed" in running.log()


def test_a_zone_file_that_is_none_changes_nothing(running: Master) -> None:
    names = running.config.with_name("names")
    names.write_text("mx.example.com. IN A 192.0.2.1\n")
    running.write("new.example.com", more=f'[dns]\nzone = "{names}"\n')
    outcome = running.ask("reload")
    assert not outcome["good"] and f"{names}:1:1: no zone file: no time to live" in outcome["text"]
    assert greetings(running) == {"mx.example.com"}
    names.write_text("$TTL 300\nmx.example.com. IN A 192.0.2.1\n")
    assert running.ask("reload")["good"] and greetings(running) == {"new.example.com"}


def test_a_hang_up_reloads_and_children_born_later_have_the_new_files(running: Master) -> None:
    running.write("new.example.com")
    os.kill(running.pid, signal.SIGHUP)
    running.wait_log("in force in all processes")
    kill(running.workers()["smtpd.0"]["pid"])
    until(lambda: running.workers()["smtpd.0"]["state"] == "up", "the new smtpd.0")
    assert greetings(running) == {"new.example.com"}


def held_up(running: Master) -> Path:
    """A reload has begun, and ends when this file is gone."""
    hold = running.state / "hold.smtpd.0"
    hold.touch()
    running.write("first.example.com")
    os.kill(running.pid, signal.SIGHUP)
    until(lambda: running.ask("status")["reloading"], "the reload to begin")
    return hold


def test_what_is_asked_during_a_reload_is_done_behind_it(running: Master) -> None:
    """Files that change while the processes prepare: neither a signal nor a command is lost, and no one is sent away."""
    hold = held_up(running)
    running.write("second.example.com")
    os.kill(running.pid, signal.SIGHUP)
    with ThreadPoolExecutor(2) as pool:
        asked = [pool.submit(running.ask, "reload") for _ in range(2)]
        until(lambda: running.ask("status")["reloading"] == 4, "both to wait behind the signal")
        hold.unlink()
        outcomes = [one.result(20) for one in asked]
    assert all(outcome["good"] for outcome in outcomes), outcomes
    assert outcomes[0]["hash"] == outcomes[1]["hash"] == running.ask("status")["running"]
    assert greetings(running) == {"second.example.com"}
    assert running.log().count("in force in all processes") == 2, "one behind it for all who wait"
    assert running.ask("status")["reloading"] == 0


def test_who_waits_for_a_reload_hears_that_the_gateway_ends(running: Master) -> None:
    hold = held_up(running)
    with ThreadPoolExecutor(1) as pool:
        asked = pool.submit(running.ask, "reload")
        until(lambda: running.ask("status")["reloading"] == 2, "the command to wait")
        running.ask("stop")
        hold.unlink()
        outcome = asked.result(20)
    assert not outcome["good"] and "the gateway is ending" in outcome["text"]


def test_a_child_born_during_a_reload_catches_up(running: Master) -> None:
    """The victim dies while the others prepare: either the round is refused, or it is born old and catches up."""
    for number in range(5):
        name = f"n{number}.example.com"
        running.write(name)
        os.kill(running.pid, signal.SIGHUP)
        kill(running.workers()["smtpd.0"]["pid"])
        until(lambda: running.workers()["smtpd.0"]["state"] == "up", "the new smtpd.0")
        hashes = until(
            lambda: (
                (found := {w["health"].get("hash") for w in running.workers().values()}) and len(found) == 1 and found
            ),
            "all processes to agree",
        )
        assert hashes == {running.ask("status")["running"]}


def test_keys_that_need_a_restart_are_named(running: Master) -> None:
    running.write(more="[limits]\nsmtpd = 7\n")
    assert running.ask("reload")["good"]
    assert any("limits.smtpd" in text and "restart" in text for text in running.ask("status")["degraded"])


def test_a_cold_start_with_a_broken_file_runs_on_the_last_good_one(running: Master) -> None:
    good = running.ask("status")["running"]
    assert running.stop() == 0
    running.config.write_text(running.config.read_text() + "\n[[[nonsense\n")
    running.logfile.unlink()
    running.start()
    status = running.ask("status")
    assert status["running"] == good
    assert not status["on_disk"]["same"]
    assert any("BROKEN" in text for text in status["degraded"])
    assert "THE FILES ON DISK ARE BROKEN" in running.log()
    assert running.greeting()[0] == "220"
    running.write("healed.example.com")
    assert running.ask("reload")["good"]
    assert not any("BROKEN" in text for text in running.ask("status")["degraded"])


def test_a_cold_start_with_a_broken_file_and_no_good_one_says_all(master: Master) -> None:
    master.config.write_text(master.config.read_text() + '\n[queue]\nretry_mni = "1s"\n[nonsense]\n')
    master.start(wait=False)
    assert master.process and master.process.popen.wait(15) == 1
    assert "retry_mni" in master.log() and "nonsense" in master.log()


def test_a_table_reloads_by_itself(master: Master) -> None:
    table = master.root / "domains"
    table.write_text("example.com OK\n")
    master.write(domains='["texthash:domains"]')
    master.start()
    before = master.ask("status")["running"]
    table.write_text("example.com OK\nexample.org OK\n")
    master.wait_log("lookup tables changed")
    master.wait_log("in force in all processes")
    after = master.ask("status")
    assert after["running"] != before
    assert {worker["health"]["hash"] for worker in after["workers"]} == {after["running"]}
    assert after["on_disk"]["same"]
