"""The PROXY protocol, versions 1 and 2: who is behind the load balancer (HAProxy's proxy-protocol.txt).

Contract: `parse` looks at the octets from the start of a connection and nothing else; who may send a header at all is
the session's affair (threats B12). Extensions (TLVs) are skipped. What failure means for the mail: ProtocolError, the
connection ends without a word; nothing was promised.
"""

import ipaddress
import re
import struct
from typing import NamedTuple

from appliance.protocol.errors import ProtocolError

SIGNATURE = b"\r\n\r\n\0\r\nQUIT\n"
#: Octets of a version 1 line with its CRLF (section 2.1), and what a version 2 header may carry behind its 16 octets.
MAX_V1 = 107
MAX_V2_BODY = 4096

_V1 = re.compile(rb"PROXY (?:(TCP4|TCP6) ([0-9A-Fa-f.:]++) ([0-9A-Fa-f.:]++) ([0-9]{1,5}) ([0-9]{1,5})|UNKNOWN(?: .*+)?)")
_HEAD = struct.Struct(">12sBBH")
#: Length of the addresses by family (section 2.2): IPv4, IPv6, unix.
_ADDRESSES = {1: 12, 2: 36, 3: 216}


class ProxyInfo(NamedTuple):
    """Both ends of the connection as the proxy saw it. `address` is compressed, "local" for a unix socket.

    `address` "" means: the proxy speaks for itself (LOCAL, a health check) or does not know: the socket's peer counts.
    """

    version: int
    address: str = ""
    port: int = 0
    destination: str = ""
    destination_port: int = 0


def parse(data: bytes) -> tuple[ProxyInfo | None, int]:
    """(header, octets it takes), or (None, 0) while it is incomplete. Raises ProtocolError on anything else."""
    if data.startswith(b"PROXY "):
        return _version_1(data)
    if data.startswith(SIGNATURE):
        return _version_2(data)
    if b"PROXY ".startswith(data[:6]) or SIGNATURE.startswith(data[: len(SIGNATURE)]):
        return None, 0
    raise ProtocolError("no PROXY header at the start of the connection")


def _version_1(data: bytes) -> tuple[ProxyInfo | None, int]:
    end = data.find(b"\r\n", 0, MAX_V1)
    if end < 0:
        if len(data) >= MAX_V1 or b"\n" in data:
            raise ProtocolError("PROXY line without its end")
        return None, 0
    match = _V1.fullmatch(data[:end])
    if not match:
        raise ProtocolError("PROXY line that is none")
    if not match[1]:
        return ProxyInfo(1), end + 2
    version = 4 if match[1] == b"TCP4" else 6
    source, destination = (_textual(part.decode("ascii"), version) for part in (match[2], match[3]))
    ports = int(match[4]), int(match[5])
    if max(ports) > 65535:
        raise ProtocolError("PROXY line with an impossible port")
    return ProxyInfo(1, source, ports[0], destination, ports[1]), end + 2


def _textual(address: str, version: int) -> str:
    try:
        parsed = ipaddress.ip_address(address)
    except ValueError as error:
        raise ProtocolError("PROXY line with an impossible address") from error
    if parsed.version != version:
        raise ProtocolError("PROXY line whose address is of another family")
    return _plain(parsed)


def _plain(address: ipaddress.IPv4Address | ipaddress.IPv6Address) -> str:
    """An IPv4 address that came over an IPv6 socket is that IPv4 address for every table and list."""
    return str(getattr(address, "ipv4_mapped", None) or address)


def _version_2(data: bytes) -> tuple[ProxyInfo | None, int]:
    if len(data) < _HEAD.size:
        return None, 0
    _, version_command, family_protocol, length = _HEAD.unpack_from(data)
    if version_command not in (0x20, 0x21) or length > MAX_V2_BODY:
        raise ProtocolError("PROXY header of an unknown version or command, or too long")
    end = _HEAD.size + length
    if len(data) < end:
        return None, 0
    family, protocol = family_protocol >> 4, family_protocol & 15
    if version_command == 0x20 or family_protocol == 0:
        return ProxyInfo(2), end
    if family not in _ADDRESSES or protocol != 1 or length < _ADDRESSES[family]:
        raise ProtocolError("PROXY header for no stream, or cut short")
    return _addresses(family, data[_HEAD.size : _HEAD.size + _ADDRESSES[family]]), end


def _addresses(family: int, block: bytes) -> ProxyInfo:
    if family == 3:
        return ProxyInfo(2, "local", 0, "local", 0)
    size = 4 if family == 1 else 16
    kind = ipaddress.IPv4Address if family == 1 else ipaddress.IPv6Address
    ports = struct.unpack_from(">HH", block, 2 * size)
    return ProxyInfo(2, _plain(kind(block[:size])), ports[0], _plain(kind(block[size : 2 * size])), ports[1])
