"""The milter server under a Postfix against the same Postfix under opendkim and opendmarc: signed mail of 2 KB, DKIM and
DMARC judged, one field of results. Ours evaluates SPF for DMARC, too; theirs does not. In a network of its own, as the
rows of authenticated mail; before anything is timed each side shows that its mail carries dkim=pass and dmarc=pass."""

import json
import re
import subprocess
import sys
import tempfile
from collections.abc import Callable
from itertools import count
from pathlib import Path

from bench.authenticated import CLIENT, DOMAINS, Side, deliver, letter, records, run
from bench.load import Sink
from bench.pairs import Row, compare
from bench.stacks import relaying
from tests.peers.authpeers import OpenDkim, OpenDmarc
from tests.peers.gateway import Gateway
from tests.peers.inner import Inner
from tests.peers.nsd import Nsd
from tests.peers.postfix import Postfix

#: Messages of one run.
COUNT = 1000
STAGES = """\
[inbound]
connect = []
helo = []
mail = []
rcpt = ["relay", "recipient"]
data = []
message = ["dkim", "dmarc"]
"""
POLICIES = {
    "stages.toml": STAGES,
    "recipient.toml": 'tables = ["inline:{ user@example.com=ok }"]\ncallahead = false\n',
}
NAME = "Postfix, opendkim, opendmarc"


class Ours:
    """Postfix with milterd."""

    def __init__(self, root: Path, names: Nsd, next_hop: int) -> None:
        root.mkdir()
        more = f'[[milterd]]\naddress = "unix:{root}/sock"\n'
        names_at = f"{names.address}:53"
        self._gateway = Gateway(
            root / "gateway", 1, workers=1, more=more, policies=POLICIES, zone="", nameserver=names_at
        )
        self._postfix = relaying(root / "postfix", next_hop, smtpd_milters=f"unix:{root}/sock")

    @property
    def port(self) -> int:
        return self._postfix.port

    def start(self) -> None:
        self._gateway.start()
        self._postfix.start()

    def stop(self) -> None:
        self._postfix.stop()
        self._gateway.stop()


class Theirs:
    """Postfix with the two milters that everybody has."""

    def __init__(self, root: Path, names: Nsd, next_hop: int) -> None:
        root.mkdir()
        self._filters = OpenDkim(root / "opendkim", names), OpenDmarc(root / "opendmarc", names, "mx.example.com")
        for one in self._filters:
            one.socket.chmod(0o777)
        milters = " ".join(f"unix:{one.socket}" for one in self._filters)
        self._postfix: Postfix = relaying(root / "postfix", next_hop, smtpd_milters=milters)

    @property
    def port(self) -> int:
        return self._postfix.port

    def start(self) -> None:
        self._postfix.start()

    def stop(self) -> None:
        self._postfix.stop()
        for one in self._filters:
            one.stop()


Make = Callable[[int], Side]


def prove(make: Make, name: str) -> None:
    """What this side delivers carries both passes."""
    inner = Inner().start()
    side = make(inner.port)
    side.start()
    try:
        deliver(side, [letter(number) for number in range(len(DOMAINS))])
        for kept in inner.wait(len(DOMAINS), 60):
            header = kept.content.partition(b"\r\n\r\n")[0].lower()
            missing = [word for word in (b"dkim", b"dmarc") if not re.search(rb"\b%b=pass\b" % word, header)]
            if missing:
                raise RuntimeError(f"{name} delivered without {missing}: {header.decode(errors='replace')[:3000]}")
        print(f"  {name}: dkim=pass, dmarc=pass", flush=True)
    finally:
        side.stop()
        inner.stop()


def inside(pairs: int) -> list[Row]:
    """The row, within the network of its own."""
    with tempfile.TemporaryDirectory(prefix="postgate-bench-") as folder:
        root = Path(folder)
        root.chmod(0o755)
        names = Nsd(root / "names", records()).start()
        subprocess.run(["mount", "--bind", str(root / "names" / "resolv.conf"), "/etc/resolv.conf"], check=True)
        numbers = count()
        makes: tuple[Make, Make] = (
            lambda next_hop: Ours(root / f"ours{next(numbers)}", names, next_hop),
            lambda next_hop: Theirs(root / f"theirs{next(numbers)}", names, next_hop),
        )
        try:
            for make, name in zip(makes, ("Postfix, milterd", NAME), strict=True):
                prove(make, name)
            return [pair(*makes, pairs)]
        finally:
            names.stop()


def pair(ours: Make, theirs: Make, pairs: int) -> Row:
    sinks = Sink(), Sink()
    sides = ours(sinks[0].port), theirs(sinks[1].port)
    try:
        for side, sink in zip(sides, sinks, strict=True):
            side.start()
            run(side, sink, 300)()
        runs = (run(side, sink, COUNT) for side, sink in zip(sides, sinks, strict=True))
        return compare(f"Postfix with milterd, signed 2 KB, against {NAME}", *runs, pairs)
    finally:
        for side in sides:
            side.stop()
        for sink in sinks:
            sink.stop()


def rows(pairs: int) -> list[Row]:
    """Measured by a child in a network of its own."""
    with tempfile.NamedTemporaryFile(prefix="postgate-bench-") as answer:
        script = f'ip link set lo up && ip address add {CLIENT}/32 dev lo && exec "$@"'
        words = [sys.executable, "-m", "bench.milter", str(pairs), answer.name]
        subprocess.run(["unshare", "--net", "--mount", "sh", "-c", script, "sh", *words], check=True)
        return [Row(*row) for row in json.loads(Path(answer.name).read_bytes())]


if __name__ == "__main__":
    Path(sys.argv[2]).write_text(json.dumps(inside(int(sys.argv[1]))))
