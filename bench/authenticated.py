"""Signed mail of 2 KB with greylisting (warm), SPF, DKIM and DMARC on: against the classic stack and against rspamd.

All of it runs in a network of its own (a namespace, so: root), whose only name server is an NSD for the whole little
Internet, and whose client has an address that is not loopback. Before anything is timed each side shows that the mail it
delivers carries spf=pass, dkim=pass and dmarc=pass, and that a stranger's first try was put off."""

import json
import re
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from email.utils import formatdate
from itertools import count
from pathlib import Path
from typing import Any, Protocol

from cryptography.hazmat.primitives.asymmetric import padding
from cryptography.hazmat.primitives.asymmetric import rsa as crypto
from cryptography.hazmat.primitives.hashes import SHA256

from bench.load import Sink
from bench.pairs import Row, compare
from bench.replay import Letter, replay
from bench.stacks import Classic, Rspamd
from tests.peers.gateway import Gateway
from tests.peers.inner import Inner
from tests.peers.mailworld.keys import Rsa
from tests.peers.mailworld.keys import rsa as make_key
from tests.peers.mailworld.signing import sign
from tests.peers.nsd import Nsd, txt
from tests.peers.ports import wait_for

CLIENT, HELO = "192.0.2.25", "client.sender.bv"
DOMAINS = tuple(f"sender{number}.bv" for number in range(10))
SIZE, SELECTOR = 2048, "2026"
#: Of the SMTP server: on two cores a second one costs more than it brings (delivery and the others need the other core).
WORKERS = 1
#: Messages of one run: some seconds for each side.
OURS, THEIRS = 3000, 600
STAGES = """\
[inbound]
connect = ["access"]
helo = []
mail = ["size", "identity", "spf"]
rcpt = ["relay", "recipient", "greylist"]
data = []
message = ["size", "loop", "dkim", "arc", "dmarc", "identity"]
"""
POLICIES = {
    "stages.toml": STAGES,
    "access.toml": 'client = ["cidr:access/client.cidr"]\n',
    "access/client.cidr": "198.51.100.0/24 REJECT\n",
    "recipient.toml": 'tables = ["texthash:recipients"]\ncallahead = false\n',
    "recipients": "user@example.com ok\n",
    "greylist.toml": 'when = "always"\ndelay = "1s"\nauto_accept = 0\n',
}
_numbers = count()


class Side(Protocol):
    """One of those who are compared."""

    @property
    def port(self) -> int: ...

    def start(self) -> Any: ...

    def stop(self) -> Any: ...


class FastKey(Rsa):
    """The same key, with signatures by OpenSSL: thousands of messages are prepared for each run."""

    def sign(self, data: bytes, digest: str = "sha256") -> bytes:
        return _openssl().sign(data, padding.PKCS1v15(), SHA256())


KEY = FastKey(*make_key(2048))
_kept: list[crypto.RSAPrivateKey] = []


def _openssl() -> crypto.RSAPrivateKey:
    if not _kept:
        n, d = KEY.modulus, KEY.secret
        p, q = crypto.rsa_recover_prime_factors(n, 65537, d)
        crt = crypto.rsa_crt_dmp1(d, p), crypto.rsa_crt_dmq1(d, q), crypto.rsa_crt_iqmp(p, q)
        _kept.append(crypto.RSAPrivateNumbers(p, q, d, *crt, crypto.RSAPublicNumbers(65537, n)).private_key())
    return _kept[0]


def records() -> list[str]:
    """Ten senders' domains and their common server."""
    lines = [f"{HELO}. A {CLIENT}", f"25.2.0.192.in-addr.arpa. PTR {HELO}.", "mx.example.com. A 127.0.0.1"]
    for domain in DOMAINS:
        lines += [f"{domain}. MX 10 {HELO}.", txt(f"{domain}.", f"v=spf1 ip4:{CLIENT} -all")]
        lines += [txt(f"{SELECTOR}._domainkey.{domain}.", f"v=DKIM1; k=rsa; p={KEY.record}")]
        lines += [txt(f"_dmarc.{domain}.", f"v=DMARC1; p=reject; rua=mailto:dmarc@{domain}")]
    return lines


def letter(number: int) -> Letter:
    """A message like no other from one of twenty senders."""
    domain = DOMAINS[number % len(DOMAINS)]
    sender = f"{('joe', 'eve')[number // len(DOMAINS) % 2]}@{domain}"
    date = formatdate(1_790_000_000 + number)
    header = f"From: A Sender <{sender}>\r\nTo: user@example.com\r\nSubject: message {number}\r\nDate: {date}\r\n"
    header += f"Message-ID: <{number}.{time.time_ns()}@{domain}>\r\nMIME-Version: 1.0\r\nContent-Type: text/plain\r\n\r\n"
    line = f"This is line {number} of a message that says nothing in particular.\r\n"
    content = header + line * ((SIZE - len(header) - 600) // len(line))
    return Letter(sender, "user@example.com", sign(content.encode(), KEY, domain, SELECTOR))


def deliver(side: Side, letters: list[Letter]) -> float:
    seconds, troubles = replay(side.port, letters, HELO, CLIENT)
    if troubles:
        raise RuntimeError(f"{troubles.total()} of {len(letters)} messages were not taken: {troubles.most_common(3)}")
    return seconds


def _put_off(side: Side, letters: list[Letter]) -> bool:
    _, troubles = replay(side.port, letters, HELO, CLIENT)
    return troubles.total() == len(letters) and all(reply.startswith("45") for reply in troubles)


def warm(side: Side) -> None:
    """Everybody's first try is put off, and passes after the delay. A side that has just started may need a moment."""
    wait_for(
        lambda: _put_off(side, [Letter(f"x{next(_numbers)}@{DOMAINS[0]}", "user@example.com", b"")]), 20, "a greylist"
    )
    first = [letter(next(_numbers)) for _ in range(2 * len(DOMAINS))]
    if not _put_off(side, first):
        raise RuntimeError("the greylist did not put everybody off")
    time.sleep(1.5)
    deliver(side, first)


def prove(make: Callable[[int], Side], name: str) -> None:
    """What this side delivers carries the three passes."""
    inner = Inner().start()
    side = make(inner.port)
    side.start()
    try:
        warm(side)
        inner.wait(2 * len(DOMAINS), 60)
        for kept in inner.messages:
            header = kept.content.partition(b"\r\n\r\n")[0].lower()
            found = {word for word in (b"spf", b"dkim", b"dmarc") if re.search(rb"\b%b=pass\b" % word, header)}
            if b"received-spf: pass" in header:
                found.add(b"spf")
            if len(found) < 3:
                raise RuntimeError(f"{name} delivered without all passes: {header.decode(errors='replace')[:3000]}")
        print(f"  {name}: put off at first, then spf=pass, dkim=pass, dmarc=pass", flush=True)
    finally:
        side.stop()
        inner.stop()


def run(side: Side, sink: Sink, number: int) -> Callable[[], float]:
    """One run: messages a second from the first connection to the last arrival at the sink."""

    def once() -> float:
        letters = [letter(next(_numbers)) for _ in range(number)]
        start = sink.messages
        began = time.monotonic()
        deliver(side, letters)
        sink.wait(start + number, 300)
        return number / (time.monotonic() - began)

    return once


def inside(pairs: int, only: str) -> list[Row]:
    """All rows, within the network of their own."""
    with tempfile.TemporaryDirectory(prefix="postgate-bench-") as folder:
        root = Path(folder)
        root.chmod(0o755)
        names = Nsd(root / "names", records()).start()
        subprocess.run(["mount", "--bind", str(root / "names" / "resolv.conf"), "/etc/resolv.conf"], check=True)
        numbers = count()

        def gateway(next_hop: int) -> Side:
            where = root / f"ours{next(numbers)}"
            return Gateway(where, next_hop, workers=WORKERS, policies=POLICIES, zone="", nameserver=f"{names.address}:53")

        peers = {
            "classic": (Classic, lambda next_hop: Classic(root / f"classic{next(numbers)}", names, next_hop)),
            "rspamd": (Rspamd, lambda next_hop: Rspamd(root / f"rspamd{next(numbers)}", names, next_hop)),
        }
        found = []
        try:
            prove(gateway, "Postgate")
            for key, (kind, make) in peers.items():
                if only in ("", key):
                    prove(make, kind.name)
                    found.append(pair(gateway, make, pairs, f"signed 2 KB, against {kind.name}"))
        finally:
            names.stop()
        return found


def pair(gateway: Callable[[int], Side], make: Callable[[int], Side], pairs: int, name: str) -> Row:
    sinks = Sink(), Sink()
    sides = gateway(sinks[0].port), make(sinks[1].port)
    try:
        for side in sides:
            side.start()
            warm(side)
        return compare(name, run(sides[0], sinks[0], OURS), run(sides[1], sinks[1], THEIRS), pairs)
    finally:
        for side in sides:
            side.stop()
        for sink in sinks:
            sink.stop()


def rows(pairs: int, only: str = "") -> list[Row]:
    """All rows, measured by a child in a network of its own."""
    with tempfile.NamedTemporaryFile(prefix="postgate-bench-") as answer:
        script = f'ip link set lo up && ip address add {CLIENT}/32 dev lo && exec "$@"'
        words = [sys.executable, "-m", "bench.authenticated", str(pairs), answer.name, only]
        subprocess.run(["unshare", "--net", "--mount", "sh", "-c", script, "sh", *words], check=True)
        return [Row(*row) for row in json.loads(Path(answer.name).read_bytes())]


if __name__ == "__main__":
    Path(sys.argv[2]).write_text(json.dumps(inside(int(sys.argv[1]), sys.argv[3])))
