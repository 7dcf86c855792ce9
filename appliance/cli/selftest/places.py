"""Where in the operator's files something stands: the file of a check that is in force, and lines in it.

Contract: reads files, changes nothing. A line that cannot be told is left out.
"""

from collections.abc import Iterable
from pathlib import Path

from appliance.config import positions


def file_of(check: str, folders: Iterable[str]) -> Path:
    """The policy of a check that is in force. `folders`: where policies are, the operator's first."""
    paths = [Path(folder) / f"{check}.toml" for folder in folders if folder]
    return next((path for path in paths if path.exists()), Path(f"{check}.toml"))


def line_of(check: str, folders: Iterable[str], path: positions.Path) -> str:
    """FILE:LINE of a key, or of an item of an array, in the policy of a check."""
    file = file_of(check, folders)
    try:
        text = file.read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError):
        return str(file)
    return f"{file}:{positions.Positions(text).key(path)[0]}"
