"""Recipients out of a directory (Active Directory, OpenLDAP): mail and proxyAddresses, in pages. Needs the extra `ldap`.

Contract: certificates are verified, on ldaps and behind STARTTLS. Of several servers the next is asked where one fails,
from the beginning; a refused login is tried on no other (a directory closes accounts for that). A page that fails fails
the whole; referrals are not followed. What failure means for the mail: Failed, the old list stays.
"""

import ssl
from collections.abc import Iterator
from functools import partial
from typing import Any
from urllib.parse import urlsplit

from appliance.tables.known import MOST, At, Failed, Origin
from appliance.tables.known.texts import Entry, proxied
from appliance.tables.ldap_answers import Answers

ATTRIBUTES = ("mail", "proxyAddresses")
#: Entries a page (Active Directory gives no more than 1000); seconds for an answer; entries in all.
PAGE, WAIT, ENTRIES = 500, 30, 2 * MOST
_PAGED = "1.2.840.113556.1.4.319"
_INVALID_CREDENTIALS = 49
#: userAccountControl: the account is disabled. And the kinds of mailboxes for which that is as it should be: linked,
#: shared, room, equipment, and the same in the cloud.
_DISABLED = 2
_WITHOUT_LOGIN = frozenset({"2", "4", "16", "32", "8589934592", "17179869184", "34359738368"})
_ACCOUNT, _TYPE = "userAccountControl", "msExchRecipientTypeDetails"


class _Trouble(Exception):
    """What a server said, in words."""


def fetch(origin: Origin, secret: str, at: At) -> list[Entry]:
    """Every address. Raises Failed."""
    try:
        import ldap3
    except ImportError:
        raise Failed("needs the library ldap3: pip install 'postgate[ldap]'", soon=False) from None
    troubles: list[str] = []
    for server in origin.source:
        try:
            return _one(ldap3, server, origin, secret, partial(_told, at, tuple(troubles), server))
        except ldap3.core.exceptions.LDAPException as error:
            troubles.append(f"{server}: {_words(error)}")
        except (OSError, _Trouble) as error:
            troubles.append(f"{server}: {getattr(error, 'strerror', None) or error}")
        except (ValueError, TypeError, KeyError, IndexError, AttributeError, RecursionError) as error:
            # a library that is given garbage raises whatever it stumbles over
            troubles.append(f"{server}: what it says is no LDAP: {error or type(error).__name__}")
    raise Failed("; ".join(troubles))


def _told(at: At, troubles: tuple[str, ...], server: str, step: str) -> None:
    """The step with its server, behind what became of those before."""
    at("; ".join((*troubles, f"{server}: {step}")))


def _words(error: Exception) -> str:
    """What ldap3 says, without the socket's description around it."""
    text = str(error) or type(error).__name__
    return "certificate doesn't match the host's name" if "doesn't match any name" in text else text


def _one(ldap3: Any, server: str, origin: Origin, secret: str, at: At) -> list[Entry]:
    tls = ldap3.Tls(
        validate=ssl.CERT_REQUIRED, ca_certs_file=origin.tls_ca or None, sni=urlsplit(server).hostname or None
    )
    connection = ldap3.Connection(
        ldap3.Server(server.rstrip("/"), get_info=ldap3.NONE, tls=tls, connect_timeout=10),
        user=origin.bind_dn or None,
        password=secret or None,
        read_only=True,
        auto_referrals=False,
        check_names=False,
        receive_timeout=WAIT,
    )
    Answers(connection)
    try:
        at("connecting")
        connection.open()
        if origin.starttls:
            at("STARTTLS")
            if not connection.start_tls():
                raise _Trouble(f"STARTTLS: {connection.last_error}")
        at("the bind")
        if not connection.bind():
            said = connection.result or {}
            refused = said.get("result") == _INVALID_CREDENTIALS
            text = f"the bind is refused: {said.get('description')} {said.get('message')}".rstrip()
            if refused:
                raise Failed(f"{server}: {text}", soon=False)
            raise _Trouble(text)
        return [entry for base in origin.base for entry in _pages(connection, base, origin, at)]
    finally:
        connection.strategy.close()


def _pages(connection: Any, base: str, origin: Origin, at: At) -> Iterator[Entry]:
    wanted = origin.attributes or ATTRIBUTES
    everybody = "".join(f"({name}=*)" for name in wanted)
    cookie: bytes | None = None
    seen = 0
    while True:
        at(f"the search in {base}, {seen} entries so far")
        connection.strategy.receiving.renew()
        connection.search(
            base,
            origin.filter or f"(|{everybody})",
            attributes=[*wanted, *((_ACCOUNT, _TYPE) if origin.skip_disabled else ())],
            paged_size=PAGE,
            paged_cookie=cookie,
            time_limit=WAIT,
        )
        said = connection.result
        if said["result"] != 0:
            raise _Trouble(f"the search in {base} fails: {said['description']} {said['message']}".rstrip())
        for answer in connection.response or ():
            seen += 1
            yield from _of(answer, wanted, seen)
        more = said.get("controls", {}).get(_PAGED)
        if cookie and more is None:  # RFC 2696: it is in every answer
            raise _Trouble(f"the search in {base}: whether there is more behind {seen} entries is not said")
        cookie = (more or {}).get("value", {}).get("cookie")
        if not cookie:
            return
        if seen > ENTRIES:
            raise _Trouble(f"no end after {seen} entries")


def _of(answer: dict[str, Any], wanted: tuple[str, ...], number: int) -> Iterator[Entry]:
    """The addresses of one entry. A reference to another server has none."""
    held = {name.lower(): values for name, values in answer.get("raw_attributes", {}).items()}
    if cut := next((name for name in held if ";range=" in name), ""):
        raise _Trouble(f"{answer.get('dn')} has more values than the server gives at once ({cut})")
    if _is_disabled(held):
        return
    for name in wanted:
        for value in held.get(name.lower(), ()):
            text = value.decode("utf-8", "surrogateescape") if isinstance(value, bytes) else str(value)
            yield from (Entry(address, number) for address in proxied(text))


def _is_disabled(held: dict[str, list[bytes]]) -> bool:
    """By userAccountControl, where it was asked for. Mailboxes that nobody logs in to are none of these."""
    control, kind = ((held.get(name.lower()) or [b""])[0].decode("ascii", "replace") for name in (_ACCOUNT, _TYPE))
    return control.isdecimal() and bool(int(control) & _DISABLED) and kind not in _WITHOUT_LOGIN
