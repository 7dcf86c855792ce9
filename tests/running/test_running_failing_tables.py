"""A lookup table that cannot answer, over a running gateway: mail is put off, by whichever check asks it."""

from collections.abc import Callable
from typing import Any

import pytest

from tests.peers.gateway import Gateway
from tests.peers.inner import Inner
from tests.peers.policies import plain
from tests.peers.ports import free_port
from tests.running.talking import sent, trusted_door

STAGES = """\
[inbound]
connect = []
helo = []
mail = []
rcpt = ["relay", "recipient", "greylist"]
data = []
message = []
[outbound]
connect = []
helo = []
mail = ["own_domain"]
rcpt = []
data = []
message = ["own_domain"]
"""
GREYLIST = 'when = "always"\nexempt_recipients = []\n'
BODY = b"From: bob@example.com\r\nSubject: x\r\n\r\nHello.\r\n"
TO = "bob@example.com"


def start(gateway: Callable[..., Gateway], **files: str) -> tuple[Gateway, int, int]:
    door, out = free_port(), free_port()
    listener = f'[[listen]]\nname = "out"\nrole = "outbound"\naddress = "127.0.0.1:{out}"\nworkers = 1\n'
    listener += 'xclient = ["127.0.0.0/8"]\n'
    policies = plain(**files) | {"stages.toml": STAGES}
    return gateway(policies=policies, more=trusted_door(door) + listener, workers=1), door, out


@pytest.mark.parametrize("away", ["fail:no disk", "tcp:127.0.0.1:{}"])
def test_an_outbound_listener_whose_sources_are_away_lets_nobody_in(
    gateway: Callable[..., Gateway], inner: Inner, away: str
) -> None:
    spec = away.format(free_port())  # nobody listens there
    files = {"own_domain": f'sources = ["{spec}"]\n', "greylist": GREYLIST + f'exempt_clients = ["{spec}"]\n'}
    made, door, out = start(gateway, **files)
    stranger: dict[str, Any] = {"address": "192.0.2.66", "name": "host.example.net", "body": BODY}
    for sender in ("bob@example.com", "x@other.example"):
        reply = sent(out, TO, sender=sender, **stranger)
        assert reply.startswith("451 4.3.0 Sender address cannot be checked at the moment, please try again later [")
    reply = sent(door, TO, sender="x@other.example", **stranger)
    assert reply.startswith("451 4.3.0 Recipient address cannot be checked at the moment, please try again later [")
    made.wait_log("defer by greylist:table_error")
    (words,) = made.status()["degraded"]
    assert words.startswith(f"table {spec.partition(':')[0]}:") and "messages touched: 3," in words
    assert not inner.recipients()
