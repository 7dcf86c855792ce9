"""Files that lists of recipients come from, for `postgate check`: are they there?

Contract: only looked at, never opened; they may be written later, or by another program, so what is amiss is a warning.
What failure means for the mail: none; these are lists that the next sync could not fetch.
"""

import stat
from pathlib import Path

from appliance.config.blob import Blob
from appliance.config.mistakes import Mistake
from appliance.config.recipients_entry import RecipientsEntry
from appliance.config.references import Layout
from appliance.config.snapshot import Snapshot
from appliance.tables import kinds


def sources(blob: Blob, snapshot: Snapshot) -> list[Mistake]:
    """A warning for each that is not there, or is no file."""
    found = []
    for name, entry in snapshot.wiring.recipients.items():
        for index, source in enumerate(entry.source):
            path = _file(entry, source)
            why = _amiss(path) if path else ""
            if why:
                where = Layout(blob.main, blob.folder, blob.shipped, blob.files[blob.main]).parsed.where
                line, column = where.value(("recipients", name, "source", index))
                then = "until it is, the last list stays in force; without any, unknown recipients are put off"
                text = f"the list {name} cannot be fetched: {path} {why}; {then}"
                found.append(Mistake(blob.label, line, column, text, False))
    return found


def _file(entry: RecipientsEntry, source: str) -> str:
    """The file of this machine, "" for what is none."""
    if entry.kind == "csv":
        return source
    kind, _, path = source.partition(":")
    return path + kinds.COMPILED.get(kind, "") if entry.kind == "map" else ""


def _amiss(path: str) -> str:
    try:
        mode = Path(path).stat().st_mode
    except OSError as error:
        return "is not there" if isinstance(error, FileNotFoundError) else f"cannot be looked at ({error.strerror})"
    return "is a folder" if stat.S_ISDIR(mode) else ""
