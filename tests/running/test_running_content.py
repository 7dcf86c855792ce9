"""FILTER and QUARANTINE of content rules, over a running gateway: the next hop of the message changes, or it is kept."""

import json
from collections.abc import Callable, Iterator

import pytest

from tests.peers.content_filter import MARK, ContentFilter
from tests.peers.gateway import Gateway
from tests.peers.inner import Inner
from tests.peers.policies import plain
from tests.peers.ports import free_port, wait_for
from tests.running.talking import queue_id, sent

RULES = """\
/^X-Look: closely/     FILTER {filter}
/^X-Suspect: (\\w+)/    QUARANTINE it is $1
/^X-Later: filtered/   FILTER scan:
"""
BODY = "/^look at this$/ FILTER scan:\n/^keep this$/ QUARANTINE found in the text\n"


def mail(header: str = "", text: str = "hello") -> bytes:
    return f"From: <sender@example.org>\r\n{header}Subject: test\r\n\r\n{text}\r\nend\r\n".encode()


@pytest.fixture
def scan() -> Iterator[ContentFilter]:
    server = ContentFilter(free_port()).start()
    yield server
    server.stop()


@pytest.fixture
def made(gateway: Callable[..., Gateway], scan: ContentFilter) -> Gateway:
    policies = plain(message='["size", "loop", "content"]', content='header = "pcre:header"\nbody = "pcre:body"\n')
    policies |= {"header": RULES.format(filter=f"smtp:[127.0.0.1]:{scan.port}"), "body": BODY}
    more = f'[[listen]]\nname = "back"\nrole = "reinject"\naddress = "127.0.0.1:{scan.back}"\nworkers = 1\n'
    more += f'xclient = ["127.0.0.0/8"]\n[filters.scan]\nnext_hop = "smtp:[127.0.0.1]:{scan.port}"\n'
    return gateway(policies=policies, more=more, workers=1)


def quarantined(made: Gateway) -> dict[str, str]:
    """Why each is kept, by queue id."""
    listed = (json.loads(line) for line in made.cli("quarantine", "list", "--json").stdout.splitlines())
    return {one["queue_id"]: json.dumps(one) for one in listed}


def test_a_rule_over_header_or_body_sends_the_message_through_a_filter(
    made: Gateway, inner: Inner, scan: ContentFilter
) -> None:
    octets = {
        "plain@example.com": mail(),
        "header@example.com": mail("X-Look: closely\r\n"),
        "named@example.com": mail("X-Later: filtered\r\n"),
        "body@example.com": mail(text="look at this"),
    }
    ids = {to: queue_id(sent(made.port, to, body=one)) for to, one in octets.items()}
    arrived = {kept.recipients[0]: kept.content for kept in inner.wait(4)}
    assert {to: content.count(MARK) for to, content in arrived.items()} == {to: int(to[:5] != "plain") for to in octets}
    assert all(arrived[to].endswith(one) for to, one in octets.items()), "nothing else is changed"
    assert len(scan.seen) == 3
    for to in ("header@example.com", "named@example.com", "body@example.com"):
        made.wait_log(f"{ids[to]}: filter: ")


@pytest.mark.parametrize(
    ("octets", "why"),
    [
        (mail("X-Suspect: odd\r\n"), "it is odd"),
        (mail(text="keep this"), "found in the text"),
        (mail("X-Suspect: odd\r\nX-Look: closely\r\n"), "it is odd"),
    ],
)
def test_what_a_rule_quarantines_is_taken_kept_and_can_be_released(
    made: Gateway, inner: Inner, scan: ContentFilter, octets: bytes, why: str
) -> None:
    """Who sent it hears nothing of it; a filter that another rule wants has its turn behind the release."""
    kept = queue_id(sent(made.port, "a@example.com", "b@example.com", body=octets))
    assert queue_id(sent(made.port, "c@example.com", body=mail()))  # what comes behind it is delivered
    assert inner.wait(1)[0].recipients == ["c@example.com"] and not scan.seen
    wait_for(lambda: kept in quarantined(made), 10, "it in quarantine")
    assert why in quarantined(made)[kept]
    made.wait_log(f"{kept}: quarantine")
    assert made.cli("quarantine", "release", kept).returncode == 0
    released = inner.wait(2)[1]
    assert released.recipients == ["a@example.com", "b@example.com"] and released.content.endswith(octets)
    assert released.content.count(MARK) == len(scan.seen) == (b"X-Look" in octets)
    wait_for(lambda: not quarantined(made), 10, "an empty quarantine")
