"""Signing keys, the same in every run, and raw signatures with them: no library that is itself under test."""

import base64
import hashlib
import random
from functools import cache
from typing import NamedTuple

from nacl.signing import SigningKey

_SMALL = [n for n in range(3, 2000, 2) if all(n % d for d in range(3, int(n**0.5) + 1, 2))]
_DIGEST = {
    "sha256": bytes.fromhex("3031300d060960864801650304020105000420"),
    "sha1": bytes.fromhex("3021300906052b0e03021a05000414"),
}


def _prime(rng: random.Random, bits: int) -> int:
    while True:
        found = rng.getrandbits(bits) | 1 | 3 << (bits - 2)
        if found % 65537 != 1 and all(found % small for small in _SMALL) and _probable(rng, found):
            return found


def _probable(rng: random.Random, number: int) -> bool:
    """Miller and Rabin."""
    odd, twos = number - 1, 0
    while not odd % 2:
        odd, twos = odd // 2, twos + 1
    for _ in range(6):
        power = pow(rng.randrange(2, number - 1), odd, number)
        if power in (1, number - 1):
            continue
        if not any((power := power * power % number) == number - 1 for _ in range(twos - 1)):
            return False
    return True


def _der(tag: int, content: bytes) -> bytes:
    size = len(content)
    length = (
        bytes([size])
        if size < 128
        else bytes([0x80 | (size.bit_length() + 7) // 8]) + size.to_bytes((size.bit_length() + 7) // 8, "big")
    )
    return bytes([tag]) + length + content


def _integer(number: int) -> bytes:
    return _der(2, number.to_bytes(number.bit_length() // 8 + 1, "big"))


class Rsa(NamedTuple):
    """`record` is the p= value; signs in PKCS#1 1.5 by integers."""

    bits: int
    modulus: int
    secret: int
    k = "rsa"

    @property
    def record(self) -> str:
        return self._spki(_der(0x30, _integer(self.modulus) + _integer(65537)))

    @staticmethod
    def _spki(key: bytes) -> str:
        algorithm = _der(0x30, bytes.fromhex("06092a864886f70d010101") + b"\x05\x00")
        return base64.b64encode(_der(0x30, algorithm + _der(3, b"\0" + key))).decode()

    def sign(self, data: bytes, digest: str = "sha256") -> bytes:
        size = (self.bits + 7) // 8
        info = _DIGEST[digest] + hashlib.new(digest, data).digest()
        padded = b"\0\1" + b"\xff" * (size - len(info) - 3) + b"\0" + info
        return pow(int.from_bytes(padded, "big"), self.secret, self.modulus).to_bytes(size, "big")


class Ed25519(NamedTuple):
    seed: bytes
    bits = 256
    k = "ed25519"

    @property
    def record(self) -> str:
        return base64.b64encode(bytes(SigningKey(self.seed).verify_key)).decode()

    def sign(self, data: bytes, digest: str = "sha256") -> bytes:
        return SigningKey(self.seed).sign(hashlib.new(digest, data).digest()).signature


@cache
def rsa(bits: int, number: int = 0) -> Rsa:
    rng = random.Random(f"rsa {bits} {number}")
    p, q = _prime(rng, bits // 2), _prime(rng, bits - bits // 2)
    return Rsa(bits, p * q, pow(65537, -1, (p - 1) * (q - 1)))


@cache
def ed25519(number: int = 0) -> Ed25519:
    return Ed25519(random.Random(f"ed25519 {number}").randbytes(32))
