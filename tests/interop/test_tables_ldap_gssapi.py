"""ldap tables with `sasl_mechs = GSSAPI`: a real KDC and a real slapd; we answer as `postmap -q` with a ticket of kinit,
and by a keytab of our own. Whatever of Kerberos is away or wrong puts off, with one sentence."""

import asyncio
import os
import pwd
import shutil
import socket
import ssl
import tempfile
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import NamedTuple
from urllib.parse import quote

import msgspec
import pytest
import trustme

from appliance.config.default import ZONE
from appliance.mail.ports import Unavailable
from appliance.tables import wire
from appliance.tables.proxied import Step, kerberos, open_proxied
from appliance.tables.proxied.keeper import Keeper
from tests.daemons.master.conftest import ROOT, Master
from tests.daemons.master.test_master_separation import open_python
from tests.daemons.master.test_master_whole import CONFIG as SEPARATED
from tests.daemons.master.whole import USERS
from tests.peers import kdc
from tests.peers.databases import READER, SUFFIX, Slapd
from tests.peers.gateway import Gateway
from tests.peers.inner import Inner
from tests.peers.kdc import Kdc
from tests.peers.policies import plain
from tests.peers.ports import free_port, wait_for
from tests.peers.postfix import looked_up
from tests.running.talking import asked

pytestmark = pytest.mark.peer

CA = trustme.CA()
LDIF = f"""\
{SUFFIX}{READER}\
dn: cn=weak,dc=example,dc=com
objectClass: organizationalRole
objectClass: simpleSecurityObject
cn: weak
userPassword: w

dn: cn=joe,dc=example,dc=com
objectClass: inetOrgPerson
objectClass: mailUser
cn: joe
sn: joe
mail: joe@example.com
maildrop: joe@inside

"""
#: The service `tables` is the reader; what nobody knows reads nothing.
CONF = """\
TLSCACertificateFile {folder}/ca.pem
TLSCertificateFile {folder}/cert.pem
TLSCertificateKeyFile {folder}/key.pem
sasl-secprops {secprops}
sasl-realm example.com
sasl-host {host}
authz-policy to
access to dn.base="" by * read
authz-regexp "^uid=tables(/short)?,.*cn=gssapi,cn=auth$" "cn=reader,dc=example,dc=com"
authz-regexp "^uid=reader,cn=example.com,cn=gssapi,cn=auth$" "cn=reader,dc=example,dc=com"
authz-regexp "^uid=([^,]+),cn=example.com,cn=digest-md5,cn=auth$" "cn=$1,dc=example,dc=com"
"""
#: GSS_C_CHANNEL_BOUND_FLAG.
CHANNEL_BOUND = 2048
KEY = "joe@example.com"


class Loopback:
    """What a line to this machine says."""

    def getpeername(self) -> tuple[str, int]:
        return "127.0.0.1", 389


class World(NamedTuple):
    folder: Path
    kdc: Kdc
    keytab: Path
    #: Ports: in clear, TLS, in clear with a server that demands a layer, this one over TLS.
    ports: dict[str, int]

    def text(self, more: str) -> str:
        named = {
            "folder": self.folder,
            "keytab": self.keytab,
            "socket": quote(f"{self.folder}/ldapi", safe=""),
            **self.ports,
        }
        return more.format(**named) + "bind = sasl\nsearch_base = dc=example,dc=com\nquery_filter = (mail=%s)\n"

    def file(self, path: Path, more: str) -> str:
        path.write_text(self.text(more))
        return f"ldap:{path}"


def missing() -> str:
    """Why this cannot be tried here."""
    for program, package in (("slapd", "slapd"), ("postmap", "postfix")):
        if not shutil.which(program, path="/usr/sbin:/usr/bin"):
            return f"Debian package {package} is not installed (make packages)"
    return kdc.missing()


@pytest.fixture(scope="module")
def outside() -> Iterator[pytest.MonkeyPatch]:
    with pytest.MonkeyPatch.context() as patch:
        yield patch


@pytest.fixture(scope="module")
def world(tmp_path_factory: pytest.TempPathFactory, outside: pytest.MonkeyPatch) -> Iterator[World]:
    """The library is Debian's; KRB5CCNAME is nobody's cache."""
    if why := missing():
        pytest.skip(why)
    folder = tmp_path_factory.mktemp("krb")
    folder.chmod(0o777)
    library = kdc.library(folder / "python")
    if library is None and not kerberos.available():
        pytest.skip("Debian package python3-gssapi is not installed (make packages), or for another Python")
    if library:
        outside.syspath_prepend(str(library))
    realm = Kdc(folder / "kdc").start()
    host = kerberos.service_host("", Loopback())
    for name, value in {**realm.env, "KRB5_KTNAME": str(realm.keytab("ldap.keytab", f"ldap/{host}"))}.items():
        outside.setenv(name, value)
    keytab = realm.keytab("tables.keytab", "tables")
    realm.ticket(keytab, "tables", folder / "tickets")
    realm.ticket(realm.keytab("stranger.keytab", "stranger"), "stranger", folder / "strangers")
    made = CA.issue_cert("127.0.0.1")
    CA.cert_pem.write_to_path(str(folder / "ca.pem"))
    made.cert_chain_pems[0].write_to_path(str(folder / "cert.pem"))
    made.private_key_pem.write_to_path(str(folder / "key.pem"))
    (folder / "key.pem").chmod(0o644)
    servers, ports = [], {}
    for name, secprops in (("", "none"), ("strict", "none,minssf=56")):
        slapd, tls = Slapd(folder / f"server{name}"), free_port()
        urls = (f"ldaps://127.0.0.1:{tls}/", *([] if name else [f"ldapi://{quote(f'{folder}/ldapi', safe='')}/"]))
        conf = CONF.format(folder=folder, secprops=secprops, host=host)
        servers.append(slapd.start(LDIF, conf, "by anonymous auth by * none", urls))
        ports |= {f"{name}port": slapd.port, f"{name}tls": tls}
    yield World(folder, realm, keytab, ports)
    for server in servers:
        server.stop()
    realm.stop()


@pytest.fixture
def tickets(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    """What a cron job with kinit keeps for Postfix."""
    monkeypatch.setenv("KRB5CCNAME", f"FILE:{world.folder}/tickets")


async def look(spec: str, key: str = KEY) -> str | None:
    """The value; "! " and the reason where there is none to be had."""
    table = open_proxied(spec)
    try:
        async with asyncio.timeout(60):
            return await table.get(key, Step())
    except Unavailable as error:
        return f"! {error}"
    finally:
        table.close()


CA_FILE = "tls_ca_cert_file = {folder}/ca.pem\ntls_require_cert = yes\n"
LOCAL = "server_host = ldapi://{socket}\n"
CLEAR = "server_host = ldap://127.0.0.1:{port}\n"
TLS = "server_host = ldaps://127.0.0.1:{tls}\n" + CA_FILE
START = CLEAR + "start_tls = yes\n" + CA_FILE
GSSAPI = "sasl_mechs = GSSAPI\n"
WEAK = "bind_dn = weak\nbind_pw = w\n"
KEYTAB = "sasl_keytab = {keytab}\n"
#: (.cf, what is found)
FILES = [
    (CLEAR + GSSAPI, "joe@inside"),
    (TLS + GSSAPI, "joe@inside"),
    (START + GSSAPI, "joe@inside"),
    (LOCAL + GSSAPI, "joe@inside"),
    (TLS + GSSAPI + "sasl_minssf = 56\n", "joe@inside"),
    (LOCAL + GSSAPI + "sasl_minssf = 56\n", "joe@inside"),
    (CLEAR + GSSAPI + "sasl_authz_id = u:reader\n", "joe@inside"),
    (CLEAR + GSSAPI + "sasl_authz_id = u:weak\n", "!"),
    (CLEAR + GSSAPI + "sasl_realm = other\n" + WEAK, "joe@inside"),
    (CLEAR + "sasl_mechs = DIGEST-MD5 GSSAPI\n" + WEAK, "joe@inside"),
    (CLEAR + "sasl_mechs = EXTERNAL SCRAM-SHA-512 GSSAPI\n" + WEAK, "joe@inside"),
    (CLEAR + "sasl_mechs = DIGEST-MD5\n" + WEAK, "!"),
    ("server_host = ldaps://127.0.0.1:{stricttls}\n" + CA_FILE + GSSAPI, "joe@inside"),
]  # fmt: skip


@pytest.mark.usefixtures("tickets")
async def test_with_a_ticket_we_answer_as_postmap(world: World, tmp_path: Path) -> None:
    specs = [world.file(tmp_path / f"{number}.cf", text) for number, (text, _) in enumerate(FILES)]
    with ThreadPoolExecutor(4) as pool:
        jobs = [pool.submit(looked_up, spec, KEY) for spec in specs]
        theirs = [await asyncio.wrap_future(job) for job in jobs]
    ours = [(await look(spec) or "")[: len(expected)] for spec, (_, expected) in zip(specs, FILES, strict=True)]
    wrong = [
        (text, mine, said)
        for (text, expected), mine, said in zip(FILES, ours, theirs, strict=True)
        if not mine == said == expected
    ]
    assert wrong == [], "\n".join(map(repr, wrong))


async def test_whose_tickets_they_are_and_that_there_are_any_counts(
    world: World, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for cache, said in (("strangers", "! 127.0.0.1"), ("nothing", "! 127.0.0.1")):
        monkeypatch.setenv("KRB5CCNAME", f"FILE:{world.folder}/{cache}")
        spec = world.file(tmp_path / "t.cf", CLEAR + GSSAPI)
        found = await look(spec) or ""
        assert found.startswith(said) and looked_up(spec, KEY) == "!"
    assert "GSSAPI: No Kerberos credentials available" in found


async def test_a_keytab_of_the_file_needs_nothing_from_outside(world: World, tmp_path: Path) -> None:
    """No environment, no cron job; nothing stands on disk behind it. Postfix reads over the name."""
    for line in (CLEAR, TLS, START, LOCAL):
        assert await look(world.file(tmp_path / "t.cf", line + GSSAPI + KEYTAB)) == "joe@inside"
    assert not (world.kdc.root / "nobodys").exists()
    spec = world.file(
        tmp_path / "t.cf", CLEAR + "sasl_mechs = DIGEST-MD5\nbind_dn = reader\nbind_pw = s3 cret\n" + KEYTAB
    )
    assert looked_up(spec, KEY) == "joe@inside"


async def test_without_a_list_tickets_are_the_last_thing_that_is_tried(world: World, tmp_path: Path) -> None:
    assert await look(world.file(tmp_path / "t.cf", CLEAR + KEYTAB)) == "joe@inside"
    found = await look(world.file(tmp_path / "t.cf", CLEAR + KEYTAB + "bind_dn = nobody\nbind_pw = x\n"))
    assert found is not None and "SCRAM" in found


async def test_another_keytab_in_its_place_is_taken_up(world: World, tmp_path: Path) -> None:
    shutil.copy(world.keytab, tmp_path / "k")
    keeper = Keeper(open_proxied, rests=False)
    spec = world.file(tmp_path / "t.cf", CLEAR + GSSAPI + f"sasl_keytab = FILE:{tmp_path}/k\n")
    keeper.follow([spec])
    try:
        assert (await keeper.answer(spec, KEY))[0] == wire.FOUND
        shutil.copy(world.kdc.root / "stranger.keytab", tmp_path / "new")
        (tmp_path / "new").rename(tmp_path / "k")
        async with asyncio.timeout(30):
            number = 0
            while (await keeper.answer(spec, f"{number}@example.com"))[0] != wire.FAILED:
                number += 1
                await asyncio.sleep(0.1)
    finally:
        keeper.close()


async def test_tickets_are_kept_and_renewed_before_they_end(world: World, tmp_path: Path) -> None:
    """libkrb5 renews what ends within 30 seconds. Each look has a new line, which needs a ticket."""
    spec = world.file(tmp_path / "t.cf", CLEAR + GSSAPI + KEYTAB)
    await look(spec)
    before = world.kdc.issued("tables@")
    for _ in range(5):
        assert await look(spec) == "joe@inside"
    assert world.kdc.issued("tables@") == before
    keytab = world.kdc.keytab("short.keytab", "tables/short", "-maxlife", "34 seconds")
    spec = world.file(tmp_path / "t.cf", CLEAR + GSSAPI + f"sasl_keytab = {keytab}\n")
    async with asyncio.timeout(60):
        while world.kdc.issued("tables/short@") < 2:
            assert await look(spec) == "joe@inside"
            await asyncio.sleep(0.1)


async def test_a_server_that_demands_a_layer_is_told_apart(world: World, tmp_path: Path) -> None:
    """Cyrus SASL makes it; over TLS none is demanded."""
    found = await look(world.file(tmp_path / "t.cf", "server_host = ldap://127.0.0.1:{strictport}\n" + GSSAPI + KEYTAB))
    assert found is not None and "demands that Kerberos protects the line" in found and "ldaps://" in found


async def test_what_is_wrong_is_said_in_one_sentence(world: World, tmp_path: Path) -> None:
    old = world.kdc.keytab("old.keytab", "old")
    world.kdc.admin("cpw", "-randkey", "old")
    gone = world.kdc.keytab("gone.keytab", "gone")
    world.kdc.admin("delprinc", "-force", "gone")
    guarded = world.kdc.keytab("guarded.keytab", "guarded", "+requires_preauth")
    world.kdc.admin("cpw", "-randkey", "guarded")
    (empty := tmp_path / "none.keytab").write_bytes(b"\x05\x02")
    for keytab, said in (
        (old, "Decrypt integrity check failed (the key in the keytab is not the one that the KDC has)"),
        (guarded, "Preauthentication failed (the key in the keytab is not the one that the KDC has)"),
        (gone, "Client 'gone@EXAMPLE.COM' not found in Kerberos database"),
        (empty, "No credentials cache found (the keytab has no key)"),
    ):
        found = await look(world.file(tmp_path / "t.cf", CLEAR + GSSAPI + f"sasl_keytab = {keytab}\n"))
        assert found == f"! 127.0.0.1:{world.ports['port']}: GSSAPI: {said}"


async def test_tickets_that_are_over(world: World, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    cache = world.folder / "over"
    world.kdc.ticket(world.keytab, "tables", cache, "-l", "8s")
    monkeypatch.setenv("KRB5CCNAME", f"FILE:{cache}")
    spec = world.file(tmp_path / "t.cf", CLEAR + GSSAPI)
    async with asyncio.timeout(60):
        while (found := await look(spec)) == "joe@inside":
            await asyncio.sleep(0.1)
    assert found is not None and found.endswith("GSSAPI: Ticket expired"), found


class Hanging(NamedTuple):
    """A KDC that takes what it is asked and says nothing."""

    tcp: socket.socket
    udp: socket.socket

    def heard(self) -> None:
        """Until it is asked."""
        self.udp.settimeout(30)
        self.udp.recv(1)

    def close(self) -> None:
        """From here on it refuses: whoever waits is told so."""
        self.tcp.close()
        self.udp.close()


@pytest.fixture
def hanging(world: World, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Hanging]:
    """In place of the real one."""
    made = Hanging(socket.socket(), socket.socket(socket.AF_INET, socket.SOCK_DGRAM))
    made.tcp.bind(("127.0.0.1", free_port()))  # of our own: once it is closed nobody else takes it
    made.tcp.listen(64)
    made.udp.bind(made.tcp.getsockname())
    conf = (world.kdc.root / "krb5.conf").read_text()
    mine = f"127.0.0.1:{made.tcp.getsockname()[1]}"
    (tmp_path / "krb5.conf").write_text(conf.replace(f"127.0.0.1:{world.kdc.port}", mine))
    monkeypatch.setenv("KRB5_CONFIG", f"{tmp_path}/krb5.conf")
    yield made
    made.close()


def own_keytab(world: World, tmp_path: Path) -> str:
    """A copy, for which nobody has tickets yet."""
    shutil.copy(world.keytab, tmp_path / "k")
    return f"{CLEAR}{GSSAPI}sasl_keytab = {tmp_path}/k\n"


async def test_a_kdc_that_is_away(world: World, tmp_path: Path, hanging: Hanging) -> None:
    hanging.close()
    found = await look(world.file(tmp_path / "t.cf", own_keytab(world, tmp_path)))
    assert found is not None and found.endswith("GSSAPI: Cannot contact any KDC for realm 'EXAMPLE.COM'"), found


async def test_a_kdc_that_hangs_keeps_no_other_table_waiting(world: World, tmp_path: Path, hanging: Hanging) -> None:
    """The table's own time is over before libkrb5's."""
    slow = world.file(tmp_path / "slow.cf", own_keytab(world, tmp_path) + "timeout = 2\n")
    other = world.file(tmp_path / "other.cf", CLEAR + "sasl_mechs = DIGEST-MD5\nbind_dn = reader\nbind_pw = s3 cret\n")
    keeper = Keeper(open_proxied)
    keeper.follow([slow, other])
    waiting = [asyncio.ensure_future(keeper.answer(slow, f"{number}@example.com")) for number in range(12)]
    try:
        await asyncio.get_running_loop().run_in_executor(None, hanging.heard)
        assert (await keeper.answer(other, KEY))[:2] == (wire.FOUND, "joe@inside")
        async with asyncio.timeout(60):
            answers = await asyncio.gather(*waiting)
        assert {state for state, *_ in answers} == {wire.FAILED}
        assert any("no answer within 2 s" in why for _, why, _ in answers)
    finally:
        keeper.close()
        hanging.close()  # refused from here on: the threads come to their end


def test_tickets_are_bound_to_the_certificate_of_the_line(world: World) -> None:
    """The other end is libkrb5's, which compares what it is told of the line (as a directory of Windows can demand)."""
    gssapi = pytest.importorskip("gssapi")
    service = gssapi.Credentials(usage="accept", store={"keytab": f"FILE:{world.kdc.root}/ldap.keytab"})
    host = kerberos.service_host("x", Loopback())
    pems = (CA.issue_cert(name).cert_chain_pems[0].bytes() for name in ("one", "other"))
    one, other = (ssl.PEM_cert_to_DER_cert(pem.decode()) for pem in pems)
    for mine, theirs, fits in ((one, one, True), (one, other, False), (None, one, True), (one, None, True)):
        bound = gssapi.raw.ChannelBindings(application_data=kerberos.end_point(theirs)) if theirs else None
        context = gssapi.SecurityContext(creds=service, usage="accept", channel_bindings=bound)
        exchange = kerberos.begun(host, "", str(world.keytab), mine)
        if fits:
            exchange.answer(context.step(exchange.told))
            assert context.complete and bool(int(context.actual_flags) & CHANNEL_BOUND) == (mine is theirs)
        else:
            with pytest.raises(gssapi.exceptions.BadChannelBindingsError):
                context.step(exchange.told)
                assert context.complete


def test_a_running_gateway_knows_its_recipients_by_a_keytab(world: World, inner: Inner, tmp_path: Path) -> None:
    spec = world.file(tmp_path / "t.cf", TLS + GSSAPI + KEYTAB)
    files = plain() | {"recipient.toml": f'tables = ["{spec}"]\ncallahead = false\n'}
    made = Gateway(tmp_path / "gateway", inner.port, workers=1, policies=files)
    made.path += f":{world.folder}/python"
    made.start()
    try:
        assert asked(made.port, KEY) == "250 2.1.5 Ok"
        assert asked(made.port, "nobody@example.com").startswith("550 5.1.1 ")
        (tmp_path / "t.cf").write_text(world.text(CLEAR + GSSAPI + f"sasl_keytab = {world.kdc.root}/stranger.keytab\n"))
        wait_for(lambda: asked(made.port, "x@example.com").startswith("451 4.3.0 "), 30, "the stranger to be met")
        assert any("noSuchObject" in words for words in made.status()["degraded"])
    finally:
        made.stop()


@pytest.mark.skipif(os.getuid() != 0, reason="needs root to change users")
def test_the_user_of_proxymap_alone_reads_the_key(world: World) -> None:
    """Each process is a user of its own, as installed; the key is for one of them."""
    python = open_python()
    with tempfile.TemporaryDirectory(prefix="postgate-test-", dir="/tmp") as folder:
        root = Path(folder)
        root.chmod(0o755)
        shutil.copy(world.keytab, root / "keytab")
        os.chown(root / "keytab", pwd.getpwnam(USERS["proxymap"]).pw_uid, 0)
        (root / "keytab").chmod(0o400)
        spec = world.file(
            root / "t.cf", START.replace("{folder}/ca.pem", f"{root}/ca.pem") + GSSAPI + f"sasl_keytab = {root}/keytab\n"
        )
        shutil.copy(world.folder / "ca.pem", root)
        made = Master(root)
        for name, text in {**plain(), "recipient.toml": f'tables = ["{spec}"]\ncallahead = false\n'}.items():
            (root / "policies" / name).write_text(text)
        made.config.write_text(SEPARATED.format(port=made.port, zone=ZONE, root=root))
        path = f"{ROOT}:{Path(msgspec.__file__).parents[1]}:{world.folder}/python"
        made.start(python=python, module="tests.daemons.master.whole", PYTHONPATH=path)
        try:
            assert asked(made.port, KEY) == "250 2.1.5 Ok", made.log()
            assert asked(made.port, "nobody@example.com").startswith("550 5.1.1 ")
        finally:
            made.stop()
