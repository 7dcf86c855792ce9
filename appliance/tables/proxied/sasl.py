"""SASL for ldap tables (`bind = sasl`): GSSAPI, SCRAM, DIGEST-MD5, EXTERNAL and PLAIN, one exchange over an open
connection of ldap3.

Contract: no mechanism here encrypts the line, so its strength is that of TLS (bits) or of a unix socket (71, as for
libldap): a password goes over no line below `sasl_minssf`, by PLAIN over none in clear. EXTERNAL has no password, and is
bound by neither, as in Postfix. A server that is greeted by SCRAM or DIGEST-MD5 has to prove that it knows the password,
too, by GSSAPI (tables/proxied/kerberos.py), which wants the line of `sasl_minssf`, who it is. Of several mechanisms the
strongest is taken, as Cyrus SASL ranks them, in whatever order the file has them; GSSAPI that no file names comes last.
What is wrong in a file is a mistake with its line; raises ValueError at a server. What failure means for the mail: put
off.
"""

import hashlib
import hmac
import secrets
from collections.abc import Iterable, Iterator
from typing import Any, Protocol

from appliance.protocol.errors import ProtocolError
from appliance.protocol.scram import HASHES, Scram
from appliance.tables.proxied import kerberos
from appliance.tables.proxied.cf import Settings

#: In the order of Cyrus SASL, which Postfix binds with (lib/client.c, mech_compare; Debian's was tried).
MECHANISMS = ("GSSAPI", *HASHES, "DIGEST-MD5", "EXTERNAL", "PLAIN")
#: Where no file says which: whether there are tickets shows only when they are asked for.
_UNNAMED = (*HASHES, "DIGEST-MD5", "EXTERNAL", "PLAIN", "GSSAPI")
_LOCAL = 71
_IN_PROGRESS = 14
#: Messages of one server in one bind.
_STEPS = 8
#: Octets of a challenge of DIGEST-MD5 (RFC 2831: 2048).
_LONGEST = 4096


class Sasl:
    """How one .cf file wants to be known. `protected`: whether each of its servers is a unix socket or behind TLS."""

    def __init__(self, settings: Settings, protected: bool) -> None:
        text = settings.text
        self.user, self.password = text("bind_dn"), text("bind_pw")
        self.realm, self.authz = text("sasl_realm"), text("sasl_authz_id")
        self.least = settings.number("sasl_minssf", 0)
        self.certificate = bool(text("tls_cert"))
        self.named = tuple(name.upper() for name in settings.words("sasl_mechs"))
        self.keytab = text("sasl_keytab").removeprefix("FILE:")
        self.tickets = kerberos.available()
        self._check(settings, protected)

    def _check(self, settings: Settings, protected: bool) -> None:
        known = [name for name in self.named if name in MECHANISMS and (name != "GSSAPI" or self.tickets)]
        if self.named and not known:
            if "GSSAPI" in self.named:
                settings.wrong("sasl_mechs", kerberos.MISSING)
            else:
                settings.wrong("sasl_mechs", f"none of {', '.join(self.named)} is one of {', '.join(MECHANISMS)}")
        elif known == ["PLAIN"] and not protected:
            settings.wrong("sasl_mechs", "PLAIN hands over the password as it is: write ldaps:// or start_tls = yes")
        if self.least and not protected:
            settings.wrong("sasl_minssf", f"{self.least}: only TLS encrypts here: write ldaps:// or start_tls = yes")
        if settings.number("version", 3) < 3:
            settings.wrong("version", "bind = sasl needs version = 3")
        if self.keytab:
            self._check_keytab(settings)

    def _check_keytab(self, settings: Settings) -> None:
        if not self.tickets:
            settings.wrong("sasl_keytab", kerberos.MISSING)
        try:
            settings.read(self.keytab)
        except OSError as error:
            settings.wrong("sasl_keytab", f"{self.keytab}: {error.strerror or error}")

    def usable(self, offered: Iterable[str], strength: int, local: bool) -> list[str]:
        """Those of the file (none named: of all) that the server offers and this line is good for, the best first."""
        there, secret = {name.upper() for name in offered}, bool(self.user) and strength >= self.least
        good = {
            "EXTERNAL": local or self.certificate,
            "PLAIN": secret and strength > 0,
            "GSSAPI": self.tickets and strength >= self.least,
        }
        wanted = [name for name in MECHANISMS if name in self.named] if self.named else _UNNAMED
        return [name for name in wanted if name in there and good.get(name, secret)]


def strength_of(connection: Any, local: bool) -> int:
    """Bits that protect the line; 0: none."""
    if connection.server.ssl or connection.tls_started:
        cipher = connection.socket.cipher()
        return int(cipher[2]) if cipher else 0
    return _LOCAL if local else 0


def bind(connection: Any, sasl: Sasl, local: bool) -> None:
    """Raises ValueError."""
    strength = strength_of(connection, local)
    offered = sasl.named if len(sasl.named) == 1 else _offered(connection)
    names = sasl.usable(offered, strength, local)
    if not names:
        wanted, least = ", ".join(sasl.named or MECHANISMS), f", sasl_minssf = {sasl.least}" if sasl.least else ""
        raise ValueError(f"none of {wanted} is offered by the server and good for this line ({strength} bits{least})")
    connection.sasl_mechanism = names[0]
    _exchange(connection, names[0], _exchange_of(names[0], sasl, connection, "" if local else connection.server.host))
    connection.bound = True


def _offered(connection: Any) -> list[str]:
    """supportedSASLMechanisms of the server. Raises ValueError."""
    connection.search("", "(objectClass=*)", search_scope="BASE", attributes=["supportedSASLMechanisms"])
    if connection.result["result"] != 0:
        why = f"{connection.result['description']} {connection.result['message']}".rstrip()
        raise ValueError(f"the server does not say which mechanisms it has: {why}")
    entries = [entry for entry in connection.response or [] if entry.get("type") == "searchResEntry"]
    return [
        value.decode("ascii", "replace")
        for entry in entries
        for name, values in entry["raw_attributes"].items()
        if name.lower() == "supportedsaslmechanisms"
        for value in values
    ]


def _say(connection: Any, told: bytes | None) -> dict[str, Any]:
    from ldap3.protocol.sasl.sasl import send_sasl_negotiation

    found: dict[str, Any] = send_sasl_negotiation(connection, None, told)
    return found


class Exchange(Protocol):
    """One mechanism, our side. `told` is said first (None: nothing), `answer` to each thing that the server says, `end`
    sees what came with its success. Both raise ValueError."""

    @property
    def told(self) -> bytes | None: ...

    def answer(self, said: bytes) -> bytes | None: ...

    def end(self, said: bytes) -> None: ...


def _exchange(connection: Any, name: str, exchange: Exchange) -> None:
    """Raises ValueError."""
    told = exchange.told
    for _ in range(_STEPS):
        result = _say(connection, told)
        if "saslCreds" not in result:
            raise ValueError(f"{name}: what the server says is no answer to a bind")
        said = result["saslCreds"] or b""
        if result["result"] == 0:
            exchange.end(said)
            return
        if result["result"] != _IN_PROGRESS:
            raise ValueError(f"{name} is refused: {result['description']} {result['message']}".rstrip())
        told = exchange.answer(said)
    raise ValueError(f"{name}: an exchange without end")


def _exchange_of(name: str, sasl: Sasl, connection: Any, host: str) -> Exchange:
    if name in HASHES:
        return _Scram(name, sasl)
    if name == "GSSAPI":
        sock = connection.socket
        certificate = sock.getpeercert(True) if connection.server.ssl or connection.tls_started else None
        return kerberos.begun(kerberos.service_host(host, sock), sasl.authz, sasl.keytab, certificate)
    if name == "DIGEST-MD5":
        return _Digest(sasl, f"ldap/{host or 'localhost'}")
    return _Once(name, f"{sasl.authz}\0{sasl.user}\0{sasl.password}" if name == "PLAIN" else sasl.authz)


class _Once:
    """PLAIN, EXTERNAL: all is said at once."""

    def __init__(self, name: str, told: str) -> None:
        self._name, self.told = name, told.encode()

    def answer(self, said: bytes) -> bytes | None:
        raise ValueError(f"{self._name}: the server asks for more")

    def end(self, said: bytes) -> None:
        pass


class _Scram:
    def __init__(self, name: str, sasl: Sasl) -> None:
        self._name, self._exchange = name, Scram(name, sasl.user, sasl.password, sasl.authz)
        self.told = self._exchange.told

    def answer(self, said: bytes) -> bytes | None:
        try:
            return self._exchange.answer(said) or None
        except ProtocolError as error:
            raise ValueError(f"{self._name}: {error}") from None

    def end(self, said: bytes) -> None:
        try:
            self._exchange.end(said)
        except ProtocolError as error:
            raise ValueError(f"{self._name}: {error}") from None


class _Digest:
    """RFC 2831 with qop=auth."""

    told = None

    def __init__(self, sasl: Sasl, uri: str) -> None:
        self._sasl, self._uri = sasl, uri
        self._digest: Digest | None = None
        self._proved = False

    def answer(self, said: bytes) -> bytes | None:
        if self._digest is None:
            self._digest = Digest(said, self._sasl, self._uri, secrets.token_hex(16))
            return self._digest.told
        self.end(said)  # the proof came alone
        self._proved = True
        return None

    def end(self, said: bytes) -> None:
        if self._proved:
            return
        proof = "".join(directives(said[:_LONGEST]).get("rspauth", [])).encode()
        if self._digest is None or not hmac.compare_digest(proof, self._digest.proof.encode()):
            raise ValueError("DIGEST-MD5: the server does not prove that it knows the password")


class Digest:
    """The answer to a challenge, and the proof that the server owes. Raises ValueError."""

    def __init__(self, challenge: bytes, sasl: Sasl, uri: str, own: str) -> None:
        if len(challenge) > _LONGEST:
            raise ValueError("DIGEST-MD5: a challenge without end")
        several = directives(challenge)
        said = {name: values[0] for name, values in several.items()}
        nonce, offered = said.get("nonce", ""), said.get("qop", "auth").replace(" ", "").split(",")
        if not nonce or said.get("algorithm") != "md5-sess" or "auth" not in offered:
            raise ValueError("DIGEST-MD5: a challenge that cannot be answered")
        realms = several.get("realm", [])
        realm = realms[0] if len(realms) == 1 else sasl.realm or said.get("realm", "")  # the only one goes before ours
        secret = _md5(":".join((sasl.user, realm, sasl.password)).encode())
        whole = b":".join([secret, nonce.encode(), own.encode(), *([sasl.authz.encode()] if sasl.authz else [])])
        a1 = _md5(whole).hex()

        def response(a2: str) -> str:
            return _md5(":".join((a1, nonce, "00000001", own, "auth", _md5(a2.encode()).hex())).encode()).hex()

        self.proof = response(f":{uri}")
        quoted = {"username": sasl.user, "realm": realm, "nonce": nonce, "cnonce": own, "digest-uri": uri}
        if sasl.authz:
            quoted["authzid"] = sasl.authz
        parts = [f'{name}="{_quoted(value)}"' for name, value in quoted.items()]
        self.told = ",".join(
            [*parts, "charset=utf-8", "nc=00000001", "qop=auth", f"response={response(f'AUTHENTICATE:{uri}')}"]
        ).encode()


def _md5(data: bytes) -> bytes:
    return hashlib.md5(data, usedforsecurity=False).digest()


def _quoted(text: str) -> str:
    return text.replace("\\", "\\\\").replace('"', '\\"')


def directives(data: bytes) -> dict[str, list[str]]:
    """The values of each `name=value` and `name="quoted"`."""
    found: dict[str, list[str]] = {}
    letters = iter(data.decode("utf-8", "replace"))
    while name := _until(letters, "="):
        found.setdefault(name.strip(" ,\t\r\n").lower(), []).append(_value(letters))
    return found


def _until(letters: Iterator[str], end: str) -> str:
    found = ""
    for letter in letters:
        if letter == end:
            return found
        found += letter
    return ""


def _value(letters: Iterator[str]) -> str:
    found, quoted = "", False
    for letter in letters:
        if letter == '"':
            quoted = not quoted
        elif letter == "\\" and quoted:
            found += next(letters, "")
        elif letter == "," and not quoted:
            break
        else:
            found += letter
    return found.strip()
