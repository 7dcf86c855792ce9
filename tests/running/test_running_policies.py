"""Exceptions, modes, several recipients, quarantine and what is told of a message, over a running gateway."""

import json
from collections.abc import Callable
from typing import Any

from tests.peers.gateway import Gateway
from tests.peers.inner import Inner
from tests.peers.policies import plain
from tests.peers.ports import free_port, wait_for
from tests.running.talking import BODY, queue_id, sent, trusted_door

SIZE = """\
limit = 100000
header_limit = 400
[on]
header_over = "mark"
[[exception]]
match = { recipient = "strict@example.com" }
set = { header_over = "reject" }
[[exception]]
match = { sender = "@watched.example" }
set = { mode = "monitor" }
[[exception]]
match = { sender = "free@example.org" }
set = { mode = "off" }
[[exception]]
match = { client_address = "192.0.2.0/24" }
set = { over = "mark" }
[[exception]]
match = { sender = "larger@example.org" }
set = { limit = 200000 }
until = 2999-01-01
[[exception]]
match = { sender = "ended@example.org" }
set = { mode = "off" }
until = 2020-01-01
"""
LONG = b"X-Long: " + b"z" * 500 + b"\r\n" + BODY
HUGE = BODY + (b"y" * 70 + b"\r\n") * 2000
TO = "a@example.com"
OVER = "552 5.3.4 Message size exceeds fixed limit ["


def test_exceptions_change_mode_action_and_knob_for_those_they_match(
    gateway: Callable[..., Gateway], inner: Inner
) -> None:
    door = free_port()
    made = gateway(policies=plain(size=SIZE), more=trusted_door(door), workers=1)
    assert "ended on 2020-01-01: inactive" in made.cli("check").stderr + made.cli("check").stdout
    assert sent(made.port, TO, body=HUGE).startswith(OVER)
    assert sent(made.port, TO, body=HUGE, sender="ended@example.org").startswith(OVER)
    taken = {
        "monitor": queue_id(sent(made.port, TO, body=HUGE, sender="x@watched.example")),
        "off": queue_id(sent(made.port, TO, body=HUGE, sender="free@example.org")),
        "mark": queue_id(sent(door, TO, body=HUGE, address="192.0.2.9")),
        "knob": queue_id(sent(made.port, TO, body=HUGE, sender="larger@example.org")),
    }
    contents = {kept.content.partition(b" id ")[2].split()[0].decode(): kept.content for kept in inner.wait(4)}
    marked = {name: contents[one].startswith(b"X-Postgate-Mark: size=over\r\n") for name, one in taken.items()}
    assert marked == {"monitor": False, "off": False, "mark": True, "knob": False}
    made.wait_log(f"{taken['monitor']}: monitor: would reject: size:over ")
    assert f"{taken['off']}: monitor" not in made.log()


def event(made: Gateway, queue_id: str) -> Any:
    """The JSON event of a message."""
    made.wait_log(f'"id":"{queue_id}"')
    line = next(line for line in made.log().splitlines() if f'"id":"{queue_id}"' in line)
    return json.loads(line[line.index("{") :])


def test_who_refuses_gets_a_copy_in_quarantine_that_an_operator_may_release(
    gateway: Callable[..., Gateway], inner: Inner
) -> None:
    made = gateway(policies=plain(size=SIZE), workers=1)
    assert sent(made.port, "strict@example.com", body=LONG).startswith("552 5.3.4 Message header is too large [")
    told = queue_id(sent(made.port, TO, "strict@example.com", body=LONG))
    assert [kept.recipients for kept in inner.wait(1)] == [[TO]]
    wait_for(lambda: made.cli("quarantine", "list", "--json").stdout, 20, "the copy in quarantine")
    (kept,) = (json.loads(line) for line in made.cli("quarantine", "list", "--json").stdout.splitlines())
    assert kept["queue_name"] == "quarantine" and kept["queue_id"] != told
    assert [one["address"] for one in kept["recipients"]] == ["strict@example.com"]
    assert kept["reason"] == "size:header_over, accepted for other recipients"
    shown = made.cli("quarantine", "show", kept["queue_id"]).stdout
    assert "check=size outcome=header_over stage=message" in shown
    found = event(made, told)
    assert found["result"] == "accept" and found["deciding"]["outcome"] == "header_over"
    assert [(one["for"], one["keep"]) for one in found["kept"]] == [([1], "quarantine")]
    assert {verdict["check"] for verdict in found["verdicts"]} >= {"relay", "recipient", "size", "loop"}
    made.cli("quarantine", "release", kept["queue_id"])
    assert inner.wait(2)[1].recipients == ["strict@example.com"]
    wait_for(lambda: made.cli("quarantine", "list", "--json").stdout == "", 20, "an empty quarantine")


def test_forged_fields_of_ours_are_taken_out(gateway: Callable[..., Gateway], inner: Inner) -> None:
    made = gateway(policies=plain(), workers=1)
    forged = b"X-Postgate-Mark: antivirus=infected\r\nx-POSTGATE-spam : 1\r\nX-Postgate-Other: x\r\n y\r\nX-Kept: yes\r\n"
    assert sent(made.port, TO, body=forged + BODY).startswith("250 ")
    content = inner.wait(1)[0].content
    assert b"postgate-" not in content.lower().partition(b"\r\nx-kept")[0].replace(b"(postgate)", b"")
    assert content.endswith(b"\r\nX-Kept: yes\r\n" + BODY)
