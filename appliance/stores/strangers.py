"""Strangers to the greylist: workers know by themselves who is one, and put him off without waiting for stated.

Contract: stated keeps its filters in a Board, memory that it alone can write and nobody can cut, and sends the descriptor
with its greeting. A worker looks there (`Group.first`): whom the filters vouch for has no record that a step could find,
so the answer is known. stated is told of him within milliseconds (remote.LINGER_NEWS; with all others of his client and
sender, and behind the frame that is under way), and takes the step then; until it has, a
second step about the same pair in this worker is asked as any. Another worker may call him a stranger once more in that
time: he is put off, as he would be for coming back too early. What stated did not confirm is told again when it is back.
What failure means for the mail: none; without a board every step is asked.
"""

import fcntl
import mmap
import os
from collections.abc import Callable

import msgspec

from appliance.mail.greylisting import GreylistAsk
from appliance.observe import oplog
from appliance.stores import seen, wire
from appliance.stores.seen import absent

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
#: So many go at once.
FULL = 250


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
    """What a worker knows of strangers, and has told stated of them. `post` puts a message into the next frame; `full`:
    it is large enough to go."""

    def __init__(self, post: Callable[[wire.Strangers], None], full: Callable[[], None]) -> None:
        self.post, self.full = post, full
        self.pairs: memoryview | None = None
        self.origins: memoryview | None = None
        #: By their pair, in which message: those whom the next frame tells of, and those of the frame under way.
        self.next: dict[str, wire.Strangers] = {}
        self.told: dict[str, wire.Strangers] = {}
        #: Behind a frame begin other messages.
        self.frame = 0

    def see(self, memory: memoryview | None) -> None:
        """stated is there, with that board."""
        self.pairs, self.origins = (None, None) if memory is None else (memory[:_BEGIN], memory[_BEGIN:])

    def sent(self) -> None:
        """The next frame is under way."""
        self.told, self.next = self.next, {}
        self.frame += 1

    def drop(self, message: wire.Strangers, fit: Callable[[wire.Strangers], bool]) -> None:
        """Take out of a message whom stated cannot be told of: `fit` says so of a message about each alone."""
        for recipient in tuple(message.recipients):
            if fit(msgspec.structs.replace(message, recipients=[recipient])):
                continue
            message.recipients.remove(recipient)
            for waiting in (self.next, self.told):
                waiting.pop(f"{message.sender}{SEP}{recipient}", None)

    def heard(self) -> None:
        """stated answered the frame: the board shows what it told of."""
        self.told = {}

    def lost(self) -> None:
        """stated is away: what it did not confirm is to be told again."""
        self.see(None)
        self.next, self.told = self.told | self.next, {}
        self.frame += 1

    def again(self) -> list[wire.Strangers]:
        """What is to be told again."""
        return list({id(message): message for message in self.next.values()}.values())


class Group:
    """mail.greylisting.Strangers: attempts that differ from `ask` in their recipient and moment only."""

    __slots__ = ("_ask", "_frame", "_message", "_news", "_origin", "_sender")

    def __init__(self, news: News, ask: GreylistAsk) -> None:
        self._news, self._ask, self._frame = news, ask, -1
        self._sender = f"{ask.sender}{SEP}"
        #: The origin that may be accepted.
        self._origin = ask.keys[0] if ask.auto_accept and not ask.shared else ""
        self._message: wire.Strangers | None = None

    def first(self, recipient: str) -> bool:
        """Whether this is the first attempt of a stranger: then stated will be told. False: it is to be asked."""
        news, pair = self._news, self._sender + recipient
        coming, pairs, origins = news.next, news.pairs, news.origins
        if pairs is None or origins is None or pair in coming or pair in news.told or not absent(pairs, PAIRS, pair):
            return False
        if len(coming) >= MOST or (self._origin and not absent(origins, ORIGINS, self._origin)):
            return False
        message = self._message
        if self._frame != news.frame or message is None:
            message = wire.strangers_of(self._ask)
            news.post(message)
            self._frame, self._message = news.frame, message
        message.recipients.append(recipient)
        coming[pair] = message
        if len(coming) >= FULL:
            news.full()
        return True
