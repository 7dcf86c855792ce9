"""The parts of a message (as scand decoded them) as scanners get them: each on its own, as a file, not as mail (C1).

Contract: what readers of the message may disagree about, and attachments, come first; what is over the limits, or was not
kept whole, is named as not offered. What failure means for the mail: "not offered" is neither clean nor infected.
"""

from collections.abc import Iterator, Sequence
from typing import NamedTuple

import msgspec

from appliance.connectors.source import SMALL, Source
from appliance.mail.inspection import Inspection, Part, Report
from appliance.mail.scan import ScanResult

#: Results other than clean that are told one by one; beyond these only what says something new.
_TOLD = 20


class PartSource(Source):
    """One part. Its octets live as long as the Inspection."""

    mail = False

    def __init__(self, inspection: Inspection, part: Part) -> None:
        size = part.body[1]
        super().__init__(size, inspection.body(part) if size <= SMALL else b"")
        self._inspection, self._part = inspection, part

    def pieces(self) -> Iterator[bytes]:
        """The whole part from its start."""
        return iter((self.octets,)) if self.octets else self._inspection.chunks(self._part)


class Chosen(NamedTuple):
    """`left`: why the rest is not offered, in words."""

    parts: list[Part]
    left: list[str]


def choose(report: Report, most: int, octets: int) -> Chosen:
    """At most `most` parts with so many octets in all."""
    kept = [part for part in report.parts if part.body[1]]
    kept.sort(key=lambda part: not {"alternate", "attachment"} & set(part.flags))
    chosen: list[Part] = []
    over = 0
    for part in kept:
        if len(chosen) < most and part.body[1] <= octets:
            chosen.append(part)
            octets -= part.body[1]
        else:
            over += 1
    own = [part for part in report.parts if "member" not in part.flags]  # members of archives are never kept
    cut = sum("cut" in part.flags or (part.size > 0 and not part.body[1]) for part in own)
    left = [f"{over} parts over the limits"] if over else []
    left += [f"{cut} parts that were not decoded to their end"] if cut else []
    left += [f"what is over the limit of {report.over}"] if report.over else []
    return Chosen(chosen, left)


def named(found: ScanResult, part: Part) -> ScanResult:
    """A result that says which part it is about; texts of the message are quoted."""
    if found.kind == "clean":
        return found
    what = f"part {part.path!r}"[:200]
    return msgspec.structs.replace(found, why=f"{found.why or found.kind} in {what}", evidence={"part": part.path[:200]})


def summary(scanner: str, found: Sequence[ScanResult], chosen: Chosen) -> list[ScanResult]:
    """What scan_parts gives. No kind and no name is left out, as any of them may be the one that counts."""
    listed: list[ScanResult] = []
    told: set[tuple[str, tuple[str, ...]]] = set()
    for result in found:
        says = result.kind, result.names
        if result.kind != "clean" and (len(listed) < _TOLD or says not in told):
            told.add(says)
            listed.append(result)
    clean = sum(result.kind == "clean" for result in found)
    if clean:
        listed.append(ScanResult(kind="clean", scanner=scanner, evidence={"parts": clean}))
    if chosen.left:
        listed.append(ScanResult(kind="skipped", scanner=scanner, why=f"not offered: {', '.join(chosen.left)}"))
    return listed
