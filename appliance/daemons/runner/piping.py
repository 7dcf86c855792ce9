"""Commands that are content filters: one run of a filter's command over one message.

Contract: `served` gives an Ended, and the descriptor of the message that the command made where its output is one. The
command gets the message on its standard input (a file: it may read slowly, or not at all), works in a folder of its own,
and ends within its time; what it leaves running ends with it (command, strays). What failure means for the mail: all but
an exit code of the command itself puts it off; an envelope that the command cannot be run for is refused.
"""

import contextlib
import os
from collections.abc import AsyncIterator, Mapping
from functools import partial
from pathlib import Path

from appliance.config.model import FilterEntry
from appliance.config.snapshot import Snapshot
from appliance.daemons.runner import command, jobs, launch
from appliance.mail.piping import Command, Unfit, argv
from appliance.mail.running import Ended, Pipe
from appliance.observe import metrics

#: Octets a second that a command may take beyond its time.
RATE = 1024 * 1024
#: Octets of output that are told.
TOLD = 4096
#: A message may grow so far in a filter that edits it: times the size limit, and octets beyond.
GROWTH, MORE = 2, 1 << 20
_MADE = "output.txt"
_runs = metrics.counter("postgate_filter_runs_total", "Runs of filters' commands, by how they ended.", ["filter", "how"])


class Pipes:
    """The filters with a command of the snapshot in force."""

    def __init__(self, root: Path) -> None:
        self._root = root
        self._entries: Mapping[str, FilterEntry] = {}
        self._commands: Mapping[str, Command] = {}
        self._most = 0

    def prepare(self, snapshot: Snapshot) -> None:
        """Look at what comes next."""
        wiring = snapshot.wiring
        entries = {name: entry for name, entry in wiring.filters.items() if entry.command}
        commands = {name: entry.piped(wiring.gateway.recipient_delimiter) for name, entry in entries.items()}
        limit = wiring.smtp.size_limit
        self._prepared = entries, commands, limit * GROWTH + MORE if limit else command.MAX_FILE

    def commit(self) -> None:
        """For orders from now on."""
        self._entries, self._commands, self._most = self._prepared

    @property
    def names(self) -> list[str]:
        return sorted(self._entries)

    @contextlib.asynccontextmanager
    async def served(self, order: Pipe, fd: int) -> AsyncIterator[tuple[Ended, tuple[int, ...]]]:
        """Run it; the descriptor is closed behind the context."""
        entry = self._entries.get(order.filter)
        if entry is None:
            yield Ended(order.id, "unable", why=f"no filter {order.filter!r} is run here"), ()
            return
        made: tuple[int, ...] = ()
        async with contextlib.AsyncExitStack() as stack:
            try:
                make = partial(jobs.make, self._root, fd, order.offset, order.size, shared=False)
                folder = await stack.enter_async_context(jobs.made(make))
                ended = await self._run(order, entry, folder)
                if entry.output == "message" and ended.how == "ended" and ended.code == 0:
                    made = (os.open(folder / _MADE, os.O_RDONLY | os.O_CLOEXEC | os.O_NOFOLLOW),)
                    stack.callback(os.close, *made)
            except Unfit as error:
                ended = Ended(order.id, "unfit", why=str(error)[:900])
            except OSError as error:
                why = f"{error.filename or 'the content'}: {error.strerror or error}"
                ended = Ended(order.id, "unable", why=why[:900])
            _runs.labels(order.filter, ended.how).inc()
            yield ended, made

    async def _run(self, order: Pipe, entry: FilterEntry, folder: Path) -> Ended:
        """Raises Unfit, OSError."""
        file = folder / jobs.FILE
        words = argv(self._commands[order.filter], order.facts, str(file))
        if not os.access(words[0], os.X_OK) or Path(words[0]).is_dir():
            return Ended(order.id, "unable", why=f"{words[0]}: no program that can be run ({_lacks(words[0])})")
        edits = entry.output == "message"
        most = self._most if edits else command.MAX_FILE
        limits = command.Limits(entry.seconds + order.size / RATE, entry.memory, most, entry.processes)
        to = os.open(folder / _MADE, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o600) if edits else -1
        try:
            with open(file, "rb") as stdin:
                code, output = await command.run(words, folder, stdin.fileno(), limits, to)
        except TimeoutError:
            return Ended(order.id, "late", why=f"{limits.seconds:.1f} s")
        finally:
            if to >= 0:
                os.close(to)
        if code == launch.UNABLE and output.startswith(launch.CANNOT.format(words[0]).encode()):
            return Ended(order.id, "unable", why=output[:900].decode("utf-8", "replace").strip())
        return Ended(order.id, "ended", code, output[:TOLD])


def _lacks(program: str) -> str:
    """Why this user cannot run it."""
    if Path(program).is_dir():
        return "a folder"
    return "chmod 755" if os.access(program, os.F_OK) else "it is not there, or where this user may not look"
