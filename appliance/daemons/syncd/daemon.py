"""The daemon that keeps lists of known recipients fresh: it holds the passwords of their sources and the right to write
the lists, and nothing else.

Contract: each list in a process of its own (tables/known/job.py) with limits of memory and time, AT_ONCE of them side by
side, so that a source that hangs holds up no other list; this one parses nothing that a source says. What failure means
for the mail: the list of the last good time stays in force; without any, whoever nothing else knows is put off.
"""

import asyncio
import contextlib
import time
from collections.abc import Mapping
from functools import partial
from typing import Any

import msgspec

from appliance.config import recipients_entry
from appliance.config.references import LISTS
from appliance.config.snapshot import Snapshot
from appliance.daemons.skeleton import Birth
from appliance.daemons.syncd import schedule
from appliance.daemons.syncd.admin import Admin, Request
from appliance.observe import metrics, oplog
from appliance.tables.known import keep, launch
from appliance.tables.known.keep import Outcome

log = oplog.get("syncd")
#: What passwords are called among the octets that the master hands out.
SECRET = "recipients:"
#: Lists that are fetched at the same time: each may take the memory of a job.
AT_ONCE = 4
_syncs = metrics.counter("postgate_recipients_syncs_total", "Fetched lists of recipients, by result.", ["list", "result"])
_known = metrics.gauge("postgate_recipients_known", "Recipients in a list that is fetched.", ["list"])
_fetched = metrics.gauge("postgate_recipients_fetched_timestamp_seconds", "When a list was last found good.", ["list"])


class Syncd:
    """The daemon (daemons.skeleton.Daemon)."""

    def __init__(self, birth: Birth) -> None:
        self._folder = birth.state_dir / LISTS
        self._listening = birth.listening.get("unix:recipients", [])
        self._secrets: dict[str, bytes] = {}
        self._lists: dict[str, schedule.State] = {}
        self._places = asyncio.Semaphore(AT_ONCE)
        self._turns: dict[str, asyncio.Lock] = {}
        self._syncing: dict[str, asyncio.Task[Outcome]] = {}
        self._wake = asyncio.Event()
        self._keeping: asyncio.Task[None] | None = None
        self._admin = Admin(self._asked)
        self.certificates(birth.certificates)
        self.commit(birth.snapshot)

    async def start(self) -> None:
        """Begin to keep the lists fresh, and to be asked."""
        for name, state in self._lists.items():
            if not state.at:
                log.error(
                    "there is no list of recipients yet: nobody is refused for it, unknown ones are put off", list=name
                )
        for sock in self._listening:
            await self._admin.listen(sock)
        self._keeping = asyncio.get_running_loop().create_task(self._keep())

    async def _keep(self) -> None:
        """For ever: the lists that are due next, each by itself."""
        while True:
            waiting = [state.due for name, state in self._lists.items() if name not in self._syncing]
            due = min(waiting, default=time.monotonic() + 3600)
            self._wake.clear()
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(due - time.monotonic()):
                    await self._wake.wait()
            now = time.monotonic()
            for name in [name for name, state in self._lists.items() if state.due <= now]:
                if name not in self._syncing:
                    self._syncing[name] = task = asyncio.get_running_loop().create_task(self._sync(name, Request()))
                    task.add_done_callback(partial(self._synced, name))

    def _synced(self, name: str, task: "asyncio.Task[Outcome]") -> None:
        """It is known when it is due again."""
        del self._syncing[name]
        self._wake.set()
        if not task.cancelled() and (error := task.exception()) is not None:
            log.error("internal error", list=name, why=repr(error))

    async def _sync(self, name: str, request: Request) -> Outcome:
        """One list, when it is its turn and a place is free."""
        async with self._turns.setdefault(name, asyncio.Lock()), self._places:
            state = self._lists.get(name)
            if state is None:
                return Outcome(name=name, problem="it is not configured any more", soon=False)
            state.running, begun = True, time.monotonic()
            try:
                outcome = await self._run(name, state, request)
            finally:
                state.running = False
            if not request.dry_run:
                state.ended(outcome, time.monotonic())
                self._tell(name, state, outcome, time.monotonic() - begun)
            return outcome

    async def _run(self, name: str, state: schedule.State, request: Request) -> Outcome:
        entry, secret = state.entry, self._secrets.get(name)
        if entry.password_file and secret is None:
            problem = f"{entry.password_file} cannot be read (the master reads it)"
            return Outcome(name=name, at=state.at, count=state.count, problem=problem)
        order = recipients_entry.order(
            name, entry, str(self._folder), state.domains, recipients_entry.first_line(secret or b"")
        )
        order = msgspec.structs.replace(order, force=request.force, empty=request.empty, dry_run=request.dry_run)
        try:
            return await launch.run(order)
        except OSError as error:  # no process, no memory: another time
            return Outcome(name=name, at=state.at, count=state.count, problem=f"cannot start: {error.strerror or error}")

    def _tell(self, name: str, state: schedule.State, outcome: Outcome, seconds: float) -> None:
        _syncs.labels(name, "failed" if outcome.problem else "good").inc()
        self._show(name, state)
        if outcome.problem:
            took = f"{seconds:.1f}"
            if outcome.at:
                text = "recipients are not synced, the old list stays"
                log.warning(text, list=name, seconds=took, why=outcome.problem, known=outcome.count)
            else:
                text = "recipients are not synced, and there is no list yet: unknown ones are put off"
                log.error(text, list=name, seconds=took, why=outcome.problem)
            return
        facts = {"known": outcome.count, "added": outcome.added, "removed": outcome.removed}
        log.info("recipients are synced", list=name, **facts, foreign=outcome.foreign, wrong=outcome.wrong)

    def _show(self, name: str, state: schedule.State) -> None:
        _known.labels(name).set(state.count)
        _fetched.labels(name).set(state.at)

    async def _asked(self, request: Request) -> list[Outcome]:
        """An operator's order. Raises KeyError for a list that there is not."""
        names = request.names or tuple(self._lists)
        if unknown := [name for name in names if name not in self._lists]:
            raise KeyError(unknown[0])
        return await asyncio.gather(*(self._sync(name, request) for name in names))

    def prepare(self, snapshot: Snapshot) -> None:
        """The configuration check has found what is wrong."""

    def commit(self, snapshot: Snapshot) -> None:
        """Lists that are new, or configured otherwise, are due now."""
        before, self._lists = self._lists, {}
        ours = tuple(domain for domain in snapshot.wiring.relay.domains if ":" not in domain)
        for name, entry in snapshot.wiring.recipients.items():
            domains = entry.domains or ours
            known = before.get(name)
            if known is not None and known.same(entry, domains):
                self._lists[name] = known
                continue
            account = keep.account(self._folder, name)
            there = account.at and (self._folder / name).exists()
            age = time.time() - account.at if there and known is None else None
            now = time.monotonic()
            due = now + schedule.at_start(entry.every, age)
            self._lists[name] = schedule.State(entry, domains, account if there else keep.Account(), due, now)
            self._show(name, self._lists[name])
        self._wake.set()

    def certificates(self, certificates: Mapping[str, tuple[bytes, bytes]]) -> None:
        """Passwords. With another one a list that is in trouble is due now."""
        before = self._secrets
        self._secrets = {
            name.removeprefix(SECRET): octets for name, (octets, _) in certificates.items() if name.startswith(SECRET)
        }
        for name, state in self._lists.items():
            if state.problem and self._secrets.get(name) != before.get(name):
                state.due = time.monotonic()
        self._wake.set()

    async def drain(self, grace: float) -> None:
        """What is being fetched is given up: the old list stays."""
        self._admin.close()
        if self._keeping is not None:
            tasks = [self._keeping, *self._syncing.values()]
            for task in tasks:
                task.cancel()
            await asyncio.gather(*tasks, return_exceptions=True)

    def health(self) -> dict[str, Any]:
        now, wall = time.monotonic(), time.time()
        words = [state.degraded(name, now, wall) for name, state in self._lists.items()]
        return {
            "recipients": {name: state.facts(now, wall) for name, state in self._lists.items()},
            "degraded": [text for text in words if text],
        }
