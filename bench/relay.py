"""Relay throughput: from the first connection to the last message at the receiving end, synced and delivered."""

import tempfile
import time
from collections.abc import Callable
from pathlib import Path

from bench.load import Sink, send
from bench.pairs import Row, compare
from tests.peers.gateway import Gateway
from tests.peers.postfix import Postfix

STAGES = """\
[inbound]
connect = ["access"]
helo = []
mail = ["size"]
rcpt = ["relay", "recipient"]
data = []
message = ["size"]
"""
POLICIES = {
    "stages.toml": STAGES,
    "access.toml": 'client = ["cidr:access/client.cidr"]\n',
    "access/client.cidr": "192.0.2.0/24 REJECT\n",
    "recipient.toml": 'tables = ["texthash:recipients"]\ncallahead = false\n',
    "recipients": "user@example.com ok\n",
}
SIZES = {"2 KB": (2048, 4000), "10 KB": (10240, 3000), "1 MB": (1048576, 150)}


def postfix(root: Path, sink: Sink) -> Postfix:
    """Debian's Postfix, default durability, with the same checks: client table, relay domains, recipients, size."""
    root.mkdir(parents=True)
    (root / "client.cidr").write_text("192.0.2.0/24 REJECT\n")
    (root / "recipients").write_text("user@example.com ok\n")
    return Postfix(
        root,
        hostname="mx.example.com",
        relay=f"[127.0.0.1]:{sink.port}",
        mynetworks="",
        relay_domains="example.com",
        relay_recipient_maps=f"texthash:{root}/recipients",
        smtpd_client_restrictions=f"check_client_access cidr:{root}/client.cidr",
        smtpd_relay_restrictions="reject_unauth_destination",
        smtpd_client_connection_count_limit="0",
        message_size_limit="52428800",
    )


def run(port: int, sink: Sink, count: int, size: int) -> Callable[[], float]:
    """One run: messages a second from the first connection to the last arrival at the sink."""

    def once() -> float:
        start = sink.messages
        began = time.monotonic()
        send(port, count, size)
        sink.wait(start + count, 300)
        return count / (time.monotonic() - began)

    return once


def rows(pairs: int, sizes: dict[str, tuple[int, int]]) -> list[Row]:
    with tempfile.TemporaryDirectory(prefix="postgate-bench-") as folder:
        root = Path(folder)
        root.chmod(0o755)
        sinks = Sink(), Sink()
        ours = Gateway(root / "ours", sinks[0].port, policies=POLICIES)
        theirs = postfix(root / "theirs", sinks[1])
        try:
            ours.start()
            theirs.start()
            found = []
            for name, (size, count) in sizes.items():
                a, b = run(ours.port, sinks[0], count, size), run(theirs.port, sinks[1], count, size)
                found.append(compare(f"relay {name}", a, b, pairs))
            return found
        finally:
            ours.stop()
            theirs.stop()
            for sink in sinks:
                sink.stop()
