"""Bodies as DKIM hashes them (RFC 6376 3.4.3, 3.4.4): canonical in pieces, in linear time whatever the octets are.

Contract: pure. Pieces come in, pieces go out, with at most a blank and line ends held back between them; each piece that
comes in gives at least one that goes out (it may be empty), so that who drives it can pause between any two: no step is
longer than a piece. Only CRLF ends a line here; a bare CR or LF is an octet like others.
What failure means for the mail: nothing fails here but the reading of the content, which is passed on.
"""

import hashlib
from collections.abc import Iterable, Iterator

import msgspec

from appliance.mail.ports import Content

CRLF = b"\r\n"
PIECE = 65536
#: So many pieces are hashed between two pauses: about 2 ms of plain text, 8 ms of hostile one.
PIECES = 4
_ENDS = CRLF * (PIECE // 2)
#: By the names that dkim_signature.ALGORITHMS gives them.
_HASHES = {"sha256": hashlib.sha256, "sha1": hashlib.sha1}


def squeeze(data: bytes) -> bytes:
    """Each run of blanks and tabs as one blank. Every pass halves the runs: linear in C, however long they are."""
    if b"\t" in data:
        data = data.replace(b"\t", b" ")
    while b"  " in data:
        data = data.replace(b"  ", b" ")
    return data


def canonical(chunks: Iterable[bytes], *, relaxed: bool) -> Iterator[bytes]:
    """The canonical body in pieces."""
    return _trimmed(_unblanked(chunks), False) if relaxed else _trimmed(chunks, True)


def canonical_whole(body: bytes, *, relaxed: bool) -> bytes:
    """As the pieces of `canonical` together, of a body that is at hand in one."""
    if relaxed:
        body = squeeze(body)
        if b" \r\n" in body:
            body = body.replace(b" \r\n", CRLF)
        body = body.removesuffix(b" ")
    size = _without_ends(body)
    if size and size + 2 == len(body):
        return body  # one line end stands there: nearly every body
    return body[:size] + CRLF if size or not relaxed else b""


def _unblanked(chunks: Iterable[bytes]) -> Iterator[bytes]:
    """Blanks as relaxed wants them: one for a run, none before a line's end."""
    held = b""
    for chunk in chunks:
        data, held = squeeze(held + chunk), b""
        if data.endswith(b"\r"):
            data, held = data[:-1], b"\r"
        if data.endswith(b" "):
            data, held = data[:-1], b" " + held
        yield data.replace(b" \r\n", CRLF) if b" \r\n" in data else data
    if held.endswith(b"\r"):
        yield held


def _trimmed(chunks: Iterable[bytes], keep_empty: bool) -> Iterator[bytes]:
    """Without empty lines at the end, with one CRLF there; an empty body is a CRLF if `keep_empty`."""
    ends, carry, some = 0, b"", False
    for chunk in chunks:
        data, carry = carry + chunk, b""
        if data.endswith(b"\r"):
            data, carry = data[:-1], b"\r"
        size = _without_ends(data)
        if size:
            yield from _line_ends(ends)
            some, ends = True, 0
        ends += (len(data) - size) // 2
        yield data[:size]
    if carry:
        yield from _line_ends(ends)
        yield carry
    if carry or some or keep_empty:
        yield CRLF


def _without_ends(data: bytes) -> int:
    """Octets before the CRLFs that `data` ends with. A CR at its end is not the half of one: the caller took that."""
    if data.endswith(b"\r"):
        return len(data)
    size = len(data.rstrip(CRLF))
    tail = data[size:]
    if tail == CRLF * (len(tail) // 2):
        return size
    odd = max(tail.rfind(b"\n\n"), tail.rfind(b"\r\r")) + 1
    if tail[odd] == 10:
        odd += 1
    return size + odd


def _line_ends(count: int) -> Iterator[bytes]:
    while count > 0:
        yield _ENDS[: 2 * count]
        count -= PIECE // 2


def body_of(content: Content) -> Iterator[bytes]:
    """What stands behind the header, in pieces."""
    skip = len(content.header)
    for chunk in content.chunks(PIECE):
        if skip >= len(chunk):
            skip -= len(chunk)
            yield b""
        else:
            yield chunk[skip:]
            skip = 0


class Want(msgspec.Struct, frozen=True):
    """A body hash that a signature speaks of; `length` is l= (None: the whole body)."""

    relaxed: bool
    algorithm: str
    length: int | None = None


class BodyHash(msgspec.Struct, frozen=True):
    """`digest` of what is wanted, None if the body is shorter than l= says; `unsigned`: octets behind l=."""

    digest: bytes | None
    unsigned: int = 0


def hash_body(content: Content, wants: Iterable[Want], found: dict[Want, BodyHash]) -> Iterator[None]:
    """Fill `found`: one pass over the body for each canonicalisation. Pauses after every few pieces."""
    wants = set(wants) - found.keys()
    if len(wants) == 1 and content.size <= PIECE:
        for want in wants:
            found[want] = hash_small(content, want)
        return
    for relaxed in sorted({want.relaxed for want in wants}):
        group = [want for want in wants if want.relaxed is relaxed]
        hashers = [_Hasher(name, group) for name in sorted({want.algorithm for want in group})]
        size = 0
        for number, piece in enumerate(canonical(body_of(content), relaxed=relaxed), 1):
            for hasher in hashers:
                hasher.update(size, piece)
            size += len(piece)
            if number % PIECES == 0:
                yield
        for hasher in hashers:
            found.update(hasher.results(size))


def hash_small(content: Content, want: Want) -> BodyHash:
    """The one hash that is wanted of a content that is no more than a piece."""
    octets = b"".join(content.chunks(PIECE))
    body = canonical_whole(octets[len(content.header) :], relaxed=want.relaxed)
    unsigned = 0 if want.length is None else len(body) - want.length
    if unsigned < 0:
        return BodyHash(None)
    signed = body if unsigned == 0 else body[: want.length]
    return BodyHash(digest(want.algorithm, signed), unsigned)


def digest(algorithm: str, octets: bytes) -> bytes:
    """The hash of what is at hand."""
    return _HASHES[algorithm](octets, usedforsecurity=False).digest()


class _Hasher:
    """One algorithm over one canonical body; remembers the digest at each length that is wanted."""

    def __init__(self, name: str, wants: Iterable[Want]) -> None:
        self._hash = hashlib.new(name, usedforsecurity=False)
        self._wants = [want for want in wants if want.algorithm == name]
        self._lengths = sorted({want.length for want in self._wants if want.length is not None}, reverse=True)
        self._at: dict[int | None, bytes] = {}

    def update(self, size: int, piece: bytes) -> None:
        """`piece` begins at octet `size`."""
        begin = size
        while self._lengths and self._lengths[-1] <= size + len(piece):
            length = self._lengths.pop()
            self._hash.update(piece[begin - size : length - size])
            self._at[length] = self._hash.digest()
            begin = length
        self._hash.update(piece[begin - size :])

    def results(self, size: int) -> dict[Want, BodyHash]:
        self.update(size, b"")  # l=0 of an empty body
        self._at[None] = self._hash.digest()
        unsigned = {want: size - (size if want.length is None else want.length) for want in self._wants}
        return {want: BodyHash(self._at.get(want.length), max(0, left)) for want, left in unsigned.items()}
