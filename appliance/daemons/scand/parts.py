"""The list of parts of a Report, and the memory file with their headers and octets.

Contract: what does not fit into the file is flagged "cut" and makes the message "over" octets; at most MOST parts are
listed, "over" entries otherwise. What failure means for the mail: what scanners could not be given whole is too
complex.
"""

from mmap import mmap

import msgspec

from appliance.daemons.scand import yara
from appliance.mail.inspection import Hit, Part
from appliance.protocol.mime import Over
from appliance.protocol.mime.structure import Piece

#: Parts of a report, members of archives among them.
MOST = 20000
_HEADER = 65536


class Parts:
    """`used` octets of the file are in use."""

    def __init__(self, kept: mmap | None) -> None:
        self._kept = kept
        self.listed: list[Part] = []
        self._hits: list[Hit] = []
        #: The first hit of each rule.
        self._firsts: dict[tuple[str, str], Hit] = {}
        self._rules = yara.current()
        self.used = 0
        self.over = ""

    def add(self, piece: Piece, flags: set[str], header: bytes = b"", octets: bytes = b"", detected: str = "") -> int:
        """List a part of a message; its place in the list. Raises Over."""
        fields = piece.fields
        if any(kind.startswith("text/html") for kind in fields.types) or detected == "text/html":
            flags = {*flags, "html"}
        span, cut = self._keep(octets)
        part = Part(
            piece.path[:2048],
            piece.depth,
            fields.types,
            fields.names,
            detected,
            len(octets),
            span,
            self._keep(header[:_HEADER])[0],
            fields.charset,
            tuple(sorted({*flags, "cut"} if cut else flags)),
        )
        return self.append(part, octets)

    def append(self, part: Part, octets: bytes) -> int:
        """List it; its place. Raises Over."""
        if len(self.listed) >= MOST:
            raise Over("entries")
        self.listed.append(part)
        kind = "member" if "member" in part.flags else "part"
        said = max(part.types, key=lambda one: one != "text/plain", default="")  # of several not the one that hides most
        self.look(part.path, part.names, octets, said, kind)
        return len(self.listed) - 1

    def look(self, path: str, names: tuple[str, ...], octets: bytes, content_type: str, kind: str) -> None:
        """By the YARA rules in force."""
        if self._rules is None or not (octets or names):
            return
        for hit in self._rules.look(path, names, octets, content_type, kind):
            self._firsts.setdefault((hit.rule, hit.kind), hit)
            if len(self._hits) < yara.MOST:
                self._hits.append(hit)

    @property
    def hits(self) -> list[Hit]:
        """What the rules found. Where that is too much: each rule once, the worst first, as one of them may decide."""
        told = {(hit.rule, hit.kind) for hit in self._hits}
        if len(told) == len(self._firsts):
            return self._hits
        firsts = sorted(self._firsts.values(), key=lambda hit: yara.KINDS.index(hit.kind))
        return [*firsts, *(hit for hit in self._hits if self._firsts[hit.rule, hit.kind] is not hit)][: yara.MOST]

    @property
    def rules(self) -> str:
        """Which rules they are."""
        return self._rules.hash if self._rules is not None else ""

    def flag(self, place: int, flags: set[str]) -> None:
        """The part with more flags."""
        part = self.listed[place]
        self.listed[place] = msgspec.structs.replace(part, flags=tuple(sorted({*part.flags, *flags})))

    def _keep(self, octets: bytes) -> tuple[tuple[int, int], bool]:
        """(where it is in the file, whether it is not all there)."""
        if self._kept is None or not octets:
            return (0, 0), False
        room = len(self._kept) - self.used
        kept = octets[:room] if len(octets) > room else octets
        start = self.used
        self._kept[start : start + len(kept)] = kept
        self.used += len(kept)
        if len(kept) < len(octets):
            self.over = "octets"
        return (start, len(kept)), len(kept) < len(octets)
