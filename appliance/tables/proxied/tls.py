"""TLS towards the servers of .cf files: lists of ciphers, and contexts that know a server by its name.

Contract: pure but for the files that are loaded. Ciphers are named in OpenSSL's words, whatever library Postfix was built
with; a list that leaves no cipher is a mistake of the file. What failure means for the mail: put off.
"""

import ssl
from typing import Any

from appliance.tables.proxied.base import Bad
from appliance.tables.proxied.cf import Settings


class Named(ssl.SSLContext):
    """Asks for the certificate of `name`, whatever address was dialled."""

    name = ""

    def wrap_bio(
        self, incoming: Any, outgoing: Any, server_side: bool = False, server_hostname: Any = None, session: Any = None
    ) -> ssl.SSLObject:
        return super().wrap_bio(incoming, outgoing, server_side, self.name or server_hostname, session)


class Files:
    """What a context is made of; `ciphers` "": OpenSSL's own choice."""

    def __init__(self, ca_file: str = "", ca_path: str = "", cert: str = "", key: str = "", ciphers: str = "") -> None:
        self.ca_file, self.ca_path, self.cert, self.key, self.ciphers = ca_file, ca_path, cert, key, ciphers

    def __bool__(self) -> bool:
        return any(vars(self).values())

    def context(self, name: str, verify: ssl.VerifyMode, check_name: bool) -> Named:
        """For the server of this name. Raises OSError (ssl.SSLError is one)."""
        made = Named(ssl.PROTOCOL_TLS_CLIENT)
        made.name = name
        made.check_hostname, made.verify_mode = check_name, verify
        if self.ca_file or self.ca_path:
            made.load_verify_locations(self.ca_file or None, self.ca_path or None)
        else:
            made.load_default_certs()
        if self.cert:
            made.load_cert_chain(self.cert, self.key or None)
        if self.ciphers:
            made.set_ciphers(self.ciphers)
        return made

    def tried(self, settings: Settings) -> None:
        """Raises Bad for files that cannot be used."""
        try:
            self.context("", ssl.CERT_NONE, check_name=False)
        except OSError as error:
            raise Bad(f"{settings.path}: TLS: {error.strerror or error}", unrest=settings.unrest) from None


def sound_ciphers(text: str) -> bool:
    """Whether a list of ciphers, in OpenSSL's words, leaves any."""
    try:
        ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT).set_ciphers(text)
    except ssl.SSLError:
        return False
    return True


def ciphers(settings: Settings, name: str) -> str:
    """A list of ciphers as OpenSSL reads it; "": none is said, or a mistake, which is noted in `settings`."""
    text = settings.text(name)
    if not text or sound_ciphers(text):
        return text
    words = 'names no cipher that OpenSSL has here (GnuTLS\' words are not read: see "openssl ciphers")'
    settings.wrong(name, f'"{text}" {words}')
    return ""
