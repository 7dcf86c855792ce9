"""SCRAM (RFC 5802, 7677), the client's side of one exchange, without channel binding.

Contract: sans-IO, linear in what the server sends. The server is believed when it has proved that it knows the password,
never before. Names and passwords go as they are written, without SASLprep, as in Cyrus SASL (both its ends): what is
ASCII is the same in both. Raises ProtocolError for a server that keeps to no rule, names too few or too many rounds, or
proves nothing. What failure means for the mail: nothing here; who asked puts off.
"""

import hashlib
import hmac
import secrets
from base64 import b64decode, b64encode

from appliance.protocol.errors import ProtocolError

#: The mechanisms and their hashes, the strongest first.
HASHES = {
    "SCRAM-SHA-512": "sha512", "SCRAM-SHA-384": "sha384", "SCRAM-SHA-256": "sha256", "SCRAM-SHA-224": "sha224",
    "SCRAM-SHA-1": "sha1",
}  # fmt: skip
#: Rounds that are counted: fewer make a guess of the password cheap for whoever poses as the server (RFC 7677 §4); more
#: burn our processor, and Cyrus SASL counts no more either.
FEWEST, MOST = 4096, 65536
#: Octets of one message of the server.
LONGEST = 4096
_HEADER = "n,"


class Scram:
    """`told` is said first; then `answer` to each thing that the server says, `end` to what came with its success."""

    def __init__(self, mechanism: str, user: str, password: str, authz: str = "", nonce: str = "") -> None:
        self._hash, self._password = HASHES[mechanism], password.encode()
        self._nonce = (nonce or secrets.token_urlsafe(24)).encode("ascii")
        self._header = f"{_HEADER}{'a=' if authz else ''}{_name(authz)},".encode()
        self._bare = b"n=" + _name(user).encode() + b",r=" + self._nonce
        self._proof = b""
        self._proved = False
        self.told = self._header + self._bare

    def answer(self, said: bytes) -> bytes:
        """Raises ProtocolError."""
        if not self._proof:
            return self._response(said)
        if self._proved:
            raise ProtocolError("the server goes on behind its proof")
        self._prove(said)
        return b""

    def end(self, said: bytes) -> None:
        """The server takes us for who we say: is it who it should be? Raises ProtocolError."""
        if self._proved and not said:
            return
        if not self._proof or self._proved:
            raise ProtocolError("the server does not prove that it knows the password")
        self._prove(said)

    def _response(self, first: bytes) -> bytes:
        nonce, salt, rounds = _challenge(first)
        if not nonce.startswith(self._nonce) or nonce == self._nonce:
            raise ProtocolError("the server's nonce does not continue ours")
        if not FEWEST <= rounds <= MOST:
            raise ProtocolError(f"the server wants {rounds} rounds: {FEWEST} to {MOST} are counted")
        bare = b"c=" + b64encode(self._header) + b",r=" + nonce
        message = b",".join((self._bare, first, bare))
        salted = hashlib.pbkdf2_hmac(self._hash, self._password, salt, rounds)
        key = self._hmac(salted, b"Client Key")
        signature = self._hmac(hashlib.new(self._hash, key).digest(), message)
        self._proof = self._hmac(self._hmac(salted, b"Server Key"), message)
        return bare + b",p=" + b64encode(bytes(one ^ other for one, other in zip(key, signature, strict=True)))

    def _prove(self, final: bytes) -> None:
        name, value = _attribute(_parts(final)[0])
        if name == b"e":
            raise ProtocolError(f"the server says {value[:60].decode('ascii', 'replace')}")
        if name != b"v" or not hmac.compare_digest(_octets(value), self._proof):
            raise ProtocolError("the server does not prove that it knows the password")
        self._proved = True

    def _hmac(self, key: bytes, text: bytes) -> bytes:
        return hmac.digest(key, text, self._hash)


def _name(text: str) -> str:
    return text.replace("=", "=3D").replace(",", "=2C")


def _challenge(first: bytes) -> tuple[bytes, bytes, int]:
    """(nonce, salt, rounds) of `r=,s=,i=`; what stands behind them is an extension, and read over."""
    parts = [_attribute(part) for part in _parts(first)]
    if parts[0][0] == b"m":
        raise ProtocolError("the server demands an extension that is not known")
    if [name for name, _ in parts[:3]] != [b"r", b"s", b"i"]:
        raise ProtocolError("a challenge that cannot be answered")
    (_, nonce), (_, salt), (_, rounds) = parts[:3]
    if not all(33 <= octet <= 126 for octet in nonce):
        raise ProtocolError("a nonce that is not printable")
    if not rounds.isdigit() or len(rounds) > 10:
        raise ProtocolError("a number of rounds that is none")
    return nonce, _octets(salt), int(rounds)


def _parts(said: bytes) -> list[bytes]:
    if len(said) > LONGEST:
        raise ProtocolError("a message without end")
    return said.split(b",")


def _attribute(part: bytes) -> tuple[bytes, bytes]:
    name, equals, value = part.partition(b"=")
    return (name, value) if equals else (b"", part)


def _octets(text: bytes) -> bytes:
    """Base64, never nothing."""
    try:
        found = b64decode(text, validate=True)
    except ValueError:
        found = b""
    if not found:
        raise ProtocolError("base64 that is none")
    return found
