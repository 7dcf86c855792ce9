"""A message that a peer touches several times (recipients, tries) is touched once, for every kind of peer."""

import time

from appliance.connectors.condition import Condition
from appliance.connectors.faring import Fares
from appliance.connectors.milter_health import METERS
from appliance.observe import oplog, trouble

AGAIN = ("A1", "A1", "A2", "A1")


class Peer(Fares):
    """One that is not there."""

    async def answers(self) -> bool:
        return False


def test_by_whoever_is_asked_about_whole_messages() -> None:
    peer = Peer("milter", "once", "inet:127.0.0.1:9", oplog.get("milter"), METERS, ())
    for message in AGAIN:
        peer.failed("connecting", 0.0, "Connection refused", message)
    why = "Connection refused, at connecting (0.0 s)"
    assert peer.degraded == trouble.said("milter once fails", why, 2, ["A2", "A1"])
    assert peer.facts()["failed for"] == "2 (last: A2, A1)"
    peer.close()


def test_by_a_scanner() -> None:
    condition = Condition("once", time.time)
    condition.failed("Connection refused")
    assert condition.degraded() == [trouble.said("scanner once fails", "Connection refused")]
    assert "not scanned" not in condition.facts()
    for message in AGAIN:
        condition.count("error", 0.0, message)
    condition.count("clean", 0.0, "A3")
    assert condition.degraded() == [trouble.said("scanner once fails", "Connection refused", 2, ["A2", "A1"])]
    assert condition.facts()["not scanned"] == "2 (last: A2, A1)"
