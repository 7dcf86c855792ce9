"""attachments: the structure of a message and what hangs on it. scand reads hostile content, in a process of its own.

Mail that is plainly one text is not sent there. Outcomes, all that apply: forbidden (by extension, type of
the octets, name; in archives, too), partial (message/partial, message/external-body), too_complex (over a limit: what
nobody can read to its end, nobody has checked), mime_ambiguous (reads in several ways and carries an attachment),
encrypted, macro, unscannable (a broken or unknown archive or document), skipped (no scand, or a library it needs is
not there), mime_sloppy (reads in several ways, texts only), ok.
What failure means for the mail: a message that could not be inspected (scand is away, overloaded, or was killed by it) is
temperror (put off) for `put_off` from its first try on, then `undecided` (marked); never ok.
"""

import binascii
import re
import unicodedata
from collections.abc import Awaitable, Iterable
from fnmatch import translate
from functools import lru_cache
from itertools import islice
from typing import Annotated, NamedTuple

from pydantic import AfterValidator

from appliance.checks import knobs, knobs_put_off
from appliance.mail.context import Context, Stage
from appliance.mail.inspection import Inspection, Part, Report
from appliance.mail.ports import Content, Inspector, Ports, Unavailable
from appliance.mail.verdict import Action, Verdict
from appliance.protocol.mime import LIMITS, Limits

NAME = "attachments"
STAGES: tuple[Stage, ...] = ("message",)
GATE = True
OUTCOMES = {
    "ok": Action.DUNNO,
    "forbidden": Action.REJECT,
    "partial": Action.QUARANTINE,
    "too_complex": Action.QUARANTINE,
    "mime_ambiguous": Action.QUARANTINE,
    "encrypted": Action.MARK,
    "macro": Action.MARK,
    "unscannable": Action.MARK,
    "skipped": Action.DUNNO,
    "mime_sloppy": Action.DUNNO,
    "undecided": Action.MARK,
    "temperror": Action.DEFER_IF_PERMIT,
}
REPLIES = {
    "forbidden": "550 5.7.1 The message has an attachment of a kind that is not accepted here",
    "temperror": "451 4.3.2 Message content cannot be checked just now, please try again later",
}
_OK = Verdict(check=NAME, outcome="ok")
#: Findings that a verdict's evidence lists.
_SHOWN = 20
#: What the large mail programs and providers do not let through: programs, scripts, shortcuts, installers, disk images.
_WORDS = """
ade adp apk app appinstaller application appref-ms appx appxbundle bas bat bgi chm cmd cnt com cpl dex diagcab dll
dmg ex ex_ exe fxp gadget grp hlp hpj hta htc img inf ins iso isp its jar jnlp js jse ksh library-ms lnk mad maf mag
mam maq mar mas mat mau mav maw mcf mda mde mdt mdw mdz msc msh msh1 msh1xml msh2 msh2xml mshxml msi msix msixbundle
msp mst msu nsh ocx ops osd pcd pif plg prf prg printerexport ps1 ps1xml ps2 ps2xml psc1 psc2 psd1 psdm1 psm1 pyc
pyo pyw pyz pyzw reg scf scr sct search-ms settingcontent-ms shb shs sys theme themepack udf url vb vbe vbp vbs vhd
vhdx vsmacros vsw vxd webpnp website ws wsb wsc wsf wsh xbap xll xnk {clsid}
"""
EXTENSIONS = tuple(_WORDS.split())
TYPES = (
    "application/x-dosexec",
    "application/x-elf",
    "application/x-mach-binary",
    "application/x-java-class",
    "application/x-dex",
    "application/x-ms-shortcut",
    "application/hta",
    "application/vnd.ms-htmlhelp",
    "application/x-iso9660-image",
    "application/x-vhd",
)
#: Words that are a forbidden extension only as the last one: they end domain names.
_NAMES_OF_SITES = frozenset({"com", "app"})
_SINGLE = re.compile(
    rb"(?:\A|\n)content-type[ \t]*:[ \t]*text/(?:plain|html)[ \t]*(?:;[ \t\r\n]*(?:charset|format|delsp)[ \t]*=[ \t]*"
    rb"\"?[a-z0-9_-]{1,40}\"?[ \t]*)*\r\n(?![ \t])"
)
_PLAIN_ENCODING = re.compile(
    rb"\ncontent-transfer-encoding[ \t]*:[ \t]*(?:7bit|8bit|binary|quoted-printable)[ \t]*\r\n(?![ \t])"
)
_ENCODED = (b"begin", b"=ybegin", b"with BinHex")
#: Octets of a text in which files that stand encoded in it are looked for here; larger ones go to scand.
_SMALL = 65536
_INVISIBLE = re.compile("[\u00ad\u200b-\u200f\u202a-\u202e\u2060-\u2069\ufeff\x00-\x1f]")


def _extensions(words: tuple[str, ...]) -> tuple[str, ...]:
    """What could never be an extension is a mistake: nothing would be forbidden by it."""
    for word in words:
        if "." in word.lstrip(".") or set(word) & set("*?/ "):
            raise ValueError(f'"{word}" is no extension: write "exe"; patterns like "*.exe" stand in forbidden_names')
    return words


def _types(words: tuple[str, ...]) -> tuple[str, ...]:
    for word in words:
        if word.count("/") != 1 or "*" in word:
            raise ValueError(f'"{word}" is no type: write "application/x-dosexec"; extensions in forbidden_extensions')
    return words


class Policy(knobs.Policy):
    """Limits of one message: parts, levels of nesting; octets and fields of one header block; levels, names, unpacked
    octets of archives, and how many times larger than the message these may be. What is forbidden: extensions, types of
    the octets, patterns of names (`*`, `?`)."""

    depth_limit: knobs.Count = LIMITS.depth
    parts_limit: knobs.Count = LIMITS.parts
    header_limit: knobs.Count = LIMITS.header
    fields_limit: knobs.Count = LIMITS.fields
    archive_depth_limit: knobs.Count = LIMITS.archive_depth
    archive_names_limit: knobs.Count = LIMITS.archive_names
    archive_bytes_limit: knobs.Count = LIMITS.archive_bytes
    archive_ratio_limit: knobs.Count = LIMITS.archive_ratio
    forbidden_extensions: Annotated[knobs.Texts, AfterValidator(_extensions)] = EXTENSIONS
    forbidden_types: Annotated[knobs.Texts, AfterValidator(_types)] = TYPES
    forbidden_names: knobs.Texts = ()
    put_off: knobs.Duration = knobs_put_off.PUT_OFF

    @property
    def limits(self) -> Limits:
        return Limits(
            self.depth_limit,
            self.parts_limit,
            self.header_limit,
            self.fields_limit,
            LIMITS.parameters,
            self.archive_depth_limit,
            self.archive_names_limit,
            self.archive_bytes_limit,
            self.archive_ratio_limit,
        )


class Forbidden(NamedTuple):
    """What a policy forbids, ready for use."""

    extensions: frozenset[str]
    types: frozenset[str]
    names: re.Pattern[str] | None


@lru_cache(maxsize=256)
def forbidden_by(extensions: tuple[str, ...], types: tuple[str, ...], names: tuple[str, ...]) -> Forbidden:
    """The three lists of a policy."""
    patterns = "|".join(f"(?:{translate(name.lower())})" for name in names)
    return Forbidden(
        frozenset(word.lower().lstrip(".") for word in extensions),
        frozenset(word.lower() for word in types),
        re.compile(patterns) if patterns else None,
    )


def extensions(name: str) -> list[str]:
    """Every extension of a name as a reader's system takes it, the last one first: without invisible characters,
    without dots and blanks at its end, without a stream name."""
    if not (name.isascii() and name.isprintable()):
        name = _INVISIBLE.sub("", unicodedata.normalize("NFKC", name))
    name = name.lower().rstrip("/\\").replace("\\", "/").rpartition("/")[2]
    if "." not in name:
        return []
    words = [word.strip(" \t\u00a0") for stream in name.split(":") for word in stream.split(".")[1:]]
    return ["{clsid}" if word.startswith("{") else word for word in reversed(words) if word]


def why_forbidden(part: Part, rules: Forbidden) -> str:
    """Why a part may not pass, or ""."""
    if part.detected in rules.types:
        return f"{part.detected} in {part.path}"
    for name in part.names:
        words = extensions(name)
        for index, word in () if rules.extensions.isdisjoint(words) else enumerate(words):
            if word in rules.extensions and not (index and word in _NAMES_OF_SITES):
                return f"extension {word}: {name!r} in {part.path}"
        if rules.names is not None and rules.names.match(name.lower()):
            return f"name {name!r} in {part.path}"
    return ""


def carries(report: Report) -> bool:
    """Whether there is an attachment; a picture that is one is none."""
    return any("attachment" in part.flags and not part.detected.startswith("image/") for part in report.parts)


def decide(report: Report, rules: Forbidden) -> Verdict:
    """What is thought of a message."""
    flagged: dict[str, list[str]] = {flag: [] for flag in _FLAGS}
    for part in report.parts:
        for flag in part.flags:
            if flag in flagged:
                flagged[flag].append(part.path)
    evidence = _evidence(report)
    found: list[tuple[str, str]] = []
    ambiguous = ", ".join(report.ambiguous)
    refused = [why for part in report.parts if (why := why_forbidden(part, rules))]
    partial = flagged["partial"] + flagged["external"]
    unread = [*report.unread, *flagged["unread"]]
    blind = set(report.missing) - {_TYPES_BY}
    if refused:
        found.append(("forbidden", refused[0]))
        evidence["forbidden"] = refused[:_SHOWN]
    if partial:
        found.append(("partial", f"message/partial or message/external-body: {partial[0]}"))
    if report.over:
        sizes = f"{report.count} parts, depth {report.depth} so far"
        found.append(("too_complex", f"over the limit of {report.over} ({sizes})"))
    if report.ambiguous:
        word = "mime_ambiguous" if carries(report) else "mime_sloppy"
        found.append((word, f"readers would differ: {ambiguous}"))
    if flagged["encrypted"]:
        found.append(("encrypted", f"encrypted: {flagged['encrypted'][0]}"))
    if flagged["macro"]:
        found.append(("macro", f"macros or objects: {flagged['macro'][0]}"))
    if unread and not blind:
        found.append(("unscannable", f"cannot be looked into: {unread[0]}"))
    elif unread or (report.missing and _untyped(report)):
        found.append(("skipped", f"not installed: {', '.join(report.missing)}"))
    (outcome, reason), *more = found or [("ok", "")]
    further = tuple(Verdict(check=NAME, outcome=word, reason=why[:500]) for word, why in more)
    return Verdict(check=NAME, outcome=outcome, reason=reason[:500], evidence=evidence, more=further)


def _untyped(report: Report) -> bool:
    """Whether there is an attachment of whose type nobody could say anything."""
    return any("attachment" in part.flags and part.size and not part.detected for part in report.parts)


#: The library that tells types; the others of `missing` look into things.
_TYPES_BY = "libmagic1"
_FLAGS = ("partial", "external", "encrypted", "macro", "unread")


def _evidence(report: Report) -> dict[str, object]:
    names = list(dict.fromkeys(islice((name for part in report.parts for name in part.names), 10 * _SHOWN)))[:_SHOWN]
    found: dict[str, object] = {"parts": report.count, "depth": report.depth, "names": names}
    if report.ambiguous:
        found["ambiguous"] = list(report.ambiguous)
    if report.unread:
        found["unread"] = list(report.unread[:_SHOWN])
    detected = dict(islice(((part.path, part.detected) for part in report.parts if part.detected), _SHOWN))
    if detected:
        found["types"] = detected
    return found


def is_single(content: Content, limits: Limits) -> bool:
    """Whether the message is, beyond any reading, one text without anything in it. Anything odd says no."""
    header = content.header
    if not content.header_complete or len(header) > limits.header or header.count(b"\n") > limits.fields:
        return False
    header = header.lower()
    if b"\0" in header or header.count(b"\r") != header.count(b"\n"):
        return False
    count = header.count(b"\ncontent-") + header.startswith(b"content-")
    for field, plain in ((b"\ncontent-type", _SINGLE), (b"\ncontent-transfer-encoding", _PLAIN_ENCODING)):
        if (found := header.count(field)) > 1 or (found and plain.search(header) is None):
            return False
        count -= found
    return _only_harmless(header, count) and _is_plain(content, b"quoted-printable" in header)


def _only_harmless(header: bytes, count: int) -> bool:
    """Whether no other Content-* field says anything of names."""
    return not count or (b"\ncontent-disposition" not in header and not header.startswith(b"content-"))


def _is_plain(content: Content, quoted: bool) -> bool:
    if content.size > _SMALL:
        return False
    body = b"".join(content.chunks(_SMALL))
    texts: Iterable[bytes] = (body, binascii.a2b_qp(body)) if quoted else (body,)
    return not any(sign in text for text in texts for sign in _ENCODED)


async def _inspect(inspector: Inspector, content: Content, ctx: Context, policy: Policy, ports: Ports) -> Verdict:
    try:
        found: Inspection = await inspector.inspect(content, policy.limits)
    except Unavailable as error:
        waits = await knobs_put_off.waits(ctx, NAME, policy.put_off, ports)
        return Verdict(check=NAME, outcome="temperror" if waits else "undecided", reason=str(error))
    return decide(found.report, _rules(policy))


def _rules(policy: Policy) -> Forbidden:
    return forbidden_by(policy.forbidden_extensions, policy.forbidden_types, policy.forbidden_names)


def check(ctx: Context, policy: Policy, ports: Ports) -> Verdict | Awaitable[Verdict]:
    """Look at the structure; at once where the header leaves no doubt."""
    if ctx.content is None:
        return Verdict(check=NAME, outcome="temperror", reason="no content")
    if is_single(ctx.content, policy.limits):
        return _OK
    if ports.inspector is None:
        return Verdict(check=NAME, outcome="skipped", reason="there is no inspector")
    return _inspect(ports.inspector, ctx.content, ctx, policy, ports)
