"""What the entries of a table may say, by the place of the wiring that names the table.

Contract: pure. What failure means for the mail: a file with a wrong entry does not get into force.
"""

from collections.abc import Callable, Collection, Iterable, Iterator
from functools import lru_cache, partial
from typing import NamedTuple

from appliance.config import addresses
from appliance.config.cross_filters import doubt
from appliance.config.filters import Filters
from appliance.config.model import BY_SENDER, Wiring
from appliance.config.odd import same
from appliance.config.positions import Path
from appliance.config.transports import Own, parse_transport, sender_problem, transport_problem

#: (key, value) to what is wrong, "" if nothing is.
Judge = Callable[[str, str], str]


class Wrong(NamedTuple):
    """An entry that is no way, or one that may surprise."""

    line: int
    text: str
    fatal: bool = True


def complaints(
    path: Path, table: Iterable[tuple[str, str, int]], wiring: Wiring, named: Collection[str] = ()
) -> Iterator[Wrong]:
    """What is wrong with the (key, value, line) of the table that is named at `path` of that wiring (absolute paths).
    `named`: the filters that the file names; where they could not be read, nothing is said of transports."""
    ways = names_transports(path)
    if ways and named and not wiring.filters:
        return
    judge, seen = _judge(path, wiring), set[str]()
    if judge is None:
        return
    filters = Filters(wiring) if ways and wiring.filters else None
    for key, value, line in table:
        if problem := judge(key, value):
            yield Wrong(line, problem)
        elif filters is not None and filters.handed_back(value):
            name = value.strip().partition(":")[0]
            if name not in seen and (told := doubt(name, wiring)):
                seen.add(name)
                yield Wrong(line, told, fatal=False)


def _judge(path: Path, wiring: Wiring) -> Judge | None:
    """None where the place takes any value."""
    if names_transports(path):
        return _of_routes(wiring) if path[1] == "routes" else _of_senders(str(path[1]), Filters(wiring).own)
    return partial(addresses.entry_problem, path) if addresses.is_map(path) else None


def names_transports(path: Path) -> bool:
    """Whether the table that is named at `path` says where mail goes: what a pattern matched may not get into that."""
    return len(path) > 1 and path[0] == "relay" and path[1] in ("routes", *BY_SENDER)


def _of_routes(wiring: Wiring) -> Judge:
    filters = Filters(wiring)

    @lru_cache(maxsize=1024)
    def problem(value: str) -> str:
        if found := transport_problem(value, filters.own):
            return found
        for hop in filters.places(parse_transport(value, "example.com", own=filters.own).hops):
            for index, listener in enumerate(wiring.listen):
                if same(hop, listener):
                    return f"{hop} is our own listen[{index}]: mail would go round in a loop"
        return ""

    return lambda _, value: problem(value)


def _of_senders(name: str, own: Own) -> Judge:
    return lambda _, value: sender_problem(name, value, own)
