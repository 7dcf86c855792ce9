"""One sync in a process of its own: the order comes on standard input, the outcome goes to standard output.

What a source answers is large and of strangers: here it has no more memory than LIMIT, no more time than its order says,
and ends with the process. Contract: exit 0 with an Outcome, whatever the source does; whoever started it takes any other
end for a failed sync. It dies with its parent. What failure means for the mail: the old list stays.
"""

import contextlib
import ctypes
import os
import resource
import signal
import sys
from pathlib import Path

import msgspec

from appliance.tables.known.keep import Order, Outcome, account, sync

#: Octets of memory.
LIMIT = 1 << 30
_DEATH_SIGNAL, _NO_NEW_PRIVS = 1, 38


def main(parent: int) -> None:
    """`parent`: the process that waits for the outcome."""
    _confine(parent)
    order = msgspec.json.decode(sys.stdin.buffer.read(), type=Order)
    sys.stdout.buffer.write(msgspec.json.encode(_tried(order)))
    sys.stdout.buffer.flush()


def _tried(order: Order) -> Outcome:
    try:
        return sync(order)
    except MemoryError:
        problem = f"the source has more than {LIMIT >> 20} MB of memory can hold"
    known = account(Path(order.folder), order.name)
    return Outcome(name=order.name, at=known.at, count=known.count, problem=problem)


def _confine(parent: int) -> None:
    libc = ctypes.CDLL(None, use_errno=True)
    libc.prctl(_NO_NEW_PRIVS, 1, 0, 0, 0)
    libc.prctl(_DEATH_SIGNAL, signal.SIGKILL, 0, 0, 0)
    if os.getppid() != parent:
        os._exit(3)
    os.umask(0o077)
    with contextlib.suppress(ValueError, OSError):  # a lower limit is in force already
        resource.setrlimit(resource.RLIMIT_AS, (LIMIT, LIMIT))
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    for number in (signal.SIGTERM, signal.SIGINT, signal.SIGHUP):
        signal.signal(number, signal.SIG_DFL)
