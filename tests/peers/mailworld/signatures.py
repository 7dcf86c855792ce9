"""Messages about signatures: how they are made, what happened to them on the way, and what their tags and keys say."""

import base64
import re
from collections.abc import Callable, Iterator
from typing import Any

import dkim as dkimpy
from cryptography.hazmat.primitives.asymmetric import rsa as numbers
from cryptography.hazmat.primitives.serialization import Encoding, NoEncryption, PrivateFormat

from tests.peers.mailworld import zone
from tests.peers.mailworld.case import BODY, Case, message
from tests.peers.mailworld.keys import Ed25519, Rsa, rsa
from tests.peers.mailworld.signing import HEADERS, sign

HOW = ("simple/simple", "simple/relaxed", "relaxed/simple", "relaxed/relaxed")
AUTHOR = "Joe <joe@reject.bv>"
BODIES = {
    "plain": BODY,
    "blanks": b"a" + b" " * 3000 + b"b\r\n \t \r\n\t\r\nend \t\r\n",
    "empty lines at the end": b"text\r\n\r\n\r\n\r\n",
    "no body": b"",
    "only empty lines": b"\r\n\r\n",
    "8-bit": "Grüße\r\nfrom\r\n".encode() * 9,
}
FOLDED = b"X-Folded: one\r\n\t two \t three\r\n   four\r\nSubject2:x\r\n"


def _case(name: str, kind: str, content: bytes, word: str, **more: Any) -> Case:
    """Sent by a server that SPF does not let in, so that DMARC hangs on the signature alone."""
    dmarc = {"pass": ("pass", "reject"), "temperror": ("temperror", "reject")}.get(word, ("fail", "reject"))
    given: dict[str, Any] = {"address": zone.BAD, "spf": "fail", "dkim": (word,), "dmarc": dmarc, "author": "reject.bv"}
    given |= {"signers": ("reject.bv",)}
    return Case(name, kind, content, "joe@reject.bv", **given | more)


def by_dkimpy(content: bytes, key: Rsa | Ed25519, selector: str, how: str) -> bytes:
    """The same by another's signer: an oracle of our own one."""
    canon = tuple(part.encode() for part in how.split("/"))
    secret = base64.b64encode(key.seed) if isinstance(key, Ed25519) else _pem(key)
    algorithm = f"{key.k}-sha256".encode()
    names = [name.encode() for name in HEADERS]
    made = dkimpy.DKIM(content, signature_algorithm=algorithm).sign(
        selector.encode(), b"reject.bv", secret, canonicalize=canon, include_headers=names
    )
    return bytes(made) + content


def _pem(key: Rsa) -> bytes:
    n, d = key.modulus, key.secret
    p, q = numbers.rsa_recover_prime_factors(n, 65537, d)
    crt = numbers.rsa_crt_dmp1(d, p), numbers.rsa_crt_dmq1(d, q), numbers.rsa_crt_iqmp(p, q)
    secret = numbers.RSAPrivateNumbers(p, q, d, *crt, numbers.RSAPublicNumbers(65537, n)).private_key()
    return secret.private_bytes(Encoding.PEM, PrivateFormat.TraditionalOpenSSL, NoEncryption())


def made() -> Iterator[Case]:
    """Every key, canonicalisation and kind of body: all valid."""
    for number, (selector, how, body) in enumerate((s, h, b) for s in ("s", "r1", "e") for h in HOW for b in BODIES):
        key = zone.KEYS[selector]
        content = message(AUTHOR, "valid", BODIES[body], FOLDED)
        name = f"{key.k}-{key.bits} {how}, {body}"
        if number % 3 == 0 and how != "simple/simple":
            yield _case(f"{name}, by dkimpy", f"valid {key.k}", by_dkimpy(content, key, selector, how), "pass")
        else:
            yield _case(name, f"valid {key.k}", sign(content, key, "reject.bv", selector, how), "pass")


def _after_colon(content: bytes) -> bytes:
    return content.replace(b"\r\nSubject: ", b"\r\nSubject:   ")


#: What happens on the way: -> (change, canonicalisations that survive it: header, body).
WAYS: dict[str, tuple[Callable[[bytes], bytes], bool | str]] = {
    "body altered": (lambda c: c.replace(b"Dear user", b"Dear ueser"), False),
    "body line added": (lambda c: c + b"-- \r\nlist footer\r\n", False),
    "first octet": (lambda c: c.replace(b"Dear", b"dear"), False),
    "empty lines added at the end": (lambda c: c + b"\r\n\r\n\r\n", True),
    "blanks at line ends": (lambda c: c.replace(b"user,\r\n", b"user,  \r\n"), "body"),
    "blanks doubled": (lambda c: c.replace(b"is a\tmess", b"is  a mess"), "body"),
    "blank inserted": (lambda c: c.replace(b"message.", b"mess age."), False),
    "subject tagged": (lambda c: c.replace(b"\r\nSubject: ", b"\r\nSubject: [list] "), False),
    "subject folded": (lambda c: c.replace(b"Subject: on the", b"Subject: on\r\n the"), "header"),
    "name in capitals": (lambda c: c.replace(b"\r\nSubject: ", b"\r\nSUBJECT: "), "header"),
    "blanks behind the colon": (_after_colon, "header"),
    "author altered": (lambda c: c.replace(b"joe@reject.bv>", b"eve@reject.bv>"), False),
    "unsigned field added": (lambda c: b"X-Seen: yes\r\n" + c, True),
    "fields in another order": (
        lambda c: c.replace(b"MIME-Version: 1.0\r\n", b"").replace(b"\r\n\r\n", b"\r\nMIME-Version: 1.0\r\n\r\n", 1),
        True,
    ),
    "signed field removed": (lambda c: c.replace(b"To: User <user@example.com>\r\n", b""), False),
    "second subject on top": (lambda c: b"Subject: buy\r\n" + c, True),
    "second subject below": (lambda c: c.replace(b"\r\n\r\n", b"\r\nSubject: buy\r\n\r\n", 1), False),
    "b= altered": (lambda c: _altered(c, rb"\bb="), False),
    "bh= altered": (lambda c: _altered(c, rb"\bbh="), False),
    "Received on top": (lambda c: b"Received: from a by b; " + b"Tue, 14 Nov 2023 22:13:20 +0000\r\n" + c, True),
}


def _altered(content: bytes, tag: bytes) -> bytes:
    def turn(found: "re.Match[bytes]") -> bytes:
        return found[1] + (b"B" if found[2] == b"A" else b"A")

    return re.sub(rb"(" + tag + rb"[\w+/]{6})([\w+/])", turn, content, count=1)


def on_the_way() -> Iterator[Case]:
    for name, (change, survives) in WAYS.items():
        for how in HOW:
            header, body = how.split("/")
            fine = (
                survives is True
                or (survives == "body" and body == "relaxed")
                or (survives == "header" and header == "relaxed")
            )
            content = sign(message(AUTHOR, "on the way"), rsa(1024), "reject.bv", "r1", how)
            changed = change(content)
            assert changed != content, name
            kind = "altered" if name != "second subject on top" else "second Subject added"
            doubled = {"dmarc": ("fail", "reject")} if kind != "altered" else {}
            yield _case(f"{name}, {how}", kind, changed, "pass" if fine else "fail", **doubled)
    for name in ("from", "subject", "reply-to"):
        content = sign(message(AUTHOR, "oversigned"), rsa(1024), "reject.bv", "r1", headers=(*HEADERS, name))
        yield _case(f"{name} oversigned", "valid rsa", content, "pass")
        if name != "from":
            yield _case(f"{name} oversigned, added", "altered", name.encode() + b": x@bad.bv\r\n" + content, "fail")
