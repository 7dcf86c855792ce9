"""The scanners and the inspector of the wiring, as connectors.

Contract: the first smtpd worker alone makes the EICAR self-tests, so that a clamd hears of one each hour and not one from
each worker.
"""

from collections.abc import Iterator

from appliance.config.model import ScannerEntry
from appliance.config.snapshot import Snapshot
from appliance.config.values import parse_peer
from appliance.connectors.conversation import Server
from appliance.connectors.scanner import Settings
from appliance.connectors.scanners import Scanners
from appliance.daemons.skeleton import Birth


def build_scanners(birth: Birth) -> Scanners:
    """None of them is spoken to yet."""
    return Scanners(tests=birth.service == "smtpd" and birth.index == 0)


def settings(snapshot: Snapshot) -> Iterator[Settings]:
    """Every `[scanners.NAME]`, in the order of the file."""
    for name, entry in snapshot.wiring.scanners.items():
        yield _settings(name, entry)


def _settings(name: str, entry: ScannerEntry) -> Settings:
    peers = [parse_peer(text) for text in entry.address]
    return Settings(
        name=name,
        kind=entry.kind,
        servers=tuple(Server(peer.path, peer.host, peer.port) for peer in peers),
        timeout=entry.timeout,
        concurrency=entry.concurrency,
        size_limit=entry.size_limit,
    )
