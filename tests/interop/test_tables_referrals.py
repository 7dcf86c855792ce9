"""ldap tables with `chase_referrals = yes`: real servers that refer to others. What cannot be followed puts off, and no
server that was named sees our name, our password, or a line without the TLS of the first."""

import asyncio
import shutil
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import NamedTuple

import pytest
import trustme

from appliance.mail.ports import Unavailable
from appliance.tables import wire
from appliance.tables.proxied import Asked, Step, open_proxied, referrals
from appliance.tables.proxied.keeper import Keeper
from tests.peers.databases import READER, SUFFIX, Slapd
from tests.peers.ports import free_port
from tests.peers.postfix import looked_up

pytestmark = pytest.mark.peer

CA = trustme.CA()
BASE = SUFFIX + READER
FAR = "dn: ou=far,dc=example,dc=com\nobjectClass: organizationalUnit\nou: far\n\n"
HERE = "127.0.0.1"


def person(name: str, unit: str = "") -> str:
    lines = [f"dn: cn={name},{unit}dc=example,dc=com", "objectClass: inetOrgPerson", "objectClass: mailUser"]
    return (
        "\n".join([*lines, f"cn: {name}", f"sn: {name}", f"mail: {name}@example.com", f"maildrop: {name}@inside"])
        + "\n\n"
    )


def refer(name: str, *urls: str) -> str:
    lines = [f"dn: ou={name},dc=example,dc=com", "objectClass: referral", "objectClass: extensibleObject", f"ou: {name}"]
    return "\n".join([*lines, *(f"ref: {url}" for url in urls)]) + "\n\n"


class World(NamedTuple):
    folder: Path
    ports: dict[str, int]

    def text(self, name: str, more: str = "", base: str = "dc=example,dc=com") -> str:
        login = "bind_dn = cn=reader,dc=example,dc=com\nbind_pw = s3 cret\n"
        server = more if "server_host" in more else f"server_host = ldap://{HERE}:{self.ports[name]}\n{more}"
        return f"{server}{login}search_base = {base}\nquery_filter = (mail=%s)\nchase_referrals = yes\ntimeout = 5\n"


@pytest.fixture(scope="module")
def world(tmp_path_factory: pytest.TempPathFactory) -> Iterator[World]:
    """`far` has an entry, the others refer; `tls` and `far` speak TLS, too."""
    if not shutil.which("slapd", path="/usr/sbin:/usr/bin"):
        pytest.skip("Debian package slapd is not installed (make packages)")
    folder = tmp_path_factory.mktemp("ldap")
    folder.chmod(0o777)
    made = CA.issue_cert(HERE)
    for name, pem in (("ca", CA.cert_pem), ("cert", made.cert_chain_pems[0]), ("key", made.private_key_pem)):
        pem.write_to_path(str(folder / f"{name}.pem"))
        (folder / f"{name}.pem").chmod(0o644)
    pems = ("CACertificateFile", "ca"), ("CertificateFile", "cert"), ("CertificateKeyFile", "key")
    tls = "".join(f"TLS{name} {folder}/{file}.pem\n" for name, file in pems)
    ports = {"dead": free_port(), "far tls": free_port(), "tls tls": free_port()}
    servers: list[Slapd] = []

    def start(name: str, entries: str, conf: str = "", others: str = "by * read") -> None:
        server = Slapd(folder / name.replace(" ", "-"))
        servers.append(server)
        ports[name] = server.port
        secure = (f"ldaps://{HERE}:{ports[f'{name} tls']}/",) if conf == tls else ()
        server.start(BASE + person("near") + entries.replace("SELF", str(server.port)), conf, others, secure)

    start("far", FAR + person("far", "ou=far,"), tls)
    far = f"ldap://{HERE}:{ports['far']}/ou=far,dc=example,dc=com"
    dead = f"ldap://{HERE}:{ports['dead']}/ou=far,dc=example,dc=com"
    start("near", refer("far", far), f"referral ldap://{HERE}:{ports['far']}/\n")
    start("two", refer("two", dead, far))
    start("away", refer("away", dead))
    start("loop", refer("loop", f"ldap://{HERE}:SELF/ou=loop,dc=example,dc=com"))
    start("wrong", refer("wrong", f"ldap://{HERE}:{ports['far']}/ou=nowhere,dc=example,dc=com"))
    start("hop", refer("hop", f"ldap://{HERE}:{ports['two']}/dc=example,dc=com"))
    start("many", "".join(refer(f"many{number}", far) for number in range(referrals.MOST + 1)))
    start("tls", refer("far", far), tls)
    start("secure", refer("far", f"ldaps://{HERE}:{ports['far tls']}/ou=far,dc=example,dc=com"))
    start("strict", FAR + person("strict", "ou=far,"), "", "by anonymous auth by * none")
    start("shut", refer("shut", f"ldap://{HERE}:{ports['strict']}/ou=far,dc=example,dc=com"))
    yield World(folder, ports)
    for server in servers:
        server.stop()


async def said(path: Path, text: str, key: str) -> str | None:
    """What we say; "!" and the reason where it is trouble."""
    path.write_text(text)
    table = open_proxied(f"ldap:{path}")
    try:
        async with asyncio.timeout(20):
            return await table.get(f"{key}@example.com", Step())
    except Unavailable as error:
        return f"! {error}"
    finally:
        table.close()


BESIDE_A_LOOP = ("loop", "dc=example,dc=com", "near", "!")
#: (server, search base, who is looked up, what is found). Where an entry stands beside a loop, Postfix says trouble as
#: we do; it was seen once to go on without the loop, on a busy machine, and to say the entry.
SAME = [
    ("near", "dc=example,dc=com", "near", "near@inside"),
    ("near", "dc=example,dc=com", "far", "far@inside"),
    ("near", "dc=example,dc=com", "nobody", None),
    ("near", "ou=far,dc=example,dc=com", "far", "far@inside"),
    ("near", "ou=far,dc=example,dc=com", "near", None),
    ("near", "dc=other", "near", "!"),
    ("two", "dc=example,dc=com", "far", "far@inside"),
    ("two", "ou=two,dc=example,dc=com", "far", "far@inside"),
    ("hop", "dc=example,dc=com", "far", "far@inside"),
    BESIDE_A_LOOP,
    ("loop", "ou=loop,dc=example,dc=com", "near", "!"),
    ("secure", "dc=example,dc=com", "near", "near@inside"),
]


async def test_as_postfix_follows_them(world: World, tmp_path: Path) -> None:
    if not shutil.which("postmap"):
        pytest.skip("Debian package postfix is not installed")
    specs = []
    for number, (name, base, _, _) in enumerate(SAME):
        more = f"tls_ca_cert_file = {world.folder}/ca.pem\n"
        (tmp_path / f"{number}.cf").write_text(world.text(name, more, base))
        specs.append(f"ldap:{tmp_path}/{number}.cf")
    with ThreadPoolExecutor(8) as pool:
        jobs = [pool.submit(looked_up, spec, f"{row[2]}@example.com") for spec, row in zip(specs, SAME, strict=True)]
        theirs = [await asyncio.wrap_future(job) for job in jobs]
    ours = [
        await said(tmp_path / "t.cf", Path(spec[5:]).read_text(), row[2]) for spec, row in zip(specs, SAME, strict=True)
    ]
    short = [text[:1] if text and text.startswith("!") else text for text in ours]
    assert [
        (row[:3], mine, other)
        for row, mine, other in zip(SAME, short, theirs, strict=True)
        if mine != row[3] or (other != mine and (row, other) != (BESIDE_A_LOOP, "near@inside"))
    ] == []


@pytest.mark.parametrize(
    ("name", "why"),
    [
        ("away", "a referral cannot be followed"),
        ("loop", "over 5 servers deep"),
        ("wrong", "noSuchObject"),
        ("many", "over 16 searches"),
        ("shut", "a referral cannot be followed"),
    ],
)
async def test_what_cannot_be_followed_puts_off(name: str, why: str, world: World, tmp_path: Path) -> None:
    """Postfix goes on without a server that is away, and says "not found" for who is known there."""
    text = await said(tmp_path / "t.cf", world.text(name), "far")
    assert text and text.startswith("!") and why in text


async def test_tls_of_the_first_line_is_kept(world: World, tmp_path: Path) -> None:
    """STARTTLS, verified, towards the server that a plain ldap:// names."""
    secure = f"tls_ca_cert_file = {world.folder}/ca.pem\ntls_require_cert = yes\n"
    ldaps = f"server_host = ldaps://{HERE}:{world.ports['tls tls']}\n"
    for more in (ldaps + secure, secure + "start_tls = yes\n"):
        assert await said(tmp_path / "t.cf", world.text("tls", more), "far") == "far@inside"
    for name in ("near", "secure"):
        assert await said(tmp_path / "t.cf", world.text(name, secure), "far") == "far@inside"


class Listener:
    """A server in the place of one that is named: what it is sent. `hangs`: it never says anything."""

    def __init__(self, hangs: bool = False) -> None:
        self.octets, self._hangs, self.left = b"", hangs, asyncio.Event()

    async def __aenter__(self) -> "Listener":
        self.server = await asyncio.start_server(self._talk, HERE, 0)
        self.port: int = self.server.sockets[0].getsockname()[1]
        return self

    async def _talk(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        while data := await reader.read(4096):
            self.octets += data
            if not self._hangs and (b"example.com" in self.octets or b"1.3.6.1.4.1.1466.20037" in self.octets):
                writer.close()
        self.left.set()

    async def __aexit__(self, *_: object) -> None:
        self.server.close()


@pytest.mark.parametrize("tls", [False, True])
async def test_a_server_that_is_named_sees_no_password(tls: bool, world: World, tmp_path: Path) -> None:
    async with Listener() as named:
        conf = "".join(
            f"TLS{name}File {world.folder}/{file}.pem\n"
            for name, file in (("CACertificate", "ca"), ("Certificate", "cert"), ("CertificateKey", "key"))
        )
        root = world.folder / f"first-{tls}"
        slapd = Slapd(root).start(BASE + refer("away", f"ldap://{HERE}:{named.port}/ou=far,dc=example,dc=com"), conf)
        world.ports["first"] = slapd.port
        try:
            more = f"tls_ca_cert_file = {world.folder}/ca.pem\n" + ("start_tls = yes\n" if tls else "")
            text = await said(tmp_path / "t.cf", world.text("first", more), "joe")
        finally:
            slapd.stop()
    assert text and "a referral cannot be followed" in text
    assert named.octets and b"s3 cret" not in named.octets and b"cn=reader" not in named.octets
    assert (b"joe@example.com" in named.octets) == (not tls), "with TLS at first, nothing is asked in clear"


async def test_no_look_up_follows_for_longer_than_its_time(world: World, tmp_path: Path) -> None:
    path = tmp_path / "t.cf"
    path.write_text(world.text("near"))
    table = open_proxied(f"ldap:{path}")
    table._lines.deadline = -1.0  # type: ignore[attr-defined]
    with pytest.raises(Unavailable, match="no time is left for the servers that were named"):
        await table.get("far@example.com", Step())
    table.close()


async def test_a_server_that_is_named_and_hangs_is_left_in_time(world: World, tmp_path: Path) -> None:
    async with Listener(hangs=True) as named:
        url = f"ldap://{HERE}:{named.port}/ou=far,dc=example,dc=com"
        slapd = Slapd(world.folder / "hangs").start(BASE + refer("away", url))
        world.ports["hangs"] = slapd.port
        try:
            path = tmp_path / "t.cf"
            path.write_text(world.text("hangs").replace("timeout = 5", "timeout = 30"))
            tables, spec = Keeper(opened), f"ldap:{path}"
            assert tables.also([spec]) == []
            async with asyncio.timeout(10):
                state, why, _ = await tables.answer(spec, "joe@example.com")
                await named.left.wait()
            assert state == wire.FAILED and "no answer within 1 s" in why and named.octets
            tables.close()
        finally:
            slapd.stop()


def opened(spec: str) -> Asked:
    table = open_proxied(spec)
    table.deadline = 1.0
    return table
