"""A content as a file in a folder of its own, and away again.

Contract: `make` copies the octets (the descriptor's file may hold more than the message); the folder's name is random,
nothing of it comes from the message. `remove` leaves nothing. A folder that others use may have files of another gateway:
`prefix` tells whose they are. What failure means for the mail: OSError is "not scanned".
"""

import contextlib
import hashlib
import os
import secrets
import shutil
from pathlib import Path

PREFIX, FILE = "postgate-", "email.txt"
_PIECE = 1 << 20


def prefix(state_dir: Path) -> str:
    """What the names of a gateway's folders begin with where others have theirs."""
    return f"{PREFIX}{hashlib.sha256(os.fsencode(state_dir.resolve())).hexdigest()[:12]}-"


def make(root: Path, fd: int, offset: int, size: int, *, shared: bool, prefix: str = PREFIX) -> Path:
    """The folder. `shared`: its group may write the file, and beside it (AM.PDP: amavisd makes hard links to it, and
    Linux allows that to who may write, fs.protected_hardlinks). Raises OSError."""
    folder = root / f"{prefix}{secrets.token_hex(12)}"
    folder.mkdir(mode=0o700)
    try:
        if shared:
            folder.chmod(0o2770)
        target = os.open(folder / FILE, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC | os.O_NOFOLLOW, 0o600)
        try:
            _copy(fd, offset, size, target)
            os.fchmod(target, 0o660 if shared else 0o400)
        finally:
            os.close(target)
    except BaseException:
        remove(folder)
        raise
    return folder


def _copy(fd: int, offset: int, size: int, target: int) -> None:
    done = 0
    while done < size:
        piece = os.pread(fd, min(_PIECE, size - done), offset + done)
        if not piece:
            raise OSError(0, f"the content ends after {done} octets instead of {size}")
        done += len(piece)
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
