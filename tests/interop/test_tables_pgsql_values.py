"""pgsql tables: values that are no texts, and in other encodings, are what the server writes, as for `postmap -q`."""

from collections.abc import Iterator
from pathlib import Path

import pytest

from appliance.tables.proxied import open_proxied
from tests.interop.test_tables_databases import compare, needs_postfix, ours
from tests.peers.databases import Postgres

pytestmark = pytest.mark.peer

KEY = "joe@example.com"
VALUES = ("true", "1.50", "1e20::float8", "'{a,b}'::text[]", "decode('6a6f65', 'hex')", "date '2026-11-29'", "NULL::bool")


@pytest.fixture(scope="module")
def postgres(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Postgres]:
    if not Postgres.bin():
        pytest.skip("Debian package postgresql is not installed (make packages)")
    server = Postgres(tmp_path_factory.mktemp("pg") / "server")
    yield server.start("CREATE DATABASE raw ENCODING 'SQL_ASCII' LOCALE 'C' TEMPLATE template0;")
    server.stop()


def written(path: Path, server: Postgres, database: str, query: str) -> str:
    server_of = f"hosts = inet:127.0.0.1:{server.port}\ndbname = {database}\nuser = postgres\npassword = x\n"
    path.write_text(f"{server_of}{query}\n")
    return f"pgsql:{path}"


@needs_postfix
@pytest.mark.parametrize("value", VALUES)
async def test_values_that_are_no_texts(value: str, postgres: Postgres, tmp_path: Path) -> None:
    spec = written(tmp_path / "t.cf", postgres, "mail", f"query = SELECT {value} WHERE '%s' = '{KEY}'")
    assert await compare(spec, [KEY, "other@example.com"]) == (value != "NULL::bool")


@pytest.mark.parametrize("encoding", ["", "encoding = SQL_ASCII\n", "encoding = UTF8\n"])
async def test_a_database_without_an_encoding(encoding: str, postgres: Postgres, tmp_path: Path) -> None:
    """Its octets come as they are, those of UTF-8 as letters; with an encoding the server sends no others."""
    odd = "\udcff" if "ASCII" in encoding else "!"
    for octets, text in (("joe", "joe"), ("\\xc3\\xbc", "ü"), ("\\xff", odd)):
        query = f"{encoding}query = SELECT E'{octets}' WHERE '%s' = '{KEY}'"
        table = open_proxied(written(tmp_path / "t.cf", postgres, "raw", query))
        assert await ours(table, KEY) == text
        table.close()


async def test_a_query_that_gives_no_rows_is_trouble(postgres: Postgres, tmp_path: Path) -> None:
    table = open_proxied(written(tmp_path / "t.cf", postgres, "mail", "query = SET search_path = '%s'"))
    assert await ours(table, KEY) == "!"
    table.close()
