"""Free ports and waiting for servers, without guessing: every test takes ports of its own."""

import contextlib
import os
import socket
import time
from collections import deque
from collections.abc import Callable
from pathlib import Path

#: Given out lately: who got one has perhaps not bound it yet.
_given: deque[int] = deque(maxlen=500)


def free_port(kind: int = socket.SOCK_STREAM) -> int:
    """A loopback port nobody listens on. xdist workers take theirs from ranges of their own, so that a port that is
    free now is not taken by a neighbour before the server under test binds it."""
    worker = int(os.environ.get("PYTEST_XDIST_WORKER", "gw0").removeprefix("gw") or 0)
    low = 20000 + (worker % 8) * 1500
    start = (os.getpid() * 7 + time.monotonic_ns() // 1000) % 1500
    for step in range(1500):
        port = low + (start + step) % 1500
        if port in _given:
            continue
        with socket.socket(socket.AF_INET, kind) as sock, contextlib.suppress(OSError):
            sock.bind(("127.0.0.1", port))
            _given.append(port)
            return port
    raise RuntimeError("no free loopback port")


def wait_for(condition: Callable[[], object], seconds: float, what: str) -> None:
    """Poll `condition` (10 ms) until it is true; fail with `what` after `seconds`."""
    end = time.monotonic() + seconds
    while not condition():
        if time.monotonic() > end:
            raise TimeoutError(f"waited {seconds:g} s for {what}")
        time.sleep(0.01)


def answers(port: int, host: str = "127.0.0.1") -> bool:
    """Somebody accepts connections on the port."""
    with contextlib.suppress(OSError), socket.create_connection((host, port), timeout=1):
        return True
    return False


def greets(port: int, host: str = "127.0.0.1") -> bool:
    """An SMTP server says 220 on the port."""
    with contextlib.suppress(OSError), socket.create_connection((host, port), timeout=2) as sock:
        return sock.recv(512).startswith(b"220")
    return False


def says(port: int, question: bytes, answer: bytes) -> bool:
    """Somebody on the port answers so: there are servers that accept long before they are able to."""
    with contextlib.suppress(OSError), socket.create_connection(("127.0.0.1", port), timeout=2) as sock:
        sock.sendall(question)
        return sock.recv(512).startswith(answer)
    return False


def unix_answers(path: Path) -> bool:
    with contextlib.suppress(OSError), socket.socket(socket.AF_UNIX) as sock:
        sock.connect(str(path))
        return True
    return False
