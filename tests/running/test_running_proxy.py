"""Content filters before the queue: over a running gateway, a filter whose answer is the client's, and the inside."""

from collections.abc import Callable

import pytest

from tests.peers.content_filter import MARK, ContentFilter
from tests.peers.gateway import Gateway
from tests.peers.inner import Inner
from tests.peers.policies import plain
from tests.peers.ports import free_port
from tests.running.talking import queue_id, sent
from tests.running.test_running_filters import wiring


def proxied_door(port: int, proxy_filter: str) -> str:
    """A listener for strangers, all of whose mail goes through a filter before it is answered."""
    return f'[[listen]]\nname = "proxied"\naddress = "127.0.0.1:{port}"\nworkers = 1\nproxy_filter = "{proxy_filter}"\n'


@pytest.mark.parametrize("place", ["127.0.0.1:{port}", "inet:127.0.0.1:{port}", "scan"])
def test_all_mail_of_a_listener_goes_through_its_filter(
    gateway: Callable[..., Gateway], inner: Inner, place: str
) -> None:
    back, door = free_port(), free_port()
    scan = ContentFilter(back).start()
    named = f'[filters.scan]\nnext_hop = "smtp:[127.0.0.1]:{scan.port}"\n' if place == "scan" else ""
    made = gateway(
        policies=plain(), more=wiring(back, proxied_door(door, place.format(port=scan.port)) + named), workers=1
    )
    first = queue_id(sent(door, "a@example.com", "b@example.com"))
    kept = inner.wait(1)[0]
    assert kept.recipients == ["a@example.com", "b@example.com"] and kept.sender == "sender@example.org"
    assert kept.content.count(MARK) == 1 and len(scan.seen) == 1  # no loop
    assert scan.told["IDENT"] == first and scan.told["ADDR"] == "127.0.0.1" and scan.told["PROTO"] == "ESMTP"
    made.wait_log(f", orig_queue_id={first}, orig_client=client.example.org[127.0.0.1]")
    made.wait_log(f"{first}: proxy-accept: END-OF-MESSAGE from client.example.org[127.0.0.1]: ")
    assert f"{first}: removed" not in made.log()  # our queue never had it
    scan.stop()
