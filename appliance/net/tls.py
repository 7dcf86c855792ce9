"""TLS towards servers we deliver to: contexts for the levels of `[relay.tls]` (RFC 3207, 8996, 8997).

Contract: TLS 1.2 or newer, no compression. `verify` checks chain and host name, against `ca` where that is given,
else against the system's store; the other levels encrypt without asking who is there. What failure means for the
mail: a context that cannot be made (a broken CA file) stops the start or the reload, not a delivery.
"""

import ssl
from typing import Literal

Level = Literal["none", "may", "encrypt", "verify"]


def client_context(level: Level, ca: bytes = b"") -> ssl.SSLContext | None:
    """The context for `level`, None for "none". `ca` holds PEM certificates. Raises ValueError if it holds none."""
    if level == "none":
        return None
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    context.minimum_version = ssl.TLSVersion.TLSv1_2
    if level != "verify":
        context.check_hostname = False
        context.verify_mode = ssl.CERT_NONE
    elif ca:
        try:
            context.load_verify_locations(cadata=ca.decode("ascii"))
        except (ssl.SSLError, UnicodeDecodeError) as error:
            raise ValueError(f"no usable CA certificate: {error}") from error
    else:
        context.load_default_certs(ssl.Purpose.SERVER_AUTH)
    return context


def reason(error: BaseException) -> str:
    """Why TLS failed, in a few words for log and queue."""
    if isinstance(error, ssl.SSLCertVerificationError):
        return f"certificate verification failed: {error.verify_message}"
    if isinstance(error, ssl.SSLError):
        return (error.reason or str(error)).replace("_", " ").lower()
    return str(error) or type(error).__name__
