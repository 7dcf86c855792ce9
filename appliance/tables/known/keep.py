"""The kept list: a table that is replaced whole or not at all, and beside it a short account of how it was made.

`sync(order)` fetches, judges, keeps. Contract: a reader sees the old table or the new one, on disk before it counts. A
list that is empty, or that lost more than is allowed, is refused and the old one stays. Sources are asked side by side;
one sync at a time compares and replaces in a folder, and no list that came meanwhile is replaced.
What failure means for the mail: recipients are those of the last good list.
"""

import contextlib
import csv
import fcntl
import os
import signal
import tempfile
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from types import FrameType

import msgspec

from appliance.observe.text import clean
from appliance.tables.known import MOST, Failed, Origin, fetch
from appliance.tables.known.texts import Keys

#: A list may always lose this many addresses as long as half of it stays: one person of a small company has several.
SMALL = 10
#: Addresses that an outcome names; seconds that a sync waits for another one, or that one which failed does to say so.
NAMED, PATIENCE, BRIEF = 200, 30.0, 1.0
#: Seconds after which an alarm that nobody heard comes again.
_AGAIN = 1.0
#: Letters of a problem: a part of it may be what a stranger said.
LONGEST = 500


class Order(msgspec.Struct, frozen=True, kw_only=True):
    """One sync of the list `name` in `folder`. `domains`: for whom the source speaks. `most_shrink`: percent. `timeout`:
    seconds for the source. `force`: however much it lost. `empty`: even if nothing is left. `dry_run`: only say."""

    name: str
    folder: str
    origin: Origin
    secret: str = ""
    domains: tuple[str, ...] = ()
    most_shrink: float = 10.0
    timeout: float = 600.0
    force: bool = False
    empty: bool = False
    dry_run: bool = False


class Account(msgspec.Struct, frozen=True):
    """`at`: when the list was last found good; `tried`: the last try; `problem`: why that failed, "" if it did not."""

    at: float = 0.0
    tried: float = 0.0
    count: int = 0
    wrong: int = 0
    foreign: int = 0
    problem: str = ""


class Outcome(msgspec.Struct, frozen=True, kw_only=True):
    """How a sync went. `count`: what is in force now (dry run: what would be). `soon`: whether trying again soon may
    help, else an operator must look. `more`, `fewer`: the first of what was added and removed."""

    name: str
    at: float = 0.0
    count: int = 0
    added: int = 0
    removed: int = 0
    wrong: int = 0
    foreign: int = 0
    problem: str = ""
    soon: bool = True
    more: tuple[str, ...] = ()
    fewer: tuple[str, ...] = ()


class Refused(Failed):
    """The list was fetched, and may not replace the one in force."""

    def __init__(self, text: str) -> None:
        super().__init__(text, soon=False)


def sync(order: Order) -> Outcome:
    """Never raises for what the source does, or the disk; the outcome says how it went."""
    folder = Path(order.folder)
    before, now, old, outcome = account(folder, order.name), time.time(), set[str](), Outcome(name=order.name)
    try:
        old = known(folder / order.name)
        keys = _fetched(order)
        with _alone(folder, PATIENCE):
            old = known(folder / order.name)
            if account(folder, order.name).at != before.at:
                raise Failed("another sync has ended meanwhile, its list stays")
            outcome = _compared(order.name, old, keys, now)
            _judge(order, old, outcome, len(keys.found))
            if not order.dry_run:
                _keep(folder, order, old, keys, outcome)
            return outcome
    except Failed as error:
        problem, soon = str(error), error.soon
    except OSError as error:
        problem, soon = f"{error.filename or folder}: {error.strerror or error}", True
    problem = clean(" ".join(problem.split()))[:LONGEST]
    before = account(folder, order.name) if order.dry_run else _failed(folder, order.name, now, problem)
    in_force = count(folder / order.name)  # where the disk is full behind the list, it is the new one already
    return msgspec.structs.replace(outcome, at=before.at, count=in_force, problem=problem, soon=soon)


def _failed(folder: Path, name: str, now: float, problem: str) -> Account:
    """Write down how it went, beside what is known of the list: the account that stood there before."""
    # Where the disk is full, or another sync is at it just now, what is told must do.
    with contextlib.suppress(Failed, OSError), _alone(folder, BRIEF):
        before = account(folder, name)
        replaced(
            account_path(folder, name), msgspec.json.encode(msgspec.structs.replace(before, tried=now, problem=problem))
        )
        return before
    return account(folder, name)


def _fetched(order: Order) -> Keys:
    # A file of this machine may say that a domain is taken whole; a directory has mailboxes.
    keys = Keys(domains=order.domains, whole=order.origin.kind in ("csv", "map"))
    last = [""]
    try:
        _bounded(order.timeout, last, lambda: _gather(order, keys, last))
    except csv.Error as error:
        raise Failed(str(error)) from None
    return keys


def _gather(order: Order, keys: Keys, last: list[str]) -> None:
    """`last`: the step that the fetch is at."""

    def at(step: str) -> None:
        last[0] = step

    for entry in fetch(order.origin, order.secret, at):
        keys.add(entry)
        if len(keys.found) > MOST or keys.wrong + keys.foreign > 10 * MOST:
            raise Failed(f"no end after {len(keys.found)} recipients and {keys.wrong + keys.foreign} others")


class _Late(BaseException):
    """No library that stands between takes it for an error of its own."""


def _bounded(seconds: float, last: list[str], run: Callable[[], None]) -> None:
    """Raises Failed when they are over, whatever waits then, with the `last` step. Of the main thread (a job's) only.

    What is raised while an object is finalized is lost, so the alarm comes again until somebody hears it. No context
    manager: an alarm between `run` and its __exit__ would get past it."""

    def late(_number: int, _frame: FrameType | None) -> None:
        raise _Late

    before, began, left = signal.signal(signal.SIGALRM, late), time.monotonic(), 0.0
    try:
        try:
            left = signal.setitimer(signal.ITIMER_REAL, seconds, _AGAIN)[0]
            run()
        finally:  # an alarm in here is caught as well
            signal.setitimer(signal.ITIMER_REAL, 0)
    except _Late:
        raise Failed(f"the source has not ended within {seconds:g} s: {last[0]}") from None
    finally:
        signal.signal(signal.SIGALRM, before)
        if left:  # somebody else's alarm, which still is to come
            signal.setitimer(signal.ITIMER_REAL, max(0.001, left - (time.monotonic() - began)))


def _compared(name: str, old: set[str], keys: Keys, now: float) -> Outcome:
    more, fewer = keys.found - old, old - keys.found
    return Outcome(
        name=name,
        at=now,
        count=len(keys.found),
        added=len(more),
        removed=len(fewer),
        wrong=keys.wrong,
        foreign=keys.foreign,
        more=tuple(sorted(more)[:NAMED]),
        fewer=tuple(sorted(fewer)[:NAMED]),
    )


def _judge(order: Order, old: set[str], found: Outcome, count: int) -> None:
    """Raises Refused for a list that may not replace `old`."""
    if not count and not order.empty:
        others = f"{found.foreign} are of other domains, {found.wrong} no address"
        if not found.foreign and not found.wrong:
            others = "no address at all: is the right column, field or attribute named?"
        raise Refused(f"the source has no recipient of ours ({others}); if that is so: --empty")
    few = found.removed <= SMALL and count * 2 >= len(old)
    if (
        not few
        and found.removed > round(len(old) * order.most_shrink / 100, 6)  # 1.38 % of 5000 are 69, not a little less
        and not (order.force or (order.empty and not count))
    ):
        raise Refused(
            f"{found.removed} of {len(old)} recipients would go, over {order.most_shrink:g} %; if that is so: --force"
        )


def _keep(folder: Path, order: Order, old: set[str], keys: Keys, found: Outcome) -> None:
    """The table only where it changed: each new one is read by every process."""
    path = folder / order.name
    for one in (path, account_path(folder, order.name)):  # a sync that was killed has left it
        for left in folder.glob(f".{one.name}.*.new"):
            left.unlink(missing_ok=True)
    if keys.found != old or not path.exists():
        written(path, sorted(keys.found), f"from {order.origin.kind} {', '.join(order.origin.source)}", "sync")
    said = Account(found.at, found.at, found.count, found.wrong, found.foreign)
    replaced(account_path(folder, order.name), msgspec.json.encode(said))


@contextlib.contextmanager
def _alone(folder: Path, patience: float) -> Iterator[None]:
    """Nobody else syncs into this folder meanwhile. Raises Failed, OSError."""
    fd = os.open(folder, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        until = time.monotonic() + patience
        while True:
            try:
                fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
                break
            except BlockingIOError:
                if time.monotonic() > until:
                    raise Failed(f"{folder}: another sync is under way") from None
                time.sleep(0.1)
        yield
    finally:
        os.close(fd)


def account_path(folder: Path, name: str) -> Path:
    """Beside the table; no list can be called so."""
    return folder / f".{name}.json"


def account(folder: Path, name: str) -> Account:
    """How the list is. Nothing known: the empty account."""
    try:
        return msgspec.json.decode(account_path(folder, name).read_bytes(), type=Account)
    except (OSError, msgspec.MsgspecError):
        return Account()


def known(path: Path) -> set[str]:
    """The keys of the table that is there, as written() has written them."""
    try:
        with path.open("rb") as file:
            lines = file.read().decode("utf-8", "replace").split("\n")
    except FileNotFoundError:
        return set()
    return {line.partition(" ")[0] for line in lines if line and not line.startswith("#")}


def count(path: Path) -> int:
    """Entries of the table that is there."""
    try:
        return sum(1 for line in path.read_text("utf-8").splitlines() if line and not line.startswith("#"))
    except (OSError, ValueError):
        return 0


def written(path: Path, keys: list[str], source: str, command: str) -> None:
    """Replace the table at once. Raises OSError."""
    head = f"# Known recipients, {len(keys)} of them, {time.strftime('%Y-%m-%d %H:%M')}, {source}.\n"
    head += f"# Written by `postgate recipients {command}`: changes made here are lost with the next one.\n"
    replaced(path, (head + "".join(f"{key} ok\n" for key in keys)).encode())


def replaced(path: Path, data: bytes) -> None:
    """By a file of a name of its own: two that write at once do not meet. On disk before it counts. Raises OSError."""
    handle, fresh = tempfile.mkstemp(prefix=f".{path.name}.", suffix=".new", dir=path.parent)
    try:
        with os.fdopen(handle, "wb") as file:
            file.write(data)
            file.flush()
            os.fchmod(file.fileno(), 0o644)
            os.fsync(file.fileno())
        Path(fresh).replace(path)
    except BaseException:
        Path(fresh).unlink(missing_ok=True)
        raise
    _durable(path.parent)


def _durable(folder: Path) -> None:
    fd = os.open(folder, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        os.fsync(fd)
    finally:
        os.close(fd)
