"""Real database servers in folders of their own: PostgreSQL, MariaDB, slapd, redis; each is ended with its test."""

import contextlib
import glob
import os
import pwd
import shutil
import signal
import subprocess
from pathlib import Path

from tests.peers.ports import answers, free_port, unix_answers, wait_for
from tests.peers.process import Process, reachable, stand_still


def _owned(root: Path, user: str) -> None:
    root.mkdir(parents=True, exist_ok=True)
    root.chmod(0o755)
    reachable(root)
    shutil.chown(root, pwd.getpwnam(user).pw_uid, pwd.getpwnam(user).pw_gid)


class Server:
    """What all share: a port, a process, an end."""

    def __init__(self, root: Path) -> None:
        self.root, self.port = root, free_port()
        self.process: Process | None = None

    def _run(self, argv: list[str], user: str) -> None:
        self.process = Process(argv, self.root.parent / f"{self.root.name}.log", user=user, group=user)
        wait_for(self._up, 60, f"{argv[0]}: {self.root.parent}/{self.root.name}.log")

    def _up(self) -> bool:
        assert self.process
        assert self.process.running(), self.process.output()[-2000:]
        return answers(self.port)

    def stop(self) -> None:
        if self.process:
            self.process.stop()

    def hang(self) -> None:
        """All its processes stand still; the one that makes them first."""
        assert self.process
        stand_still(self.process.pid)
        stand_still(*self._family())

    def _family(self) -> list[int]:
        """The server and its children (PostgreSQL's are groups of their own)."""
        assert self.process
        pid = self.process.pid
        children = Path(f"/proc/{pid}/task/{pid}/children").read_text().split()
        return [pid, *map(int, children)]

    def go_on(self) -> None:
        for one in reversed(self._family()):
            with contextlib.suppress(ProcessLookupError):
                os.kill(one, signal.SIGCONT)


class Postgres(Server):
    """PostgreSQL with a database "mail"; `sql` is run in it."""

    def _up(self) -> bool:
        """It listens before it takes sessions."""
        asks = [f"{self.bin()}/pg_isready", "-q", "-h", "127.0.0.1", "-p", str(self.port)]
        return super()._up() and subprocess.run(asks, cwd="/").returncode == 0

    @staticmethod
    def bin() -> str:
        return next(iter(sorted(glob.glob("/usr/lib/postgresql/*/bin"), reverse=True)), "")

    def start(self, sql: str) -> "Postgres":
        _owned(self.root, "postgres")
        data, home = self.root / "data", self.bin()
        run = {"user": "postgres", "group": "postgres", "check": True, "capture_output": True, "cwd": "/"}
        subprocess.run([f"{home}/initdb", "-D", str(data), "-A", "trust", "-E", "UTF8", "--locale=C", "-N"], **run)
        with (data / "pg_hba.conf").open("w") as hba:
            hba.write(
                "local all all trust\nhost all secret 127.0.0.1/32 scram-sha-256\nhost all all 127.0.0.1/32 trust\n"
            )
        options = f"-c port={self.port} -c listen_addresses=127.0.0.1 -c unix_socket_directories={self.root} -c fsync=off"
        self._run([f"{home}/postgres", "-D", str(data), *options.split()], "postgres")
        self.sql("CREATE DATABASE mail", "postgres")
        self.sql(sql)
        return self

    def sql(self, text: str, database: str = "mail") -> None:
        words = [
            "psql",
            "-h",
            "127.0.0.1",
            "-p",
            str(self.port),
            "-U",
            "postgres",
            "-v",
            "ON_ERROR_STOP=1",
            "-q",
            database,
        ]
        subprocess.run(words, input=text, text=True, check=True, capture_output=True, cwd="/")


class MariaDb(Server):
    """MariaDB with a database "mail" and the user "mail", password "pass word"."""

    def _up(self) -> bool:
        """It makes its unix socket behind the other one."""
        return super()._up() and unix_answers(self.root / "s")

    def start(self, sql: str, *options: str) -> "MariaDb":
        _owned(self.root, "mysql")
        data, sock = self.root / "data", self.root / "s"
        install = ["mariadb-install-db", "--no-defaults", f"--datadir={data}", "--auth-root-authentication-method=normal"]
        run = {"user": "mysql", "group": "mysql", "capture_output": True, "cwd": "/", "text": True}
        done = subprocess.run([*install, "--skip-test-db"], **run)
        assert done.returncode == 0, done.stdout[-1500:] + done.stderr[-1500:]
        self._run(
            ["/usr/sbin/mariadbd", "--no-defaults", f"--datadir={data}", f"--socket={sock}", f"--port={self.port}",
             "--bind-address=127.0.0.1", f"--pid-file={self.root}/pid", "--innodb-flush-log-at-trx-commit=0", *options],
            "mysql",
        )  # fmt: skip
        self.sql("CREATE DATABASE mail CHARACTER SET utf8mb4", "mysql")
        for host in ("localhost", "127.0.0.1"):
            self.sql(f"CREATE USER 'mail'@'{host}' IDENTIFIED BY 'pass word'; GRANT SELECT ON mail.* TO 'mail'@'{host}'")
        self.sql(sql)
        return self

    def sql(self, text: str, database: str = "mail") -> None:
        words = ["mariadb", "--no-defaults", "-S", str(self.root / "s"), "-u", "root", database]
        subprocess.run(words, input=text, text=True, check=True, capture_output=True)


SLAPD_CONF = """\
include /etc/ldap/schema/core.schema
include /etc/ldap/schema/cosine.schema
include /etc/ldap/schema/inetorgperson.schema
include {root}/mail.schema
pidfile {root}/pid
modulepath /usr/lib/ldap
moduleload back_mdb
sizelimit 20
{conf}
access to attrs=userPassword by anonymous auth by * none
access to * by dn.exact="cn=reader,dc=example,dc=com" read {others}
database mdb
suffix "dc=example,dc=com"
rootdn "cn=admin,dc=example,dc=com"
rootpw admin
directory {root}/data
"""
SCHEMA = """\
attributetype ( 1.3.6.1.4.1.99999.1 NAME 'maildrop' EQUALITY caseIgnoreMatch SUBSTR caseIgnoreSubstringsMatch
    SYNTAX 1.3.6.1.4.1.1466.115.121.1.15 )
attributetype ( 1.3.6.1.4.1.99999.2 NAME 'mailacceptinggeneralid' EQUALITY caseIgnoreMatch
    SYNTAX 1.3.6.1.4.1.1466.115.121.1.15 )
attributetype ( 1.3.6.1.4.1.99999.3 NAME 'memberurl' EQUALITY caseExactMatch
    SYNTAX 1.3.6.1.4.1.1466.115.121.1.15 )
objectclass ( 1.3.6.1.4.1.99999.4 NAME 'mailUser' SUP top AUXILIARY
    MAY ( maildrop $ mailacceptinggeneralid $ memberurl $ member ) )
"""


#: The suffix of a Slapd.
SUFFIX = """\
dn: dc=example,dc=com
objectClass: dcObject
objectClass: organization
dc: example
o: Example

"""
#: Who reads it, with a password.
READER = """\
dn: cn=reader,dc=example,dc=com
objectClass: organizationalRole
objectClass: simpleSecurityObject
cn: reader
userPassword: s3 cret

"""


class Slapd(Server):
    """OpenLDAP with the suffix dc=example,dc=com; `ldif` is loaded before it starts."""

    def start(self, ldif: str, conf: str = "", others: str = "by * read", urls: tuple[str, ...] = ()) -> "Slapd":
        """`conf`: more of slapd.conf; `others`: what those may who are not the reader; `urls`: where it listens, too."""
        _owned(self.root, "openldap")
        (self.root / "mail.schema").write_text(SCHEMA)
        (self.root / "slapd.conf").write_text(SLAPD_CONF.format(root=self.root, conf=conf, others=others))
        (self.root / "init.ldif").write_text(ldif)
        (self.root / "data").mkdir()
        shutil.chown(self.root / "data", "openldap", "openldap")
        words = ["slapadd", "-f", str(self.root / "slapd.conf"), "-l", str(self.root / "init.ldif")]
        done = subprocess.run(words, user="openldap", group="openldap", capture_output=True, text=True, cwd="/")
        assert done.returncode == 0, done.stderr
        url = " ".join((f"ldap://127.0.0.1:{self.port}/", *urls))
        self._run(["/usr/sbin/slapd", "-d", "0", "-f", str(self.root / "slapd.conf"), "-h", url], "openldap")
        return self


class RedisServer(Server):
    """redis, nothing on disk."""

    def start(self, *options: str) -> "RedisServer":
        _owned(self.root, "redis")
        words = ["redis-server", "--port", str(self.port), "--bind", "127.0.0.1", "--save", "", "--dir", str(self.root)]
        self._run([*words, *options], "redis")
        return self

    def cli(self, *words: str) -> str:
        run = ["redis-cli", "-p", str(self.port), "--no-auth-warning", *words]
        return subprocess.run(run, capture_output=True, text=True, check=True).stdout
