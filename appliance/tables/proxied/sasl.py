"""SASL for ldap tables (`bind = sasl`): EXTERNAL, DIGEST-MD5 and PLAIN, one exchange over an open connection of ldap3.

Contract: no mechanism here encrypts the line, so its strength is that of TLS (bits) or of a unix socket (71, as for
libldap): a password goes over no line below `sasl_minssf`, by PLAIN over none in clear. EXTERNAL has no password, and is
bound by neither, as in Postfix. A server that is greeted by DIGEST-MD5 has to prove that it knows the password, too.
GSSAPI is refused: ldap3's exchange fails where TLS protects the line. What is wrong in a file is a mistake with its line;
raises ValueError at a server. What failure means for the mail: put off.
"""

import hashlib
import hmac
import secrets
from collections.abc import Iterable, Iterator
from typing import Any

from appliance.tables.proxied.cf import Settings

MECHANISMS = ("EXTERNAL", "DIGEST-MD5", "PLAIN")
_LOCAL = 71
_IN_PROGRESS = 14


class Sasl:
    """How one .cf file wants to be known. `protected`: whether each of its servers is a unix socket or behind TLS."""

    def __init__(self, settings: Settings, protected: bool) -> None:
        text = settings.text
        self.user, self.password = text("bind_dn"), text("bind_pw")
        self.realm, self.authz = text("sasl_realm"), text("sasl_authz_id")
        self.least = settings.number("sasl_minssf", 0)
        self.certificate = bool(text("tls_cert"))
        self.named = tuple(name.upper() for name in settings.words("sasl_mechs"))
        self._check(settings, protected)

    def _check(self, settings: Settings, protected: bool) -> None:
        known = [name for name in self.named if name in MECHANISMS]
        if self.named and not known:
            others = (
                "" if "GSSAPI" not in self.named else " (GSSAPI is not supported here: use a certificate or DIGEST-MD5)"
            )
            settings.wrong("sasl_mechs", f"none of {', '.join(self.named)} is one of {', '.join(MECHANISMS)}{others}")
        elif known == ["PLAIN"] and not protected:
            settings.wrong("sasl_mechs", "PLAIN hands over the password as it is: write ldaps:// or start_tls = yes")
        if self.least and not protected:
            settings.wrong("sasl_minssf", f"{self.least}: only TLS encrypts here: write ldaps:// or start_tls = yes")
        if settings.number("version", 3) < 3:
            settings.wrong("version", "bind = sasl needs version = 3")

    def usable(self, offered: Iterable[str], strength: int, local: bool) -> list[str]:
        """Those of the file (none named: of all) that the server offers and this line is good for, in our order."""
        there, secret = {name.upper() for name in offered}, bool(self.user) and strength >= self.least
        good = {"EXTERNAL": local or self.certificate, "DIGEST-MD5": secret, "PLAIN": secret and strength > 0}
        return [name for name in self.named or MECHANISMS if name in there and good.get(name)]


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
    _exchange(connection, names[0], sasl, "" if local else connection.server.host)
    connection.bound = True


def _offered(connection: Any) -> list[str]:
    """supportedSASLMechanisms of the server."""
    connection.search("", "(objectClass=*)", search_scope="BASE", attributes=["supportedSASLMechanisms"])
    entries = [entry for entry in connection.response or [] if entry.get("type") == "searchResEntry"]
    return [
        value.decode("ascii", "replace")
        for entry in entries
        for name, values in entry["raw_attributes"].items()
        if name.lower() == "supportedsaslmechanisms"
        for value in values
    ]


def _exchange(connection: Any, name: str, sasl: Sasl, host: str) -> None:
    if name == "DIGEST-MD5":
        _digest(connection, sasl, host)
        return
    told = f"{sasl.authz}\0{sasl.user}\0{sasl.password}" if name == "PLAIN" else sasl.authz
    result = _say(connection, told.encode())
    if result["result"] != 0:
        raise ValueError(f"{name} is refused: {result['description']} {result['message']}")


def _say(connection: Any, told: bytes | None) -> dict[str, Any]:
    from ldap3.protocol.sasl.sasl import send_sasl_negotiation

    found: dict[str, Any] = send_sasl_negotiation(connection, None, told)
    return found


def _digest(connection: Any, sasl: Sasl, host: str) -> None:
    """RFC 2831 with qop=auth."""
    first = _say(connection, None)
    if first["result"] != _IN_PROGRESS:
        raise ValueError(f"DIGEST-MD5 is refused: {first['description']} {first['message']}")
    answer = Digest(first["saslCreds"] or b"", sasl, f"ldap/{host or 'localhost'}", secrets.token_hex(16))
    last = _say(connection, answer.told)
    if last["result"] == _IN_PROGRESS:  # the proof came alone
        proof, last = last["saslCreds"], _say(connection, None)
    else:
        proof = last["saslCreds"]
    if last["result"] != 0:
        raise ValueError(f"DIGEST-MD5 is refused: {last['description']} {last['message']}")
    if not hmac.compare_digest("".join(directives(proof or b"").get("rspauth", [])).encode(), answer.proof.encode()):
        raise ValueError("DIGEST-MD5: the server does not prove that it knows the password")


class Digest:
    """The answer to a challenge, and the proof that the server owes. Raises ValueError."""

    def __init__(self, challenge: bytes, sasl: Sasl, uri: str, own: str) -> None:
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
