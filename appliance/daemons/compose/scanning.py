"""`[scanners.NAME]` as the connectors want it: one Settings an entry.

Contract: pure; what only a kind has becomes its Options. What failure means for the mail: none.
"""

from typing import Any

from appliance.config.model import ScannerEntry
from appliance.config.snapshot import Snapshot
from appliance.config.values import parse_peer
from appliance.connectors import icap, rspamd, yara
from appliance.connectors.conversation import Server
from appliance.connectors.scanner import Settings
from appliance.protocol.mime import Limits


def scanner_settings(snapshot: Snapshot, runner: str = "") -> list[Settings]:
    """All of them. `runner`: the socket of the process that runs programs."""
    return [_settings(snapshot, name, entry, runner) for name, entry in snapshot.wiring.scanners.items()]


def _settings(snapshot: Snapshot, name: str, entry: ScannerEntry, runner: str) -> Settings:
    servers = tuple(Server(peer.path, peer.host, peer.port) for peer in map(parse_peer, entry.address))
    return Settings(
        name,
        entry.kind,
        servers or (Server(path=runner, program=entry.command[0] if entry.command else ""),),
        entry.timeout,
        entry.concurrency,
        entry.size_limit,
        entry.remember,
        options(snapshot, entry),
    )


def options(snapshot: Snapshot, entry: ScannerEntry) -> Any:
    """What only scanners of this kind have."""
    if entry.kind == rspamd.KIND:
        return rspamd.Options(snapshot.wiring.gateway.hostname, entry.user)
    if entry.kind == icap.KIND:
        return icap.Options(entry.service, entry.method)
    if entry.kind == yara.KIND:  # one job of scand serves the check attachments as well
        limits: Limits = snapshot.policies.checks["attachments"].knobs.limits  # type: ignore[attr-defined]
        return yara.Options(limits, bool(snapshot.blob.rules))
    if entry.by_runner:  # another program, or another meaning: nothing that is remembered counts
        return entry.command, tuple(sorted(entry.exit_codes.items())), entry.pattern, entry.folder
    return None
