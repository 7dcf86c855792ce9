"""mysql tables: values that are no texts are what the server writes, as for `postmap -q`."""

import shutil
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.interop.test_tables_databases import compare, needs_postfix
from tests.peers.databases import MariaDb

pytestmark = pytest.mark.peer

KEY = "joe@example.com"
ROW = "1, 1e20, TRUE, 0.00000001, '01:02:03', '2026-11-29', '0000-00-00 00:00:00', 2026, NULL"
COLUMNS = ("one", "large", "yes", "small", "clock", "day", "never", "year", "nothing")
TYPES = ("DOUBLE", "FLOAT", "BOOLEAN", "DECIMAL(12,9)", "TIME", "DATE", "DATETIME", "YEAR", "INT")


@pytest.fixture(scope="module")
def mariadb(tmp_path_factory: pytest.TempPathFactory) -> Iterator[MariaDb]:
    if not shutil.which("mariadbd"):
        pytest.skip("Debian package mariadb-server is not installed (make packages)")
    server = MariaDb(tmp_path_factory.mktemp("my") / "server")
    columns = ", ".join(f"`{name}` {kind}" for name, kind in zip(COLUMNS, TYPES, strict=True))
    yield server.start(f"SET sql_mode = ''; CREATE TABLE kinds ({columns}); INSERT INTO kinds VALUES ({ROW});")
    server.stop()


@needs_postfix
async def test_values_that_are_no_texts(mariadb: MariaDb, tmp_path: Path) -> None:
    server = f"hosts = inet:127.0.0.1:{mariadb.port}\ndbname = mail\nuser = mail\npassword = pass word\n"
    path = tmp_path / "t.cf"
    path.write_text(f"{server}query = SELECT * FROM kinds WHERE '%s' = '{KEY}'\n")
    assert await compare(f"mysql:{path}", [KEY, "other@example.com"]) == 1
