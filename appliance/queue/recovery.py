"""What the spool does with files whose history it does not know: scans after a death, start-up, damage.

Contract: work comes in batches of at most BATCH messages or about a megabyte, so that a loop is never held up; an
unreadable entry or file is reported and set aside and stops nothing.
"""

import contextlib
import os
from collections.abc import Iterable, Iterator
from itertools import islice
from typing import TYPE_CHECKING

import msgspec

from appliance.queue import disk, ids
from appliance.queue.entry import Damaged, Found, read_header
from appliance.queue.envelope import Committed, Trailer, decode_trailer
from appliance.queue.errors import from_oserror
from appliance.queue.granted import IntakeFile
from appliance.queue.item import Item, Result

if TYPE_CHECKING:
    from appliance.queue.spool import Spool

BATCH = 64
BATCH_OCTETS = 1 << 20


def recover(spool: "Spool") -> Iterator[list[Item]]:
    """Start-up: names first (quick, and they tell which intake entries were moved), the intake, then what is kept."""
    try:
        for _ in spool.kept.listing():
            yield []
        files = spool.granted.adopt()
    except OSError as error:
        raise from_oserror(error) from error
    names = spool.kept.in_disk_order()
    for file in files:
        waits = file.name in spool.granted.files and file.sealed is None and not file.scanning
        if waits and not _held(spool, file):
            yield from scan(spool, file)
    while part := list(islice(names, BATCH)):
        yield _loaded(spool, part)


def recheck(spool: "Spool") -> Iterator[list[Item]]:
    """Each second: files of dead workers, then the kept messages that could not be read; where a whole batch of these
    cannot, the others are left for the next time."""
    for file in spool.granted.lost():
        if file.gap or not _held(spool, file):
            yield from scan(spool, file)
    for _ in range(0, len(spool.kept.unread), BATCH):
        batch = _loaded(spool, list(islice(spool.kept.unread, BATCH)))
        yield batch
        if not batch:
            return


def _held(spool: "Spool", file: IntakeFile) -> bool:
    try:
        return disk.held(file.path)
    except FileNotFoundError:  # somebody's hands: there is nothing left to find
        spool.granted.files.pop(file.name, None)
        return True
    except OSError as error:
        spool.report(f"{file.path} cannot be opened: {error}")
        return True


def _loaded(spool: "Spool", names: list[str]) -> list[Item]:
    return [item for name in names if (item := _load(spool, name)) is not None]


def _load(spool: "Spool", queue_id: str) -> Item | None:
    spool.kept.unread.pop(queue_id, None)
    if queue_id not in spool.kept.names or spool.get(queue_id) is not None:
        return None
    folder = spool.kept.names[queue_id]
    try:
        item = spool.kept.load(queue_id, spool.clock.now())
    except OSError as error:
        spool.report(f"{folder}/{queue_id} cannot be read: {error}")
        if isinstance(error, FileNotFoundError):  # somebody's hands: there is nothing left to read
            del spool.kept.names[queue_id]
        else:
            spool.kept.unread[queue_id] = None
        return None
    if item is None:
        if _rename_aside(spool, queue_id, "neither the entry nor its state log can be read"):
            spool.damaged += 1
            spool.report(f"{folder}/{queue_id} is damaged, it goes to corrupt/")
        else:
            spool.kept.unread[queue_id] = None
        return None
    item.born = min(item.born, spool.clock.now())
    if item.finished:
        with contextlib.suppress(OSError):
            spool.kept.remove(folder, queue_id)
        return None
    return spool.add(item)


def scan(spool: "Spool", file: IntakeFile) -> Iterator[list[Item]]:
    """The messages of an intake file that are not known yet."""
    batch: list[Item] = []
    octets = 0
    try:
        for one in spool.granted.scan(file):
            item = _found(spool, file, one)
            if item is not None:
                batch.append(item)
                octets += item.trailer.size
            if len(batch) >= BATCH or octets >= BATCH_OCTETS:
                yield batch
                batch, octets = [], 0
    except OSError as error:
        spool.report(f"{file.path} cannot be read: {error}")
    yield batch


def _found(spool: "Spool", file: IntakeFile, one: Found | Damaged) -> Item | None:
    if isinstance(one, Damaged):
        set_aside(spool, file.name, one.offset, one.end, one.why)
        return None
    trailer = one.trailer
    if trailer.queue_id in spool.kept.names:  # moved before the crash, its mark was lost
        spool.granted.close_entry(file.name, one.offset)
        return None
    if wrong := unacceptable(spool, trailer):
        set_aside(spool, file.name, one.offset, one.end, wrong)
        return None
    item = Item(trailer, "intake", file.name, one.offset, spool.clock.now())
    item.results = {index: Result("done") for index in file.marks.recipients.get(one.offset, ())}
    if item.finished:
        spool.granted.close_entry(file.name, one.offset)
        return None
    return spool.add(item, one.content)


def unacceptable(spool: "Spool", trailer: Trailer) -> str | None:
    """Why no message may have this trailer: only a broken worker writes such a thing. None if it may."""
    if not ids.valid(trailer.queue_id):
        return "its queue id is not one"
    if not trailer.recipients:
        return "it has no recipient"
    return "its queue id is in use" if spool.get(trailer.queue_id) is not None else None


def announced(spool: "Spool", notice: Committed) -> Trailer | None:
    """The trailer of a message that a worker tells of; None if it cannot be taken: then it is set aside and reported."""
    try:
        trailer = decode_trailer(notice.trailer)
    except msgspec.MsgspecError as error:
        wrong: str | None = f"its trailer cannot be read: {error}"
    else:
        wrong = "its queue id is in use" if trailer.queue_id in spool.kept.names else unacceptable(spool, trailer)
        if not wrong:
            return trailer
    set_aside(spool, notice.name, notice.offset, notice.end, wrong or "")
    return None


def set_aside(spool: "Spool", name: str, offset: int, end: int, why: str) -> None:
    """Copy octets [offset, end) of an intake file to corrupt/ with the reason, then close them there; in the lane."""
    spool.damaged += 1
    spool.report(f"damaged entry in intake/{name} at octet {offset}: {why}; it goes to corrupt/{name}.{offset}")

    def copy() -> None:
        source = spool.root / "intake" / name
        _write_aside(spool, f"{name}.{offset}", disk.octets_of(source, offset, end), why)

    def copied(result: Exception | None) -> None:
        if result is not None:
            spool.report(f"intake/{name} at octet {offset} could not be set aside and stays: {result}")
        elif name in spool.granted.files:
            spool.granted.close_entry(name, offset)

    spool.run(copy, copied)


def _write_aside(spool: "Spool", name: str, pieces: Iterable[bytes], why: str) -> None:
    folder = spool.root / "corrupt"
    disk.write_file(folder / name, pieces)
    disk.write_file(folder / f"{name}.why", [why.encode(errors="replace") + b"\n"])
    disk.sync_folder(folder)


def set_item_aside(spool: "Spool", item: Item, why: str) -> None:
    """A queued message whose content is damaged; it stays queued where the disk refuses."""
    if item.folder != "intake":
        if _rename_aside(spool, item.queue_id, why):
            spool.forget(item)
            spool.damaged += 1
            spool.report(f"{item.folder}/{item.queue_id} goes to corrupt/: {why}")
        return
    try:
        fd = os.open(spool.granted.folder / item.name, os.O_RDONLY | os.O_CLOEXEC)
        try:
            header = read_header(fd, item.offset)
            end = item.offset + header.length if header is not None else os.fstat(fd).st_size
        finally:
            os.close(fd)
    except OSError as error:
        spool.report(f"intake/{item.queue_id} ({why}) could not be set aside: {error}")
        return
    spool.forget(item)
    set_aside(spool, item.name, item.offset, end, why)


def _rename_aside(spool: "Spool", queue_id: str, why: str) -> bool:
    """A kept entry goes to corrupt/ as it is, with its log and the reason. False, and told, where the disk refuses."""
    folder = spool.kept.names[queue_id]
    corrupt = spool.root / "corrupt"
    try:
        disk.write_file(corrupt / f"{queue_id}.why", [why.encode(errors="replace") + b"\n"])
        spool.kept.path(folder, queue_id).rename(corrupt / queue_id)
    except OSError as error:
        spool.report(f"{folder}/{queue_id} ({why}) could not be set aside: {error}")
        return False
    del spool.kept.names[queue_id]
    with contextlib.suppress(OSError):  # a log without an entry is dropped at start
        spool.kept.state(folder, queue_id).rename(corrupt / f"{queue_id}.state")
    return True
