"""An operator's handler: its object, where its hooks run, and how it fares, for log, metrics and status.

Contract: one for all sessions of a worker, it outlives reloads that leave it as it is. A hook that raises, hangs, or
returns or leaves what makes no sense has failed, whoever answers for it; the next one that does neither is well again.
What failure means for the mail: none here (hooks.py).
"""

import contextlib
import time
from collections.abc import Iterator
from typing import TYPE_CHECKING, Any

from appliance.daemons.smtpd import hook_verbs
from appliance.daemons.smtpd.hook_room import Late, Rooms
from appliance.observe import metrics, oplog, trouble
from appliance.observe.contact import Contact

if TYPE_CHECKING:
    from appliance.daemons.smtpd.session import Session

log = oplog.get("handler")
_took = metrics.histogram("postgate_handler_seconds", "Time of a handler's hook, waiting included.", ["handler", "hook"])
_failed = metrics.counter("postgate_handler_failures_total", "Hooks that raised, hung, or said nonsense.", ["handler"])
_degraded = metrics.gauge("postgate_handler_degraded", "1 while a handler fails.", ["handler"])


class Hooked:
    """A handler, and where it runs."""

    def __init__(self, handler: object, name: str, seconds: float) -> None:
        self.handler, self.name, self.seconds = handler, name, seconds
        self.rooms = Rooms(name)
        self.verbs = hook_verbs.verbs(handler)
        self.contact = Contact()
        self._touched, self._what = trouble.Touched(), f"handler {name} fails"

    async def call(self, name: str, *arguments: object) -> Any:
        """Its hook handle_`name`. Raises what that raises, and Late."""
        begun = time.monotonic()
        try:
            return await self.rooms.call(getattr(self.handler, f"handle_{name}"), arguments, self.seconds)
        finally:
            _took.labels(self.name, name).observe(time.monotonic() - begun)

    def well(self) -> None:
        """A hook returned, and what it said makes sense."""
        if self.contact.trouble:
            log.warning("handler well again", handler=self.name, transactions_touched=self._told()["touched"])
            _degraded.labels(self.name).set(0)
        self.contact.answered()

    def failed(self, name: str, seconds: float, error: Exception, transaction: str) -> None:
        """It did not."""
        late = error.__cause__ if isinstance(error.__cause__, Late) else error
        why = str(late) if isinstance(late, Late) else f"{type(error).__name__}: {error}"
        step = f"handle_{name}"
        log.error(
            "handler failed", handler=self.name, hook=step, seconds=f"{seconds:.2f}", why=why, transaction=transaction
        )
        _failed.labels(self.name).inc()
        _degraded.labels(self.name).set(1)
        self.contact.failed(f"{why}, at {step} ({seconds:.1f} s)")
        self._touched.touch(self._what, transaction)

    def facts(self) -> dict[str, Any]:
        """For status."""
        found, told = self.contact.facts(), self._told()
        if told["touched"]:
            found["failed for"] = f"{told['touched']} (last: {', '.join(told['last'])})"
        return found

    @property
    def degraded(self) -> list[trouble.Said]:
        """What is wrong."""
        return [self._told()] if self.contact.trouble else []

    def _told(self) -> dict[str, Any]:
        return self._touched.told(self._what, self.contact.trouble)


class Asking:
    """One session's hooks, of which one at a time is asked: how each went is told, once."""

    def __init__(self, hooked: Hooked, session: "Session") -> None:
        self._hooked, self._session = hooked, session
        self._name, self._begun, self._returned, self._failed = "", 0.0, False, False

    @contextlib.contextmanager
    def hook(self, name: str) -> Iterator[None]:
        """Around the call of handle_`name` and what is made of its answer."""
        self._name, self._begun, self._returned, self._failed = name, time.monotonic(), False, False
        try:
            yield
        except Exception as error:
            self.fails(error)
            raise
        if self._returned and not self._failed:
            self._hooked.well()

    async def call(self, name: str, *arguments: object) -> Any:
        """Hooked.call."""
        answer = await self._hooked.call(name, *arguments)
        self._returned = True
        return answer

    def fails(self, error: Exception) -> None:
        """The hook did not do its work, whatever is answered in its place."""
        if not self._failed:
            self._hooked.failed(self._name, time.monotonic() - self._begun, error, self._session.id)
        self._failed = True
