"""Whether `[dns] zone` is a zone file: looked at before it is put in force, at a start, a reload and by `postgate check`.

Contract: pure. What failure means for the mail: none; the files in force stay, a start does not begin.
"""

import re

from appliance.config.mistakes import Mistake
from appliance.config.snapshot import Snapshot

_PLACE = re.compile(r"[^\n]*?:(\d+): (.*)", re.DOTALL)
_HINTS = {
    "Missing default TTL value": 'no time to live: write "$TTL 300" in the first line',
    "Text input is malformed.": "the value of this record is malformed",
}


def complaints(snapshot: Snapshot) -> list[Mistake]:
    """What is wrong with the zone file, with its line."""
    path = snapshot.wiring.dns.zone
    data = snapshot.blob.files.get(path, b"") if path else b""
    if not data or not (why := _problem(data)):
        return []
    place = _PLACE.fullmatch(why)
    if not place:
        return [Mistake(path, 1, 1, f"no zone file: {why}")]
    line, text = int(place[1]), place[2]
    # some mistakes show only when the end of their line has been read, and are told with the next one's number
    before = _PLACE.fullmatch(_problem(b"".join(data.splitlines(keepends=True)[: line - 1])))
    line -= bool(before and before[2] == text)
    return [Mistake(path, line, 1, f"no zone file: {_HINTS.get(text, text)}")]


def _problem(data: bytes) -> str:
    from appliance.net.zone import Zone  # heavy, and only needed where a zone is named

    try:
        Zone(data)
    except ValueError as why:
        return str(why)
    return ""
