"""STARTTLS: the certificate as a context, and the change of the transport (RFC 3207, 8996, 8997).

Contract: TLS 1.2 or newer; key and chain come as octets and are never in a file system (a sealed-off memory file is
read by OpenSSL through /proc). After the handshake nothing of the plain session is kept. What failure means for the mail:
a certificate that does not load leaves the running one in force; a failed handshake ends its own session.
"""

import asyncio
import os
import ssl

from appliance.mail.context import Tls


def context(chain: bytes, key: bytes) -> ssl.SSLContext:
    """A server's context of a PEM chain and its PEM key ("" = in the chain). Raises ssl.SSLError, OSError, ValueError."""
    made = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    made.minimum_version = ssl.TLSVersion.TLSv1_2
    made.options |= ssl.OP_NO_RENEGOTIATION | ssl.OP_CIPHER_SERVER_PREFERENCE | ssl.OP_NO_COMPRESSION
    made.verify_mode = ssl.CERT_NONE
    fd = os.memfd_create("certificate", os.MFD_CLOEXEC)
    try:
        with open(fd, "wb", closefd=False) as file:
            file.write(chain + b"\n" + key)
        made.load_cert_chain(f"/proc/self/fd/{fd}")
    finally:
        os.close(fd)
    return made


async def upgrade(
    transport: asyncio.Transport, protocol: asyncio.Protocol, made: ssl.SSLContext, deadline: float
) -> tuple[asyncio.Transport, Tls]:
    """TLS over `transport`, within `deadline` seconds. Raises OSError (with it ssl.SSLError, TimeoutError)."""
    loop = asyncio.get_running_loop()
    secured = await loop.start_tls(transport, protocol, made, server_side=True, ssl_handshake_timeout=deadline)
    if secured is None:
        raise ConnectionResetError("the client went away")
    return secured, facts(secured.get_extra_info("ssl_object"))


def facts(session: ssl.SSLObject) -> Tls:
    """What log, Received and checks are told of the session."""
    name, _, bits = session.cipher() or ("unknown", "", 0)
    return Tls(version=session.version() or "unknown", cipher=name, bits=bits)
