"""One signature field as a value: DKIM-Signature (RFC 6376 3.5), ARC-Message-Signature and ARC-Seal (RFC 8617 4.1).

Contract: pure, total, linear; no octets raise. What is wrong with a field by itself is `broken`, in words; the tags that
could be read are there all the same, for evidence. `d=` and `s=` are host names or the field is broken, before anybody
asks DNS. What failure means for the mail: a broken signature is `permerror`.
"""

import binascii
import re
from collections.abc import Mapping
from functools import lru_cache
from typing import Literal

import msgspec

from appliance.mailauth import tags as tag_lists
from appliance.mailauth.dkim_body import CRLF, Want
from appliance.protocol.smtp.domain import AddressError, parse_domain

Kind = Literal["dkim", "ams", "seal"]

#: What a field may have (a signature folded over thousands of lines is no signature).
OCTETS = 8192
FOLDS = 100
#: Octets of a name in DNS.
NAME = 253
#: Octets of one in UTF-8 (RFC 8616), at most.
UNICODE = 1020
ALGORITHMS: Mapping[bytes, tuple[str, str]] = {
    b"rsa-sha256": ("rsa", "sha256"),
    b"rsa-sha1": ("rsa", "sha1"),
    b"ed25519-sha256": ("ed25519", "sha256"),
}
_NEEDED: Mapping[Kind, tuple[bytes, ...]] = {
    "dkim": (b"v", b"a", b"b", b"bh", b"d", b"h", b"s"),
    "ams": (b"i", b"a", b"b", b"bh", b"d", b"h", b"s"),
    "seal": (b"i", b"a", b"b", b"cv", b"d", b"s"),
}
_BLANKS = b" \t\r\n"
_SECONDS = re.compile(rb"[0-9]{1,12}")
_LENGTH = re.compile(rb"[0-9]{1,76}")
_INSTANCE = re.compile(rb"[0-9]{1,4}")
_CANONICAL = {b"simple": False, b"relaxed": True}

#: What a signer writes the same into each message; and how long a field, its h= and its tags may be to be kept by that.
_STEADY = (b"d", b"s", b"a", b"v", b"i", b"h", b"c", b"q", b"l", b"cv")
_USUAL, _USUAL_NAMES = 2048, 512


class Signed(msgspec.Struct, frozen=True, kw_only=True):
    """The field at `place` of the header. `names` is h= in lower case; `signature` and `body_hash` are octets."""

    place: int
    broken: str = ""
    domain: str = ""
    selector: str = ""
    identity: str = ""
    identity_domain: str = ""
    algorithm: str = ""
    kind: str = ""
    hash: str = ""
    relaxed: bool = False
    body: Want | None = None
    names: tuple[bytes, ...] = ()
    body_hash: bytes = b""
    signature: bytes = b""
    signed_at: int | None = None
    expires: int | None = None
    instance: int = 0
    chain: str = ""

    @property
    def key_name(self) -> str:
        """Where its key stands."""
        return f"{self.selector}._domainkey.{self.domain}"


class _Broken(Exception):
    """Why the field is no signature."""


def read_signature(field: bytes, place: int, kind: Kind = "dkim") -> Signed:
    """The field (with its name, without the last CRLF) as a value."""
    if len(field) > OCTETS or field.count(CRLF) > FOLDS:
        return Signed(place=place, broken="signature field is too long")
    try:
        tags = tag_lists.read(field.partition(b":")[2])
    except tag_lists.NoTagList as error:
        why = "tag twice" if isinstance(error, tag_lists.TagTwice) else "no tag list"
        return Signed(place=place, broken=f"signature field is malformed: {why}")
    if len(field) <= _USUAL and (usual := _as_usual(tags, kind, place)) is not None:
        return usual
    return _anew(tags, kind, place)


def _anew(tags: Mapping[bytes, bytes], kind: Kind, place: int) -> Signed:
    found: dict[str, object] = {}
    try:
        _read_tags(tags, kind, found)
    except _Broken as error:
        found["broken"] = str(error)
    return msgspec.structs.replace(_EMPTY, place=place, **found)


_EMPTY = Signed(place=-1)


def _as_usual(tags: Mapping[bytes, bytes], kind: Kind, place: int) -> Signed | None:
    """As _anew by what is remembered of this signer; None if it does not fit, or is broken."""
    signature, body_hash, names = tags.get(b"b"), tags.get(b"bh"), tags.get(b"h")
    if not signature or (not body_hash and kind != "seal") or len(names or b"") > _USUAL_NAMES:
        return None
    known = _steady(kind, *map(tags.get, _STEADY))
    if known is None:
        return None
    times: dict[str, object] = {}
    try:
        _read_times(tags, times)
        octets = _octets(signature, "b=")
        digest = _octets(body_hash, "bh=") if body_hash and kind != "seal" else b""
    except _Broken:
        return None
    return msgspec.structs.replace(known, place=place, signature=octets, body_hash=digest, **times)


@lru_cache(maxsize=1024)
def _steady(kind: Kind, *values: bytes | None) -> Signed | None:
    """A signer's field without what changes from one message to the next; None if it is broken."""
    tags = {name: value for name, value in zip(_STEADY, values, strict=True) if value is not None}
    known = _anew({**tags, b"b": b"AA==", b"bh": b"AA=="}, kind, -1)
    return None if known.broken else known


def _read_tags(tags: Mapping[bytes, bytes], kind: Kind, found: dict[str, object]) -> None:
    """Fill `found` as far as it goes. What names the signature comes first."""
    found["domain"] = host(tags.get(b"d", b""))
    found["selector"] = selector(tags.get(b"s", b""))
    if not found["domain"] or not found["selector"]:
        raise _Broken("d= or s= is missing or no host name")
    found["algorithm"] = _printable(tags.get(b"a", b"").lower())
    if missing := [name.decode() for name in _NEEDED[kind] if not tags.get(name)]:
        raise _Broken(f"{missing[0]}= is missing")
    if tags[b"a"].lower() not in ALGORITHMS:
        raise _Broken("a= is unknown")
    found["kind"], found["hash"] = ALGORITHMS[tags[b"a"].lower()]
    found["signature"] = _octets(tags[b"b"], "b=")
    if len(f"{found['selector']}._domainkey.{found['domain']}") > NAME:
        raise _Broken("s= and d= are too long")
    if kind == "dkim":
        if tags[b"v"] != b"1":
            raise _Broken("v= is not 1")
        _read_identity(tags, found)
    else:
        if not _INSTANCE.fullmatch(tags[b"i"]):
            raise _Broken("i= is no number")
        found["instance"] = int(tags[b"i"])
    if kind == "seal":
        if b"h" in tags:
            raise _Broken("a seal has no h=")
        found["chain"], found["relaxed"] = _printable(tags[b"cv"].lower()), True
    else:
        _read_body(tags, found)
    _read_times(tags, found)


def _read_identity(tags: Mapping[bytes, bytes], found: dict[str, object]) -> None:
    """i= is an address at d= or below it; without it "@d"."""
    local, at, domain = tags.get(b"i", b"@" + tags[b"d"]).rpartition(b"@")
    name = host(domain) if at else ""
    if not name or not f".{name}".endswith(f".{found['domain']}"):
        raise _Broken("i= is outside of d=")
    found["identity"], found["identity_domain"] = f"{_printable(local)}@{name}", name


def _read_body(tags: Mapping[bytes, bytes], found: dict[str, object]) -> None:
    """What is signed: h=, c=, l=, bh=, and how the key is found (q=)."""
    found["names"] = names = tuple(name.lower() for name in tags[b"h"].translate(None, _BLANKS).split(b":") if name)
    if b"from" not in names:
        raise _Broken("h= is without From")
    header, slash, body = tags.get(b"c", b"simple/simple").lower().partition(b"/")
    if header not in _CANONICAL or (body if slash else b"simple") not in _CANONICAL:
        raise _Broken("c= is unknown")
    found["relaxed"] = _CANONICAL[header]
    length = tags.get(b"l")
    if length is not None and not _LENGTH.fullmatch(length):
        raise _Broken("l= is no number")
    relaxed = _CANONICAL[body] if slash else False
    found["body"] = Want(relaxed, str(found["hash"]), None if length is None else int(length))
    found["body_hash"] = _octets(tags[b"bh"], "bh=")
    if b"dns/txt" not in [word.strip() for word in tags.get(b"q", b"dns/txt").lower().split(b":")]:
        raise _Broken("q= is unknown")


def _read_times(tags: Mapping[bytes, bytes], found: dict[str, object]) -> None:
    for tag, name in ((b"t", "signed_at"), (b"x", "expires")):
        if tag in tags:
            if not _SECONDS.fullmatch(tags[tag]):
                raise _Broken(f"{tag.decode()}= is no time")
            found[name] = int(tags[tag])
    if b"t" in tags and b"x" in tags and int(tags[b"x"]) <= int(tags[b"t"]):
        raise _Broken("x= is not behind t=")


def _octets(text: bytes, what: str) -> bytes:
    try:
        return binascii.a2b_base64(text.translate(None, _BLANKS), strict_mode=True)
    except binascii.Error as error:
        raise _Broken(f"{what} is not base64") from error


def _printable(text: bytes) -> str:
    """What may be shown of octets that a stranger chose: nothing if one is not printable ASCII."""
    return text.decode("ascii") if text.isascii() and text.decode("ascii").isprintable() and len(text) <= 256 else ""


def host(text: bytes) -> str:
    """A host name of two labels at least, as lower-case A-labels; "" if it is none (RFC 6376 3.5, 8616)."""
    return _host(text) if len(text) <= UNICODE else ""


@lru_cache(maxsize=4096)
def _host(text: bytes) -> str:
    try:
        name, lenient = parse_domain(text.decode("utf-8"))
    except (UnicodeDecodeError, AddressError):
        return ""
    return name if "." in name and "trailing_dot" not in lenient and not name.startswith("[") else ""


def selector(text: bytes) -> str:
    """One or more labels of a host name, "" if it is none."""
    name = host(text + b".x")
    return name[:-2]
