"""The files of the last successful commit, for a cold start with a broken file.

Contract: save() replaces the file as a whole and has it on disk before it returns; load() gives None for anything that
is not an intact blob. What failure means for the mail: none while running; a start falls back to nothing and says so.
"""

import hashlib
import os
from pathlib import Path

import msgspec

from appliance.config.blob import Blob

NAME = "last-good"
_MAGIC = b"postgate-blob-1\n"


def save(state_dir: str | Path, blob: Blob) -> None:
    """Keep `blob` as STATE/last-good (mode 0600: tables may be private). Raises OSError."""
    path = Path(state_dir) / NAME
    body = msgspec.msgpack.encode(blob)
    draft = path.with_name(f"{NAME}.{os.getpid()}.tmp")
    fd = os.open(draft, os.O_WRONLY | os.O_CREAT | os.O_TRUNC | os.O_CLOEXEC | os.O_NOFOLLOW, 0o600)
    try:
        with os.fdopen(fd, "wb") as file:
            file.write(_MAGIC + hashlib.sha256(body).digest() + body)
            file.flush()
            os.fsync(file.fileno())
        draft.replace(path)
    except BaseException:
        draft.unlink(missing_ok=True)
        raise
    _sync_folder(path.parent)


def _sync_folder(path: Path) -> None:
    fd = os.open(path, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        os.fsync(fd)
    finally:
        os.close(fd)


def load(state_dir: str | Path) -> Blob | None:
    """The kept blob; None if there is none or it is damaged."""
    try:
        data = (Path(state_dir) / NAME).read_bytes()
    except OSError:
        return None
    start = len(_MAGIC) + 32
    body = data[start:]
    if data[: len(_MAGIC)] != _MAGIC or hashlib.sha256(body).digest() != data[len(_MAGIC) : start]:
        return None
    try:
        return msgspec.msgpack.decode(body, type=Blob)
    except msgspec.MsgspecError:
        return None
