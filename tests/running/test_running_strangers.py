"""Greylist and rates over a running gateway: who waits, who does not, who is let in, what is only watched."""

import time
from collections.abc import Callable

from tests.peers.gateway import Gateway
from tests.peers.policies import plain
from tests.peers.ports import free_port, wait_for
from tests.running.talking import asked, trusted_door

DELAY = 5.0
STAGES = """\
[inbound]
connect = ["access", "rdns", "ratelimit"]
helo = ["helo"]
mail = ["ratelimit"]
rcpt = ["relay", "recipient", "ratelimit", "greylist"]
message = []
"""
TO = "bob@example.com"
WAIT = "451 4.7.1 Greylisted, please try again in a minute or two ["
OK = "250 2.1.5 Ok"


def start(gateway: Callable[..., Gateway], greylist: str = "", **more: str) -> tuple[Gateway, int]:
    door = free_port()
    policies = plain(greylist=f'delay = "{DELAY:.0f}s"\n{greylist}', **more)
    policies |= {"stages.toml": STAGES, "recipients": f"{TO} x\nvip@example.com x\n"}
    policies["exempt/clients"] = "good.example\n203.0.113.0/24\n/^rx\\d+\\.example/\n"
    policies["exempt/recipients"] = "vip@\n"
    return gateway(policies=policies, more=trusted_door(door), workers=1), door


def said(reply: str) -> str:
    return reply[: reply.index("[") + 1] if "[" in reply else reply


def test_only_who_gives_a_reason_waits(gateway: Callable[..., Gateway]) -> None:
    _, door = start(gateway)
    fine = {"address": "10.0.0.1", "name": "mail.example.net"}
    found = {
        "nothing odd": asked(door, TO, **fine),
        "no confirmed name": asked(door, TO, address="192.0.2.5"),
        "a subscriber's line": asked(door, TO, address="192.0.3.5", name="dsl-192-0-3-5.pool.example"),
        "an odd HELO": asked(door, TO, address="10.4.4.4", name="mail.example.net", helo="localhost"),
        "another's address as HELO": asked(door, TO, address="10.4.5.4", name="mail.example.net", helo="[1.2.3.4]"),
        "our name as HELO": asked(door, TO, address="10.4.6.4", name="mail.example.net", helo="mx.example.com"),
        "exempt network": asked(door, TO, address="203.0.113.7"),
        "exempt name": asked(door, TO, address="10.7.0.1", name="dsl-10-7-0-1.pool.good.example"),
        "exempt pattern": asked(door, TO, address="10.8.0.1", name="rx12.example", helo="localhost"),
        "exempt recipient": asked(door, "vip@example.com", address="192.0.2.5"),
        "postmaster": asked(door, "postmaster@example.com", address="192.0.2.5"),
        "the null sender": asked(door, TO, "", address="192.0.2.5"),
        "an unknown recipient": asked(door, "nobody@example.com", address="192.0.2.5"),
    }
    assert {name: said(reply) for name, reply in found.items()} == {
        "nothing odd": OK,
        "no confirmed name": WAIT,
        "a subscriber's line": WAIT,
        "an odd HELO": WAIT,
        "another's address as HELO": WAIT,
        "our name as HELO": "550 5.7.1 Helo command rejected: that name is not yours [",
        "exempt network": OK,
        "exempt name": OK,
        "exempt pattern": OK,
        "exempt recipient": OK,
        "postmaster": OK,
        "the null sender": OK,
        "an unknown recipient": "550 5.1.1 Recipient address rejected: no such mailbox here [",
    }


def test_a_retry_passes_from_its_network_and_a_pool_at_its_third_late_attempt(gateway: Callable[..., Gateway]) -> None:
    made, door = start(gateway, 'when = "always"\n')
    pool = [f"10.20.{number}.1" for number in range(6)]
    assert said(asked(door, TO, address="192.0.2.5", name="mail.example.net")) == WAIT
    assert said(asked(door, TO, "pool@big.example", address=pool[0])) == WAIT
    assert said(asked(door, TO, "pool@big.example", address=pool[1])) == WAIT  # before the delay: does not count
    begun = time.monotonic()
    time.sleep(DELAY + 0.2 - (time.monotonic() - begun))  # the greylist's own clock
    assert asked(door, TO, address="192.0.2.77", name="other.example.net") == OK
    late = [said(asked(door, TO, "pool@big.example", address=address)) for address in pool[2:]]
    assert late == [WAIT, WAIT, OK, OK]
    made.wait_log("greylist let a pool in: sender=pool@big.example recipient=bob@example.com")
    made.wait_log(f"defer by greylist:early first attempt, {DELAY:.0f} s to wait")


def test_rates_are_watched_as_shipped_and_enforced_where_an_operator_says_so(gateway: Callable[..., Gateway]) -> None:
    made, _ = start(gateway, 'mode = "off"\n', ratelimit="sender_messages = [2, 100]\n")
    assert [asked(made.port, TO, "much@example.org") for _ in range(4)] == [OK] * 4
    note = "monitor: would defer: ratelimit:over messages/60/from:much@example.org: more than 2"
    wait_for(lambda: made.log().count(note) == 2, 10, note)
    (made.root / "policies" / "ratelimit.toml").write_text('mode = "enforce"\nsender_messages = [2, 100]\n')
    made.cli("reload")
    over = asked(made.port, TO, "much@example.org")
    assert said(over) == "450 4.7.0 Too much for now, please try again later ["
    assert asked(made.port, TO, "other@example.org") == OK
