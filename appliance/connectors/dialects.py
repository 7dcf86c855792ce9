"""How each kind of scanner is asked: what scanner.Scanner knows of them.

Contract: `ask` puts one content to one server and gives an answer in our words; it has no deadline of its own. Raises
NoAnswer (another server may be asked), ProtocolError (what came makes no sense), Unavailable (our content cannot be
given). What failure means for the mail: "not scanned".
"""

from collections.abc import Hashable, Mapping
from types import MappingProxyType, ModuleType
from typing import Any, NamedTuple, Protocol

from appliance.connectors import amavis, clamd, command, conversation, icap, rspamd, spamd, yara
from appliance.connectors.conversation import Progress, Server
from appliance.connectors.inspector import Inspector
from appliance.connectors.runner import Runner
from appliance.connectors.source import Source
from appliance.mail.context import Context
from appliance.mail.scan import ScanResult

#: Kinds that are tried with the EICAR test file.
SCAN_FOR_VIRUSES = frozenset({clamd.KIND, icap.KIND, command.KIND})


class Inside(NamedTuple):
    """Processes of ours that some kinds need, None where there are none (every scan is an error then); passwords by the
    name of the scanner."""

    runner: Runner | None = None
    inspector: Inspector | None = None
    secrets: Mapping[str, bytes] = MappingProxyType({})


class Dialect(Protocol):
    """One scanner's. `limit`: octets that are sent at most unless the operator says otherwise, 0 = any. `takes_parts`:
    parts of a message are offered, each on its own."""

    limit: int
    takes_parts: bool

    def key(self, source: Source, ctx: Context) -> Hashable:
        """What the answer depends on."""

    async def ask(self, server: Server, source: Source, ctx: Context, progress: Progress) -> ScanResult: ...

    def close(self) -> None: ...


class Simple:
    """One question a connection, told by a module: key(), question(), result()."""

    def __init__(self, module: ModuleType, name: str) -> None:
        self._module: Any = module
        self._name = name
        self.limit: int = self._module.DEFAULT_LIMIT
        self.takes_parts = module is clamd

    def key(self, source: Source, ctx: Context) -> Hashable:
        key: Hashable = self._module.key(source, ctx)
        return key

    async def ask(self, server: Server, source: Source, ctx: Context, progress: Progress) -> ScanResult:
        answer = await conversation.ask(server, self._module.question(source, ctx), progress)
        found: ScanResult = self._module.result(answer, self._name)
        return found

    def close(self) -> None:
        """Nothing is kept."""


def make(kind: str, name: str, options: Any, inside: Inside) -> Dialect:
    """The dialect of a kind; `options` are its own settings (None: all as shipped)."""
    if kind == command.KIND:
        return command.Command(name, inside.runner or Runner(""))
    if kind == yara.KIND:
        return yara.Yara(name)
    if kind == amavis.KIND:
        return amavis.Amavis(name, inside.runner or Runner(""))
    if kind == rspamd.KIND:
        return rspamd.Rspamd(name, options or rspamd.Options(), inside.secrets)
    if kind == icap.KIND:
        return icap.Icap(name, options or icap.Options())
    return Simple({clamd.KIND: clamd, spamd.KIND: spamd}[kind], name)
