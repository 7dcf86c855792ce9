"""Where archives begin behind the first octet: readers look for a beginning, whatever stands in front of it.

Contract: `first` gives the first one, of the kinds that 7-Zip finds by their signature, each by more than its
sign (a checksum, a header that fits), because any data may hold a few octets. What stands in a container because a member
was stored is `Stored`, and passed over: it is looked into as itself. Time is linear: what the checks may read together is
bounded by the length.
What failure means for the mail: data made of false signs is Over "signs", never passed over.
"""

import re
import zlib
from collections.abc import Callable, Iterator
from heapq import merge

from appliance.daemons.scand import filetypes
from appliance.protocol.mime import Over

#: Octets of which a reader lets a member begin with something else: 7-Zip looks for a sign in the first 8 MB.
FAR = 8 * 1024 * 1024
#: Octets of compressed data that tell it from octets that begin like it by chance; what is fed to the reader at once.
_ENOUGH, _FED, _GZ_HEADER = 64, 256, 3 * 65536
_HEX = re.compile(rb"[0-9A-Fa-f]{104}")
_OCTAL = re.compile(rb"[ 0-7]{6,7}[ \0]")
#: What checks may read beyond twice the length.
_FREE = 4 * 1024 * 1024


class _Purse:
    """What checks may still read."""

    def __init__(self, octets: int) -> None:
        self.left = octets

    def take(self, octets: int) -> None:
        """Raises Over."""
        self.left -= octets
        if self.left < 0:
            raise Over("signs")


def _seven(octets: bytes, at: int, purse: _Purse) -> bool:
    return len(octets) >= at + 32 and zlib.crc32(octets[at + 12 : at + 32]) == _int(octets, at + 8, 4)


def _zip(octets: bytes, at: int, purse: _Purse) -> bool:
    """A version, a method and the length of a name that there are."""
    return octets[at + 4] < 100 and octets[at + 9] == 0 and 0 < _int(octets, at + 26, 2) < 4096


def _gzip(octets: bytes, at: int, purse: _Purse) -> bool:
    """It unpacks, to its end or for a while."""
    reader, got = zlib.decompressobj(31), 0
    try:
        for start in range(at, min(at + _GZ_HEADER, len(octets)), _FED):
            purse.take(_FED)
            got += len(reader.decompress(octets[start : start + _FED], _ENOUGH))
            if got >= _ENOUGH or reader.eof:
                return True
    except zlib.error:
        return got >= _ENOUGH
    return False


def _xz(octets: bytes, at: int, purse: _Purse) -> bool:
    return zlib.crc32(octets[at + 6 : at + 8]) == _int(octets, at + 8, 4)


def _zstd(octets: bytes, at: int, purse: _Purse) -> bool:
    """The header of a frame, and that of its first block: no reserved bit or type, 128 KB at most."""
    word = octets[at + 4] if at + 4 < len(octets) else 8
    single = word >> 5 & 1
    size = (1 - single) + (0, 1, 2, 4)[word & 3] + (single, 2, 4, 8)[word >> 6]
    block = _int(octets, at + 5 + size, 3)
    return not word & 8 and len(octets) >= at + 8 + size and block >> 1 & 3 != 3 and block >> 3 <= 131072


def _tar(octets: bytes, at: int, purse: _Purse) -> bool:
    """The checksum of its first header, for which its own place counts as blanks."""
    written = _OCTAL.match(octets, at + 148)
    if written is None or not written[0].strip(b" \0").isdigit():
        return False
    purse.take(512)
    head = octets[at : at + 512]
    return len(head) == 512 and sum(head) - sum(head[148:156]) + 8 * 32 == int(written[0].strip(b" \0"), 8)


def _cpio(octets: bytes, at: int, purse: _Purse) -> bool:
    return _HEX.match(octets, at + 6) is not None


def _arj(octets: bytes, at: int, purse: _Purse) -> bool:
    size = _int(octets, at + 2, 2)
    if not 30 <= size <= 2600 or len(octets) < at + 8 + size:
        return False
    purse.take(size)
    return zlib.crc32(octets[at + 4 : at + 4 + size]) == _int(octets, at + 4 + size, 4)


def _true(octets: bytes, at: int, purse: _Purse) -> bool:
    return True


def _int(octets: bytes, at: int, size: int) -> int:
    return int.from_bytes(octets[at : at + size], "little")


_Check = Callable[[bytes, int, _Purse], bool]
#: (sign, how far behind the beginning it stands, kind, what tells more).
_SIGNS: tuple[tuple[bytes, int, str, _Check], ...] = (
    (rb"7z\xbc\xaf\x27\x1c", 0, filetypes.SEVEN, _seven),
    (rb"Rar!\x1a\x07(?:\0|\x01\0)", 0, filetypes.RAR, _true),
    (rb"MSCF\0{4}.{4}\0{4}.{8}\x03\x01", 0, filetypes.CAB, _true),
    (rb"PK\x03\x04(?=.{26})", 0, filetypes.ZIP, _zip),
    (rb"\x1f\x8b\x08[\0-\x1f]", 0, filetypes.GZIP, _gzip),
    (rb"BZh[1-9](?:1AY&SY)", 0, filetypes.BZIP2, _true),
    (rb"\xfd7zXZ\0\0", 0, filetypes.XZ, _xz),
    (rb"\x28\xb5\x2f\xfd", 0, filetypes.ZSTD, _zstd),
    (rb"ustar(?=[ \0])", 257, filetypes.TAR, _tar),
    (rb"CD001\x01", 32769, filetypes.ISO, _true),
    (rb"07070[12]", 0, filetypes.CPIO, _cpio),
    (rb"MSWIM\0{3}\xd0\0{3}", 0, filetypes.WIM, _true),
    (rb"-lh[0-7d]-(?=.{13}[\0-\x02])", 2, filetypes.LHA, _true),
    (rb"\x60\xea.[\0-\x0a]", 0, filetypes.ARJ, _arj),
)
_COMPILED = tuple((re.compile(sign, re.DOTALL), back, kind, check) for sign, back, kind, check in _SIGNS)
#: Kinds whose signs stand before each of their members (or blocks): their own readers go on to the next one.
_REPEATED = frozenset(
    {filetypes.ZIP, filetypes.TAR, filetypes.CPIO, filetypes.ISO, filetypes.LHA, filetypes.ARJ}
    | {filetypes.GZIP, filetypes.BZIP2, filetypes.XZ, filetypes.ZSTD}
)
#: Documents keep others in pieces, which no reader of archives puts together.
_PASSED_OVER = {filetypes.OLE: filetypes.ZIP} | {kind: kind for kind in _REPEATED}
#: Octets of a beginning by which stored members are told apart.
_KEY = 32


class Stored:
    """Members of one container that may stand in it as they are."""

    def __init__(self, container: bytes, kind: str) -> None:
        self._container, self.kind = container, kind
        self._by_key: dict[bytes, list[tuple[int, bytes]]] = {}
        self._first = first(container, kind)
        self._purse = _Purse(2 * len(container) + _FREE)

    def add(self, member: bytes) -> None:
        """One that is looked into. Raises Over."""
        may = self._first is not None and len(member) < len(self._container)
        found = first(member, self.kind, 0) if may else None
        if found is not None:
            key = member[found[0] : found[0] + _KEY]
            self._by_key.setdefault(key if len(key) == _KEY else b"", []).append((found[0], member))

    def end(self, at: int) -> int:
        """Where the member ends whose first archive begins there, or 0. Raises Over."""
        for key in (self._container[at : at + _KEY], b""):
            for back, member in self._by_key.get(key, ()):
                self._purse.take(_KEY)
                if at >= back and self._container.startswith(member[:256], at - back):
                    self._purse.take(len(member))
                    if self._container.startswith(member, at - back):
                        return at - back + len(member)
        return 0

    def first_other(self) -> tuple[int, str] | None:
        """The first archive behind the first octet that is in no member. Raises Over."""
        if self._first is None or not self._by_key:
            return self._first
        behind = 1
        for at, kind in _all(self._container, self.kind, 1):
            if at >= behind:
                behind = self.end(at)
                if not behind:
                    return at, kind
        return None


def first_zip(octets: bytes) -> int:
    """Where the first member of a zip stands, 0 if nowhere."""
    (sign,) = (sign for sign in _COMPILED if sign[2] == filetypes.ZIP)
    return next(_of(octets, sign, 0, _Purse(0)), (0, ""))[0]


def first(octets: bytes, kind: str, start: int = 1) -> tuple[int, str] | None:
    """Where the first archive begins in something of that kind, and what it is. Raises Over."""
    return next(_all(octets, kind, start), None)


def _all(octets: bytes, kind: str, start: int) -> Iterator[tuple[int, str]]:
    purse, but = _Purse(2 * len(octets) + _FREE), _PASSED_OVER.get(kind, "")
    return merge(*(_of(octets, sign, start, purse) for sign in _COMPILED if sign[2] != but))


def _of(
    octets: bytes, sign: tuple[re.Pattern[bytes], int, str, _Check], start: int, purse: _Purse
) -> Iterator[tuple[int, str]]:
    pattern, back, kind, check = sign
    for found in pattern.finditer(octets, start + back):
        at = found.start() - back
        if check(octets, at, purse):
            yield at, kind
