"""The closed type of a scanner's answer (design: what could not be scanned is neither clean nor infected)."""

from typing import Any, Literal

import msgspec

from appliance.mail.edits import Edit

ScanKind = Literal["clean", "infected", "spam", "suspicious", "unscannable", "oversize", "error", "skipped"]


class ScanResult(msgspec.Struct, frozen=True, kw_only=True):
    """One scan. `names`: virus names or rule names; `why` explains all but clean; `score`/`threshold` only for spam
    scanners (kind `clean` or `spam`). `action`: what a scanner that decides by itself says is to be done, in its words;
    `edits`: how it wants the message changed. `lasting`: the same content gets the same answer for a while. An answer
    that we do not know is `error`, never infected and never clean."""

    kind: ScanKind
    scanner: str
    names: tuple[str, ...] = ()
    score: float = 0.0
    threshold: float = 0.0
    why: str = ""
    seconds: float = 0.0
    evidence: dict[str, Any] = {}
    action: str = ""
    edits: tuple[Edit, ...] = ()
    lasting: bool = True
