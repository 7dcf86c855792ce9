"""The master: `run(options)` is the gateway in the foreground.

Contract: the exit status is 0 after an orderly end, 1 where the files, sockets, users or the state folder are wrong (all
of it said on stderr, with what to do).
"""

import resource
import sys
from collections.abc import Callable, Mapping
from contextlib import suppress
from typing import Any

import setproctitle

from appliance.daemons.master import cold
from appliance.daemons.master.gateway import Gateway
from appliance.daemons.master.listeners import BindError
from appliance.daemons.master.separation import SeparationError
from appliance.daemons.master.services import SHIPPED, Spec
from appliance.daemons.master.statedir import StateError
from appliance.observe import oplog


def run(
    config: str | None,
    announce: Callable[[Mapping[str, Any]], None] | None = None,
    services: tuple[Spec, ...] = SHIPPED,
) -> int:
    """Start the gateway of the wiring file `config` (None: the embedded default) and stay until it ends.

    `announce(facts)` is called once, when all processes serve. Returns the exit status.
    """
    try:
        start = cold.start(config)
        oplog.configure(start.snapshot.wiring.logging.level)
        _open_many_files()
        setproctitle.setproctitle(f"postgate: master ({start.snapshot.blob.label})")
        gateway = Gateway(start, config, services, announce)
    except (cold.ColdError, BindError, SeparationError, StateError, OSError) as error:
        print(f"postgate: cannot start\n{error}", file=sys.stderr)
        return 1
    return gateway.run()


def _open_many_files() -> None:
    """As many descriptors as the system lets us have: each session takes one."""
    with suppress(ValueError, OSError):
        _soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
        resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))
