"""Connections of an attacker, what a gateway may say to them, and how late event loops were meanwhile."""

import re
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Iterable
from typing import NamedTuple

from tests.peers.gateway import Gateway

#: A reply line (RFC 5321 4.2.1), and what must never stand in one: traces, our files, classes, exceptions.
REPLY = re.compile(rb"[2-5]\d\d(?:[ -][\x20-\x7e]{0,505})?")
INTERNAL = re.compile(
    rb"(?i)traceback|\.py\b|appliance|python|aiosmtpd|asyncio|exception|\w+error\(|object at 0x|/tmp|line \d+, in"
)
#: A loop that waits for the processor or the disk measures the machine, not itself: this one does nothing but make a
#: file as long as a piece of mail, and take it away. What it waited for a processor is not in its figure: each loop
#: counts that for itself (`denied`). What is left is what nobody counts.
CANARY = """
import os, select, sys, tempfile, time

def written():
    fd, path = tempfile.mkstemp()
    os.write(fd, bytes(65536))
    os.close(fd)
    os.unlink(path)

def waited():
    with open("/proc/self/schedstat") as file:
        return int(file.read().split()[1]) / 1e9

worst = 0.0
print(flush=True)
while not select.select([sys.stdin], [], [], 0)[0]:
    due, before = time.monotonic() + 0.05, waited()
    time.sleep(0.05)
    written()
    late = time.monotonic() - due
    worst = max(worst, late - min(late, waited() - before))
print(worst)
"""


class Heard(NamedTuple):
    """What came back until the end, how long that took, and how it ended: "closed", "reset", or "still open"."""

    octets: bytes
    seconds: float
    end: str

    @property
    def replies(self) -> list[bytes]:
        return self.octets.split(b"\r\n")[:-1]


def attack(
    port: int,
    payload: bytes | Iterable[bytes],
    early: bool = False,
    half: bool = True,
    seconds: float = 25,
    opening: bytes = b"",
) -> Heard:
    """Send `payload` (before the greeting if `early`, behind `opening` and its 354 if that is given), say no more
    (unless not `half`), hear all that comes."""
    start = time.monotonic()
    with socket.create_connection(("127.0.0.1", port), timeout=seconds) as sock:
        heard = bytearray() if early else bytearray(sock.recv(1000))
        sock.sendall(opening)
        while opening and b"\r\n354 " not in heard and (octets := sock.recv(65536)):
            heard += octets
        sender = threading.Thread(target=_send, args=(sock, payload, half), daemon=True)
        sender.start()
        end = "closed"
        try:
            while octets := sock.recv(65536):
                heard += octets
        except TimeoutError:
            end = "still open"
        except OSError:
            end = "reset"
    sender.join(seconds)
    return Heard(bytes(heard), time.monotonic() - start, end)


def _send(sock: socket.socket, payload: bytes | Iterable[bytes], half: bool) -> None:
    try:
        for part in (payload,) if isinstance(payload, bytes) else payload:
            sock.sendall(part)
        if half:
            sock.shutdown(socket.SHUT_WR)
    except OSError:
        pass  # thrown out while talking: what was heard tells


def tidy(heard: Heard) -> None:
    """Only replies, whole ones, that tell nothing of our inside; and an end."""
    assert heard.end != "still open", heard.octets[-300:]
    assert heard.octets.endswith(b"\r\n") or not heard.octets or heard.end == "reset", heard.octets[-300:]
    for line in heard.replies:
        assert REPLY.fullmatch(line), line
        assert not INTERNAL.search(line), line


class Canary:
    """How late a loop that only writes a little was here, in seconds; its waits for a processor are not in it."""

    def __enter__(self) -> "Canary":
        self._process = subprocess.Popen(
            [sys.executable, "-c", CANARY], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
        )
        assert self._process.stdout
        self._process.stdout.readline()
        return self

    def __exit__(self, *_: object) -> None:
        self.worst = float(self._process.communicate("\n", timeout=10)[0])


class Lag(NamedTuple):
    """The longest that a process kept its own loop, in seconds, and how late the loop was in all."""

    own: float
    late: float


def lag_since(gateway: Gateway, moment: float) -> dict[str, Lag]:
    """The longest lag of each process since `moment` (monotonic clock): what came before hides nothing. Time for which
    the machine ran others is not the loop's own."""
    found = {}
    for worker in gateway.status()["workers"]:
        peaks = [peak for peak in worker["health"].get("lag_peaks", []) if peak[0] >= moment]
        found[worker["worker"]] = max((Lag(late - denied, late) for _, late, denied in peaks), default=Lag(0.0, 0.0))
    return found


def none_late(gateway: Gateway, moment: float, machine: float) -> None:
    """No loop was kept for 100 ms since `moment` by its own process. `machine`: how late the canary's was."""
    late = {worker: lag for worker, lag in lag_since(gateway, moment).items() if lag.own > 0.1 + machine}
    assert not late, f"loops were kept: {late} (the canary by at most {machine:.3f} s, not denied)"
