"""dkimpy with three of its functions replaced: the only door to it. Nobody else may import `dkim` (a test looks).

Why: its relaxed body canonicalisation is quadratic in runs of blanks (one line of 40 KB costs seconds: anybody could stop
a worker with it), and its RSA is made of Python integers (slow, and signing takes a time that tells of the key). Ours are
linear, and `cryptography` with keys that are built once. Contract: importing this module replaces them for the whole
process; ORIGINALS are what stood there, so that a test notices when dkimpy changes what we replace.
What failure means for the mail: a signature that cannot be verified is False, as in the original.
"""

from collections.abc import Mapping
from functools import lru_cache
from typing import Any, Protocol

import dkim
import dkim.canonicalization
import dkim.crypto
from cryptography.exceptions import InvalidSignature, UnsupportedAlgorithm
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import padding, rsa
from cryptography.hazmat.primitives.asymmetric.utils import Prehashed

from appliance.mailauth.dkim_body import canonical

__all__ = ["ORIGINALS", "dkim"]

PKCS1 = padding.PKCS1v15()
_HASHES: Mapping[str, hashes.HashAlgorithm] = {"sha256": hashes.SHA256(), "sha1": hashes.SHA1()}  # noqa: S303


class Hash(Protocol):
    """What dkimpy hands over: a hashlib object or its wrapper."""

    name: str

    def digest(self) -> bytes: ...


def canonicalize_body(body: bytes) -> bytes:
    """RFC 6376 3.4.4, in linear time."""
    return b"".join(canonical([body], relaxed=True))


def rsa_sign(hash: Hash, private_key: Mapping[str, int]) -> bytes:
    """RSASSA-PKCS1-v1_5 (RFC 8017 8.2.1). Raises dkim.DigestTooLargeError for a key that is too short."""
    parts = tuple(private_key[name] for name in _PRIVATE)
    try:
        return _private(*parts).sign(hash.digest(), PKCS1, Prehashed(_HASHES[hash.name.lower()]))
    except ValueError as error:
        raise dkim.DigestTooLargeError(str(error)) from error


def rsa_verify(hash: Hash, signature: bytes, public_key: Mapping[str, int]) -> bool:
    """RSASSA-PKCS1-v1_5 (RFC 8017 8.2.2)."""
    try:
        key = _public(public_key["modulus"], public_key["publicExponent"])
        key.verify(bytes(signature), hash.digest(), PKCS1, Prehashed(_HASHES[hash.name.lower()]))
    except (InvalidSignature, UnsupportedAlgorithm, ValueError):
        return False
    return True


_PRIVATE = ("modulus", "publicExponent", "privateExponent", "prime1", "prime2", "exponent1", "exponent2", "coefficient")


@lru_cache(maxsize=64)
def _private(n: int, e: int, d: int, p: int, q: int, dmp1: int, dmq1: int, iqmp: int) -> rsa.RSAPrivateKey:
    return rsa.RSAPrivateNumbers(p, q, d, dmp1, dmq1, iqmp, rsa.RSAPublicNumbers(e, n)).private_key()


@lru_cache(maxsize=1024)
def _public(n: int, e: int) -> rsa.RSAPublicKey:
    return rsa.RSAPublicNumbers(e, n).public_key()


def _replace() -> dict[str, Any]:
    relaxed = dkim.canonicalization.Relaxed
    found = {
        "canonicalize_body": relaxed.canonicalize_body,
        "RSASSA_PKCS1_v1_5_sign": dkim.RSASSA_PKCS1_v1_5_sign,
        "RSASSA_PKCS1_v1_5_verify": dkim.RSASSA_PKCS1_v1_5_verify,
    }
    relaxed.canonicalize_body = staticmethod(canonicalize_body)
    dkim.RSASSA_PKCS1_v1_5_sign = rsa_sign
    dkim.RSASSA_PKCS1_v1_5_verify = rsa_verify
    return found


ORIGINALS = _replace()
