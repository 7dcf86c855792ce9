"""ldap tables with `bind = sasl`: a real slapd by unix socket, TLS and in clear; we answer as `postmap -q`."""

import asyncio
import base64
import shutil
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import NamedTuple
from urllib.parse import quote

import pytest
import trustme

from appliance.mail.ports import Unavailable
from appliance.tables.proxied import Step, open_proxied
from tests.peers.databases import READER, SUFFIX, Slapd
from tests.peers.ports import free_port
from tests.peers.postfix import looked_up

pytestmark = pytest.mark.peer

CA = trustme.CA()
#: SASLprep would make "pa ss a-" of it.
ODD = "pa\u00a0ss \u00aa\u00ad-"
LDIF = f"""\
{SUFFIX}{READER}\
dn: cn=weak,dc=example,dc=com
objectClass: organizationalRole
objectClass: simpleSecurityObject
cn: weak
userPassword: w

dn: cn=two,dc=example,dc=com
objectClass: organizationalRole
objectClass: simpleSecurityObject
cn: two
userPassword: s3 cret

dn: cn=odd,dc=example,dc=com
objectClass: organizationalRole
objectClass: simpleSecurityObject
cn: odd
userPassword:: {base64.b64encode(ODD.encode()).decode()}

dn: cn=joe,dc=example,dc=com
objectClass: inetOrgPerson
objectClass: mailUser
cn: joe
sn: joe
mail: joe@example.com
maildrop: joe@inside

"""
CONF = """\
TLSCACertificateFile {folder}/ca.pem
TLSCertificateFile {folder}/cert.pem
TLSCertificateKeyFile {folder}/key.pem
TLSVerifyClient try
TLSCipherSuite NORMAL:-VERS-TLS1.3
sasl-secprops none
sasl-realm example.com
sasl-host 127.0.0.1
authz-policy to
access to dn.base="" by * read
authz-regexp "^gidNumber=0.uidNumber=0,cn=peercred,cn=external,cn=auth$" "cn=reader,dc=example,dc=com"
authz-regexp "^cn=reader,.*" "cn=reader,dc=example,dc=com"
authz-regexp "^uid=two,cn=example.com,cn=scram-[^,]+,cn=auth$" "cn=reader,dc=example,dc=com"
authz-regexp "^uid=([^,@]+)@example.com,cn=example.com,cn=plain,cn=auth$" "cn=$1,dc=example,dc=com"
authz-regexp "^uid=([^,]+),cn=example.com,cn=digest-md5,cn=auth$" "cn=$1,dc=example,dc=com"
authz-regexp "^uid=([^,]+),cn=example.com,cn=scram-[^,]+,cn=auth$" "cn=$1,dc=example,dc=com"
"""


class World(NamedTuple):
    folder: Path
    port: int
    tls: int

    def text(self, more: str) -> str:
        named = {
            "folder": self.folder,
            "port": self.port,
            "tls": self.tls,
            "socket": quote(f"{self.folder}/ldapi", safe=""),
        }
        return more.format(**named) + "bind = sasl\nsearch_base = dc=example,dc=com\nquery_filter = (mail=%s)\n"


@pytest.fixture(scope="module")
def world(tmp_path_factory: pytest.TempPathFactory) -> Iterator[World]:
    """Only the reader reads, and the odd one."""
    if not shutil.which("slapd", path="/usr/sbin:/usr/bin"):
        pytest.skip("Debian package slapd is not installed (make packages)")
    folder = tmp_path_factory.mktemp("ldap")
    folder.chmod(0o777)
    server, client = CA.issue_cert("127.0.0.1"), CA.issue_cert("reader@example.com", common_name="reader")
    CA.cert_pem.write_to_path(str(folder / "ca.pem"))
    for name, made in (("", server), ("client-", client)):
        made.cert_chain_pems[0].write_to_path(str(folder / f"{name}cert.pem"))
        made.private_key_pem.write_to_path(str(folder / f"{name}key.pem"))
        (folder / f"{name}key.pem").chmod(0o644)
    slapd, tls = Slapd(folder / "server"), free_port()
    urls = (f"ldaps://127.0.0.1:{tls}/", f"ldapi://{quote(f'{folder}/ldapi', safe='')}/")
    others = 'by dn.exact="cn=odd,dc=example,dc=com" read by anonymous auth by * none'
    slapd.start(LDIF, CONF.format(folder=folder), others, urls)
    yield World(folder, slapd.port, tls)
    slapd.stop()


async def look(spec: str, key: str) -> str | None:
    table = open_proxied(spec)
    try:
        async with asyncio.timeout(20):
            return await table.get(key, Step())
    except Unavailable:
        return "!"
    finally:
        table.close()


LOCAL = "server_host = ldapi://{socket}\n"
CLEAR = "server_host = ldap://127.0.0.1:{port}\n"
TLS = "server_host = ldaps://127.0.0.1:{tls}\ntls_ca_cert_file = {folder}/ca.pem\ntls_require_cert = yes\n"
START = CLEAR + "start_tls = yes\ntls_ca_cert_file = {folder}/ca.pem\ntls_require_cert = yes\n"
CERT = "tls_cert = {folder}/client-cert.pem\ntls_key = {folder}/client-key.pem\n"
TWO = "bind_dn = two\nbind_pw = s3 cret\n"
READER = "bind_dn = reader\nbind_pw = s3 cret\n"
#: (.cf, what is found)
FILES = [
    (LOCAL + "sasl_mechs = EXTERNAL\n", "joe@inside"),
    (LOCAL + "sasl_mechs = EXTERNAL\nsasl_minssf = 71\n", "joe@inside"),
    (LOCAL + "sasl_mechs = EXTERNAL\nsasl_minssf = 72\n", "joe@inside"),
    (LOCAL + "sasl_mechs = DIGEST-MD5\n" + READER, "joe@inside"),
    (TLS + CERT + "sasl_mechs = EXTERNAL\n", "joe@inside"),
    (TLS + CERT + "sasl_mechs = EXTERNAL\nsasl_minssf = 128\n", "joe@inside"),
    (TLS + CERT + "sasl_mechs = EXTERNAL\nsasl_minssf = 1000\n", "joe@inside"),
    (START + CERT + "sasl_mechs = EXTERNAL\n", "joe@inside"),
    (TLS + "sasl_mechs = DIGEST-MD5\nsasl_minssf = 128\n" + READER, "joe@inside"),
    (CLEAR + "sasl_mechs = DIGEST-MD5\n" + READER, "joe@inside"),
    (CLEAR + "sasl_mechs = DIGEST-MD5 EXTERNAL\nsasl_realm = example.com\n" + READER, "joe@inside"),
    (CLEAR + "sasl_mechs = DIGEST-MD5\nsasl_realm = other\n" + READER, "joe@inside"),
    (CLEAR + "sasl_mechs = DIGEST-MD5\nsasl_authz_id = u:reader\n" + READER, "joe@inside"),
    (CLEAR + "sasl_mechs = DIGEST-MD5\nsasl_authz_id = u:weak\n" + READER, "!"),
    (CLEAR + "sasl_mechs = DIGEST-MD5\nbind_dn = reader\nbind_pw = wrong\n", "!"),
    (CLEAR + "sasl_mechs = DIGEST-MD5\nbind_dn = weak\nbind_pw = w\n", "!"),
    (CLEAR + "sasl_mechs = CRAM-MD5 DIGEST-MD5\n" + READER, "joe@inside"),
    *((CLEAR + f"sasl_mechs = SCRAM-SHA-{size}\n" + READER, "joe@inside") for size in (1, 224, 256, 384, 512)),
    (LOCAL + "sasl_mechs = SCRAM-SHA-256\nsasl_minssf = 71\n" + READER, "joe@inside"),
    (TLS + "sasl_mechs = SCRAM-SHA-512\nsasl_minssf = 128\n" + READER, "joe@inside"),
    (START + "sasl_mechs = SCRAM-SHA-1\nsasl_minssf = 128\n" + READER, "joe@inside"),
    (CLEAR + "sasl_mechs = SCRAM-SHA-256\nsasl_authz_id = u:reader\n" + READER, "joe@inside"),
    (CLEAR + "sasl_mechs = SCRAM-SHA-256\nsasl_authz_id = u:weak\n" + READER, "!"),
    (CLEAR + "sasl_mechs = SCRAM-SHA-256\nbind_dn = reader\nbind_pw = wrong\n", "!"),
    (CLEAR + "sasl_mechs = SCRAM-SHA-256\nbind_dn = nobody\nbind_pw = s3 cret\n", "!"),
    (CLEAR + "sasl_mechs = SCRAM-SHA-256\nbind_dn = weak\nbind_pw = w\n", "!"),
    (CLEAR + f"sasl_mechs = SCRAM-SHA-256\nbind_dn = odd\nbind_pw = {ODD}\n", "joe@inside"),
    (TLS + "sasl_mechs = PLAIN\n" + READER, "joe@inside"),
    (START + "sasl_mechs = PLAIN LOGIN\nsasl_minssf = 128\n" + READER, "joe@inside"),
    (TLS + "sasl_mechs = PLAIN\nsasl_authz_id = dn:cn=reader,dc=example,dc=com\n" + READER, "joe@inside"),
    (TLS + "sasl_mechs = PLAIN\nsasl_authz_id = dn:cn=weak,dc=example,dc=com\n" + READER, "!"),
    (TLS + "sasl_mechs = PLAIN\nbind_dn = reader\nbind_pw = wrong\n", "!"),
    # As `two` only SCRAM reads: which mechanism is taken shows, and that the order in the file is nothing to it.
    (CLEAR + "sasl_mechs = DIGEST-MD5\n" + TWO, "!"),
    (CLEAR + "sasl_mechs = DIGEST-MD5 SCRAM-SHA-1\n" + TWO, "joe@inside"),
    (LOCAL + "sasl_mechs = EXTERNAL DIGEST-MD5\n" + TWO, "!"),
    (LOCAL + "sasl_mechs = EXTERNAL DIGEST-MD5 SCRAM-SHA-512\n" + TWO, "joe@inside"),
    (TLS + CERT + "sasl_mechs = EXTERNAL DIGEST-MD5\n" + TWO, "!"),
]  # fmt: skip


async def test_mechanisms(world: World, tmp_path: Path) -> None:
    if not shutil.which("postmap"):
        pytest.skip("Debian package postfix is not installed")
    specs = []
    for number, (text, _) in enumerate(FILES):
        (tmp_path / f"{number}.cf").write_text(world.text(text))
        specs.append(f"ldap:{tmp_path}/{number}.cf")
    with ThreadPoolExecutor(8) as pool:
        jobs = [pool.submit(looked_up, spec, "joe@example.com") for spec in specs]
        theirs = [await asyncio.wrap_future(job) for job in jobs]
    ours = [await look(spec, "joe@example.com") for spec in specs]
    wrong = [
        (text, mine, said)
        for (text, expected), mine, said in zip(FILES, ours, theirs, strict=True)
        if not mine == said == expected
    ]
    assert wrong == [], "\n".join(map(repr, wrong))


async def test_a_password_goes_over_no_line_below_minssf(world: World, tmp_path: Path) -> None:
    """Debian's Postfix 3.7 asks nothing of the line, whatever sasl_minssf is."""
    path = tmp_path / "t.cf"
    for mechanism in ("SCRAM-SHA-256", "DIGEST-MD5"):
        for line, enough in ((TLS, 128), (LOCAL, 71)):
            for least, found in ((enough, "joe@inside"), (1000 if line == TLS else 72, "!")):
                path.write_text(world.text(f"{line}{READER}sasl_mechs = {mechanism}\nsasl_minssf = {least}\n"))
                assert await look(f"ldap:{path}", "joe@example.com") == found


async def test_without_a_list_the_server_is_asked_what_it_has(world: World, tmp_path: Path) -> None:
    for number, text in enumerate((LOCAL, TLS + CERT, TLS + READER, CLEAR + READER, CLEAR + TWO)):
        path = tmp_path / f"{number}.cf"
        path.write_text(world.text(text))
        assert await look(f"ldap:{path}", "joe@example.com") == "joe@inside"
    path.write_text(world.text(CLEAR))
    assert await look(f"ldap:{path}", "joe@example.com") == "!", "neither a name nor a certificate"


@pytest.mark.parametrize(
    ("suite", "found"),
    [
        ("ECDHE-ECDSA-AES128-GCM-SHA256", "joe@inside"),
        ("HIGH:!aNULL", "joe@inside"),
        ("ECDHE-RSA-AES128-GCM-SHA256", "!"),
    ],
)
async def test_ciphers_are_those_of_the_file(suite: str, found: str, world: World, tmp_path: Path) -> None:
    """The server has TLS 1.2, and a certificate for ECDSA."""
    path = tmp_path / "t.cf"
    for text in (TLS, START):
        path.write_text(world.text(f"{text}{READER}sasl_mechs = DIGEST-MD5\ntls_cipher_suite = {suite}\n"))
        assert await look(f"ldap:{path}", "joe@example.com") == found
