"""A real authoritative name server (NSD) for the root zone of a test's own little Internet: what is not in the zone does
not exist. It answers on port 53 of a loopback address of its own, because some peers know no other port (so: root)."""

import os
import random
import shutil
import socket
from collections.abc import Sequence
from pathlib import Path

from tests.peers.ports import wait_for
from tests.peers.process import Process

SOA = "$ORIGIN .\n$TTL 3600\n. SOA ns. hostmaster.ns. 1 7200 3600 1209600 300\n. NS ns.\n"
CONF = """\
server:
  ip-address: {address}
  port: 53
  username: ""
  chroot: ""
  database: ""
  server-count: 1
  tcp-count: 100
  rrl-ratelimit: 0
  rrl-whitelist-ratelimit: 0
  zonesdir: "{root}"
  pidfile: "{root}/nsd.pid"
  xfrdfile: "{root}/xfrd.state"
  zonelistfile: "{root}/zone.list"
  hide-version: yes
remote-control:
  control-enable: no
zone:
  name: "."
  zonefile: "zone"
"""
#: An answer to "ns. A" and nothing else: id 0x7001, one question.
QUESTION = bytes.fromhex("700100000001000000000000026e730000010001")


def available() -> bool:
    return shutil.which("nsd") is not None and shutil.which("unshare") is not None and os.getuid() == 0


def txt(name: str, text: str) -> str:
    """A TXT record in character strings of at most 255 octets."""
    quoted = " ".join(
        '"' + text[n : n + 250].replace("\\", "\\\\").replace('"', '\\"') + '"' for n in range(0, len(text), 250)
    )
    return f"{name} TXT {quoted or chr(34) * 2}"


class Nsd:
    """`records` are lines of a zone file relative to the root ("example.org. A 192.0.2.1"); for names below `broken` the
    server has no data that it can read, and says SERVFAIL."""

    def __init__(self, root: Path, records: Sequence[str], broken: Sequence[str] = ()) -> None:
        self.root = root
        root.mkdir(parents=True, exist_ok=True)
        rng = random.Random(os.getpid() * 1000 + len(os.environ.get("PYTEST_XDIST_WORKER", "")) + id(self))
        self.address = f"127.{rng.randrange(8, 250)}.{rng.randrange(1, 250)}.{rng.randrange(1, 250)}"
        zone = SOA + f"ns. A {self.address}\n" + "\n".join(records) + "\n"
        (root / "zone").write_text(zone)
        missing = "".join(f'zone:\n  name: "{name}"\n  zonefile: "missing"\n' for name in broken)
        (root / "nsd.conf").write_text(CONF.format(address=self.address, root=root) + missing)
        (root / "resolv.conf").write_text(f"nameserver {self.address}\noptions timeout:2 attempts:2\n")
        self.process: Process | None = None

    def start(self) -> "Nsd":
        self.process = Process(["nsd", "-d", "-c", str(self.root / "nsd.conf")], self.root / "nsd.out")
        wait_for(self._answers, 20, f"NSD on {self.address}: see {self.root}/nsd.out")
        return self

    def _answers(self) -> bool:
        assert self.process
        assert self.process.running(), self.process.output()
        with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as sock:
            sock.settimeout(0.2)
            try:
                sock.connect((self.address, 53))
                sock.send(QUESTION)
                return sock.recv(512)[:2] == QUESTION[:2]
            except OSError:
                return False

    def within(self, *argv: str) -> list[str]:
        """The command line that runs `argv` where /etc/resolv.conf names this server (a mount namespace of its own)."""
        script = 'mount --bind "$0" /etc/resolv.conf && exec "$@"'
        return ["unshare", "--mount", "sh", "-c", script, str(self.root / "resolv.conf"), *argv]

    def stop(self) -> None:
        if self.process:
            self.process.stop()
