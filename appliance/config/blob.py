"""The files in force as one hashed value. Only the master, `postgate check` and `postgate try` read them, by read().

Contract: read() follows what the wiring and the policies name, once; what cannot be read is noted in `missing` and
becomes a Mistake with its place when a Snapshot is built. It raises OSError only for the wiring file itself.
What failure means for the mail: none; the values in force stay.
"""

import hashlib
import os
import stat
from collections.abc import Iterable, Mapping
from pathlib import Path

import msgspec

from appliance import tables
from appliance.config import default
from appliance.config.references import Layout

#: The policies that came with the package: in a wheel inside it, in a checkout beside it.
_HOMES = (Path(__file__).resolve().parents[1] / "policies", Path(__file__).resolve().parents[2] / "policies")

Stamp = tuple[int, int, int]


class Blob(msgspec.Struct, frozen=True):
    """All files in force by absolute path. `main` is the wiring file ("" = the embedded default of `postgate run`).
    `stamps` maps files to (mtime_ns, size, inode), so that the master sees which changed. `folder`: where relative
    paths of the wiring begin. `policies`: names below policies/ to the paths in force; `rules`: the same for YARA
    rules, where a scanner wants them. `missing`: what could not be read, and why. `shipped`: the folder of shipped
    policies, "" if there is none. `apart`: the .cf files whose query takes the key apart (all else that stands in them
    is proxymap's). `synced`: lists that syncd has written."""

    main: str
    files: dict[str, bytes]
    hash: str
    stamps: dict[str, Stamp] = {}
    folder: str = ""
    policies: dict[str, str] = {}
    missing: dict[str, str] = {}
    shipped: str = ""
    rules: dict[str, str] = {}
    apart: tuple[str, ...] = ()
    synced: tuple[str, ...] = ()

    @property
    def label(self) -> str:
        """The wiring file's name in messages."""
        return self.main or default.LABEL


def shipped_policies() -> str:
    """The folder of the shipped policies, "" if the installation has none (every check then has its built-in values)."""
    return next((str(home) for home in _HOMES if (home / "stages.toml").is_file()), "")


class _Reading:
    """Files read so far."""

    def __init__(self) -> None:
        self.files: dict[str, bytes] = {}
        self.stamps: dict[str, Stamp] = {}
        self.missing: dict[str, str] = {}
        self.apart: list[str] = []
        self.synced: list[str] = []

    def take(self, path: str, *, synced: bool = False) -> bool:
        if path in self.files or path in self.missing:
            return path in self.files
        self.synced += [path] if synced else []
        try:
            self.files[path], self.stamps[path] = octets(path, synced=synced)
        except OSError as why:
            self.missing[path] = why.strerror or str(why)
        return path in self.files

    def probe(self, path: str, spec: str) -> None:
        """Only whether it can be read: keys and passwords do not belong into a value that every process gets."""
        try:
            os.close(_open(path))
            if tables.is_cf(spec):
                self.apart += [path] if tables.takes_apart(octets(path)[0]) else []
        except OSError as why:
            self.missing[path] = why.strerror or str(why)


def _open(path: str, *, synced: bool = False) -> int:
    """`synced`: in a folder of a process that has fewer rights than we, who must not lend ours to a file that it chose:
    no link, and no file of another owner (a hard link) counts there."""
    fd = os.open(path, os.O_RDONLY | os.O_CLOEXEC | os.O_NONBLOCK | (os.O_NOFOLLOW if synced else 0))
    seen = os.fstat(fd)
    why = "" if stat.S_ISREG(seen.st_mode) else "is not a regular file"
    if synced and not why:
        owner = Path(path).parent.stat().st_uid
        why = "" if owner in (os.geteuid(), seen.st_uid) else "belongs to another user than its folder"
    if why:
        os.close(fd)
        raise OSError(0, why)
    return fd


def octets(path: str, *, synced: bool = False) -> tuple[bytes, Stamp]:
    """A file's content and the stamp it had before it was read. Raises OSError."""
    with os.fdopen(_open(path, synced=synced), "rb") as file:
        seen = os.fstat(file.fileno())
        return file.read(), (seen.st_mtime_ns, seen.st_size, seen.st_ino)


def read(path: str | None) -> Blob:
    """All files that the wiring file `path` (None: the embedded default) brings into force. Raises OSError for itself."""
    reading = _Reading()
    main = "" if path is None else str(Path(path).absolute())
    folder = str(Path(main).parent) if main else str(Path.cwd())
    if main:
        reading.files[main], reading.stamps[main] = octets(main)
    else:
        reading.files[main] = default.TEXT.encode()
    shipped = shipped_policies()
    layout = Layout(main, folder, shipped, reading.files[main])
    policies = _policies(layout.policies_folder, shipped, reading)
    texts = {name: reading.files[at] for name, at in policies.items() if at in reading.files}
    for reference in layout.references(texts):
        if reference.secret:
            for candidate in reference.candidates:
                reading.probe(candidate, reference.spec)
        else:
            list_ = bool(tables.synced_name(reference.spec))
            any(reading.take(candidate, synced=list_) for candidate in reference.candidates)
    rules = _rules(layout.policies_folder, shipped, reading) if layout.wants_rules else {}
    apart, synced = tuple(reading.apart), tuple(reading.synced)
    blob = Blob(main, reading.files, "", reading.stamps, folder, policies, reading.missing, shipped, rules, apart, synced)
    return msgspec.structs.replace(blob, hash=fingerprint(blob.files, policies))


def _policies(folder: str, shipped: str, reading: _Reading) -> dict[str, str]:
    """Names of policy files to the paths in force: the operator's, else the shipped ones."""
    found: dict[str, str] = {}
    for home in (shipped, folder):
        try:
            names = sorted(entry.name for entry in Path(home).iterdir() if entry.suffix == ".toml") if home else []
        except OSError as why:
            reading.missing[home] = why.strerror or str(why)
            continue
        found |= {name: f"{home}/{name}" for name in names}
    for path in found.values():
        reading.take(path)
    return dict(sorted(found.items()))


def _rules(folder: str, shipped: str, reading: _Reading) -> dict[str, str]:
    """Names of YARA rule files (policies/yara/*.yar) to the paths in force: the operator's, else the shipped ones. An
    empty file of the operator's switches a shipped one off."""
    found: dict[str, str] = {}
    for home in (shipped, folder):
        names = sorted(path.name for path in Path(home, "yara").glob("*.yar")) if home else []
        found |= {name: f"{home}/yara/{name}" for name in names}
    return {name: path for name, path in sorted(found.items()) if reading.take(path)}


def fingerprint(files: Mapping[str, bytes], policies: Mapping[str, str]) -> str:
    """A short SHA-256 over names and contents."""
    digest = hashlib.sha256()
    names = {path: name for name, path in policies.items()}
    for path in sorted(files):
        for part in (names.get(path, path).encode(), files[path]):
            digest.update(len(part).to_bytes(8, "big") + part)
    return digest.hexdigest()[:12]


class TableWatch:
    """Sees which lookup tables changed (asked each second). A file counts as complete when it looks the same twice. A
    version that did not get into force (it is full of mistakes) is offered again each AGAIN polls only."""

    AGAIN = 60

    def __init__(self) -> None:
        self._seen: dict[str, Stamp] = {}
        self._offered: dict[tuple[str, Stamp], int] = {}
        self._polls = 0

    def poll(self, blob: Blob, paths: Iterable[str]) -> Blob | None:
        """A new blob of the old texts and the changed tables, or None. `paths`: those of the tables in force."""
        self._polls += 1
        changed = [path for path in paths if self._complete(path, blob.stamps.get(path))]
        return self._with(blob, changed) if changed else None

    def _complete(self, path: str, known: Stamp | None) -> bool:
        """Is there a new version of this file that is due to be offered?"""
        stamp = _stamp(path)
        if stamp is None or stamp == known:
            self._seen.pop(path, None)
            return False
        same = self._seen.get(path) == stamp
        self._seen[path] = stamp
        return same and self._polls >= self._offered.get((path, stamp), 0)

    def _with(self, blob: Blob, changed: Iterable[str]) -> Blob | None:
        files, stamps = dict(blob.files), dict(blob.stamps)
        for path in changed:
            try:
                files[path], stamps[path] = octets(path, synced=path in blob.synced)
            except OSError:
                continue  # it goes on as it was; the next poll tries again
            self._offered[path, stamps[path]] = self._polls + self.AGAIN
        self._offered = {key: due for key, due in self._offered.items() if due > self._polls}
        if files == blob.files:
            return None
        missing = {path: why for path, why in blob.missing.items() if path not in files}
        return msgspec.structs.replace(
            blob, files=files, stamps=stamps, missing=missing, hash=fingerprint(files, blob.policies)
        )


def _stamp(path: str) -> Stamp | None:
    try:
        seen = Path(path).stat()
    except OSError:
        return None
    return seen.st_mtime_ns, seen.st_size, seen.st_ino
