"""A real Kerberos realm (krb5kdc of MIT) in a folder of its own, with its own krb5.conf; ended with its test."""

import os
import shutil
import subprocess
import sys
from pathlib import Path

from tests.peers.ports import answers, free_port, wait_for
from tests.peers.process import Process, reachable

REALM = "EXAMPLE.COM"
KRB5_CONF = """\
[libdefaults]
default_realm = {realm}
dns_lookup_kdc = false
dns_lookup_realm = false
dns_canonicalize_hostname = false
rdns = false
default_ccache_name = FILE:{root}/nobodys
default_client_keytab_name = FILE:{root}/nobodys.keytab
[realms]
{realm} = {{
    kdc = 127.0.0.1:{port}
}}
"""
KDC_CONF = """\
[kdcdefaults]
kdc_listen = 127.0.0.1:{port}
kdc_tcp_listen = 127.0.0.1:{port}
[realms]
{realm} = {{
    database_name = {root}/database
    key_stash_file = {root}/stash
    acl_file = {root}/acl
}}
[logging]
kdc = STDERR
"""
#: Where Debian's package has what the interpreter of these tests may not see.
_DEBIAN = Path("/usr/lib/python3/dist-packages")


def missing() -> str:
    """Why there is no realm to be had here, "" if there is."""
    if not (shutil.which("krb5kdc", path="/usr/sbin") and shutil.which("kinit")):
        return "Debian packages krb5-kdc and krb5-admin-server are not installed (make packages)"
    return ""


def library(folder: Path) -> Path | None:
    """A folder for sys.path with gssapi of Debian's package in it and nothing else of Debian; None: it is not there, or
    not for this interpreter."""
    fitting = f"cpython-{sys.version_info[0]}{sys.version_info[1]}-*.so"
    if not list((_DEBIAN / "gssapi/raw").glob(f"creds.{fitting}")):
        return None
    folder.mkdir(exist_ok=True)
    for name in ("gssapi", "decorator.py"):
        (folder / name).symlink_to(_DEBIAN / name)
    return folder


class Kdc:
    """start(), then principals and keytabs; `env` is what its clients and servers need."""

    def __init__(self, root: Path) -> None:
        self.root, self.port = root, free_port()
        self.process: Process | None = None
        root.mkdir(parents=True)
        root.chmod(0o755)
        reachable(root)
        for name, text in (("krb5.conf", KRB5_CONF), ("kdc.conf", KDC_CONF)):
            (root / name).write_text(text.format(realm=REALM, root=root, port=self.port))
        self.env = {"KRB5_CONFIG": f"{root}/krb5.conf", "KRB5RCACHENAME": "none:"}
        self._own = self.env | {"KRB5_KDC_PROFILE": f"{root}/kdc.conf"}

    def start(self) -> "Kdc":
        if not (self.root / "database").exists():
            self._run("/usr/sbin/kdb5_util", "create", "-s", "-r", REALM, "-P", "master")
        self.process = Process(["/usr/sbin/krb5kdc", "-n"], self.root / "kdc.log", env=self._own)
        wait_for(self._up, 60, f"krb5kdc: {self.root}/kdc.log")
        return self

    def _up(self) -> bool:
        assert self.process
        assert self.process.running(), self.process.output()[-2000:]
        return answers(self.port)

    def _run(self, *argv: str) -> None:
        env = os.environ | self._own
        done = subprocess.run(argv, capture_output=True, text=True, env=env, timeout=60)
        assert done.returncode == 0, done.stderr

    def keytab(self, name: str, principal: str, *more: str) -> Path:
        """A new principal, its key in the file `name`; `more`: options of addprinc."""
        path = self.root / name
        self.admin("addprinc", "-randkey", *more, principal)
        self.admin("ktadd", "-k", str(path), principal)
        path.chmod(0o644)
        return path

    def admin(self, *words: str) -> None:
        self._run("/usr/sbin/kadmin.local", "-r", REALM, *words)

    def ticket(self, keytab: Path, principal: str, cache: Path, *more: str) -> None:
        """kinit."""
        self._run("kinit", "-k", "-t", str(keytab), "-c", f"FILE:{cache}", *more, principal)
        cache.chmod(0o644)

    def stop(self) -> None:
        if self.process:
            self.process.stop()

    def issued(self, client: str) -> int:
        """How many first tickets this client got."""
        assert self.process
        return sum("AS_REQ" in line and "ISSUE" in line and client in line for line in self.process.output().splitlines())
