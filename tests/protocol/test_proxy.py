"""PROXY protocol headers: both versions, at every split, with sizes capped and anything else refused."""

import ipaddress
import struct

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from appliance.protocol.errors import ProtocolError
from appliance.protocol.proxy import SIGNATURE, ProxyInfo, parse


def version_2(command: int, family: int, body: bytes) -> bytes:
    return SIGNATURE + struct.pack(">BBH", command, family, len(body)) + body


def ends(source: str, destination: str, ports: tuple[int, int]) -> bytes:
    return b"".join(ipaddress.ip_address(a).packed for a in (source, destination)) + struct.pack(">HH", *ports)


V4 = ends("192.0.2.7", "198.51.100.1", (50000, 25))
V6 = ends("2001:db8::7", "2001:db8::1", (50000, 25))
TLV = b"\x04\x00\x05abcde" + b"\x20\x00\x03xyz"

GOOD = [
    (b"PROXY TCP4 192.0.2.7 198.51.100.1 50000 25\r\n", ProxyInfo(1, "192.0.2.7", 50000, "198.51.100.1", 25)),
    (b"PROXY TCP6 2001:DB8:0::7 2001:db8::1 50000 25\r\n", ProxyInfo(1, "2001:db8::7", 50000, "2001:db8::1", 25)),
    (b"PROXY TCP6 ::ffff:192.0.2.7 ::1 1 25\r\n", ProxyInfo(1, "192.0.2.7", 1, "::1", 25)),
    (b"PROXY UNKNOWN\r\n", ProxyInfo(1)),
    (b"PROXY UNKNOWN ffff::1 ffff::2 65535 65535\r\n", ProxyInfo(1)),
    (version_2(0x21, 0x11, V4), ProxyInfo(2, "192.0.2.7", 50000, "198.51.100.1", 25)),
    (version_2(0x21, 0x11, V4 + TLV), ProxyInfo(2, "192.0.2.7", 50000, "198.51.100.1", 25)),
    (version_2(0x21, 0x21, V6), ProxyInfo(2, "2001:db8::7", 50000, "2001:db8::1", 25)),
    (version_2(0x21, 0x31, bytes(216)), ProxyInfo(2, "local", 0, "local", 0)),
    (version_2(0x20, 0x00, b""), ProxyInfo(2)),
    (version_2(0x20, 0x11, V4), ProxyInfo(2)),
    (version_2(0x21, 0x00, TLV), ProxyInfo(2)),
    (version_2(0x21, 0x11, V4 + bytes(4096 - len(V4))), ProxyInfo(2, "192.0.2.7", 50000, "198.51.100.1", 25)),
]


@pytest.mark.parametrize(("header", "info"), GOOD)
def test_header_at_every_length(header: bytes, info: ProxyInfo) -> None:
    for size in range(len(header)):
        assert parse(header[:size]) == (None, 0), size
    assert parse(header) == (info, len(header))
    assert parse(header + b"EHLO x\r\n") == (info, len(header))


BAD = [
    b"EHLO x\r\n",
    b"P\0",
    b"proxy TCP4",
    b"\r\n\r\n\0\r\nQUIT\r",
    b"PROXY \r\n",
    b"PROXY TCP4\r\n",
    b"PROXY TCP5 192.0.2.7 198.51.100.1 1 25\r\n",
    b"PROXY TCP4 192.0.2.7 198.51.100.1 1\r\n",
    b"PROXY TCP4 192.0.2.7 198.51.100.1 1 25 \r\n",
    b"PROXY TCP4  192.0.2.7 198.51.100.1 1 25\r\n",
    b"PROXY TCP4 192.0.2.256 198.51.100.1 1 25\r\n",
    b"PROXY TCP4 2001:db8::7 2001:db8::1 1 25\r\n",
    b"PROXY TCP6 192.0.2.7 198.51.100.1 1 25\r\n",
    b"PROXY TCP4 192.0.2.7 198.51.100.1 65536 25\r\n",
    b"PROXY TCP4 192.0.2.7 198.51.100.1 -1 25\r\n",
    b"PROXY TCP4 192.0.2.7 198.51.100.1 1 25\n",
    b"PROXY TCP4 192.0.2.7 198.51.100.1 1 25\nEHLO x\r\n",
    b"PROXY TCP4 mail.example 198.51.100.1 1 25\r\n",
    b"PROXY UNKNOWN " + b"x" * 100 + b"\r\n",
    b"PROXY UNKNOWN " + b"x" * 93,
    version_2(0x11, 0x11, V4),
    version_2(0x22, 0x11, V4),
    version_2(0x21, 0x12, V4),
    version_2(0x21, 0x41, V4),
    version_2(0x21, 0x10, V4),
    version_2(0x21, 0x11, V4[:-1]),
    version_2(0x21, 0x21, V4),
    version_2(0x21, 0x11, V4 + bytes(4097 - len(V4))),
    SIGNATURE + struct.pack(">BBH", 0x21, 0x11, 4097),
]


@pytest.mark.parametrize("header", BAD)
def test_refused(header: bytes) -> None:
    with pytest.raises(ProtocolError):
        parse(header)


@settings(deadline=None)
@given(st.sampled_from([b"", b"PROXY ", b"PROXY TCP4 1.2.3.4 ", SIGNATURE, SIGNATURE + b"\x21"]), st.binary(max_size=60))
def test_total(start: bytes, more: bytes) -> None:
    try:
        info, consumed = parse(start + more)
    except ProtocolError:
        return
    assert (info is None) is (consumed == 0)
    assert consumed <= len(start + more)
