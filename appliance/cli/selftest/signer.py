"""A signer of strangers' mail, for configurations that take no mail without a signature.

Contract: one key a self-test, in the zone file for each domain of SIGNERS. A mail of any other domain gets a signature of
the honest one, which says nothing about its author. A mail that cannot be signed goes as it is.
"""

import contextlib

from appliance.mailauth.signing import Key

SELECTOR = "run"
#: Domains that sign for themselves, the honest one first.
SIGNERS = ("regular.example", "plain.example", "pool.example", "spffail.example")
_SIGNED = frozenset({b"from", b"to", b"subject", b"date", b"message-id"})
#: Signing more takes its time, and no scenario with so large a mail comes so far that somebody looks at a signature.
_LARGEST = 1 << 20


class Signer:
    """With a key of its own."""

    def __init__(self) -> None:
        self._key = Key()

    def zone(self) -> str:
        """Lines for a zone file."""
        record = self._key.record
        strings = " ".join(f'"{part}"' for part in (record[:250], record[250:]))
        return "".join(f"{SELECTOR}._domainkey.{domain}. IN TXT {strings}\n" for domain in SIGNERS)

    def sign(self, octets: bytes, domain: str) -> bytes:
        """Signed by `domain`, or by the honest one for it. Line ends are signed as the gateway will make them, and of the
        header what is well-formed: scenarios have other fields."""
        if len(octets) > _LARGEST:
            return octets
        header, _, body = octets.replace(b"\r\n", b"\n").partition(b"\n\n")
        fields = [line for line in header.split(b"\n") if line.partition(b":")[0].lower() in _SIGNED]
        seen = b"\n".join([*fields, b"", body]).replace(b"\n", b"\r\n")
        with contextlib.suppress(ValueError):
            return self._key.signature(seen, SELECTOR, domain if domain in SIGNERS else SIGNERS[0]) + octets
        return octets
