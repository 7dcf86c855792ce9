"""An attack on a gateway beside which an honest sender goes on: what must hold at its end, whatever the attack was."""

import time
from collections.abc import Iterator
from contextlib import contextmanager

from tests.faults.hostile import Canary, none_late
from tests.faults.inner_peers import Scripted
from tests.faults.senders import Senders, reckon
from tests.peers.gateway import Gateway
from tests.peers.inner import Kept
from tests.peers.ports import wait_for


@contextmanager
def siege(made: Gateway, behind: Scripted) -> Iterator[None]:
    """Senders of mail whose address has no "stranger" in it go on all the while. In the end: no loop was late, no process
    was lost (scand may have been), nothing honest is refused, changed or lost, and nothing crashed."""
    began, pids = time.monotonic(), made.children()
    senders = Senders(made.port, threads=1)
    with Canary() as canary:
        senders.start()
        try:
            yield
            wait_for(lambda: senders.accepted >= 20, 30, "honest mail after the attack")
        finally:
            senders.stop()
    none_late(made, began, canary.worst)
    after = made.children()
    assert {k: v for k, v in after.items() if k != "scand"} == {k: v for k, v in pids.items() if k != "scand"}, (
        made.tail()
    )
    honest = senders.outcomes
    assert {o.kind for o in honest} == {"accepted"}, [o for o in honest if o.kind != "accepted"][:3]
    wait_for(lambda: not reckon(honest, numbered(behind)).lost, 20, f"honest mail\n{made.tail(20)}")
    assert not reckon(honest, numbered(behind)).changed
    assert "Traceback" not in made.log()
    assert "internal error" not in made.log()


def numbered(behind: Scripted) -> list[Kept]:
    """What came of the honest sender."""
    return [kept for kept in list(behind.messages) if "stranger" not in kept.sender]
