"""The operator's policy services and milters in the files of a temporary gateway: each for a stranger of its own, one
away, some left out.

Contract: nothing is asked here. A service whose conditions do not fit the honest stranger keeps them, so that no stranger
of the self-test reaches it. What failure means for the mail: none.
"""

import ipaddress
from collections.abc import Iterable, Iterator

from appliance.checks import milters, policy_services
from appliance.cli.selftest.policy_files import PolicyFiles, Values, naming
from appliance.engine.rules import PolicySet

#: Checks that ask services, the knob with these, and how long each may take.
KNOBS = {
    policy_services.NAME: ("services", ("timeout",)),
    milters.NAME: ("milters", ("connect_timeout", "command_timeout", "content_timeout", "total_timeout")),
}
#: Addresses of strangers that are asked about by one service each, from this on, and how many there are.
FIRST, MOST = ipaddress.IPv4Address("192.0.2.100"), 150
Place = tuple[str, str]


class ServiceFiles:
    """Of the services (check, name) of `theirs`."""

    def __init__(self, files: PolicyFiles, theirs: PolicySet) -> None:
        self._files, self._theirs = files, theirs

    def _entries(self, check: str, values: Values) -> Iterator[Values]:
        for told in naming(values, KNOBS[check][0]):
            yield from told[KNOBS[check][0]]

    def hurry(self, patience: float) -> None:
        """None of them may take longer than so many seconds."""
        for check, (knob, timeouts) in KNOBS.items():
            values = self._files.read(check)
            listed = values.get(knob, [])
            for raw, entry in zip(listed, getattr(self._theirs.checks[check].knobs, knob), strict=True):
                raw |= {key: f"{min(getattr(entry, key), patience):g}s" for key in timeouts}
            if listed:
                self._files.change(check, values)

    def apart(self, honest: str) -> dict[Place, str]:
        """Each is asked about a stranger of its own alone, until `together`: the addresses of these."""
        strangers = dict(zip(self._fitting(honest), map(str, map(FIRST.__add__, range(MOST))), strict=False))
        for check in KNOBS:
            values = self._files.read(check)
            entries = [entry for entry in self._entries(check, values) if (check, entry["name"]) in strangers]
            for entry in entries:
                entry.pop("not_clients", None)
                entry["clients"] = [strangers[check, entry["name"]]]
            if entries:
                self._files.for_now(check, values)
        return strangers

    def _fitting(self, address: str) -> Iterator[Place]:
        """Those that are asked about this client."""
        for check, (knob, _) in KNOBS.items():
            for entry in getattr(self._theirs.checks[check].knobs, knob):
                wanted = not entry.clients or _among(address, entry.clients)
                if wanted and not _among(address, getattr(entry, "not_clients", ())):
                    yield check, entry.name

    def together(self) -> None:
        """All are asked about everybody again."""
        self._files.back()

    def without(self, services: Iterable[Place]) -> None:
        """As if these were not configured."""
        left = set(services)
        for check, (knob, _) in KNOBS.items():
            values = self._files.read(check)
            for told in naming(values, knob):
                told[knob] = [entry for entry in told[knob] if (check, entry["name"]) not in left]
            self._files.change(check, values)

    def away(self, check: str, name: str, port: int) -> None:
        """Nobody is at its address, until `together`."""
        values = self._files.read(check)
        for entry in self._entries(check, values):
            if entry["name"] == name:
                entry["address"] = f"inet:127.0.0.1:{port}"
        self._files.for_now(check, values)


def zone() -> str:
    """Names of the strangers that are asked about by one service each, for a zone file."""
    lines = []
    for number in range(MOST):
        address, name = FIRST + number, name_of(str(FIRST + number))
        lines += [f"{address.reverse_pointer}. IN PTR {name}.", f"{name}. IN A {address}"]
    return "\n".join(lines) + "\n"


def name_of(address: str) -> str:
    """The name of one of these strangers, "" for any other address."""
    number = int(ipaddress.ip_address(address)) - int(FIRST)
    return f"mail{number}.regular.example" if 0 <= number < MOST else ""


def _among(address: str, networks: Iterable[str]) -> bool:
    return any(ipaddress.ip_address(address) in ipaddress.ip_network(network) for network in networks)
