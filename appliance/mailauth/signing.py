"""DKIM signatures of our own making (RFC 6376), by a key that is made for it and lives as long as its object.

Contract: pure but for the randomness of the key, and the time in the signature. What failure means for the mail: none;
ValueError says that it cannot be signed.
"""

import base64

from cryptography.hazmat.primitives.asymmetric import rsa
from cryptography.hazmat.primitives.serialization import Encoding, NoEncryption, PrivateFormat, PublicFormat

from appliance.mailauth.dkimpy import dkim

_HOW = (b"relaxed", b"relaxed")


class Key:
    """An RSA key of 2048 bits."""

    def __init__(self) -> None:
        self._key = rsa.generate_private_key(65537, 2048)
        self._pem = self._key.private_bytes(Encoding.PEM, PrivateFormat.TraditionalOpenSSL, NoEncryption())

    @property
    def record(self) -> str:
        """What a key record says."""
        octets = self._key.public_key().public_bytes(Encoding.DER, PublicFormat.SubjectPublicKeyInfo)
        return f"v=DKIM1; k=rsa; p={base64.b64encode(octets).decode()}"

    def signature(self, mail: bytes, selector: str, domain: str) -> bytes:
        """The field that is to stand above `mail`, with its line end. Raises ValueError."""
        try:
            return bytes(dkim.sign(mail, selector.encode(), domain.encode(), self._pem, canonicalize=_HOW))
        except dkim.DKIMException as error:
            raise ValueError(str(error)) from error
