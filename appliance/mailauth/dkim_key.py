"""Key records of DKIM and ARC (RFC 6376 3.6.1, 8301, 8463): from the texts of a TXT answer to keys that verify.

Contract: pure; every text gives a Key or a reason in words, in bounded time, whatever a stranger published. Texts are
read once and kept. What failure means for the mail: a signature of that key is `permerror`, never a pass.
"""

import base64
import binascii
import re
from collections.abc import Iterable
from functools import lru_cache
from typing import Any

import msgspec
from cryptography.exceptions import InvalidSignature, UnsupportedAlgorithm
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import rsa
from cryptography.hazmat.primitives.asymmetric.utils import Prehashed
from nacl.exceptions import CryptoError
from nacl.signing import VerifyKey

from appliance.mailauth import tags as tag_lists
from appliance.mailauth.dkimpy import PKCS1

#: Octets of a record that is read at all, bits of an RSA key and of its exponent (a large one costs time to verify).
RECORD = 4096
MAX_BITS = 8192
MAX_EXPONENT = 64
#: RFC 6376 3.6.2.2: several records are undefined. Those that say v=DKIM1 are tried, at most so many.
TRIED = 3

_DKIM1 = re.compile(r"\s*v\s*=\s*DKIM1\s*(?:;|\Z)")
_HAS_KEY = re.compile(r"(?:\A|;)\s*p\s*=")
_BLANKS = re.compile(rb"[ \t\r\n]+")
_SHA256 = Prehashed(hashes.SHA256())
_SHA1 = Prehashed(hashes.SHA1())  # noqa: S303 - to tell what is weak from what is wrong


class Key(msgspec.Struct, frozen=True):
    """`kind` rsa or ed25519; `hashes` empty = any; `email`: it may sign mail; `testing` t=y; `exact` t=s."""

    kind: str
    public: Any
    bits: int
    hashes: frozenset[bytes] = frozenset()
    email: bool = True
    testing: bool = False
    exact: bool = False

    def verifies(self, signature: bytes, digest: bytes, algorithm: str) -> bool:
        """Is it this key's signature over the digest ("sha256", "sha1")?"""
        try:
            if self.kind == "rsa":
                self.public.verify(signature, digest, PKCS1, _SHA256 if algorithm == "sha256" else _SHA1)
            else:
                self.public.verify(digest, signature)
        except (InvalidSignature, UnsupportedAlgorithm, CryptoError, ValueError):
            return False
        return True


def candidates(records: Iterable[str]) -> list[str]:
    """The texts at a selector that are key records: those that say so, else those that hold a key."""
    texts = sorted(set(records))
    named = [text for text in texts if _DKIM1.match(text)]
    return (named or [text for text in texts if _HAS_KEY.search(text)])[:TRIED]


def keys_of(records: tuple[str, ...]) -> tuple[Key | str, ...]:
    """What the texts at a selector are: keys, or why they are none."""
    if len(records) == 1 and len(records[0]) <= RECORD:
        return _only(records[0])
    return tuple(map(parse_key, candidates(records)))


@lru_cache(maxsize=2048)
def _only(text: str) -> tuple[Key | str, ...]:
    """A text that stands alone, as nearly all do."""
    return tuple(map(parse_key, candidates((text,))))


def parse_key(record: str) -> Key | str:
    """The key, or why it is none."""
    return _parse(record) if len(record) <= RECORD else "key record is too long"


@lru_cache(maxsize=2048)
def _parse(record: str) -> Key | str:
    try:
        return _key(tag_lists.read(record.encode("latin-1")))
    except tag_lists.NoTagList:
        return "key record is no tag list"
    except (ValueError, UnsupportedAlgorithm, TypeError) as error:
        return str(error) if isinstance(error, BadKey) else "key cannot be read"


class BadKey(ValueError):
    """Says in our words what is wrong."""


def _key(tags: dict[bytes, bytes]) -> Key:
    if b"v" in tags and (tags[b"v"] != b"DKIM1" or next(iter(tags)) != b"v"):
        raise BadKey("key record is of another version")
    if b"p" not in tags:
        raise BadKey("key record has no p=")
    if not tags[b"p"]:
        raise BadKey("key is revoked")
    try:
        octets = base64.b64decode(_BLANKS.sub(b"", tags[b"p"]), validate=True)
    except binascii.Error as error:
        raise BadKey("key is not base64") from error
    kind = tags.get(b"k", b"rsa").lower()
    if kind == b"ed25519":
        public, bits = _ed25519(octets), 256
    elif kind == b"rsa":
        public, bits = _rsa(octets)
    else:
        raise BadKey("key is of an unknown kind")
    flags = _listed(tags.get(b"t", b""))
    return Key(
        kind.decode(),
        public,
        bits,
        hashes=_listed(tags.get(b"h", b"")),
        email=b"s" not in tags or not {b"*", b"email"}.isdisjoint(_listed(tags[b"s"])),
        testing=b"y" in flags,
        exact=b"s" in flags,
    )


def _listed(value: bytes) -> frozenset[bytes]:
    return frozenset(word.strip().lower() for word in value.split(b":")) - {b""}


def _ed25519(octets: bytes) -> object:
    if len(octets) != 32:
        raise BadKey("Ed25519 key is not of 32 octets")
    return VerifyKey(octets)


def _rsa(octets: bytes) -> tuple[object, int]:
    """RFC 6376 wants SubjectPublicKeyInfo and allows for RSAPublicKey."""
    public = serialization.load_der_public_key(octets)
    if not isinstance(public, rsa.RSAPublicKey):
        raise BadKey("key is not RSA")
    numbers = public.public_numbers()
    if public.key_size > MAX_BITS:
        raise BadKey(f"RSA key has more than {MAX_BITS} bits")
    if numbers.e < 3 or numbers.e % 2 == 0 or numbers.e.bit_length() > MAX_EXPONENT or numbers.n % 2 == 0:
        raise BadKey("RSA key has an impossible modulus or exponent")
    return public, public.key_size
