"""mysql tables with option files and lists of ciphers: a real MariaDB; our answers are those of `postmap -q`."""

import asyncio
import shutil
import subprocess
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest
import trustme

from appliance.mail.ports import Unavailable
from appliance.tables.proxied import Step, open_proxied
from tests.peers.databases import MariaDb
from tests.peers.good_tables import KINDS, MY_GREETING
from tests.peers.good_tables import my as my_packet
from tests.peers.hostile import Hostile

pytestmark = pytest.mark.peer

CA = trustme.CA()
SUITE = "ECDHE-ECDSA-AES256-GCM-SHA384"
ALIAS = "CREATE TABLE alias (address VARCHAR(200), goto VARCHAR(200)); INSERT INTO alias VALUES ('joe', 'inside');\n"
USERS = (
    "CREATE USER 'open'@'%' IDENTIFIED BY ''; GRANT SELECT ON mail.* TO 'open'@'%';\n"
    "CREATE USER 'shut'@'%' IDENTIFIED BY 'pass'; GRANT SELECT ON mail.* TO 'shut'@'%';\n"
)
QUERY = "query = SELECT goto FROM alias WHERE address = '%s'\n"
STATUS = "information_schema.SESSION_STATUS WHERE VARIABLE_NAME = 'Ssl_cipher'"
CIPHER = f"query = SELECT VARIABLE_VALUE FROM {STATUS} AND 'joe' = '%s'\n"
TCP, CA_FILE = "hosts = 127.0.0.1:{port}\n", "tls_CAfile = {root}/ca.pem\n"
#: (my.cnf, .cf, what is found; "!": trouble)
FILES = [
    ("[client]\nuser=open\n", TCP, "inside"),
    ("[client]\nuser=wrong\n", TCP + "user = open\n", "inside"),
    ("[client]\nuser=shut\npassword=pass\n", TCP, "!"),
    ("[client]\nuser=shut\n", TCP + "password = pass\n", "inside"),
    ("[client]\nuser=open\npassword=wrong\n", TCP, "inside"),
    ("[client]\nuser=open\nport={port}\n", "hosts = 127.0.0.1\n", "inside"),
    ("[client]\nuser=open\nport={port}\nhost=127.0.0.1\n", "hosts = localhost\n", "inside"),
    ("[client]\nuser=open\nport={port}\nhost=127.0.0.1\n", "", "inside"),
    ("[client]\nuser=open\nport={port}\nhost=127.0.0.1\n", "hosts = unix:/nowhere\n", "inside"),
    ("[client]\nuser=open\nsocket={root}/s\n", "hosts = localhost\n", "inside"),
    ("[client]\nuser=open\nsocket={root}/s\n", "hosts = localhost:99\n", "inside"),
    ("[mail]\nuser=open\nsocket={root}/s\n", "hosts = localhost\noption_group = mail\n", "inside"),
    ("[mail]\nuser=open\n[client]\nuser=wrong\nsocket={root}/s\n", "hosts = localhost\noption_group = mail\n", "!"),
    ("[client]\nuser=open\n[client-mariadb]\nsocket={root}/s\n", "hosts = localhost\noption_group =\n", "inside"),
    ("[client]\nuser='open'\nsocket=\"{root}/s\"\n", "hosts = localhost\n", "inside"),
    ("[client]\nuser=open # no comment\nsocket={root}/s\n", "hosts = localhost\n", "!"),
    ("[client]\nuser=open\ndatabase=mysql\nsocket={root}/s\n", "hosts = localhost\n", "inside"),
    ("!include {root}/two.cnf\n[client]\nsocket={root}/s\n", "hosts = localhost\n", "inside"),
    ("[client]\nsocket={root}/s\n!includedir {root}/dir\n", "hosts = localhost\n", "inside"),
    ("[client]\nuser=open\nssl-ca={root}/ca.pem\nssl-verify-server-cert=1\n", TCP + CIPHER, SUITE),
    ("[client]\nuser=open\nssl-ca={root}/other.pem\nssl-verify-server-cert=1\n", TCP, "!"),
    ("[client]\nuser=open\nssl-ca={root}/other.pem\nssl-verify-server-cert=1\n", TCP + CA_FILE, "!"),
    ("[client]\nuser=open\n", TCP + CA_FILE + "tls_ciphers = " + SUITE + "\n" + CIPHER, SUITE),
    ("[client]\nuser=open\n", TCP + CA_FILE + "tls_ciphers = ECDHE-ECDSA-AES128-GCM-SHA256\n", "!"),
    ("[client]\nuser=open\ninit-command=SET @a='by init'\n", TCP + "query = SELECT @a\n", "by init"),
]  # fmt: skip


@pytest.fixture(scope="module")
def mariadb(tmp_path_factory: pytest.TempPathFactory) -> Iterator[MariaDb]:
    """It speaks TLS 1.2 with one cipher."""
    if not shutil.which("mariadbd"):
        pytest.skip("Debian package mariadb-server is not installed (make packages)")
    folder = tmp_path_factory.mktemp("my")
    folder.chmod(0o755)
    made, server = CA.issue_cert("127.0.0.1"), MariaDb(folder / "server")
    names = {"cert": made.cert_chain_pems[0], "key": made.private_key_pem, "ca": CA.cert_pem}
    for name, pem in names.items():
        pem.write_to_path(str(folder / f"{name}.pem"))
        (folder / f"{name}.pem").chmod(0o644)
    tls = [f"--ssl-{name}={folder}/{name}.pem" for name in names]
    server.start(ALIAS, *tls, f"--ssl-cipher={SUITE}", "--tls-version=TLSv1.2")
    server.sql(USERS, "mysql")
    CA.cert_pem.write_to_path(str(server.root / "ca.pem"))
    trustme.CA().cert_pem.write_to_path(str(server.root / "other.pem"))
    (server.root / "two.cnf").write_text("[client]\nuser=open\n")
    (server.root / "dir").mkdir()
    (server.root / "dir" / "my.cnf").write_text("[client]\nuser=open\n")
    (server.root / "dir" / "a.cnf").write_text("[client]\nuser=wrong\n")
    yield server
    server.stop()


async def look(spec: str) -> str | None:
    table = open_proxied(spec)
    try:
        async with asyncio.timeout(20):
            return await table.get("joe", Step())
    except Unavailable:
        return "!"
    finally:
        table.close()


def oracle(spec: str) -> str | None:
    done = subprocess.run(["postmap", "-q", "joe", spec], capture_output=True, text=True, timeout=60)
    if done.returncode == 0:
        return done.stdout.rstrip("\n")
    return "!" if "fatal" in done.stderr or "error" in done.stderr else None


async def test_option_files(mariadb: MariaDb, tmp_path: Path) -> None:
    if not shutil.which("postmap"):
        pytest.skip("Debian package postfix is not installed")
    specs = []
    for number, (my, cf, _) in enumerate(FILES):
        named = {"port": mariadb.port, "root": mariadb.root}
        (tmp_path / f"{number}.cnf").write_text(my.format(**named))
        text = f"{cf.format(**named)}dbname = mail\noption_file = {tmp_path}/{number}.cnf\n"
        (tmp_path / f"{number}.cf").write_text(text + ("" if "query" in cf else QUERY))
        specs.append(f"mysql:{tmp_path}/{number}.cf")
    with ThreadPoolExecutor(len(specs)) as pool:
        jobs = [pool.submit(oracle, spec) for spec in specs]
        theirs = [await asyncio.wrap_future(job) for job in jobs]
    ours = [await look(spec) for spec in specs]
    wrong = [
        (my, cf, mine, said, expected)
        for (my, cf, expected), mine, said in zip(FILES, ours, theirs, strict=True)
        if not mine == said == expected
    ]
    assert wrong == []


async def test_a_server_without_tls_gets_no_login_where_it_is_a_must(tmp_path: Path) -> None:
    """It hangs up with a reason before anything of the user is sent."""
    got: list[bytes] = []

    async def listens(good: object, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        writer.write(my_packet(0, MY_GREETING))
        got.append(await reader.read(4096))

    for verify, said in (("yes", "offers no TLS"), ("no", "127.0.0.1")):
        got.clear()
        async with Hostile(KINDS["mysql"].good, listens) as server:
            path = tmp_path / "t.cf"
            said_so = f"user = joe\ndbname = x\noption_group =\ntls_verify_cert = {verify}\n{QUERY}"
            path.write_text(f"hosts = 127.0.0.1:{server.port}\n{said_so}")
            table = open_proxied(f"mysql:{path}")
            with pytest.raises(Unavailable, match=said):
                await table.get("joe", Step())
            table.close()
        assert bool(b"".join(got)) == (verify == "no")
