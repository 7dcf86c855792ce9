"""slapd as a directory of Active Directory's form: proxyAddresses, userAccountControl, pages, TLS."""

import shutil
import subprocess
from collections.abc import Iterable
from pathlib import Path

import trustme

from tests.peers.databases import Slapd, _owned
from tests.peers.ports import free_port

BASE = "dc=corp,dc=example"
READER, PASSWORD = f"cn=postgate,{BASE}", "s3 cret"
#: Active Directory's own names and numbers.
SCHEMA = """\
attributetype ( 1.2.840.113556.1.2.210 NAME 'proxyAddresses' EQUALITY caseIgnoreMatch SUBSTR caseIgnoreSubstringsMatch
    SYNTAX 1.3.6.1.4.1.1466.115.121.1.15 )
attributetype ( 1.2.840.113556.1.4.8 NAME 'userAccountControl' EQUALITY integerMatch
    SYNTAX 1.3.6.1.4.1.1466.115.121.1.27 SINGLE-VALUE )
attributetype ( 1.2.840.113556.1.4.7000.102.50725 NAME 'msExchRecipientTypeDetails' EQUALITY integerMatch
    SYNTAX 1.3.6.1.4.1.1466.115.121.1.27 SINGLE-VALUE )
attributetype ( 1.2.840.113556.1.4.5062 NAME 'msExchRequireAuthToSendTo' EQUALITY booleanMatch
    SYNTAX 1.3.6.1.4.1.1466.115.121.1.7 SINGLE-VALUE )
objectclass ( 1.2.840.113556.1.5.9999 NAME 'mailRecipient' SUP top AUXILIARY
    MAY ( mail $ proxyAddresses $ userAccountControl $ msExchRecipientTypeDetails $ msExchRequireAuthToSendTo ) )
"""
CONF = """\
include /etc/ldap/schema/core.schema
include /etc/ldap/schema/cosine.schema
include /etc/ldap/schema/inetorgperson.schema
include {root}/exchange.schema
pidfile {root}/pid
modulepath /usr/lib/ldap
moduleload back_mdb
TLSCACertificateFile {root}/ca.pem
TLSCertificateFile {root}/cert.pem
TLSCertificateKeyFile {root}/key.pem
access to attrs=userPassword by anonymous auth by * none
access to * by dn.exact="{reader}" read by * none
database mdb
suffix "{base}"
rootdn "cn=admin,{base}"
rootpw admin
directory {root}/data
limits dn.exact="{reader}" size.soft=500 size.hard=500 size.pr=500 size.prtotal=unlimited
"""
HEAD = f"""\
dn: {BASE}
objectClass: dcObject
objectClass: organization
o: Corp
dc: corp

dn: {READER}
objectClass: person
cn: postgate
sn: postgate
userPassword: {PASSWORD}

"""


def person(name: str, *lines: str) -> str:
    """One entry; `lines` are attributes, for example "mail: ann@example.com"."""
    told = "".join(f"{line}\n" for line in lines)
    return (
        f"dn: cn={name},{BASE}\nobjectClass: inetOrgPerson\nobjectClass: mailRecipient\ncn: {name}\nsn: {name}\n{told}\n"
    )


class Directory(Slapd):
    """`ldap_port` speaks in clear (and STARTTLS), `port` over TLS by the certificate of `authority` for `host`."""

    def __init__(self, root: Path, authority: trustme.CA, host: str = "localhost") -> None:
        super().__init__(root)
        self.ldap_port, self.authority, self.host = free_port(), authority, host

    def start(self, ldif: str) -> "Directory":
        _owned(self.root, "openldap")
        pair = self.authority.issue_cert(self.host, "127.0.0.1" if self.host == "localhost" else self.host)
        self.authority.cert_pem.write_to_path(self.root / "ca.pem")
        pair.private_key_pem.write_to_path(self.root / "key.pem")
        (self.root / "cert.pem").write_bytes(b"".join(blob.bytes() for blob in pair.cert_chain_pems))
        (self.root / "exchange.schema").write_text(SCHEMA)
        (self.root / "slapd.conf").write_text(CONF.format(root=self.root, base=BASE, reader=READER))
        (self.root / "init.ldif").write_text(HEAD + ldif)
        (self.root / "data").mkdir()
        for path in (self.root / "data", self.root / "key.pem"):
            shutil.chown(path, "openldap", "openldap")
        words = ["slapadd", "-q", "-f", str(self.root / "slapd.conf"), "-l", str(self.root / "init.ldif")]
        done = subprocess.run(words, user="openldap", group="openldap", capture_output=True, text=True, cwd="/")
        assert done.returncode == 0, done.stderr
        urls = f"ldap://127.0.0.1:{self.ldap_port}/ ldaps://127.0.0.1:{self.port}/"
        self._run(["/usr/sbin/slapd", "-d", "0", "-f", str(self.root / "slapd.conf"), "-h", urls], "openldap")
        return self

    def change(self, ldif: str) -> None:
        """ldapmodify as the administrator."""
        self._tool("ldapmodify", text=ldif)

    def remove(self, names: Iterable[str]) -> None:
        self._tool("ldapdelete", *(f"cn={name},{BASE}" for name in names))

    def add(self, ldif: str) -> None:
        self._tool("ldapadd", text=ldif)

    def _tool(self, tool: str, *words: str, text: str = "") -> None:
        login = ["-x", "-H", f"ldap://127.0.0.1:{self.ldap_port}", "-D", f"cn=admin,{BASE}", "-w", "admin"]
        done = subprocess.run([tool, *login, *words], input=text, capture_output=True, text=True)
        assert done.returncode == 0, done.stderr
