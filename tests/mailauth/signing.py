"""Signed messages for tests: keys, what DNS says of them, a signer that does whatever it is told, and the verifier asked
in one call, which sees that the short way says the same. The signer shares no code with ours; what it makes honestly,
stock dkimpy verifies (test_dkim_verify)."""

import base64
import hashlib
import re
from collections.abc import Generator, Iterator, Mapping
from functools import cache
from typing import Any, TypeVar

from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ed25519, padding, rsa

from appliance.mail.auth import ArcReport, DkimReport, Signature
from appliance.mailauth import arc, dkim
from appliance.mailauth.dkim import Rules
from appliance.mailauth.dkim_body import PIECE
from appliance.mailauth.dkim_message import Message
from appliance.protocol.dns import Answer
from appliance.protocol.errors import Unavailable

NOW = 1_790_000_000.0
RULES = Rules(now=NOW)
#: Nobody can make such a key any more: `cryptography` refuses (RFC 8301).
PEM_512 = b"""-----BEGIN RSA PRIVATE KEY-----
MIIBOwIBAAJBANJpwxoamQmTpfWRX9uJ3GjbkY+1uuyx+Cm2wdyIsV4qCR2F03gh
9xy7zx+DuVTc8Rc/PG+Wy2gweJgnTQb/ly0CAwEAAQJAWJIiiWN21hwruOIX6q7u
c8kxTcAezjHgF5cRpcZ4ev0NYm+BAuAbZbrrZeC9NQkC+LbOA+bBPweLZvpp/cfz
NQIhAO4HK+G7jHbUE4fMcLKn/+Mn/Qti7G9z5gOyiAYnNU0bAiEA4kzTDMiXQwCB
JRDMFOv2sbvVFUAH6oVTY5XdVKl8WVcCIQCdJdbu3WfLPBD44xy0lv319vy1e8Yl
fxso7cGoblJeaQIhANH0Gr66f/PuzOKZoe4rOfaN4NTVUkLYLZSwHueEU1UDAiAw
054IJyLCBZjQdznEZhqb1+I8O7ye3BUSQHBd5czXUw==
-----END RSA PRIVATE KEY-----
"""
#: The Ed25519 key of RFC 8463 A.2.
ED25519_SECRET = base64.b64decode("nWGxne/9WmC6hEr0kuwsxERJxWl7MmkZcDusAxyuf2A=")
ED25519_RECORD = "v=DKIM1; k=ed25519; p=11qYAYKxCrfVS/7TyWQHOg7hcvPapiMlrwIaaPcHURo="
HEADER = (
    b"From: Alice <alice@example.org>\r\n"
    b"To: bob@example.com\r\n"
    b"Subject: A  subject\r\n\twith a fold \r\n"
    b"Date: Mon, 1 Jan 2026 00:00:00 +0000\r\n"
    b"Message-ID: <1@example.org>\r\n"
)
BODY = b"Hello  Bob,\r\n\r\n\tblanks \t at the end \t \r\nand an end.\r\n\r\n\r\n"
MAIL = HEADER + b"\r\n" + BODY
TAGS = {
    "v": "1",
    "a": "rsa-sha256",
    "c": "relaxed/relaxed",
    "d": "example.org",
    "s": "s",
    "h": "From:To:Subject:Date:Message-ID",
}
Report = TypeVar("Report")


class Letter:
    """mail.ports.Content of octets."""

    def __init__(self, octets: bytes, limit: int = 524288) -> None:
        self.octets = octets
        end = octets.find(b"\r\n\r\n")
        whole = len(octets) if end < 0 else end + 4
        self.header, self.header_complete = octets[: min(whole, limit)], whole <= limit
        self.size = len(octets)

    def chunks(self, size: int = 65536) -> Iterator[bytes]:
        return (self.octets[start : start + size] for start in range(0, self.size, size))

    def open_fd(self) -> int:
        raise OSError


@cache
def secret(bits: int) -> rsa.RSAPrivateKey:
    if bits < 1024:
        key = serialization.load_pem_private_key(PEM_512, None, unsafe_skip_rsa_key_validation=True)
        assert isinstance(key, rsa.RSAPrivateKey)
        return key
    return rsa.generate_private_key(65537, bits)


def pem(bits: int) -> bytes:
    kind = serialization.PrivateFormat.TraditionalOpenSSL
    return secret(bits).private_bytes(serialization.Encoding.PEM, kind, serialization.NoEncryption())


def der(bits: int, pkcs1: bool = False) -> bytes:
    kind = serialization.PublicFormat.PKCS1 if pkcs1 else serialization.PublicFormat.SubjectPublicKeyInfo
    return secret(bits).public_key().public_bytes(serialization.Encoding.DER, kind)


def record(bits: int = 2048, tags: str = "v=DKIM1; k=rsa; ", pkcs1: bool = False) -> str:
    return f"{tags}p={base64.b64encode(der(bits, pkcs1)).decode()}"


def b64(octets: bytes) -> str:
    return base64.b64encode(octets).decode()


# -- canonical forms, written down as RFC 6376 3.4 says them


def body_of(octets: bytes) -> bytes:
    return octets.partition(b"\r\n\r\n")[2]


def canonical_body(body: bytes, how: str) -> bytes:
    lines = body.split(b"\r\n")
    if how == "relaxed":
        lines = [re.sub(rb"[ \t]+", b" ", line).rstrip(b" ") for line in lines]
    while lines and not lines[-1]:
        lines.pop()
    if not lines:
        return b"" if how == "relaxed" else b"\r\n"
    return b"\r\n".join(lines) + b"\r\n"


def canonical_field(field: bytes, how: str) -> bytes:
    if how != "relaxed":
        return field
    name, _, value = field.partition(b":")
    return name.strip().lower() + b":" + re.sub(rb"[ \t]+", b" ", value.replace(b"\r\n", b"")).strip(b" ")


def fields_of(octets: bytes) -> list[bytes]:
    return re.split(rb"\r\n(?![ \t])", octets.partition(b"\r\n\r\n")[0])


def _signature(data: bytes, algorithm: str, bits: int) -> str:
    if algorithm.startswith("ed25519"):
        key = ed25519.Ed25519PrivateKey.from_private_bytes(ED25519_SECRET)
        return b64(key.sign(hashlib.sha256(data).digest()))
    kind = hashes.SHA1() if algorithm.endswith("sha1") else hashes.SHA256()
    return b64(secret(bits).sign(data, padding.PKCS1v15(), kind))


def signature(octets: bytes, bits: int = 2048, name: str = "DKIM-Signature", **more: str | None) -> bytes:
    """The field with its CRLF. `more` are tags to set, or to leave out (None)."""
    tags = {key: text for key, text in {**TAGS, **more}.items() if text is not None}
    how = (tags.get("c", "simple") + "/simple").split("/")
    algorithm = tags.get("a", "rsa-sha256")
    body = canonical_body(body_of(octets), how[1])[: int(tags["l"]) if tags.get("l", "").isdigit() else None]
    if "bh" not in more:
        tags["bh"] = b64(hashlib.new("sha1" if algorithm.endswith("sha1") else "sha256", body).digest())
    fields: dict[bytes, list[bytes]] = {}
    for field in fields_of(octets):
        fields.setdefault(field.partition(b":")[0].strip().lower(), []).append(field)
    chosen = [fields.get(wanted.strip().lower().encode(), []) for wanted in tags.get("h", "").split(":")]
    signed = b"".join(canonical_field(found.pop(), how[0]) + b"\r\n" for found in chosen if found)
    text = f"{name}: " + ";\r\n ".join(f"{key}={text}" for key, text in tags.items()) + ";\r\n b="
    own = text.encode("utf-8")
    made = _signature(signed + canonical_field(own, how[0]), algorithm, bits)
    return own + made.encode() + b"\r\n"


def sign(octets: bytes = MAIL, bits: int = 2048, **more: str | None) -> bytes:
    """`octets` with a DKIM-Signature on top."""
    return signature(octets, bits, **more) + octets


def seal(octets: bytes, bits: int = 2048, claims: str = "mx.example.net; spf=pass", **more: str | None) -> bytes:
    """`octets` with the next ARC set on top (RFC 8617 5.1). `more` are tags of the seal."""
    sets = sets_of(octets)
    instance = str(len(sets) + 1)
    domain, selector = more.get("d", "example.org"), more.get("s", "s")
    results = f"ARC-Authentication-Results: i={instance}; {claims}\r\n".encode()
    message = signature(
        octets, bits, "ARC-Message-Signature", v=None, i=instance, d=domain, s=selector, h="From:To:Subject"
    )
    tags = {"i": instance, "a": "rsa-sha256", "cv": "pass" if sets else "none", "d": domain, "s": selector, **more}
    own = ("ARC-Seal: " + "; ".join(f"{key}={text}" for key, text in tags.items() if text is not None) + "; b=").encode()
    signed = b"".join(canonical_field(field, "relaxed") + b"\r\n" for one in sets for field in one)
    signed += b"".join(canonical_field(field.removesuffix(b"\r\n"), "relaxed") + b"\r\n" for field in (results, message))
    made = _signature(signed + canonical_field(own, "relaxed"), "rsa-sha256", bits)
    return own + made.encode() + b"\r\n" + message + results + octets


def sets_of(octets: bytes) -> list[tuple[bytes, bytes, bytes]]:
    """The sets in a message that this module sealed, oldest first."""
    found = [field for field in fields_of(octets) if field.lower().startswith(b"arc-")]
    return [(found[i + 2], found[i + 1], found[i]) for i in range(len(found) - 3, -1, -3)]


# -- the verifier in one call


def answers(names: list[str], keys: Mapping[str, Any] | str | None) -> dict[str, Answer | Unavailable]:
    """What DNS says: the same record for all, or a record, records or an error by selector ("s") or whole name."""
    found: dict[str, Answer | Unavailable] = {}
    for name in names:
        said = record() if keys is None else keys
        if isinstance(said, Mapping):
            said = said.get(name, said.get(name.partition(".")[0], ()))
        if isinstance(said, Unavailable):
            found[name] = said
        else:
            texts = (said,) if isinstance(said, str) else tuple(said)
            found[name] = Answer(name, "TXT", texts, 300, bool(texts))
    return found


def run(work: Generator[None, None, Report]) -> Report:
    """To the end, without a pause."""
    while True:
        try:
            next(work)
        except StopIteration as end:
            found: Report = end.value
            return found


def report(octets: bytes, keys: Any = None, rules: Rules = RULES) -> DkimReport:
    letter = Letter(octets)
    message = Message(letter)
    signatures, unread = dkim.read(message, rules.signatures)
    said = answers(dkim.questions(signatures), keys)
    found = run(dkim.judge(letter, message, signatures, unread, said, rules))
    short = dkim.at_once(letter, Message(letter), signatures, unread, said, rules)
    assert short == (found if len(signatures) == 1 and letter.size <= PIECE and not message.unreadable else None)
    return found


def only(octets: bytes, keys: Any = None, rules: Rules = RULES) -> Signature:
    """The report of a message with one signature."""
    found = report(octets, keys, rules)
    assert len(found.signatures) == 1 and not found.unread, found
    return found.signatures[0]


def chain(octets: bytes, keys: Any = None, rules: Rules = RULES) -> ArcReport:
    letter = Letter(octets)
    message = Message(letter)
    found = arc.read(message)
    return run(arc.judge(letter, message, found, answers(arc.questions(found), keys), rules))
