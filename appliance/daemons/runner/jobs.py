"""A content as a file in a folder of its own, and away again.

Contract: `made` has a folder as long as it lasts, made and removed in threads. `make` copies the octets (the descriptor's
file may hold more than the message); the folder's name is random, nothing of it comes from the message. `remove` leaves
nothing. A folder that others use may have files of another gateway: `prefix` tells whose they are. What failure means
for the mail: OSError is "not scanned".
"""

import contextlib
import hashlib
import os
import secrets
import shutil
from collections.abc import AsyncIterator, Callable, Iterable, Iterator
from functools import partial
from pathlib import Path

from appliance.net.threads import to_the_end

PREFIX, FILE = "postgate-", "email.txt"
_PIECE = 1 << 20


def prefix(state_dir: Path) -> str:
    """What the names of a gateway's folders begin with where others have theirs."""
    return f"{PREFIX}{hashlib.sha256(os.fsencode(state_dir.resolve())).hexdigest()[:12]}-"


def make(root: Path, fd: int, offset: int, size: int, *, shared: bool, prefix: str = PREFIX) -> Path:
    """The folder. `shared` (AM.PDP): its line ends are LF; its group may write beside the file, and the file, as amavisd
    makes hard links to it, which Linux allows to who may write (fs.protected_hardlinks). Raises OSError."""
    folder = root / f"{prefix}{secrets.token_hex(12)}"
    folder.mkdir(mode=0o700)
    try:
        if shared:
            folder.chmod(0o2770)
        target = os.open(folder / FILE, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC | os.O_NOFOLLOW, 0o600)
        try:
            for piece in _line_ends(_pieces(fd, offset, size)) if shared else _pieces(fd, offset, size):
                _put(target, piece)
            os.fchmod(target, 0o660 if shared else 0o400)
        finally:
            os.close(target)
    except BaseException:
        remove(folder)
        raise
    return folder


@contextlib.asynccontextmanager
async def made(make: Callable[[], Path]) -> AsyncIterator[Path]:
    """What `make` makes in a thread, as long as the context lasts. Raises OSError."""
    folders: list[Path] = []
    try:
        await to_the_end(lambda: folders.append(make()))
        yield folders[0]
    finally:
        for folder in folders:  # also where we were cancelled while it was made
            await to_the_end(partial(remove, folder))


def _pieces(fd: int, offset: int, size: int) -> Iterator[bytes]:
    """Raises OSError where there are not so many octets."""
    done = 0
    while done < size:
        piece = os.pread(fd, min(_PIECE, size - done), offset + done)
        if not piece:
            raise OSError(0, f"the content ends after {done} octets instead of {size}")
        done += len(piece)
        yield piece


def _line_ends(pieces: Iterable[bytes]) -> Iterator[bytes]:
    """CRLF as LF, which amavisd wants in a file: a CR is an error in a header to it."""
    kept = b""
    for piece in pieces:
        piece = kept + piece
        kept = b"\r" if piece.endswith(b"\r") else b""
        yield piece[: len(piece) - len(kept)].replace(b"\r\n", b"\n")
    yield kept


def _put(target: int, piece: bytes) -> None:
    while piece:
        piece = piece[os.write(target, piece) :]


def remove(folder: Path) -> None:
    """With all that somebody put beside it; what cannot go stays, and is tried again at the next start."""
    with contextlib.suppress(OSError):
        shutil.rmtree(folder, ignore_errors=True)


def sweep(root: Path, prefix: str = PREFIX) -> int:
    """Remove what an earlier life left; how many."""
    left = [path for path in root.glob(f"{prefix}*") if path.is_dir() and not path.is_symlink()] if root.is_dir() else []
    for path in left:
        remove(path)
    return len(left)
