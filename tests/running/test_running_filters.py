"""Content filters behind the queue: over a running gateway, a filter that hands mail back, and the inside behind it."""

import json
import smtplib
from collections.abc import Callable

import pytest

from appliance.queue.envelope import PROVEN
from tests.peers.content_filter import MARK, ContentFilter
from tests.peers.gateway import Gateway
from tests.peers.inner import Inner
from tests.peers.policies import plain
from tests.peers.ports import free_port
from tests.running.talking import queue_id, sent


def wiring(back: int, more: str = "") -> str:
    return (
        f'[[listen]]\nname = "back"\nrole = "reinject"\naddress = "127.0.0.1:{back}"\nworkers = 1\n'
        f'xclient = ["127.0.0.0/8"]\n{more}'
    )


def filtered_door(port: int, content_filter: str) -> str:
    """A listener for strangers, all of whose mail is filtered."""
    return (
        f'[[listen]]\nname = "filtered"\naddress = "127.0.0.1:{port}"\nworkers = 1\ncontent_filter = "{content_filter}"\n'
    )


def waiting(made: Gateway) -> dict[str, str]:
    """Queue ids of what waits, and why."""
    listed = (json.loads(line) for line in made.cli("queue", "list", "--json").stdout.splitlines())
    return {one["queue_id"]: str(one) for one in listed}


def through_once(made: Gateway, inner: Inner, scan: ContentFilter, first: str) -> None:
    """The message `first` for a@ and b@example.com went through the filter, which was told whose it is, and arrived."""
    kept = inner.wait(1)[0]
    assert kept.recipients == ["a@example.com", "b@example.com"] and kept.sender == "sender@example.org"
    assert kept.content.count(MARK) == 1 and len(scan.seen) == 1  # no loop
    assert scan.told["IDENT"] == first and scan.told["ADDR"] == "127.0.0.1" and scan.told["PROTO"] == "ESMTP"
    made.wait_log(f", orig_queue_id={first}, orig_client=client.example.org[127.0.0.1]")


@pytest.mark.parametrize("text", ["smtp:[127.0.0.1]:{port}", "scan:", "scan:127.0.0.1:{port}", "smtp:localhost:{port}"])
def test_all_mail_of_a_listener_goes_through_its_filter(gateway: Callable[..., Gateway], inner: Inner, text: str) -> None:
    back, door = free_port(), free_port()
    scan = ContentFilter(back).start()
    named = f'[filters.scan]\nnext_hop = "smtp:[127.0.0.1]:{scan.port}"\n' if text.startswith("scan") else ""
    more = wiring(back, filtered_door(door, text.format(port=scan.port)) + named)
    made = gateway(policies=plain(), more=more, workers=1)
    first = queue_id(sent(door, "a@example.com", "b@example.com"))
    through_once(made, inner, scan, first)
    made.wait_log(f"{first}: filter: ")
    made.wait_log(f"{first}: removed")
    again = queue_id(sent(made.port, "c@example.com"))  # a listener without one
    assert again not in scan.told["IDENT"] and MARK not in inner.wait(2)[1].content
    scan.stop()


def test_the_filter_is_chosen_by_recipient_domain(gateway: Callable[..., Gateway], inner: Inner) -> None:
    back = free_port()
    scan = ContentFilter(back).start()
    policies = plain(rcpt='["relay", "access", "recipient"]', access='recipient = "texthash:to"\n')
    policies["to"] = f"special@example.com FILTER smtp:[127.0.0.1]:{scan.port}\n"
    made = gateway(policies=policies, more=wiring(back), workers=1)
    sent(made.port, "special@example.com", "other@example.com")
    arrived = {kept.recipients[0]: kept.content.count(MARK) for kept in inner.wait(2)}
    assert arrived == {"special@example.com": 1, "other@example.com": 0}
    scan.stop()


def test_a_filter_that_refuses_xforward_is_told_of(gateway: Callable[..., Gateway], inner: Inner) -> None:
    back, door = free_port(), free_port()
    scan = ContentFilter(back, knows=True)
    scan.forwarded = "550 5.7.0 you are not authorized"
    scan.start()
    made = gateway(policies=plain(), more=wiring(back, filtered_door(door, f"smtp:[127.0.0.1]:{scan.port}")), workers=1)
    first = queue_id(sent(door, "a@example.com"))
    inner.wait(1)
    said = "said: 550 5.7.0 you are not authorized (in reply to XFORWARD command)"
    made.wait_log(f"warning: {first}: host 127.0.0.1[127.0.0.1] {said}")
    scan.stop()


def test_mail_waits_for_a_filter_that_is_away(gateway: Callable[..., Gateway], inner: Inner) -> None:
    back, door, port = free_port(), free_port(), free_port()
    made = gateway(policies=plain(), more=wiring(back, filtered_door(door, f"smtp:[127.0.0.1]:{port}")), workers=1)
    first = queue_id(sent(door, "a@example.com"))
    made.wait_log(f"{first}: to=<a@example.com>, relay=none")
    assert f"connect to 127.0.0.1[127.0.0.1]:{port}: Connection refused" in waiting(made)[first]
    assert f"filter smtp:[127.0.0.1]:{port}" in json.dumps(made.status())
    scan = ContentFilter(back, port).start()
    made.cli("queue", "flush", "--all")
    assert MARK in inner.wait(1)[0].content
    scan.stop()


@pytest.mark.parametrize(
    ("text", "why"),
    [("nobody:", 'no filter is called \\"nobody\\"'), ("smtp:", "names no destination"), ("smtp:[x", "is no next hop")],
)
def test_mail_for_a_filter_that_nobody_knows_waits(
    gateway: Callable[..., Gateway], inner: Inner, text: str, why: str
) -> None:
    policies = plain(rcpt='["relay", "access", "recipient"]', access='recipient = "texthash:to"\n')
    policies["to"] = f"a@example.com FILTER {text}\n"
    made = gateway(policies=policies, more=wiring(free_port()), workers=1)
    first = queue_id(sent(made.port, "a@example.com"))
    made.wait_log(f"{first}: to=<a@example.com>, relay=none")
    assert why.replace("\\", "") in waiting(made)[first].replace("\\", "")
    assert not inner.messages


def test_what_the_filter_refuses_is_not_delivered(gateway: Callable[..., Gateway], inner: Inner) -> None:
    back, door = free_port(), free_port()
    scan = ContentFilter(back, answer="554 5.7.1 spam it is").start()
    made = gateway(policies=plain(), more=wiring(back, filtered_door(door, f"smtp:[127.0.0.1]:{scan.port}")), workers=1)
    first = queue_id(sent(door, "a@example.com"))
    made.wait_log(f"{first}: to=<a@example.com>, relay=127.0.0.1[127.0.0.1]:{scan.port}")
    made.wait_log("status=bounced (host 127.0.0.1[127.0.0.1] said: 554 5.7.1 spam it is")
    assert not inner.messages
    scan.stop()


@pytest.mark.parametrize("proven", [True, False])
def test_a_sender_who_was_authenticated_hears_of_a_failure_behind_the_filter(
    gateway: Callable[..., Gateway], inner: Inner, proven: bool
) -> None:
    back = free_port()
    inner.refuse = {"a@example.com": "550 5.1.1 gone"}
    made = gateway(policies=plain(), more=wiring(back), workers=1)
    with smtplib.SMTP("127.0.0.1", back, timeout=20) as smtp:
        smtp.ehlo()
        assert smtp.docmd("XFORWARD", f"ADDR=192.0.2.1 IDENT=before{PROVEN if proven else ''}")[0] == 250
        smtp.sendmail("b@example.com", ["a@example.com"], b"Subject: back\r\n\r\nhello\r\n")
    made.wait_log(", orig_queue_id=before, orig_client=unknown[192.0.2.1]")
    if proven:
        kept = inner.wait(1)[0]
        assert kept.recipients == ["b@example.com"] and kept.sender == "" and b"550 5.1.1 gone" in kept.content
    else:
        made.wait_log("to hold: undeliverable, and no notice may be sent because the sender is not proven")


def test_a_filter_that_speaks_no_xforward(gateway: Callable[..., Gateway], inner: Inner) -> None:
    back, door = free_port(), free_port()
    scan = ContentFilter(back, knows=False).start()
    gateway(policies=plain(), more=wiring(back, filtered_door(door, f"smtp:[127.0.0.1]:{scan.port}")), workers=1)
    sent(door, "a@example.com", body=b"Subject: x\r\n\r\n.dot\r\n..two\r\n")
    assert b"\r\n\r\n.dot\r\n..two\r\n" in inner.wait(1)[0].content and not scan.told
    scan.stop()
