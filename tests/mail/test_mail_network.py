"""Addresses and the networks that hold them: the fast ways say what the ipaddress module says."""

import ipaddress

import pytest

from appliance.mail.network import is_in, is_inside

NETWORKS = [ipaddress.ip_network(text) for text in ("192.0.2.0/24", "2001:db8::/32", "198.51.100.7/32")]


@pytest.mark.parametrize(
    ("address", "inside"),
    [
        ("9.255.255.255", False),
        ("10.0.0.0", True),
        ("10.255.255.255", True),
        ("11.0.0.0", False),
        ("100.63.255.255", False),
        ("100.127.255.255", True),
        ("172.32.0.0", False),
        ("::", True),
        ("::1", True),
        ("::2", False),
        ("fdff::1", True),
        ("fe80::1%eth0", True),
        ("fec0::1", False),
        ("::ffff:192.168.1.1", True),
        ("::ffff:8.8.8.8", False),
        ("local", True),
        ("", True),
        ("010.0.0.1", True),  # no address: it has a leading zero
        ("8.8.8.8\0", True),
    ],
)
def test_inside(address: str, inside: bool) -> None:
    assert is_inside(address) is inside


@pytest.mark.parametrize("address", ["192.0.2.0", "192.0.2.255", "::ffff:192.0.2.1", "2001:db8::1", "198.51.100.7"])
def test_in_a_network(address: str) -> None:
    assert is_in(NETWORKS, address)


@pytest.mark.parametrize(
    "address", ["192.0.3.0", "2001:db9::", "198.51.100.8", "192.0.2", "192.0.2.1 ", "0xc0000201", "local"]
)
def test_in_none(address: str) -> None:
    assert not is_in(NETWORKS, address)
