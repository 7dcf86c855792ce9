import pytest

from appliance.net.zone import Zone

TEXT = b"""$TTL 300
$ORIGIN example.com.
@ IN SOA ns. host. 1 2 3 4 5
  IN MX 10 MX
mx IN A 192.0.2.1
mx IN AAAA 2001:DB8::1
alias CNAME mx
away CNAME www.example.net.
loop1 CNAME loop2
loop2 CNAME loop1
*.wild IN TXT "a b" "c"
deep.er.wild A 192.0.2.9
$ORIGIN 2.0.192.in-addr.arpa.
@ SOA ns. host. 1 2 3 4 5
1 PTR mx.example.com.
host.example.org. 60 A 192.0.2.3
"""


@pytest.fixture(scope="module")
def zone() -> Zone:
    return Zone(TEXT)


@pytest.mark.parametrize(
    ("name", "rtype", "records"),
    [
        ("example.com", "MX", ("10 mx.example.com",)),
        ("EXAMPLE.com.", "MX", ("10 mx.example.com",)),
        ("mx.example.com", "AAAA", ("2001:db8::1",)),
        ("alias.example.com", "A", ("192.0.2.1",)),
        ("any.wild.example.com", "TXT", ("a bc",)),
        ("1.2.0.192.in-addr.arpa", "PTR", ("mx.example.com",)),
        ("host.example.org", "A", ("192.0.2.3",)),
    ],
)
def test_records(zone, name, rtype, records):
    assert zone.answer(name, rtype).records == records


def test_nodata_is_not_nxdomain(zone):
    assert zone.answer("mx.example.com", "TXT") == ("mx.example.com", "TXT", (), 60, True, False)
    assert zone.answer("nobody.example.com", "A").exists is False
    assert zone.answer("er.wild.example.com", "A").exists is True  # an empty non-terminal
    assert zone.answer("x.er.wild.example.com", "TXT").exists is False  # the wildcard ends at a closer name


def test_an_owner_outside_a_zone_has_nodata_for_other_types(zone):
    assert zone.answer("host.example.org", "MX") == ("host.example.org", "MX", (), 60, True, False)


def test_names_outside_are_asked_elsewhere(zone):
    assert zone.answer("example.net", "A") is None
    assert zone.answer("example.org", "A") is None
    assert zone.answer("away.example.com", "A") is None


def test_ttl_is_the_smallest_of_the_chain(zone):
    assert zone.answer("host.example.org", "A").ttl == 60
    assert zone.answer("alias.example.com", "A").ttl == 300


def test_cname_loop_ends(zone):
    assert zone.answer("loop1.example.com", "A").records == ()


@pytest.mark.parametrize("bad", [b"foo bar baz\n", b"$ORIGIN x.\na A 1.2.3\n", b"$INCLUDE /etc/passwd\n", b"\xff\xfe\n"])
def test_a_broken_file_says_where(bad):
    with pytest.raises(ValueError, match=r".+"):
        Zone(bad, "names.zone")


def test_the_error_names_file_and_line():
    with pytest.raises(ValueError, match=r"names\.zone:[34]"):
        Zone(b"$TTL 5\na.example. A 192.0.2.1\nb.example. A 192.0.2\n", "names.zone")
