"""GSSAPI (RFC 4752: Kerberos V5) for ldap tables, over the library gssapi. Needs the extra `gssapi`.

Contract: who we are comes from a keytab, whose tickets the library gets and renews in a cache of this process, or,
without one, from where libkrb5 looks (KRB5CCNAME, KRB5_CLIENT_KTNAME). Both sides are proved; no layer of security is
made, so a server that demands one is told apart with what to do. Over TLS the tickets are bound to the server's
certificate (tls-server-end-point). It blocks as long as libkrb5 waits for a KDC: only in threads of the table.
Raises ValueError with one sentence. What failure means for the mail: put off.
"""

import hashlib
import ipaddress
import os
import socket
from typing import Any

from cryptography import x509
from cryptography.exceptions import UnsupportedAlgorithm

#: What to do where the library is away.
MISSING = (
    "GSSAPI needs the library gssapi: Debian's python3-gssapi for the system's Python, "
    "or pip install 'postgate[gssapi]' (which needs a compiler and libkrb5-dev)"
)
_WITHOUT_LAYER = 1
_WRONG_KEY = "the key in the keytab is not the one that the KDC has"
#: What libkrb5 says that says little.
_HINTS = {
    "Decrypt integrity check failed": _WRONG_KEY,
    "Preauthentication failed": _WRONG_KEY,
    "No credentials cache found": "the keytab has no key",
}


def available() -> bool:
    """Whether the library is there."""
    try:
        import gssapi
    except (ImportError, OSError):
        return False
    return bool(gssapi)


class Kerberos:
    """An exchange (tables/proxied/sasl.py) over a security context of gssapi, whose errors are `errors`."""

    def __init__(self, context: Any, authz: str, errors: type[Exception]) -> None:
        self._context, self._authz, self._errors = context, authz.encode(), errors
        self._complete = self._agreed = False
        self.told: bytes | None = self._step(None)

    def answer(self, said: bytes) -> bytes:
        if self._agreed:
            raise ValueError("GSSAPI: the server asks for more")
        return self._without_layer(said) if self._complete else self._step(said)

    def end(self, said: bytes) -> None:
        if not self._agreed:
            raise ValueError("GSSAPI: the server does not prove who it is")

    def _step(self, said: bytes | None) -> bytes:
        try:
            told: bytes = self._context.step(said) or b""
            self._complete = bool(self._context.complete)  # raises, too: step() keeps errors back that have an answer
        except self._errors as error:
            raise ValueError(f"GSSAPI: {words_of(error)}") from None
        return told

    def _without_layer(self, said: bytes) -> bytes:
        try:
            offered = self._context.unwrap(said).message
            if len(offered) != 4:
                raise ValueError("GSSAPI: an offer of layers that is none")
            if not offered[0] & _WITHOUT_LAYER:
                raise ValueError(
                    "GSSAPI: the server demands that Kerberos protects the line, which is not made here: "
                    "write ldaps:// or start_tls = yes"
                )
            told: bytes = self._context.wrap(bytes((_WITHOUT_LAYER, 0, 0, 0)) + self._authz, False).message
        except self._errors as error:
            raise ValueError(f"GSSAPI: {words_of(error)}") from None
        self._agreed = True
        return told


def begun(host: str, authz: str, keytab: str, certificate: bytes | None) -> Kerberos:
    """The exchange with the service ldap of `host`, its first words ready. Waits for the KDC."""
    import gssapi
    from gssapi.raw import ChannelBindings

    bound = end_point(certificate) if certificate else None
    try:
        context = gssapi.SecurityContext(
            name=gssapi.Name(f"ldap@{host}", gssapi.NameType.hostbased_service),
            creds=gssapi.Credentials(usage="initiate", mechs=[gssapi.MechType.kerberos], store=store_of(keytab)),
            mech=gssapi.MechType.kerberos,
            usage="initiate",
            channel_bindings=ChannelBindings(application_data=bound) if bound else None,
        )
    except gssapi.exceptions.GSSError as error:
        raise ValueError(f"GSSAPI: {words_of(error)}") from None
    return Kerberos(context, authz, gssapi.exceptions.GSSError)


def store_of(keytab: str) -> dict[str, str] | None:
    """The tickets of each state of a keytab have a cache of their own, which ends with the process."""
    if not keytab:
        return None
    try:
        seen = os.stat(keytab)  # noqa: PTH116 - a text from here on, too
    except OSError as error:
        raise ValueError(f"GSSAPI: {keytab}: {error.strerror}") from None
    state = hashlib.sha256(f"{keytab}\0{seen.st_ino}\0{seen.st_mtime_ns}".encode()).hexdigest()
    return {"client_keytab": f"FILE:{keytab}", "ccache": f"MEMORY:postgate-{state[:32]}"}


def words_of(error: Any) -> str:
    """What libkrb5 says, without the frame of GSSAPI around it."""
    try:
        found = error.get_all_statuses(error.min_code, False) if error.min_code else []
    except Exception:  # the library cannot say it
        found = []
    text = "; ".join(words for words in found if words and words != "Success") or str(error)
    hint = _HINTS.get(text)
    return f"{text} ({hint})" if hint else text[:300]


def end_point(certificate: bytes) -> bytes | None:
    """tls-server-end-point of RFC 5929 §4; None where it says nothing about this certificate's hash."""
    try:
        algorithm = x509.load_der_x509_certificate(certificate).signature_hash_algorithm
    except UnsupportedAlgorithm:
        return None
    if algorithm is None:
        return None
    name = "sha256" if algorithm.name in ("md5", "sha1") else algorithm.name
    return b"tls-server-end-point:" + hashlib.new(name, certificate).digest()


def service_host(name: str, sock: Any) -> str:
    """Whose service is asked for: behind the loopback and a unix socket that is this machine, as for libldap."""
    peer = sock.getpeername()
    if isinstance(peer, tuple) and not ipaddress.ip_address(peer[0].partition("%")[0]).is_loopback:
        return name
    own = socket.gethostname()
    try:
        found = socket.getaddrinfo(own, None, flags=socket.AI_CANONNAME)
    except OSError:
        return own
    return found[0][3] or own
