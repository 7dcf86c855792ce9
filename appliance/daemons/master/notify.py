"""Telling systemd how we are (sd_notify(3)): READY=1, RELOADING=1, STOPPING=1, WATCHDOG=1, STATUS=...

Contract: without NOTIFY_SOCKET nothing happens; never raises, never waits. What a busy supervisor has no room for, or we
no descriptor, is said again, in its order, by `again` and before whatever is said next; only a sign of life is not:
another one follows.
"""

import errno
import os
import socket
import time

LIFE = "WATCHDOG=1"
#: What is over in a moment.
_PASSING = (errno.EAGAIN, errno.EMFILE, errno.ENFILE, errno.ENOBUFS, errno.ENOMEM)
_unsaid: list[bytes] = []


def notify(*states: str) -> None:
    """Send `states` ("READY=1", ...) to the supervisor, if there is one."""
    if "RELOADING=1" in states:  # Type=notify-reload wants the time with it
        states = (*states, f"MONOTONIC_USEC={time.monotonic_ns() // 1000}")
    _unsaid.append("\n".join(states).encode())
    again()
    if states == (LIFE,) and _unsaid:
        del _unsaid[-1]


def again() -> None:
    """Say what is not said yet."""
    path = os.environ.get("NOTIFY_SOCKET", "")
    if not path:
        _unsaid.clear()
    if not _unsaid:
        return
    address = "\0" + path[1:] if path.startswith("@") else path
    try:
        with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as sock:
            while _unsaid:
                sock.sendto(_unsaid[0], socket.MSG_DONTWAIT, address)
                del _unsaid[0]
    except OSError as error:
        if error.errno not in _PASSING:
            _unsaid.clear()  # nobody is there


def watchdog_period() -> float:
    """Seconds between signs of life that systemd asked for (half its limit), 0 = it asked for none."""
    if os.environ.get("WATCHDOG_PID", str(os.getpid())) != str(os.getpid()):
        return 0.0
    return int(os.environ.get("WATCHDOG_USEC", "0")) / 2_000_000
