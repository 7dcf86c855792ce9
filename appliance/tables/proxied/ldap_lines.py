"""The lines to the servers of an ldap table: addresses, TLS, and who we are to them.

Contract: `dial` blocks, in a thread of the table, for as long as the table's time. What is wrong in the file is noted in
its settings; raises what ldap3 raises, and ValueError. What failure means for the mail: put off.
"""

import contextlib
import socket
import ssl
import threading
from collections.abc import Iterator
from typing import Any
from urllib.parse import unquote

from appliance.tables.ldap_answers import Answers
from appliance.tables.proxied import sasl
from appliance.tables.proxied.base import Bad
from appliance.tables.proxied.cf import Settings
from appliance.tables.proxied.servers import Place, address
from appliance.tables.proxied.tls import ciphers
from appliance.tables.text import TableError

_YES, _NO = ("yes", "true", "1"), ("no", "false", "0", "")
_BINDS = {"yes": "simple", "simple": "simple", "no": "", "none": "", "sasl": "sasl"}


class Lines:
    """Of one .cf file."""

    def __init__(self, ldap3: Any, settings: Settings, deadline: float) -> None:
        self._ldap3, self.deadline = ldap3, deadline
        self.servers = servers(settings)
        self._start_tls = settings.flag("start_tls", False)
        self.chases = settings.one_of("chase_referrals", "no", (*_YES, *_NO)) in _YES
        #: What ldap3 raises for trouble, and for octets that are no LDAP.
        self.errors = (ldap3.core.exceptions.LDAPException, ValueError, TypeError, IndexError, KeyError, AttributeError)
        self._bind = _BINDS.get(settings.one_of("bind", "yes", _BINDS), "")
        self._user, self._password = settings.text("bind_dn"), settings.text("bind_pw")
        protected = all(secure or self._start_tls or place.path for place, secure in self.servers.items())
        self._sasl = sasl.Sasl(settings, protected) if self._bind == "sasl" else None
        self._tls = self._tls_settings(settings, ciphers(settings, "tls_cipher_suite"))

    def _tls_settings(self, settings: Settings, suite: str) -> Any:
        text = settings.text
        if not (self._start_tls or self.chases or any(self.servers.values())):
            return None
        try:
            return self._ldap3.Tls(
                validate=ssl.CERT_REQUIRED if settings.flag("tls_require_cert", False) else ssl.CERT_NONE,
                ca_certs_file=text("tls_ca_cert_file") or None,
                ca_certs_path=text("tls_ca_cert_dir") or None,
                local_certificate_file=text("tls_cert") or None,
                local_private_key_file=text("tls_key") or None,
                ciphers=suite or None,
            )
        except self._ldap3.core.exceptions.LDAPException as error:
            raise Bad(f"{settings.path}: TLS: {error}", unrest=settings.unrest) from None

    def dial(self, place: Place, dialled: list[Any]) -> Any:
        """A connection that is open and bound; it stands in `dialled` before it waits for anything."""
        connection = self.open(place, self.servers[place], dialled, start_tls=self._start_tls, known=True)
        try:
            with inside(connection):
                if self._sasl:
                    sasl.bind(connection, self._sasl, bool(place.path))
                elif self._bind and not connection.bind():
                    raise ValueError(f"the bind is refused: {connection.result['description']}")
        except BaseException:
            close(connection)
            raise
        return connection

    def open(self, place: Place, secure: bool, dialled: list[Any], *, start_tls: bool, known: bool = False) -> Any:
        """Not bound. `known`: it may be bound with the name and password of the file."""
        server = self._ldap3.Server(
            f"ldapi://{place.path}" if place.path else place.host,
            port=place.port or None,
            use_ssl=secure,
            tls=self._tls,
            get_info=self._ldap3.NONE,
            connect_timeout=max(1, min(5, int(self.deadline))),
        )
        simple = known and self._bind == "simple"
        connection = self._ldap3.Connection(
            server,
            user=self._user or None if simple else None,
            password=self._password or None if simple else None,
            read_only=True,
            auto_referrals=False,
            check_names=False,
            receive_timeout=max(1, int(self.deadline)),
        )
        connection.turn, connection.over = threading.Lock(), False
        dialled.append(connection)
        Answers(connection)
        try:
            with inside(connection):
                connection.open()
                if start_tls and not connection.start_tls():
                    raise ValueError(f"STARTTLS: {connection.last_error}")
        except BaseException:
            close(connection)
            raise
        return connection


def servers(settings: Settings) -> dict[Place, bool]:
    """Each server, and whether it is spoken to over TLS from the start."""
    found: dict[Place, bool] = {}
    port = settings.number("server_port", 389, 1)
    for text in settings.words("server_host", "localhost"):
        scheme, colon, rest = text.partition("://")
        if not colon:
            scheme, rest = "ldap", text
        rest = rest.rstrip("/")
        if scheme == "ldapi":
            found[Place(unquote(rest), "", 0)] = False
            continue
        try:
            if scheme not in ("ldap", "ldaps"):
                raise TableError(f'"{scheme}://" is none of ldap, ldaps, ldapi')
            found[address(rest or "localhost", 636 if scheme == "ldaps" else port)] = scheme == "ldaps"
        except TableError as error:
            settings.wrong("server_host", str(error))
    return found


@contextlib.contextmanager
def inside(connection: Any) -> Iterator[None]:
    """Around all that a thread does with it. Nobody closes it meanwhile: who gives it up wakes the thread, which closes
    it when it leaves."""
    try:
        with connection.turn:
            yield
    finally:
        if connection.over:
            close(connection)


def close(connection: Any) -> None:
    """At once: whoever waits in a thread for this server, or for those that it referred to, is woken. Only where nobody
    is inside is the descriptor closed here: under a thread it would be another table's by the time it reads again."""
    connection.over = True
    for one in (connection, *tuple(getattr(connection, "referred", ()))):
        with contextlib.suppress(OSError, AttributeError, TypeError):  # it may have no socket yet
            # Not TLS's own: that takes the TLS off first, and what the thread says meanwhile would go as it is.
            socket.socket.shutdown(one.socket, socket.SHUT_RDWR)
    if connection.turn.acquire(blocking=False):
        try:
            with contextlib.suppress(OSError, AttributeError):
                connection.socket.close()
        finally:
            connection.turn.release()
