"""What the running gateway would remember of `postgate selftest --live`, and did not know before: it is forgotten again.

Contract: `unknown` only asks; `forget` takes away exactly that. With nobody at stated's socket there is nothing to do.
What a worker has in its own memory it may keep for as long as it does for others. What failure means for the mail: none.
"""

import socket
import time
from collections.abc import Iterable
from contextlib import suppress
from typing import NamedTuple

from appliance.checks import early_talker
from appliance.cli import common
from appliance.config.snapshot import Snapshot
from appliance.mail.network import network
from appliance.protocol.smtp.address import AddressError, parse_address
from appliance.stores import wire
from appliance.stores.console import Console

#: Seconds within which a worker has told the store what it learnt.
TOLD = 2.0


class Note(NamedTuple):
    """A record of stated."""

    kind: str
    key: str


def of_recipient(recipient: str) -> list[Note]:
    """What call-ahead may learn: of the recipient itself, and of its domain."""
    try:
        address, _ = parse_address(recipient.encode(), utf8=True)
    except AddressError:
        return []
    return [Note("probe", f"{address.local}@{address.domain}"), Note("probe", f"@{address.domain}")]


def of_clients(snapshot: Snapshot, hosts: Iterable[str]) -> list[Note]:
    """That we waited for the greeting, as who we come to these hosts."""
    policy = snapshot.policies.checks[early_talker.NAME]
    policies = [policy, *(policy.derive((one,)) for one in policy.exceptions if policy.derive)]
    if not any(getattr(told.knobs, "wait", 0.0) for told in policies):
        return []
    seen = (network(_seen_from(host), 32, 64) for host in hosts)
    return [Note("waiter", client) for client in dict.fromkeys(seen)]


def _seen_from(host: str) -> str:
    """Our address, for who listens there. Nothing is sent."""
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    with suppress(OSError), socket.socket(family, socket.SOCK_DGRAM) as sock:
        sock.connect((host, 25))
        return str(sock.getsockname()[0])
    return host


def unknown(config: str | None, notes: Iterable[Note]) -> list[Note]:
    """Those that are not there yet."""
    with suppress(OSError), _console(config) as console:
        return [note for note in notes if not _is_there(console, note)]
    return []


def _is_there(console: Console, note: Note) -> bool:
    if note.kind == "probe":
        return console.ask(wire.ProbeGet(note.key)) is not None
    rows, _, _ = console.ask(wire.List(note.kind, note.key, note.key[:-1], 100))  # a page of keys behind that
    return any(key == note.key and expires > time.time() for key, _, expires in rows)


def forget(config: str | None, notes: Iterable[Note]) -> None:
    """As `postgate recipients forget`. A worker tells what it learnt when it has time for that: it is waited for."""
    end = time.monotonic() + TOLD
    with suppress(OSError), _console(config) as console:
        for note in notes:
            while not console.ask(wire.Delete(note.kind, note.key)) and time.monotonic() < end:
                time.sleep(0.05)


def _console(config: str | None) -> Console:
    return Console(common.state_dir(config) / "run" / "stated.sock")
