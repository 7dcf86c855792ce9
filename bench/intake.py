"""Intake alone: smtp-source to a gateway that discards everything, against stock aiosmtpd that does the same."""

import tempfile
from collections.abc import Callable
from pathlib import Path

from bench.load import AiosmtpdDiscard, send
from bench.pairs import Row, compare
from tests.peers.gateway import Gateway

STAGES = """\
[inbound]
connect = []
helo = []
mail = ["size"]
rcpt = ["relay", "recipient", "access"]
data = []
message = ["size"]
"""
POLICIES = {
    "stages.toml": STAGES,
    "access.toml": 'recipient = ["texthash:access/recipient"]\n',
    "access/recipient": "user@example.com DISCARD\n",
    "recipient.toml": 'tables = ["texthash:recipients"]\ncallahead = false\n',
    "recipients": "user@example.com ok\n",
}


def run(port: int, count: int, size: int, keep: bool) -> Callable[[], float]:
    return lambda: count / send(port, count, size, keep=keep)


def rows(pairs: int, count: int) -> list[Row]:
    with tempfile.TemporaryDirectory(prefix="postgate-bench-") as folder:
        root = Path(folder)
        root.chmod(0o755)
        ours = Gateway(root / "ours", 9, policies=POLICIES)
        theirs = AiosmtpdDiscard(root)
        try:
            ours.start()
            return [
                compare(
                    f"intake 2 KB, {name}", run(ours.port, count, 2048, keep), run(theirs.port, count, 2048, keep), pairs
                )
                for name, keep in (("new connections", False), ("kept connections", True))
            ]
        finally:
            ours.stop()
            theirs.stop()
