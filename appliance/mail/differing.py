"""What somebody changed in a message, as edits: whole fields of the header, and one stretch of the body.

Contract: pure; linear in the size; `changes(before, after)` in force on `before` (mail.apply) gives `after`. Edits that
came before keep their effect: what is new stands where it stands in `after`, whatever they take out. What failure means
for the mail: ValueError for octets that are no message.
"""

from collections.abc import Sequence
from itertools import accumulate

from appliance.mail import apply
from appliance.mail.edits import Edit, text


def changes(before: bytes, after: bytes) -> tuple[Edit, ...]:
    """Raises ValueError where `after` is no message."""
    if before == after:
        return ()
    block, rest = _parts(before)
    new_block, new_rest = _parts(after)
    if _is_odd(new_rest) and not (_is_odd(rest) and new_block == block):
        raise ValueError("a line of the header is no field, or no empty line stands behind it")
    if not after:
        raise ValueError("nothing is left of it")
    return (*_of_header(_fields(block), _fields(new_block)), *_of_body(rest, new_rest, len(block)))


def _is_odd(rest: bytes) -> bool:
    """No empty line stands behind the fields."""
    return bool(rest) and not rest.startswith(b"\r\n")


def crlf(octets: bytes) -> bytes:
    """With CRLF at the end of each line, the last one too."""
    octets = octets.replace(b"\r\n", b"\n").replace(b"\r", b"\n").replace(b"\n", b"\r\n")
    return octets if octets.endswith(b"\r\n") else octets + b"\r\n"


def _parts(content: bytes) -> tuple[bytes, bytes]:
    end = apply.reach(content)
    return content[:end], content[end:]


def _fields(block: bytes) -> list[bytes]:
    return [octets for octets, _ in apply.fields(block, ())]


def _of_header(old: Sequence[bytes], new: Sequence[bytes]) -> list[Edit]:
    same = next((n for n, (a, b) in enumerate(zip(old, new, strict=False)) if a != b), min(len(old), len(new)))
    tails = zip(reversed(old[same:]), reversed(new[same:]), strict=False)
    left = min(len(old), len(new)) - same
    alike = next((n for n, (a, b) in enumerate(tails) if a != b), left)
    starts = list(accumulate(map(len, old), initial=0))
    put_in = b"".join(new[same : len(new) - alike])
    edits = [Edit("splice", value=text(put_in)[0], index=starts[same], encoding=text(put_in)[1])] if put_in else []
    taken = range(same, len(old) - alike)
    return edits + [Edit("splice", index=starts[number], length=len(old[number])) for number in taken]


def _of_body(old: bytes, new: bytes, start: int) -> list[Edit]:
    if old == new:
        return []
    same = _alike(old, new)
    tail = min(_alike(old[::-1], new[::-1]), min(len(old), len(new)) - same)
    value, encoding = text(new[same : len(new) - tail])
    return [Edit("splice", value=value, index=start + same, length=len(old) - same - tail, encoding=encoding)]


def _alike(one: bytes, other: bytes) -> int:
    """Octets at the start that both have: halves are compared, not octets."""
    low, high = 0, min(len(one), len(other))
    while low < high:
        middle = (low + high + 1) // 2
        if one[low:middle] == other[low:middle]:
            low = middle
        else:
            high = middle - 1
    return low
