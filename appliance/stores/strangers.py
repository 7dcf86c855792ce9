"""Strangers to the greylist: workers know by themselves who is one, and put him off without waiting for stated.

Contract: stated keeps its filters in a Board, memory that it alone can write and nobody can cut, and sends the descriptor
with its greeting. A worker looks there (`News.first`): whom the filters vouch for has no record that a step could find,
so the answer is known. stated is told of him afterwards (remote.LINGER at most), and takes the step then; until it has, a
second step about the same pair in this worker is asked as any. Another worker may call him a stranger once more in that
time: he is put off, as he would be for coming back too early. What stated did not confirm is told again when it is back.
What failure means for the mail: none; without a board every step is asked.
"""

import fcntl
import mmap
import os

from appliance.mail.ports import GreylistAsk
from appliance.observe import oplog
from appliance.stores import seen, wire

log = oplog.get("stated")
#: Joins origin, sender and recipient in keys; no address and no network can contain it.
SEP = "\x1f"
#: Slots of the filter of triplets and pairs (they are the many), and of origins.
PAIRS, ORIGINS = 1 << 22, seen.SLOTS
_BEGIN = seen.room(PAIRS)
SIZE = _BEGIN + seen.room(ORIGINS)
#: Nobody cuts it, grows it, or maps it to write from now on (Linux 5.1: F_SEAL_FUTURE_WRITE, not named by Python 3.11).
_FUTURE_WRITE = 0x0010
#: Strangers that stated has not heard of; beyond them each step waits for stated again.
MOST = 1000


class Board:
    """stated's end."""

    fd = -1

    def __init__(self) -> None:
        """Raises OSError where the system has no such memory."""
        self.fd = os.memfd_create("postgate-strangers", os.MFD_CLOEXEC | os.MFD_ALLOW_SEALING)
        try:
            os.ftruncate(self.fd, SIZE)
            memory = memoryview(mmap.mmap(self.fd, SIZE))
            seals = fcntl.F_SEAL_SHRINK | fcntl.F_SEAL_GROW | _FUTURE_WRITE | fcntl.F_SEAL_SEAL
            fcntl.fcntl(self.fd, fcntl.F_ADD_SEALS, seals)
        except OSError:
            self.close()
            raise
        self.pairs, self.origins = memory[:_BEGIN], memory[_BEGIN:]

    def close(self) -> None:
        """Nobody gets it any more; who has it may look on."""
        fd, self.fd = self.fd, -1
        if fd >= 0:
            os.close(fd)

    __del__ = close


def board() -> Board | None:
    """A new one, or None with a line in the log."""
    try:
        return Board()
    except (OSError, AttributeError) as error:
        log.warning("workers wait for each greylist step: no sealed memory here", error=str(error))
        return None


def look(fd: int) -> memoryview | None:
    """A board as a worker reads it; None for what is none. The descriptor stays the caller's."""
    try:
        if os.fstat(fd).st_size != SIZE or not fcntl.fcntl(fd, fcntl.F_GET_SEALS) & fcntl.F_SEAL_SHRINK:
            return None
        return memoryview(mmap.mmap(fd, SIZE, prot=mmap.PROT_READ))
    except OSError:
        return None


class News:
    """What a worker knows of strangers, and has told stated of them."""

    def __init__(self) -> None:
        self._pairs: memoryview | None = None
        self._origins: memoryview | None = None
        #: By their pair: those whom the next frame tells of, and those of the frame under way.
        self._next: dict[str, wire.Stranger] = {}
        self._told: dict[str, wire.Stranger] = {}

    def see(self, memory: memoryview | None) -> None:
        """stated is there, with that board."""
        self._pairs, self._origins = (None, None) if memory is None else (memory[:_BEGIN], memory[_BEGIN:])

    def first(self, ask: GreylistAsk) -> wire.Stranger | None:
        """What stated is to be told, where this is the first attempt of a stranger. None: it is to be asked."""
        pairs, origins = self._pairs, self._origins
        if pairs is None or origins is None or len(self._next) >= MOST:
            return None
        pair = f"{ask.sender}{SEP}{ask.recipient}"
        if pair in self._next or pair in self._told or not seen.absent(pairs, PAIRS, pair):
            return None
        if ask.auto_accept and not ask.shared and not seen.absent(origins, ORIGINS, ask.keys[0]):
            return None
        stranger = self._next[pair] = wire.stranger_of(ask)
        return stranger

    def sent(self) -> None:
        """The next frame is under way."""
        self._told, self._next = self._next, {}

    def drop(self, stranger: wire.Stranger) -> None:
        """Of him stated cannot be told."""
        for waiting in (self._next, self._told):
            for pair in [pair for pair, one in waiting.items() if one is stranger]:
                del waiting[pair]

    def heard(self) -> None:
        """stated answered the frame: the board shows what it told of."""
        self._told = {}

    def lost(self) -> None:
        """stated is away: what it did not confirm is to be told again."""
        self.see(None)
        self._next, self._told = self._told | self._next, {}

    def again(self) -> list[wire.Stranger]:
        """What is to be told again."""
        return list(self._next.values())
