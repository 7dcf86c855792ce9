"""The closed type of a scanner's answer (design: what could not be scanned is neither clean nor infected)."""

from typing import Any, Literal

import msgspec

ScanKind = Literal["clean", "infected", "spam", "suspicious", "unscannable", "oversize", "error", "skipped"]


class ScanResult(msgspec.Struct, frozen=True, kw_only=True):
    """One scan. `names`: virus names or rule names; `why` explains all but clean; `score`/`threshold` only for spam
    scanners (kind `clean` or `spam`). An answer that we do not know is `error`, never infected and never clean."""

    kind: ScanKind
    scanner: str
    names: tuple[str, ...] = ()
    score: float = 0.0
    threshold: float = 0.0
    why: str = ""
    seconds: float = 0.0
    evidence: dict[str, Any] = {}
