"""What the entries of a table may say, by the place of the wiring that names the table.

Contract: pure. `judge` gives what says why an entry is wrong, None where the place takes any value. What failure means
for the mail: a file with a wrong entry does not get into force.
"""

from collections.abc import Callable, Sequence
from functools import lru_cache, partial

from appliance.config import addresses
from appliance.config.model import BY_SENDER, Listen
from appliance.config.odd import same
from appliance.config.positions import Path
from appliance.config.transports import parse_transport, sender_problem, transport_problem

#: (key, value) to what is wrong, "" if nothing is.
Judge = Callable[[str, str], str]


def judge(path: Path, listeners: Sequence[Listen]) -> Judge | None:
    """For the table that is named at `path`, of a gateway that listens there."""
    if names_transports(path):
        return _of_routes(listeners) if path[1] == "routes" else _of_senders(str(path[1]))
    return partial(addresses.entry_problem, path) if addresses.is_map(path) else None


def names_transports(path: Path) -> bool:
    """Whether the table that is named at `path` says where mail goes: what a pattern matched may not get into that."""
    return len(path) > 1 and path[0] == "relay" and path[1] in ("routes", *BY_SENDER)


def _of_routes(listeners: Sequence[Listen]) -> Judge:
    @lru_cache(maxsize=1024)
    def problem(value: str) -> str:
        if found := transport_problem(value):
            return found
        for hop in parse_transport(value, "example.com").hops:
            for index, listener in enumerate(listeners):
                if same(hop, listener):
                    return f"{hop} is our own listen[{index}]: mail would go round in a loop"
        return ""

    return lambda _, value: problem(value)


def _of_senders(name: str) -> Judge:
    return lambda _, value: sender_problem(name, value)
