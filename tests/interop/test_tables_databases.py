"""Tables of real servers: with Postfix's own .cf files, for the same keys, our answers are those of `postmap -q`."""

import asyncio
import shutil
import socketserver
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import pytest

from appliance.mail.ports import Unavailable
from appliance.protocol import tcp_table
from appliance.tables.proxied import Asked, Bad, Step, open_proxied
from appliance.tables.proxied.keeper import Keeper
from tests.peers.databases import READER, SUFFIX, MariaDb, Postgres, RedisServer, Slapd
from tests.peers.map_servers import served, socketmap_handler
from tests.peers.ports import free_port, wait_for
from tests.peers.postfix import looked_up, settled

pytestmark = pytest.mark.peer

UMLAUT = "ümläut@example.com"
ADDRESSES = [
    ("joe@example.com", "joe@inside.example.com"),
    ("joe@example.com", "archive@inside.example.com"),
    ("o'brien@example.com", "obrien@inside.example.com"),
    ("back\\slash@example.com", "backslash"),
    ("perc%ent@example.com", "percent@x"),
    ("ümläut@example.com", "umlaut@inside.example.com"),
    ("@example.org", "catchall@inside.example.org"),
    ("example.net", "a domain"),
    ("empty@example.com", ""),
    ("nobody@example.com", None),
    ("user@sub.dom.example.com", "deep"),
]
KEYS = [
    *dict.fromkeys(address for address, _ in ADDRESSES),
    "JOE@Example.COM", "missing@example.com", "joe", "joe@", "@example.com", "@",
    "joe@other.example", "x' OR '1'='1", '"', "\\'",
    "joe@example.com ", "*", "joe)(maildrop=*", "user@example.com", "a@b.c", "a@c", "a@.com", "a@b..com",
]  # fmt: skip
#: What is asked, in the words of each .cf file.
QUERIES = {
    "plain": "query = SELECT goto FROM alias WHERE address = '%s'\n",
    "user and domain": "query = SELECT goto FROM alias WHERE address = '%u@%d'\n",
    "user": "query = SELECT goto FROM alias WHERE address = '%u@example.com'\n",
    "domain list": "domain = example.com, example.org\nquery = SELECT goto FROM alias WHERE address = '%s'\n",
    "not a domain": "domain = !example.org, regexp:{{/^example\\./ x}}, static:all\n"
    "query = SELECT goto FROM alias WHERE address = '%s'\n",
    "labels": "query = SELECT goto FROM alias WHERE address = '%u@sub.%3.%2.%1'\n",
    "format": "query = SELECT goto FROM alias WHERE address = '%s'\nresult_format = smtp:[%d] %% %u\n",
    "format of the key": "query = SELECT goto FROM alias WHERE address = '%s'\nresult_format = %S|%U|%D|%s|%1\n",
    "limit": "query = SELECT goto FROM alias WHERE address = '%s'\nexpansion_limit = 1\n",
    "two columns": "query = SELECT goto, address FROM alias WHERE address = '%s'\n",
    "old words": "table = alias\nselect_field = goto\nwhere_field = address\n"
    "additional_conditions = AND goto IS NOT NULL\n",
    "like": "query = SELECT goto FROM alias WHERE address LIKE '%%@%d'\nexpansion_limit = 100\n",
    "syntax": "query = SELEKT nothing\n",
    "capital": "query = SELECT goto FROM alias WHERE address = '%S'\n",
}
CREATE = "CREATE TABLE alias (address VARCHAR(200), goto VARCHAR(200));\n"


def inserts(escape: bool) -> str:
    def literal(text: str | None) -> str:
        if text is None:
            return "NULL"
        text = text.replace("'", "''")
        return "'" + (text.replace("\\", "\\\\") if escape else text) + "'"

    return "".join(f"INSERT INTO alias VALUES ({literal(a)}, {literal(g)});\n" for a, g in ADDRESSES)


def oracles(spec: str, keys: list[str]) -> list[str | None]:
    """One postmap a key, all at once: one that ends by an error sleeps for a second before."""
    with ThreadPoolExecutor(len(keys)) as pool:
        return list(pool.map(lambda key: looked_up(spec, key), keys))


async def ours(table: Asked, key: str, fold: bool = True) -> str | None:
    try:
        async with asyncio.timeout(30):
            return await table.get(key.lower() if fold else key, Step())
    except Unavailable:
        return "!"


async def compare(spec: str, keys: list[str], fold: bool = True) -> int:
    """How many of the keys were found; all answers are those of Postfix."""
    table, wrong, found = open_proxied(spec), {}, 0
    if (path := Path(spec.partition(":")[2])).is_file():
        settled(path)
    theirs = await asyncio.to_thread(oracles, spec, keys)
    for key, said in zip(keys, theirs, strict=True):
        mine = await ours(table, key, fold)
        found += mine not in (None, "!")
        if mine != said:
            wrong[key] = (mine, said)
    table.close()
    assert wrong == {}
    return found


needs_postfix = pytest.mark.skipif(not shutil.which("postmap"), reason="Debian package postfix is not installed")


@pytest.fixture(scope="module")
def sqlite(tmp_path_factory: pytest.TempPathFactory) -> str:
    import apsw

    path = tmp_path_factory.mktemp("sqlite") / "mail.db"
    database = apsw.Connection(str(path))
    database.execute(CREATE + inserts(escape=False))
    database.close()
    return f"dbpath = {path}\n"


@pytest.fixture(scope="module")
def postgres(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Postgres]:
    if not Postgres.bin():
        pytest.skip("Debian package postgresql is not installed (make packages)")
    server = Postgres(tmp_path_factory.mktemp("pg") / "server")
    secret = "CREATE USER secret PASSWORD 'p w'; GRANT SELECT ON alias TO secret, PUBLIC;\n"
    function = (
        "CREATE FUNCTION gotos(text) RETURNS SETOF varchar AS 'SELECT goto FROM alias WHERE address = $1' LANGUAGE sql;"
    )
    yield server.start(CREATE + inserts(escape=False) + secret + function)
    server.stop()


@pytest.fixture(scope="module")
def mariadb(tmp_path_factory: pytest.TempPathFactory) -> Iterator[MariaDb]:
    if not shutil.which("mariadbd"):
        pytest.skip("Debian package mariadb-server is not installed (make packages)")
    server = MariaDb(tmp_path_factory.mktemp("my") / "server")
    yield server.start(CREATE.replace("200)", "200) COLLATE utf8mb4_bin") + inserts(escape=True))
    server.stop()


def connection_of(kind: str, request: pytest.FixtureRequest) -> str:
    if kind == "sqlite":
        return str(request.getfixturevalue("sqlite"))
    server = request.getfixturevalue("postgres" if kind == "pgsql" else "mariadb")
    user = "user = postgres\npassword = x\n" if kind == "pgsql" else "user = mail\npassword = pass word\n"
    return f"hosts = inet:127.0.0.1:{server.port}\ndbname = mail\n{user}"


@needs_postfix
@pytest.mark.parametrize("asked", QUERIES)
@pytest.mark.parametrize("kind", ["sqlite", "pgsql", "mysql"])
async def test_databases(kind: str, asked: str, request: pytest.FixtureRequest, tmp_path: Path) -> None:
    path = tmp_path / "t.cf"
    path.write_text("# a comment\n" + connection_of(kind, request) + QUERIES[asked])
    old = [] if kind != "pgsql" else [UMLAUT]  # Postfix before 3.8 speaks LATIN1 to PostgreSQL, 3.8 and we UTF-8
    found = await compare(f"{kind}:{path}", [key for key in KEYS if key not in old])
    assert found or asked == "syntax"


@pytest.mark.parametrize("kind", ["sqlite", "pgsql", "mysql"])
async def test_keys_that_are_not_ascii(kind: str, request: pytest.FixtureRequest, tmp_path: Path) -> None:
    path = tmp_path / "t.cf"
    path.write_text(connection_of(kind, request) + QUERIES["plain"])
    table = open_proxied(f"{kind}:{path}")
    assert await ours(table, UMLAUT) == "umlaut@inside.example.com"
    assert await ours(table, "\udcff@example.com") is None
    assert await ours(table, "nul\0@example.com") is None
    table.close()


async def test_a_secret_server_a_socket_and_old_functions(postgres: Postgres, mariadb: MariaDb, tmp_path: Path) -> None:
    """Passwords, unix sockets, a select_function, a URI; a wrong password is trouble."""

    async def look(kind: str, text: str, key: str = "o'brien@example.com") -> str | None:
        path = tmp_path / "t.cf"
        path.write_text(text)
        table = open_proxied(f"{kind}:{path}")
        try:
            return await ours(table, key)
        finally:
            table.close()

    query, tcp = QUERIES["plain"], f"hosts = 127.0.0.1:{postgres.port}\ndbname = mail\n"
    assert await look("pgsql", f"{tcp}user = secret\npassword = p w\n{query}") == "obrien@inside.example.com"
    assert await look("pgsql", f"{tcp}user = secret\npassword = wrong\n{query}") == "!"
    unix = f"hosts = unix:{postgres.root}/.s.PGSQL.{postgres.port}\ndbname = mail\nuser = postgres\n"
    assert await look("pgsql", f"{unix}select_function = gotos\n") == "obrien@inside.example.com"
    uri = f"hosts = postgresql://postgres@127.0.0.1:{postgres.port}/mail\n"
    assert await look("pgsql", uri + query) == "obrien@inside.example.com"
    unix = f"hosts = unix:{mariadb.root}/s\ndbname = mail\nuser = mail\npassword = pass word\n"
    assert await look("mysql", unix + query) == "obrien@inside.example.com"
    assert await look("mysql", unix.replace("pass word", "wrong") + query) == "!"
    assert await look("mysql", unix + "query = SET @a = 1\n") == "!"
    assert await look("mysql", unix + "require_result_set = no\nquery = SET @a = 1\n") is None
    assert await look("mysql", f"{unix}require_result_set = no\n{query}") == "obrien@inside.example.com"


async def test_another_host_is_asked_where_one_is_away(postgres: Postgres, mariadb: MariaDb, tmp_path: Path) -> None:
    for kind, port, user in (
        ("pgsql", postgres.port, "user = postgres\n"),
        ("mysql", mariadb.port, "user = mail\npassword = pass word\n"),
    ):
        path = tmp_path / f"{kind}.cf"
        hosts = f"hosts = 127.0.0.1:{free_port()} 127.0.0.1:{port}\ndbname = mail\n"
        path.write_text(hosts + user + QUERIES["plain"])
        table = open_proxied(f"{kind}:{path}")
        for _ in range(6):
            assert await ours(table, "user@sub.dom.example.com") == "deep"
        table.close()


@pytest.mark.parametrize("kind", ["pgsql", "mysql"])
async def test_a_server_that_hangs_dies_and_comes_back(kind: str, request: pytest.FixtureRequest, tmp_path: Path) -> None:
    """The deadline holds, whatever the library does when it is cancelled; then the table rests, then it is well again."""
    path = tmp_path / "t.cf"
    path.write_text(connection_of(kind, request) + QUERIES["plain"])

    tables: list[Asked] = []

    def opened(spec: str) -> Asked:
        tables.append(open_proxied(spec))
        return tables[-1]

    keeper, spec = Keeper(opened, quiet=True), f"{kind}:{path}"
    keeper.also([spec])
    server: Any = request.getfixturevalue("postgres" if kind == "pgsql" else "mariadb")
    assert (await keeper.answer(spec, "user@sub.dom.example.com"))[1] == "deep"
    for table in tables:
        table.deadline = 1.0
    server.hang()
    try:
        async with asyncio.timeout(5):
            state, why, _ = await keeper.answer(spec, "joe@example.com")
        assert state == 2 and "no answer within 1 s" in why and "127.0.0.1" in why
        assert keeper.degraded()
    finally:
        server.go_on()
    async with asyncio.timeout(60):
        while (await keeper.answer(spec, "o'brien@example.com"))[0] == 2:
            await asyncio.sleep(0.2)
    assert keeper.degraded() == []
    keeper.close()


LDIF = f"""\
{SUFFIX}\
dn: ou=people,dc=example,dc=com
objectClass: organizationalUnit
ou: people

{READER}\
"""


def person(name: str, *more: str) -> str:
    lines = [f"dn: cn={name},ou=people,dc=example,dc=com", "objectClass: inetOrgPerson", "objectClass: mailUser"]
    return "\n".join([*lines, f"cn: {name}", f"sn: {name}", *more]) + "\n\n"


PEOPLE = [
    person("joe", "mail: joe@example.com", "maildrop: joe@inside", "mailacceptinggeneralid: joe"),
    person("ann", "mail: ann@example.com", "maildrop: ann@inside", "maildrop: ann@home"),
    person("stars", "mail: a*(b)\\\\c@example.com", "maildrop: stars@inside"),
    person(
        "list", "mail: list@example.com", "maildrop: archive@inside", "member: cn=joe,ou=people,dc=example,dc=com",
        "member: cn=ann,ou=people,dc=example,dc=com", "member: cn=gone,ou=people,dc=example,dc=com",
    ),
    person("outer", "mail: outer@example.com", "member: cn=list,ou=people,dc=example,dc=com"),
    person("loop", "mail: loop@example.com", "maildrop: loop@inside", "member: cn=loop,ou=people,dc=example,dc=com"),
    person(
        "url", "mail: url@example.com",
        "memberurl: ldap:///ou=people,dc=example,dc=com?maildrop?sub?(maildrop=ann@inside)",
        "memberurl: ldap:///ou=people,dc=example,dc=com?mail?sub?(maildrop=joe@inside)",
        "memberurl: ldap:///cn=joe,ou=people,dc=example,dc=com",
    ),
    person("none", "mail: none@example.com"),
    *(person(f"many{number}", "mail: many@example.com", f"maildrop: many{number}@inside") for number in range(25)),
]  # fmt: skip
LDAP_KEYS = [
    "joe@example.com", "JOE@example.com", "ann@example.com", "list@example.com", "outer@example.com", "loop@example.com",
    "url@example.com", "none@example.com", "many@example.com", "nobody@example.com", "joe", "a*(b)\\c@example.com", "*",
    "*)(cn=joe",
    "joe@other.example", "@example.com", "joe,ou=people", "",
]  # fmt: skip
LDAP = {
    "plain": "query_filter = (mail=%s)\n",
    "default filter": "",
    "members": "query_filter = (mail=%s)\nspecial_result_attribute = member\n",
    "urls": "query_filter = (mail=%s)\nspecial_result_attribute = member memberurl\n",
    "leaves": "query_filter = (mail=%s)\nspecial_result_attribute = member\nresult_attribute = mail\n"
    "leaf_result_attribute = maildrop\n",
    "terminal": "query_filter = (mail=%s)\nspecial_result_attribute = member\nterminal_result_attribute = maildrop\n"
    "result_attribute = mail\n",
    "depth": "query_filter = (mail=%s)\nspecial_result_attribute = member\nrecursion_limit = 2\n",
    "limit": "query_filter = (mail=%s)\nexpansion_limit = 1\n",
    "size": "query_filter = (mail=%s)\nsize_limit = 5\n",
    "format": "query_filter = (mail=%s)\nresult_format = <%u> %d [%U %D]\n",
    "parts": "query_filter = (&(mail=%s)(cn=%u))\ndomain = example.com\n",
    "domain": "query_filter = (mail=%s)\ndomain = !!example.com !inline:{example.org=1} static:all\n",
    "base": "search_base = cn=%u,ou=people,dc=example,dc=com\nscope = base\nquery_filter = (objectClass=*)\n",
    "several": "query_filter = (mail=%s)\nresult_attribute = maildrop, cn\n",
    "no base": "search_base = ou=nowhere,dc=example,dc=com\nquery_filter = (mail=%s)\n",
}


@pytest.fixture(scope="module")
def slapd(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Slapd]:
    if not shutil.which("slapd", path="/usr/sbin:/usr/bin"):
        pytest.skip("Debian package slapd is not installed (make packages)")
    server = Slapd(tmp_path_factory.mktemp("ldap") / "server")
    yield server.start(LDIF + "".join(PEOPLE))
    server.stop()


@needs_postfix
@pytest.mark.parametrize("asked", LDAP)
async def test_ldap(slapd: Slapd, asked: str, tmp_path: Path) -> None:
    path = tmp_path / "t.cf"
    base = "" if "search_base" in LDAP[asked] else "search_base = dc=example,dc=com\n"
    login = (
        "bind = yes\nbind_dn = cn=reader,dc=example,dc=com\nbind_pw = s3 cret\n" if asked != "plain" else "bind = no\n"
    )
    path.write_text(f"server_host = ldap://127.0.0.1:{slapd.port}\nversion = 3\n{base}{login}{LDAP[asked]}")
    assert await compare(f"ldap:{path}", LDAP_KEYS) or asked == "no base"


async def test_an_ldap_server_that_refuses_is_trouble(slapd: Slapd, tmp_path: Path) -> None:
    path = tmp_path / "t.cf"
    text = f"server_host = 127.0.0.1\nserver_port = {slapd.port}\nsearch_base = dc=example,dc=com\n"
    path.write_text(f"{text}bind_dn = cn=reader,dc=example,dc=com\nbind_pw = wrong\n")
    table = open_proxied(f"ldap:{path}")
    with pytest.raises(Unavailable, match="bind is refused"):
        await table.get("joe", Step())
    table.close()


async def test_redis(tmp_path: Path) -> None:
    if not shutil.which("redis-server"):
        pytest.skip("Debian package redis-server is not installed (make packages)")
    server = RedisServer(tmp_path / "redis").start("--requirepass", "s3cret")
    try:
        server.cli("-a", "s3cret", "-n", "3", "SET", "mail:joe@example.com", "joe@inside")
        server.cli("-a", "s3cret", "-n", "3", "HSET", "goto", "ann@example.com", "ann@inside")
        where = f"hosts = 127.0.0.1:{server.port}\npassword = s3cret\ndbname = 3\n"
        path = tmp_path / "t.cf"
        path.write_text(f"{where}key_format = mail:%s\nresult_format = %s!\n")
        table = open_proxied(f"redis:{path}")
        assert [await ours(table, key) for key in ("joe@example.com", "ann@example.com")] == ["joe@inside!", None]
        table.close()
        path.write_text(f"{where}hash = goto\ndomain = example.com\n")
        table = open_proxied(f"redis:{path}")
        found = [await ours(table, key) for key in ("ann@example.com", "joe@example.com", "ann", "ann@example.org")]
        assert found == ["ann@inside", None, None, None]
        table.close()
        path.write_text(f"{where}key_format = goto\n")
        table = open_proxied(f"redis:{path}")
        assert await ours(table, "x") == "!"  # a hash is no text
        table.close()
        path.write_text(f"hosts = 127.0.0.1:{server.port}\npassword = wrong\n")
        table = open_proxied(f"redis:{path}")
        assert await ours(table, "x") == "!"
        table.close()
    finally:
        server.stop()


async def test_d5_redis_read_only_full_failed_over_without_its_master_and_back(tmp_path: Path) -> None:
    """A table only reads: a replica and a full server answer. One without its master, or all being away, puts off."""
    if not shutil.which("redis-server"):
        pytest.skip("Debian package redis-server is not installed (make packages)")
    first = RedisServer(tmp_path / "first").start()
    second = RedisServer(tmp_path / "second").start("--replicaof", "127.0.0.1", str(first.port))
    try:
        first.cli("SET", "joe@example.com", "inside")
        wait_for(lambda: second.cli("GET", "joe@example.com").strip() == "inside", 20, "the replica")
        assert "READONLY" in second.cli("SET", "x", "y")
        path = tmp_path / "t.cf"
        path.write_text(f"hosts = 127.0.0.1:{first.port} 127.0.0.1:{second.port}\nretry_interval = 1\n")
        table = open_proxied(f"redis:{path}")
        first.cli("CONFIG", "SET", "maxmemory", "1")
        assert "OOM" in first.cli("SET", "x", "y")
        assert await ours(table, "joe@example.com") == "inside"
        first.stop()
        assert [await ours(table, key) for key in ("joe@example.com", "nobody")] == ["inside", None], "failed over"
        second.cli("CONFIG", "SET", "replica-serve-stale-data", "no")
        assert "MASTERDOWN" in second.cli("GET", "joe@example.com")
        assert await ours(table, "joe@example.com") == "!"
        second.stop()
        assert await ours(table, "nobody") == "!"
        first.start()
        first.cli("SET", "joe@example.com", "back")
        async with asyncio.timeout(15):  # behind its retry_interval
            while await ours(table, "joe@example.com") != "back":
                await asyncio.sleep(0.05)
        table.close()
    finally:
        first.stop()
        second.stop()


ANSWERS = {"joe@example.com": ("OK", "joe@inside"), "empty@example.com": ("OK", ""), "odd": ("OK", "a b%c ü")}
ANSWERS |= {"temp": ("TEMP", "later"), "perm": ("PERM", "no"), "late": ("TIMEOUT", "slow")}


def _reply(name: str, key: str) -> tuple[str, str]:
    return ANSWERS.get(key, ("NOTFOUND", "")) if name == "alias" else ("PERM", "no such map")


class _Tcp(socketserver.StreamRequestHandler):
    CODES: dict[str, str] = {"OK": "200", "TEMP": "400", "PERM": "400", "TIMEOUT": "400"}  # noqa: RUF012

    def handle(self) -> None:
        while line := self.rfile.readline():
            key = tcp_table.read_question(line.rstrip(b"\n"))
            state, text = ANSWERS.get(key, ("", "nothing"))
            self.wfile.write(tcp_table.answer(self.CODES.get(state, "500"), text))


@pytest.fixture
def serve() -> Iterator[Any]:
    with ExitStack() as stack:
        yield lambda handler: stack.enter_context(served(handler))


@needs_postfix
async def test_socketmap_and_tcp(serve: Any) -> None:
    keys = [*ANSWERS, "JOE@example.com", "missing", "with blank", "üml", "per%cent", "x" * 300]
    keys.remove("empty@example.com")  # postmap(1) warns of an empty result, and says nothing
    assert await compare(f"socketmap:inet:127.0.0.1:{serve(socketmap_handler(_reply))}:alias", keys, fold=False) == 2
    assert await compare(f"tcp:127.0.0.1:{serve(_Tcp)}", keys, fold=False) == 2


async def test_an_empty_result_is_a_result(serve: Any) -> None:
    table = open_proxied(f"socketmap:inet:127.0.0.1:{serve(socketmap_handler(_reply))}:alias")
    assert await ours(table, "empty@example.com", fold=False) == ""
    table.close()


def test_what_a_cf_file_may_not_have_is_named_with_its_line(tmp_path: Path) -> None:
    path = tmp_path / "t.cf"
    path.write_text("server_host = x\n\n# c\n\nserch_base = x\nscope = all\ntimeout = soon\nresult_format = %z\n")
    with pytest.raises(Bad) as first:
        open_proxied(f"ldap:{path}")
    assert f"{path}:5: serch_base is not known (did you mean search_base?)" in str(first.value)
    path.write_text(
        "server_host = gopher://x\nscope = all\ntimeout = soon\nresult_format = %z\nsearch_base = x\ndomain = /file\n"
        "chase_referrals = maybe\n"
    )
    with pytest.raises(Bad) as second:
        open_proxied(f"ldap:{path}")
    for text in (
        ":1: server_host:",
        ":2: scope:",
        ":3: timeout:",
        ':4: result_format: "%z"',
        ":6: domain:",
        ":7: chase_referrals:",
    ):
        assert f"{path}{text}" in str(second.value)
    path.write_text("hosts = a\noption_file = /nowhere/my.cnf\nquery = x\n")
    with pytest.raises(Bad, match=r"t\.cf:2: option_file: /nowhere/my.cnf: No such file"):
        open_proxied(f"mysql:{path}")
    path.write_text("dbname = x\n")
    with pytest.raises(Bad, match=r"query: is missing"):
        open_proxied(f"pgsql:{path}")
