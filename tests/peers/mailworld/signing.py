"""A DKIM signer (RFC 6376, 8463) that can also sign wrongly on purpose: every tag may be overridden."""

import base64
import hashlib
import re
from collections.abc import Mapping, Sequence

from tests.peers.mailworld.keys import Ed25519, Rsa

HEADERS = ("from", "to", "subject", "date", "message-id")
#: The moment at which all messages are signed (t=), unless a case says otherwise.
SIGNED_AT = 1_700_000_000


def body_of(body: bytes, how: str) -> bytes:
    if how == "relaxed":
        lines = [re.sub(rb"[ \t]+", b" ", line).rstrip(b" ") for line in body.split(b"\r\n")]
        body = b"\r\n".join(lines)
    end = len(body)
    while body.endswith(b"\r\n\r\n", 0, end):
        end -= 2
    body = body[:end]
    if body == b"\r\n" and how == "relaxed":
        return b""
    if body and not body.endswith(b"\r\n"):
        body += b"\r\n"
    return body or (b"" if how == "relaxed" else b"\r\n")


def field_of(field: bytes, how: str) -> bytes:
    """One field, its last line end included."""
    if how == "simple":
        return field
    name, _, value = field.partition(b":")
    unfolded = re.sub(rb"[ \t]+", b" ", value.replace(b"\r\n", b"")).strip(b" ")
    return name.strip().lower() + b":" + unfolded + b"\r\n"


def fields_of(header: bytes) -> list[bytes]:
    return re.findall(rb"[^\r\n][^\r\n]*\r\n(?:[ \t][^\r\n]*\r\n)*", header)


def _chosen(header: bytes, names: Sequence[str]) -> list[bytes]:
    """The fields that h= names, from the last of each name upwards; what is not there signs nothing."""
    left: dict[bytes, list[bytes]] = {}
    for field in fields_of(header):
        left.setdefault(field.split(b":")[0].strip().lower(), []).append(field)
    stacks = (left.get(name.lower().encode()) for name in names)
    return [stack.pop() for stack in stacks if stack]


def sign(
    message: bytes,
    key: Rsa | Ed25519,
    domain: str,
    selector: str = "s",
    how: str = "relaxed/relaxed",
    headers: Sequence[str] = HEADERS,
    digest: str = "sha256",
    length: int | None = None,
    tags: Mapping[str, str | None] | None = None,
) -> bytes:
    """`message` with a DKIM-Signature on top. `tags` override or add tags ("x": "1"); None leaves one out."""
    header, _, body = message.partition(b"\r\n\r\n")
    header += b"\r\n"
    of_header, of_body = how.split("/")
    octets = body_of(body, of_body)
    if length is not None:
        octets = octets[:length]
    made: dict[str, str | None] = {"v": "1", "a": f"{key.k}-{digest}", "c": how, "d": domain, "s": selector}
    made |= {"t": str(SIGNED_AT), "h": ":".join(headers)}
    made |= {"l": str(length)} if length is not None else {}
    made |= {"bh": base64.b64encode(hashlib.new(digest, octets).digest()).decode()} | dict(tags or {})
    text = "; ".join(f"{name}={value}" for name, value in made.items() if value is not None)
    field = b"DKIM-Signature: " + _folded(text).encode() + b"; b="
    signed = b"".join(field_of(one, of_header) for one in _chosen(header, headers))
    signed += field_of(field + b"\r\n", of_header)[:-2]
    value = base64.b64encode(key.sign(signed, digest)).decode()
    return field + _folded(value).encode() + b"\r\n" + message


def _folded(text: str) -> str:
    return (
        "\r\n\t".join(text[n : n + 72] for n in range(0, len(text), 72))
        if "; " not in text
        else text.replace("; ", ";\r\n\t")
    )
