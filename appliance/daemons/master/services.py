"""The table of services: which processes there are, how many, as whom, with which sockets, in which order they end."""

from collections.abc import Callable
from os import sched_getaffinity

import msgspec

from appliance.config.model import Front, Listen, Wiring
from appliance.config.snapshot import Snapshot
from appliance.config.wiring import demo_inbox

GROUP = "postgate"


class Spec(msgspec.Struct, frozen=True, kw_only=True):
    """One service. `phase`: the lower ends first (who takes mail before who keeps it, the journal last). `public`:
    gets the [[listen]] sockets and the certificates. `secrets`: whose passwords it gets ("scanner", "recipients").
    `execed`: starts from a fresh image instead of the master's. `wanted`: what runs only while the policies and the
    wiring need it."""

    name: str
    module: str
    user: str
    count: Callable[[Wiring], int] = lambda _wiring: 1
    public: bool = False
    secrets: str = ""
    metrics: bool = False
    execed: bool = False
    rendezvous: bool = True
    operators: tuple[str, ...] = ()
    phase: int = 1
    wanted: Callable[[Snapshot], bool] = lambda _snapshot: True


def cores() -> int:
    return len(sched_getaffinity(0))


def workers(listen: Listen | Front, wiring: Wiring) -> int:
    """How many processes serve `listen`: as configured (0 = one per core), within [limits] smtpd."""
    most = wiring.limits.smtpd or 256
    return min(listen.workers or cores(), most)


def smtpd_count(wiring: Wiring) -> int:
    return max((workers(listen, wiring) for listen in wiring.listen if listen.protocol == "smtp"), default=0)


def front_count(service: str) -> Callable[[Wiring], int]:
    """Processes of a front: as many as its block with most of them wants, none without a block."""

    def count(wiring: Wiring) -> int:
        return max((workers(front, wiring) for name, front in wiring.fronts() if name == service), default=0)

    return count


def inbox_count(wiring: Wiring) -> int:
    """The demo inbox runs where mail goes to it: while no inner server is configured."""
    return int(demo_inbox(wiring.gateway.state_dir) in wiring.relay.next_hop)


SHIPPED = (
    Spec(name="journal", module="appliance.daemons.journal", user="postgate-log", metrics=True, phase=4),
    Spec(name="stated", module="appliance.daemons.stated", user="postgate-state", phase=2),
    Spec(
        name="delivery",
        module="appliance.daemons.delivery",
        user="postgate-queue",
        operators=("queue",),
        phase=2,
    ),
    Spec(
        name="proxymap",
        module="appliance.daemons.proxymap",
        user="postgate-tables",
        wanted=lambda snapshot: bool(snapshot.remotes),
        phase=3,
    ),
    Spec(
        name="runner",
        module="appliance.daemons.runner",
        user="postgate-run",
        wanted=lambda snapshot: snapshot.wiring.runs_programs,
        phase=3,
    ),
    Spec(
        name="syncd",
        module="appliance.daemons.syncd",
        user="postgate-sync",
        wanted=lambda snapshot: bool(snapshot.wiring.recipients),
        secrets="recipients",
        rendezvous=False,
        operators=("recipients",),
        phase=3,
    ),
    Spec(name="scand", module="appliance.daemons.scand", user="postgate-scan", execed=True, phase=2),
    Spec(name="inbox", module="appliance.daemons.inbox", user="postgate-inbox", count=inbox_count, phase=3),
    Spec(
        name="smtpd",
        module="appliance.daemons.smtpd",
        user="postgate-smtpd",
        count=smtpd_count,
        public=True,
        secrets="scanner",
        rendezvous=False,
        phase=1,
    ),
    Spec(
        name="policyd",
        module="appliance.daemons.policyd",
        user="postgate-policy",
        count=front_count("policyd"),
        rendezvous=False,
    ),
    Spec(
        name="milterd",
        module="appliance.daemons.milterd",
        user="postgate-milter",
        count=front_count("milterd"),
        rendezvous=False,
        secrets="scanner",
    ),
)
