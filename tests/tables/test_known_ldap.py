"""Recipients out of a real directory: pages, prefixes, disabled accounts, TLS, logins, and what is wrong with them."""

import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import trustme

from appliance.tables.known import Origin, keep
from appliance.tables.known.keep import Order, Outcome, known
from tests.peers.directory import BASE, PASSWORD, READER, Directory, person
from tests.peers.ports import free_port

pytestmark = [
    pytest.mark.peer,
    pytest.mark.skipif(
        not shutil.which("slapd", path="/usr/sbin:/usr/bin"),
        reason="Debian package slapd is not installed (make packages)",
    ),
]
CA, OTHER = trustme.CA(), trustme.CA()
PEOPLE = [
    person("Ann", "mail: Ann@Example.com", "proxyAddresses: SMTP:Ann@Example.com",
           "proxyAddresses: smtp:a.nn@example.com",
           "proxyAddresses: X500:/o=Corp/ou=x/cn=ann", "proxyAddresses: SIP:ann@example.com",
           "proxyAddresses: EUM:17@example.com;phone-context=x", "proxyAddresses: smtp:ann@corp.onmicrosoft.com"),
    person("Bob", "mail: bob@example.com", "userAccountControl: 514"),
    person("Room", "proxyAddresses: SMTP:room@example.com", "userAccountControl: 514", "msExchRecipientTypeDetails: 16"),
    person("Team", "proxyAddresses: SMTP:team@example.com", "msExchRequireAuthToSendTo: TRUE"),
    person("Idn", "mail:: w7xzZXJAYsO8Y2hlci5leGFtcGxl"),  # üser@bücher.example
    person("Odd", "mail: not an address", "proxyAddresses: smtp:@example.com", "proxyAddresses: smtp:"),
    person("Partner", "mail: someone@partner.example"),
    person("Nobody"),
]  # fmt: skip
OURS = ("example.com", "xn--bcher-kva.example")
ALL = {"ann@example.com", "a.nn@example.com", "bob@example.com", "room@example.com", "team@example.com",
       "üser@xn--bcher-kva.example"}  # fmt: skip


@pytest.fixture(scope="module")
def directory(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Directory]:
    server = Directory(tmp_path_factory.mktemp("ad") / "server", CA)
    crowd = [person(f"p{number}", f"mail: p{number}@crowd.example") for number in range(1200)]
    yield server.start("".join(PEOPLE + crowd))
    server.stop()


class Asking:
    def __init__(self, folder: Path, directory: Directory) -> None:
        self.folder, self.directory, self.ca = folder / "recipients", directory, folder / "ca.pem"
        self.folder.mkdir()
        CA.cert_pem.write_to_path(self.ca)

    def sync(
        self, secret: str = PASSWORD, domains: tuple[str, ...] = OURS, timeout: float = 20.0, **more: Any
    ) -> Outcome:
        origin = {
            "kind": "ldap", "source": (f"ldaps://localhost:{self.directory.port}",), "base": (BASE,), "bind_dn": READER,
            "tls_ca": str(self.ca), **more,
        }  # fmt: skip
        order = Order(
            name="x", folder=str(self.folder), origin=Origin(**origin), secret=secret, domains=domains, timeout=timeout
        )
        return keep.sync(order)

    def known(self) -> set[str]:
        return known(self.folder / "x")


@pytest.fixture
def asking(tmp_path: Path, directory: Directory) -> Asking:
    return Asking(tmp_path, directory)


def test_addresses_as_exchange_has_them(asking: Asking) -> None:
    found = asking.sync()
    assert (found.problem, asking.known()) == ("", ALL)
    assert found.foreign == 1202 and found.wrong == 2


def test_more_than_two_pages_though_the_server_gives_no_more_at_once(asking: Asking) -> None:
    found = asking.sync(domains=("crowd.example",))
    assert (found.problem, found.count) == ("", 1200)


def test_disabled_accounts_but_rooms(asking: Asking) -> None:
    assert asking.sync(skip_disabled=True).problem == ""
    assert asking.known() == ALL - {"bob@example.com"}


def test_a_filter_and_attributes_of_ones_own(asking: Asking) -> None:
    closed = "(&(proxyAddresses=*)(!(msExchRequireAuthToSendTo=TRUE)))"
    assert asking.sync(filter=closed, attributes=("proxyaddresses",)).problem == ""
    assert asking.known() == {"ann@example.com", "a.nn@example.com", "room@example.com"}


@pytest.mark.parametrize("source", ["ldaps", "starttls"])
def test_tls_is_verified(asking: Asking, source: str, tmp_path: Path) -> None:
    port = asking.directory.port if source == "ldaps" else asking.directory.ldap_port
    start = {"starttls": True} if source == "starttls" else {}
    url = f"{'ldaps' if source == 'ldaps' else 'ldap'}://localhost:{port}"
    assert asking.sync(source=(url,), **start).problem == ""
    OTHER.cert_pem.write_to_path(tmp_path / "other.pem")
    for ca in (str(tmp_path / "other.pem"), ""):
        found = asking.sync(source=(url,), tls_ca=ca, **start)
        assert "certificate verify failed" in found.problem and found.count == len(ALL)
    assert "invalid CA public key file" in asking.sync(source=(url,), tls_ca=str(tmp_path / "none.pem"), **start).problem
    assert asking.known() == ALL


def test_a_certificate_for_another_host(asking: Asking, tmp_path: Path) -> None:
    server = Directory(tmp_path / "server", CA, host="dc.corp.example")
    server.start(PEOPLE[0])
    try:
        found = asking.sync(source=(f"ldaps://localhost:{server.port}",))
        assert "certificate doesn't match the host's name" in found.problem
    finally:
        server.stop()


def test_a_wrong_password_is_not_tried_elsewhere_nor_soon(asking: Asking) -> None:
    source = tuple(f"ldaps://{host}:{asking.directory.port}" for host in ("localhost", "127.0.0.1"))
    found = asking.sync("wrong", source=source)
    assert "the bind is refused: invalidCredentials" in found.problem and not found.soon
    assert found.problem.count("bind") == 1


def test_the_next_server_is_asked_where_one_is_away(asking: Asking) -> None:
    away = f"ldaps://localhost:{free_port()}"
    assert asking.sync(source=(away, f"ldaps://localhost:{asking.directory.port}")).problem == ""
    found = asking.sync(source=(away,))
    assert away in found.problem and found.soon and asking.known() == ALL


def test_a_server_that_hangs(asking: Asking) -> None:
    assert asking.sync().problem == ""
    asking.directory.hang()
    try:
        found = asking.sync(timeout=1.5)
    finally:
        asking.directory.go_on()
    assert found.problem.startswith("the source has not ended within 1.5 s: ldaps://localhost:")
    assert asking.known() == ALL


@pytest.mark.parametrize(
    ("more", "said"),
    [
        ({"base": ("dc=none,dc=example",)}, "fails: noSuchObject"),
        ({"filter": "(mail=*"}, "invalid filter"),
        ({"secret": "", "bind_dn": ""}, "fails: noSuchObject"),  # nobody sees nothing here
    ],
)
def test_what_the_directory_refuses(asking: Asking, more: dict[str, Any], said: str) -> None:
    assert said in asking.sync(**more).problem and not asking.known()
