"""pgsql `hosts` with connection URIs, several and mixed with plain hosts: a real server, and the answers
of `postmap -q` for the same files."""

import asyncio
import shutil
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from appliance.mail.ports import Unavailable
from appliance.tables.proxied import Step, open_proxied
from tests.peers.databases import Postgres
from tests.peers.ports import free_port
from tests.peers.postfix import looked_up

pytestmark = pytest.mark.peer

ALIAS = (
    "CREATE TABLE alias (address VARCHAR(200), goto VARCHAR(200));\nINSERT INTO alias VALUES ('joe@example.com', '{}');\n"
)
QUERY = "query = SELECT goto FROM alias WHERE address = '%s'\n"
KEYS = ["joe@example.com", "nobody@example.com"]
TRIES = 4


@pytest.fixture(scope="module")
def postgres(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Postgres]:
    """With the databases "mail", for whom the password is right, and "other"."""
    if not Postgres.bin():
        pytest.skip("Debian package postgresql is not installed (make packages)")
    server = Postgres(tmp_path_factory.mktemp("pg") / "server")
    server.start(ALIAS.format("mail") + "CREATE USER secret PASSWORD 'p w'; GRANT SELECT ON alias TO PUBLIC;\n")
    server.sql("CREATE DATABASE other", "postgres")
    server.sql(ALIAS.format("other"), "other")
    yield server
    server.stop()


async def seen(path: Path, text: str) -> tuple[set[str | None], set[str | None]]:
    """What we and Postfix say in several tries of several keys."""
    path.write_text(text + QUERY)
    spec, ours = f"pgsql:{path}", set[str | None]()
    for _ in range(TRIES):
        table = open_proxied(spec)
        for key in KEYS:
            try:
                ours.add(await table.get(key, Step()))
            except Unavailable:
                ours.add("!")
        table.close()
    if not shutil.which("postmap"):
        pytest.skip("Debian package postfix is not installed")
    with ThreadPoolExecutor(8) as pool:
        jobs = [pool.submit(looked_up, spec, key) for key in KEYS * TRIES]
        return ours, {await asyncio.wrap_future(job) for job in jobs}


async def test_connection_uris(postgres: Postgres, tmp_path: Path) -> None:
    there, away = f"127.0.0.1:{postgres.port}", f"127.0.0.1:{free_port()}"
    good, gone = f"postgresql://postgres@{there}/mail", f"postgres://postgres@{away}/mail"
    secret = f"postgresql://secret:p%20w@{there}/mail?application_name=x"
    socket = f"postgresql://postgres@/mail?host={postgres.root}&port={postgres.port}"
    named = "user = postgres\ndbname = other\n"
    for text, expected in (
        (f"hosts = {good}\n", "mail"),
        (f"hosts = {gone} {good}\n", "mail"),
        (f"hosts = {gone}, {secret}\n", "mail"),
        (f"hosts = {gone} {socket}\n", "mail"),
        (f"hosts = {good} {away}\n{named}", "mail"),
        (f"hosts = {gone} {there}\n{named}", "other"),
        (f"hosts = {good}\nuser = nobody\npassword = x\ndbname = nothing\n", "mail"),
        (f"hosts = {gone} {secret.replace('p%20w', 'wrong')}\n", "!"),
    ):
        needed = "" if "dbname" in text else "dbname = nothing\n"  # Postfix 3.7 wants it beside a URI, too
        ours, theirs = await seen(tmp_path / "t.cf", text + needed)
        assert ours - {None} == theirs - {None} == {expected}, text


async def test_each_uri_is_a_host_of_its_own(postgres: Postgres, tmp_path: Path) -> None:
    """Two databases of one server are both asked, in random order; one that fails is left out for a while."""
    path, one = tmp_path / "t.cf", f"postgresql://postgres@127.0.0.1:{postgres.port}"
    path.write_text(f"hosts = {one}/mail {one}/other\nretry_interval = 60\n{QUERY}")
    table, found = open_proxied(f"pgsql:{path}"), set[str | None]()
    async with asyncio.timeout(20):
        while found != {"mail", "other"}:
            found.add(await table.get(KEYS[0], Step()))
    table.close()
    path.write_text(f"hosts = {one}/nothing {one}/other\n{QUERY}")
    table = open_proxied(f"pgsql:{path}")
    assert {await table.get(KEYS[0], Step()) for _ in range(10)} == {"other"}
    table.close()
