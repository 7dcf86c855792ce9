"""Telling systemd how we are (sd_notify(3)): READY=1, RELOADING=1, STOPPING=1, WATCHDOG=1, STATUS=...

Contract: without NOTIFY_SOCKET nothing happens; never raises.
"""

import contextlib
import os
import socket
import time


def notify(*states: str) -> None:
    """Send `states` ("READY=1", ...) to the supervisor, if there is one."""
    path = os.environ.get("NOTIFY_SOCKET", "")
    if not path:
        return
    if "RELOADING=1" in states:  # Type=notify-reload wants the time with it
        states = (*states, f"MONOTONIC_USEC={time.monotonic_ns() // 1000}")
    address = "\0" + path[1:] if path.startswith("@") else path
    with contextlib.suppress(OSError), socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as sock:
        sock.sendto("\n".join(states).encode(), socket.MSG_DONTWAIT, address)


def watchdog_period() -> float:
    """Seconds between signs of life that systemd asked for (half its limit), 0 = it asked for none."""
    if os.environ.get("WATCHDOG_PID", str(os.getpid())) != str(os.getpid()):
        return 0.0
    return int(os.environ.get("WATCHDOG_USEC", "0")) / 2_000_000
