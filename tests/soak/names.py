"""The name server of the soak, and what can be wrong with it: a list of senders, and the next hop's address.

Every sender has a domain of his own, so that each is a question that no cache has; whose domain begins with `evil` is on
the list. The list's test entries are answered whenever anything is: a list that fails its test is not asked for minutes.
"""

from contextlib import suppress

import dns.message

from tests.net.nameserver import NameServer, Script, answer
from tests.peers import dns as bad
from tests.peers.ports import free_port

#: Of the name server: what it does, seconds by which it holds answers back; None: nobody is there.
FAULTS: dict[str, tuple[Script | None, float] | None] = {
    "absent": None,
    "silent": (bad.silence, 0.0),
    "servfail": (bad.rcode(2), 0.0),
    "refused": (bad.rcode(5), 0.0),
    "formerr": (bad.rcode(1), 0.0),
    "garbage": (bad.garbage, 0.0),
    "truncated without end": (bad.truncated, 0.0),
    "cut over tcp": (bad.cut_over_tcp, 0.0),
    "monster": (bad.monster, 0.0),
    "slow": (None, 0.3),
    "too late": (None, 3.0),
}
LIST, HOP = "dbl.example", "hop.names.example"
_TESTS = {f"test.{LIST}": "127.0.1.2", f"invalid.{LIST}": ""}


class Names:
    """Use with start() and stop(), on the loop of the soak."""

    def __init__(self) -> None:
        self.port = free_port()
        self._server = NameServer()
        self._server.script = self._says
        self._fault: Script | None = None
        self.running = False

    @property
    def address(self) -> str:
        return f"127.0.0.1:{self.port}"

    async def start(self) -> None:
        if not self.running:
            await self._server.start(self.port)
            self.running = True

    async def stop(self) -> None:
        if self.running:
            self.running = False
            with suppress(ConnectionError):
                await self._server.stop()

    async def be(self, name: str = "") -> None:
        """As a fault says, or well."""
        said = FAULTS[name] if name else (None, 0.0)
        if said is None:
            await self.stop()
        else:
            self._fault, self._server.delay = said
            await self.start()

    def _says(self, query: dns.message.Message, how: str) -> list[bytes]:
        name = query.question[0].name.to_text().rstrip(".").lower()
        if self._fault is not None and name not in _TESTS:
            return self._fault(query, how)
        kind = query.question[0].rdtype.name
        found = _TESTS.get(name, "127.0.1.2" if name.startswith("evil") and name.endswith(LIST) else "")
        if name == HOP:
            found = "127.0.0.1"
        records = [f"@ 1 IN A {found}"] if found and kind == "A" else []
        return [answer(query, *records, rcode=0 if found else 3, soa=". 1 1").to_wire()]
