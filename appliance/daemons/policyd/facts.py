"""What a request says of the client: its address and names, its TLS session.

Contract: pure; the same facts come again and again and are remembered. What failure means for the mail: none; what cannot
be read is absent.
"""

from functools import lru_cache
from typing import NamedTuple

from appliance.mail.context import Client, NameProof, Role, Tls
from appliance.mail.login import Login
from appliance.mail.network import textual
from appliance.protocol.policy import Attributes
from appliance.protocol.smtp.address import Address


class Who(NamedTuple):
    """What is known of a client by its address and names."""

    address: str
    name: str
    reverse_name: str
    proof: NameProof
    role: Role
    trusted: bool


class Facts(NamedTuple):
    """What a request says of client and sender (None: there is none yet)."""

    who: Who
    sender: Address | None
    role: Role
    tls: Tls | None
    login: Login | None = None


def number(text: str) -> int:
    """What a number says, 0 for what is none."""
    return int(text) if text.isascii() and text.isdecimal() and len(text) < 16 else 0


@lru_cache(maxsize=4096)
def _facts(version: str, cipher: str, bits: str, subject: str) -> Tls:
    return Tls(version, cipher, number(bits), subject)


def tls_of(attributes: Attributes) -> Tls | None:
    """The TLS session, None without one."""
    version = attributes.get("encryption_protocol", "")
    if not version:
        return None
    get = attributes.get
    return _facts(
        version, get("encryption_cipher", ""), get("encryption_keysize", ""), _unxtext(get("ccert_subject", ""))
    )


def login_of(attributes: Attributes) -> Login | None:
    """Who has logged in, None: nobody."""
    get = attributes.get
    user = get("sasl_username", "")
    return Login(user, get("sasl_method", ""), get("sasl_sender", "")) if user else None


def _unxtext(text: str) -> str:
    """+HH is how Postfix hides odd characters of a certificate."""
    if "+" not in text:
        return text
    head, *parts = text.split("+")
    octets = head.encode("utf-8", "replace")
    for part in parts:
        try:
            octets += bytes.fromhex(part[:2]) + part[2:].encode("utf-8", "replace")
        except ValueError:
            return text
    return octets.decode("utf-8", "replace")


@lru_cache(maxsize=8192)
def client_of(who: Who, port: str, tls: Tls | None, server: str = "", server_port: str = "") -> Client:
    """The client as checks see it."""
    return Client(
        address=who.address,
        port=number(port),
        name=who.name,
        reverse_name=who.reverse_name,
        proof=who.proof,
        tls=tls,
        trusted_relay=who.trusted,
        server_address=textual(server),
        server_port=number(server_port),
    )
