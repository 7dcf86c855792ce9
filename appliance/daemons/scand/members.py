"""Looks into a part that is an archive or a document: its members become parts, what they bring becomes flags.

Contract: levels, names, octets and time are capped (archives.Caps): the cap that ended it is `over`; the message
itself is read on. What failure means for the mail: encrypted, broken or unknown archives are in `unread` with the
reason.
"""

import re
from collections import deque
from typing import NamedTuple

from appliance.daemons.scand import archives, behind, filetypes, macros, tnef
from appliance.daemons.scand.parts import Parts
from appliance.mail.inspection import Part
from appliance.protocol.mime import Limits, Over

#: Names of volumes: what is in them begins in another one.
_VOLUME = re.compile(r"\.(?:7z|zip|rar|tar|t?gz|bz2|xz)\.[0-9]{2,4}\Z|\.[rz][0-9]{2}\Z", re.IGNORECASE)
#: Archives behind other octets of one part that are looked into.
MOST_BEHIND = 5


class _Inside(NamedTuple):
    """Something to be looked into: `place` in the list of parts, `path`, `level` archives deep, behind `others` in the
    same octets."""

    place: int
    path: str
    level: int
    octets: bytes
    detected: str
    others: int = 0


class Members:
    """Of one message."""

    def __init__(self, parts: Parts, limits: Limits, caps: archives.Caps) -> None:
        self._parts, self._limits, self._caps = parts, limits, caps
        self.unread: list[str] = []
        self.over = ""

    def look(self, place: int, octets: bytes) -> None:
        """Into one part of the message, and all that is in it."""
        part = self._parts.listed[place]
        if self.over:
            return
        waiting = deque(
            _Inside(place, part.path, 0, held, kind) for kind, held in self._held(place, part.detected, octets)
        )
        try:
            while waiting:
                self._look(waiting.popleft(), waiting)
        except Over as error:
            self.over = str(error)
            self._unread(part.path, f"over {error}")
            self._parts.flag(place, {"unread"})

    def _look(self, inside: _Inside, waiting: deque[_Inside]) -> None:
        detected, flags = inside.detected, set[str]()
        if detected in filetypes.ARCHIVES:
            flags.add("archive")
            if inside.level >= self._limits.archive_depth:
                raise Over("archive_depth")
            stored = behind.Stored(inside.octets, detected)
            flags |= self._members(inside, stored, waiting)
            self._behind(inside, stored.first_other(), waiting)
        elif detected in filetypes.CLOSED:
            flags |= {"archive", "unread"}
            self._unread(inside.path, f"{detected} cannot be unpacked")
        elif detected == filetypes.OLE:
            flags |= macros.ole(inside.octets)
        elif detected == filetypes.RTF:
            flags |= macros.rtf(inside.octets)
        elif detected == filetypes.TNEF:
            flags |= self._tnef(inside, waiting)
        if "unread" in flags and detected == filetypes.OLE:
            self._unread(inside.path, "a broken document")
        if flags:
            self._parts.flag(inside.place, flags)

    def _behind(self, inside: _Inside, found: tuple[int, str] | None, waiting: deque[_Inside]) -> None:
        """What stands behind it is looked into as well, and then what stands behind that."""
        if found is None:
            return
        if inside.others >= MOST_BEHIND:
            self._unread(inside.path, f"more than {MOST_BEHIND} archives, one behind the other")
            self._parts.flag(inside.place, {"archive", "unread"})
            return
        at, kind = found
        waiting.append(inside._replace(octets=inside.octets[at:], detected=kind, others=inside.others + 1))

    def _members(self, inside: _Inside, stored: behind.Stored, waiting: deque[_Inside]) -> set[str]:
        """List the members of an archive; flags of the archive."""
        found: set[str] = set()
        if archives.is_missing():
            found.add("unread")
        for member in archives.members(inside.octets, inside.detected, self._caps):
            if member.encrypted:
                found.add("encrypted")
            if member.why and not member.encrypted:
                found.add("unread")
                self._unread(f"{inside.path}!{member.name}", member.why)
            if inside.detected == filetypes.ZIP:
                found |= macros.office_member(member.name, member.octets)
            if member.whole:
                stored.add(member.octets)
            if member.name:
                self._member(inside, (member.name,), member, waiting)
        return found

    def _member(self, inside: _Inside, names: tuple[str, ...], member: archives.Member, waiting: deque[_Inside]) -> None:
        detected = filetypes.detect(member.octets, deep=False)
        flags = {"member", *({"encrypted"} if member.encrypted else ())}
        path = f"{inside.path}!{member.name}"[:2048]
        depth = self._parts.listed[inside.place].depth
        part = Part(path, depth, (), names, detected, member.size, flags=tuple(sorted(flags)))
        place = self._parts.append(part, member.octets)
        for kind, held in self._held(place, detected, member.octets) if member.whole else ():
            waiting.append(_Inside(place, path, inside.level + 1, held, kind))

    def _tnef(self, inside: _Inside, waiting: deque[_Inside]) -> set[str]:
        """Attachments of winmail.dat are members; flags of the file."""
        found: set[str] = set()
        for names, octets, why in tnef.attachments(inside.octets):
            if why:
                found.add("unread")
                self._unread(inside.path, why)
                continue
            self._caps.name()
            self._caps.take(len(octets))
            name = names[0] if names else "attachment"
            member = archives.Member(name, len(octets), octets, True)
            self._member(inside, names or (name,), member, waiting)
        return found

    def _held(self, place: int, detected: str, octets: bytes) -> list[tuple[str, bytes]]:
        """What to look into a part as, and which octets: a picture may be a zip as well, or have others behind it. (What
        stands behind an archive is looked for when its members are known.)"""
        found = [(detected, octets)] if detected in filetypes.HOLDS else []
        if detected in filetypes.ARCHIVES:
            return found
        if filetypes.ends_as_zip(octets):
            found.append((filetypes.ZIP, octets))
        elif hidden := behind.first(octets, detected):
            found.append((hidden[1], octets[hidden[0] :]))
        elif not found and any(_VOLUME.search(name) for name in self._parts.listed[place].names):
            self._unread(self._parts.listed[place].path, "a volume of a split archive")
            self._parts.flag(place, {"archive", "unread"})
        return found

    def _unread(self, path: str, why: str) -> None:
        if len(self.unread) < 1000:
            self.unread.append(f"{path}: {why}"[:2048])
