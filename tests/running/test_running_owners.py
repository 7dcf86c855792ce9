"""A list with an owner over a running gateway: its processes die while the mail waits, and nobody gets it twice or from
another sender; the owner hears of members."""

import signal
from collections.abc import Callable, Iterator

import pytest

from tests.peers.dsn_server import DsnServer
from tests.peers.gateway import Gateway
from tests.peers.policies import plain
from tests.peers.ports import wait_for
from tests.running.talking import queue_id, sent

OWNER = "owner-list@mx.example.com"


@pytest.fixture
def server() -> Iterator[DsnServer]:
    made = DsnServer()
    yield made
    made.stop()


def listed(gateway: Callable[..., Gateway], server: DsnServer, **entries: str) -> Gateway:
    aliases = ", ".join(f"{{ {name.replace('_', '-')} = {value} }}" for name, value in entries.items())
    return gateway(
        inner=server.port,
        policies=plain(),
        workers=1,
        more=f'[relay.routes]\n"*" = "smtp:[127.0.0.1]:{server.port}"\n[queue]\nretry_min = "1s"\nretry_max = "1s"\n'
        f'[addresses]\nalias_maps = "inline:{{ {aliases} }}"\n',
    )


def copies(server: DsnServer) -> list[tuple[str, str]]:
    return sorted((mail.sender[0], address) for mail in server.mails for address, _ in mail.recipients)


def test_all_processes_die_while_a_list_waits(gateway: Callable[..., Gateway], server: DsnServer) -> None:
    made = listed(gateway, server, list="a@example.com, later@example.com", owner_list="boss@example.com")
    reply = sent(made.port, "list@mx.example.com", "x@example.com", "laterx@example.com")
    assert reply.startswith("250 ")
    made.wait_log("to=<later@example.com>, orig_to=<list@mx.example.com>")
    made.wait_log("to=<laterx@example.com>")
    assert f"{queue_id(reply)}: rewritten: owner_request_special" in made.log()
    made.status()  # who logged that has written it down by the time it answers
    assert made.process
    made.process.signal_group(signal.SIGKILL)
    made.process.stop()
    assert copies(server) == [(OWNER, "a@example.com"), ("sender@example.org", "x@example.com")]
    server.late = False
    made.start()
    wait_for(lambda: len(copies(server)) == 4, 30, "the rest")
    wait_for(lambda: not any(made.status()["queue"].values()), 30, "an empty queue")
    assert copies(server) == sorted(
        [
            (OWNER, "a@example.com"),
            (OWNER, "later@example.com"),
            ("sender@example.org", "x@example.com"),
            ("sender@example.org", "laterx@example.com"),
        ]
    )


def test_the_owner_hears_and_the_poster_does_not(gateway: Callable[..., Gateway], server: DsnServer) -> None:
    made = listed(gateway, server, list="bad@example.com, a@example.com", owner_list="office", office="boss@example.com")
    assert sent(made.port, "list@mx.example.com").startswith("250 ")
    wait_for(lambda: len(server.mails) == 2, 30, "the notice")
    wait_for(lambda: not any(made.status()["queue"].values()), 30, "an empty queue")
    assert copies(server) == [("", "boss@example.com"), (OWNER, "a@example.com")]
    [notice] = [mail for mail in server.mails if not mail.sender[0]]
    assert notice.message["To"] == f"<{OWNER}>"
    assert notice.reported == [("bad@example.com", "", "failed")]
    made.cli("address", "rewrite", "recipient", "list@mx.example.com")
