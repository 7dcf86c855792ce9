"""A message as the MTA tells it, field by field and piece by piece, put together to what the engine judges.

Contract: a trace field of ours stands on top, as on every message that the gateway itself takes, so that checks and
scanners see the same; the rest is octet for octet what the MTA has, with CRLF where it folds fields. Up to RAM octets
stay in memory, and in all bodies of a worker at most `Memory.limit`; what is more goes to a temporary file. A header is
held in memory and known field by field: one of more than HEADER octets or FIELDS fields is given up (`header_over`), as
is a message over its limit (`too_big`): both are refused. What failure means for the mail: trouble with the file is kept
in `trouble`: the message is put off.
"""

from appliance.daemons.fronts.content import RAM, RamContent, TempContent
from appliance.daemons.milterd.changes import Seen

#: Octets of a header (edits reach no further, see mail.apply) and fields of it (each takes some 200 octets more); twice
#: and more what the check `size` takes as shipped.
HEADER, FIELDS = 1 << 20, 20_000


class Memory:
    """Octets of messages in RAM in this worker."""

    def __init__(self, limit: int) -> None:
        self.limit, self.used = limit, 0


class Collector:
    """One message. `top` is the trace field, CRLF at its end; `limit` octets are taken (0: all)."""

    def __init__(self, top: bytes, limit: int, header_limit: int, memory: Memory, folder: str) -> None:
        self.limit = limit + len(top) if limit else 0
        self.size = len(top)
        self.too_big = self.header_over = False
        self.trouble: OSError | None = None
        #: The fields that the MTA has.
        self.seen: list[Seen] = []
        self.content: RamContent | TempContent | None = None
        self._header_most = max(HEADER, header_limit) + len(top)
        self._header_limit, self._memory, self._folder = header_limit, memory, folder
        self._pieces: list[bytes] = [top]
        self._file: TempContent | None = None
        self._header_size = 0
        memory.used += len(top)
        self._held = len(top)

    def field(self, name: bytes, value: bytes) -> None:
        """One more field; `value` has its leading blank, if it has one."""
        octets = name + b":" + value.replace(b"\r\n", b"\n").replace(b"\n", b"\r\n") + b"\r\n"
        if len(self.seen) >= FIELDS or self.size + len(octets) > self._header_most:
            self.header_over = True
            self.drop()
        if self.header_over or self.too_big:
            self.size += len(octets)
            return
        self.seen.append(Seen(name, value.replace(b"\r\n", b"\n"), self.size, self.size + len(octets)))
        self._add(octets)

    def end_of_header(self) -> None:
        """What comes now is body."""
        if not self._header_size:
            self._add(b"\r\n")
            self._header_size = self.size

    def body(self, octets: bytes) -> None:
        """A piece of body."""
        self.end_of_header()
        if octets:
            self._add(octets)

    @property
    def body_start(self) -> int:
        """Where the body begins in the content."""
        return self._header_size

    def _add(self, octets: bytes) -> None:
        self.size += len(octets)
        if self.limit and self.size > self.limit:
            self.too_big = True
            self.drop()
        if self.too_big or self.header_over or self.trouble is not None:
            return
        if self._file is not None:
            self._write(octets)
            return
        self._pieces.append(octets)
        self._held += len(octets)
        self._memory.used += len(octets)
        # the header stays in memory until it is whole: it is kept at hand all the same
        if self._header_size and (self._held > RAM or self._memory.used > self._memory.limit):
            self._move()

    def _move(self) -> None:
        try:
            self._file = TempContent(self._folder)
        except OSError as error:
            self._fail(error)
            return
        whole = b"".join(self._pieces)
        self._forget()
        self._file.head(whole[: self._header_size], self._header_limit)
        self._write(whole)

    def _write(self, octets: bytes) -> None:
        assert self._file is not None
        try:
            self._file.write(octets)
        except OSError as error:
            self._fail(error)

    def _fail(self, error: OSError) -> None:
        self.trouble = error
        self.drop()

    def whole(self) -> RamContent | TempContent:
        """The message; call it behind its end, once, where there is neither trouble nor too much."""
        self.end_of_header()
        self.content = self._file or RamContent(b"".join(self._pieces), self._header_limit)
        return self.content

    def _forget(self) -> None:
        self._memory.used -= self._held
        self._held = 0
        self._pieces = []

    def drop(self) -> None:
        """Give back memory and file; safe to call twice."""
        self.seen = []
        self._forget()
        if self._file is not None:
            self._file.close()
            self._file = None
