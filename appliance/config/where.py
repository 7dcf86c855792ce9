"""Where a gateway keeps its state, and what it cuts off addresses, read from a wiring file that may be broken.

Contract: never raises for what stands in the file: a gateway whose file has a mistake must still find its last good
snapshot, and `postgate status` must reach it.
"""

import re
import tomllib
from pathlib import Path

DEFAULT = "/var/lib/postgate"
_LINE = re.compile(r"""^\s*state_dir\s*=\s*(?:"([^"\n]+)"|'([^'\n]+)')""", re.MULTILINE)


def state_dir(main: str) -> Path:
    """The absolute state directory named in the wiring file `main` (the default if it names none or cannot be read)."""
    try:
        text = Path(main).read_text("utf-8", "replace")
    except OSError:
        return Path(DEFAULT)
    return Path(main).absolute().parent / (_parsed(text, "state_dir") or _searched(text) or DEFAULT)


def recipient_delimiter(main: str | None) -> str:
    """The characters at which extensions begin, as the wiring file `main` has them ("+" if it does not say)."""
    if main is None:
        return "+"
    try:
        found = _parsed(Path(main).read_text("utf-8", "replace"), "recipient_delimiter")
    except OSError:
        return "+"
    return "+" if found is None else found


def _parsed(text: str, key: str) -> str | None:
    try:
        found = tomllib.loads(text).get("gateway", {}).get(key)
    except (tomllib.TOMLDecodeError, AttributeError):
        return None
    return found if isinstance(found, str) else None


def _searched(text: str) -> str:
    found = _LINE.search(text)
    return (found[1] or found[2]) if found else ""
