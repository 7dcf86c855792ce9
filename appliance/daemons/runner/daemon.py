"""The daemon that starts programs: takes content from the workers and from delivery, says what a program made of it, or
lends it as a file.

Contract: one channel a worker, any number of asks on it, at most `concurrency` programs of one scanner at a time;
Done, or the worker's end, ends what it asked for. An ask names a scanner, a pipe a filter, never a program.
What failure means for the mail: every ask gets an Outcome, kind "error" where there is none; every pipe an Ended.
"""

import asyncio
import contextlib
import os
import socket
from collections.abc import Mapping
from functools import partial
from pathlib import Path
from typing import Any

import msgspec

from appliance.config.model import ScannerEntry
from appliance.config.snapshot import Snapshot
from appliance.daemons.runner import command, jobs, strays, verdict
from appliance.daemons.runner.piping import Pipes
from appliance.daemons.skeleton import Birth
from appliance.mail.running import Answer, Ask, Done, Ended, Outcome, Pipe, decode_order
from appliance.net.channel import Channel
from appliance.observe import metrics, oplog

log = oplog.get("runner")
#: Octets a second that a program may take beyond its base time (as scanners do); seconds that a file stays lent longer.
RATE, BEHIND = 1024 * 1024, 30.0
#: Asks of one worker that may be under way.
MOST = 500
_runs = metrics.counter("postgate_runner_runs_total", "Programs run over content, by result.", ["scanner", "kind"])
_running = metrics.gauge("postgate_runner_running", "Programs that run now.")


class Peer:
    """A worker, and what it asked for."""

    def __init__(self, channel: Channel) -> None:
        self.channel = channel
        self.tasks: dict[int, asyncio.Task[None]] = {}

    def drop(self, number: int) -> None:
        """End it, once: a second time would break off the cleaning up behind it. One that has not begun yet begins first:
        it closes its descriptor."""
        if task := self.tasks.pop(number, None):
            task.get_loop().call_soon(task.cancel)

    def tell(self, answer: Answer, fds: tuple[int, ...] = ()) -> None:
        with contextlib.suppress(ConnectionError):
            self.channel.send(answer, fds)


class Runner:
    """The daemon (daemons.skeleton.Daemon)."""

    def __init__(self, birth: Birth) -> None:
        self._listening = birth.listening["unix:runner"]
        self._scans = birth.state_dir / "scans"
        self._prefix = jobs.prefix(birth.state_dir)
        self._pipes = Pipes(self._scans)
        self._peers: set[Peer] = set()
        self._rules: dict[str, verdict.Rules] = {}
        self._slots: dict[str, tuple[int, asyncio.Semaphore]] = {}
        self._troubles: dict[str, str] = {}
        self.runs = 0
        self.prepare(birth.snapshot)
        self.commit(birth.snapshot)

    async def start(self) -> None:
        """Clean up behind an earlier life, then serve."""
        self._loop = asyncio.get_running_loop()
        self._scans.mkdir(mode=0o700, exist_ok=True)
        if count := await asyncio.to_thread(strays.end_leftovers, self._scans):
            log.warning("programs of an earlier life are ended", count=count)
        shared = {Path(entry.folder): self._prefix for entry in self._entries.values() if entry.folder}
        for root, prefix in {**shared, self._scans: jobs.PREFIX}.items():
            if left := await asyncio.to_thread(jobs.sweep, root, prefix):
                log.warning("files of an earlier life are removed", folder=str(root), count=left)
        for sock in self._listening:
            sock.setblocking(False)
            self._loop.add_reader(sock.fileno(), self._accept, sock)

    def _accept(self, sock: socket.socket) -> None:
        try:
            connection, _ = sock.accept()
        except (BlockingIOError, InterruptedError, ConnectionAbortedError):
            return
        except OSError as error:
            log.error("cannot accept a worker", why=error.strerror)
            self._loop.remove_reader(sock.fileno())
            self._loop.call_later(1.0, self._loop.add_reader, sock.fileno(), self._accept, sock)
            return
        peer = Peer(Channel(connection))
        self._peers.add(peer)
        peer.channel.attach(self._loop, partial(self._ordered, peer), partial(self._gone, peer))

    def _ordered(self, peer: Peer, payload: bytes, fds: list[int]) -> None:
        try:
            order = decode_order(payload)
        except msgspec.DecodeError as error:
            log.error("a worker sent what is no order", why=str(error))
            order = None
        wrong = order is None or len(fds) != int(not isinstance(order, Done))
        if wrong or order is None or (not isinstance(order, Done) and order.id in peer.tasks):
            for fd in fds:
                os.close(fd)
            peer.channel.close()
        elif isinstance(order, Done):
            peer.drop(order.id)
        else:
            self._begin(peer, order, fds[0])

    def _begin(self, peer: Peer, ask: Ask | Pipe, fd: int) -> None:
        if len(peer.tasks) >= MOST:
            os.close(fd)
            why = f"{MOST} contents wait already"
            peer.tell(Outcome(ask.id, "error", why=why) if isinstance(ask, Ask) else Ended(ask.id, "unable", why=why))
            return
        serving = self._serve(peer, ask, fd) if isinstance(ask, Ask) else self._pipe(peer, ask, fd)
        task = peer.tasks[ask.id] = self._loop.create_task(serving)

        def ended(_task: "asyncio.Task[None]") -> None:
            peer.tasks.pop(ask.id, None)

        task.add_done_callback(ended)

    async def _serve(self, peer: Peer, ask: Ask, fd: int) -> None:
        entry = self._entries.get(ask.scanner)
        try:
            if entry is None:
                peer.tell(Outcome(ask.id, "error", why=f"no scanner {ask.scanner!r} is run here"))
                return
            shared = entry.kind == "amavis"
            root = Path(entry.folder) if shared else self._scans
            prefix = self._prefix if shared else jobs.PREFIX
            make = partial(jobs.make, root, fd, ask.offset, ask.size, shared=shared, prefix=prefix)
            async with self._slots[ask.scanner][1], jobs.made(make) as folder:
                if shared:
                    peer.tell(Outcome(ask.id, "lent", path=str(folder)))
                    await asyncio.sleep(entry.timeout + ask.size / RATE + BEHIND)
                else:
                    peer.tell(await self._run(entry, ask, folder))
        except OSError as error:
            why = f"{error.filename or 'the content'}: {error.strerror or error}"
            self._troubles[ask.scanner] = why
            peer.tell(Outcome(ask.id, "error", why=why[:900]))
        finally:
            os.close(fd)

    async def _pipe(self, peer: Peer, order: Pipe, fd: int) -> None:
        self.runs += 1
        _running.inc()
        try:
            async with self._pipes.served(order, fd) as (ended, made):
                peer.tell(ended, made)
        finally:
            _running.dec()
            os.close(fd)

    async def _run(self, entry: ScannerEntry, ask: Ask, folder: Path) -> Outcome:
        file = folder / jobs.FILE
        argv = [word.replace("{file}", str(file)) for word in entry.command]
        by_name = any("{file}" in word for word in entry.command)
        seconds = entry.timeout + ask.size / RATE
        self.runs += 1
        _running.inc()
        with open(os.devnull if by_name else file, "rb") as stdin:
            try:
                code, output = await command.run(argv, folder, stdin.fileno(), command.Limits(seconds, entry.memory))
                found = Outcome(ask.id, *verdict.judge(self._rules[ask.scanner], code, output))
            except TimeoutError:
                found = Outcome(ask.id, "error", why=f"the program did not end within {seconds:.1f} s")
            finally:
                _running.dec()
        _runs.labels(ask.scanner, found.kind).inc()
        if found.kind == "error":
            self._troubles[ask.scanner] = found.why
        else:
            self._troubles.pop(ask.scanner, None)
        return found

    def _gone(self, peer: Peer) -> None:
        for number in tuple(peer.tasks):
            peer.drop(number)
        self._peers.discard(peer)

    def prepare(self, snapshot: Snapshot) -> None:
        """Raises for a pattern that is none (the configuration check finds it before)."""
        self._prepared = {name: entry for name, entry in snapshot.wiring.scanners.items() if entry.by_runner}
        self._prepared_rules = {
            name: verdict.Rules.of(entry.command[0], entry.exit_codes, entry.pattern)
            for name, entry in self._prepared.items()
            if entry.command
        }
        self._pipes.prepare(snapshot)
        self._looked_at = snapshot

    def commit(self, snapshot: Snapshot) -> None:
        """For asks from now on; programs that run go on."""
        if self._looked_at is not snapshot:  # one that was given up came late
            self.prepare(snapshot)
        self._entries: Mapping[str, ScannerEntry] = self._prepared
        self._rules = self._prepared_rules
        self._pipes.commit()
        for name, entry in self._entries.items():
            if name not in self._slots or self._slots[name][0] != entry.concurrency:
                self._slots[name] = entry.concurrency, asyncio.Semaphore(entry.concurrency)
        self._troubles = {name: why for name, why in self._troubles.items() if name in self._entries}

    def certificates(self, certificates: Any) -> None:
        """It has no listener for strangers."""

    async def drain(self, grace: float) -> None:
        """Who asks has ended before: what still runs is ended."""
        for sock in self._listening:
            self._loop.remove_reader(sock.fileno())
        tasks = [task for peer in self._peers for task in peer.tasks.values()]
        for peer in tuple(self._peers):
            self._gone(peer)
            peer.channel.close()
        await asyncio.gather(*tasks, return_exceptions=True)

    def health(self) -> dict[str, Any]:
        under_way = sum(len(peer.tasks) for peer in self._peers)
        troubles = [f"scanner {name}: {why}" for name, why in self._troubles.items()]
        named = {"scanners": sorted(self._entries), "filters": self._pipes.names}
        return {"runs": self.runs, "under way": under_way, **named, "degraded": troubles}
