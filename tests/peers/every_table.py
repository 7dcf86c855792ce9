"""The same entries in a table of any type, made by the program or server that a site would use."""

import re
import shutil
import socketserver
import subprocess
from collections.abc import Callable, Iterator, Mapping
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any

from appliance.protocol import tcp_table
from tests.peers.databases import MariaDb, Postgres, RedisServer, Slapd
from tests.peers.map_servers import Handler, served, socketmap_handler

#: Tables by their name: key to value.
Tables = Mapping[str, Mapping[str, str]]
#: Makes all tables in a folder; the specs by the tables' names, as long as the context lives.
Maker = Callable[[Path, Tables], Any]
#: Of these only the whole key is looked up.
WHOLE_KEYS = ("regexp", "pcre", "socketmap", "tcp")
COMPILED = ("hash", "btree", "lmdb", "cdb")


def _lines(path: Path, entries: Mapping[str, str]) -> Path:
    path.write_text("".join(f"{key} {value}\n" for key, value in entries.items()))
    path.chmod(0o644)
    return path


@contextmanager
def texts(folder: Path, tables: Tables, kind: str) -> Iterator[dict[str, str]]:
    """texthash."""
    yield {name: f"{kind}:{_lines(folder / name, entries)}" for name, entries in tables.items()}


@contextmanager
def compiled(folder: Path, tables: Tables, kind: str) -> Iterator[dict[str, str]]:
    """By the real postmap."""
    for name, entries in tables.items():
        subprocess.run(["postmap", f"{kind}:{_lines(folder / name, entries)}"], check=True)
    for path in folder.iterdir():
        path.chmod(0o644)
    yield {name: f"{kind}:{folder / name}" for name in tables}


@contextmanager
def patterns(folder: Path, tables: Tables, kind: str) -> Iterator[dict[str, str]]:
    rules = {name: {f"/^{re.escape(key)}$/": value for key, value in entries.items()} for name, entries in tables.items()}
    yield {name: f"{kind}:{_lines(folder / name, entries)}" for name, entries in rules.items()}


@contextmanager
def inline(folder: Path, tables: Tables, kind: str) -> Iterator[dict[str, str]]:
    yield {name: _inline(entries) for name, entries in tables.items()}


def _inline(entries: Mapping[str, str]) -> str:
    return "inline:{" + ", ".join(f"{{{key} = {value}}}" for key, value in entries.items()) + "}"


@contextmanager
def unions(folder: Path, tables: Tables, kind: str) -> Iterator[dict[str, str]]:
    """Of a table that has nothing, and of one in a file."""
    files = {name: f"texthash:{_lines(folder / name, entries)}" for name, entries in tables.items()}
    yield {name: "unionmap:{inline:{{no such key = x}}, " + spec + "}" for name, spec in files.items()}


@contextmanager
def pipes(folder: Path, tables: Tables, kind: str) -> Iterator[dict[str, str]]:
    """The key leads to a number, and that to the value."""
    made = {}
    for name, entries in tables.items():
        numbers = {key: f"n{number}" for number, key in enumerate(entries)}
        values = {f"n{number}": value for number, value in enumerate(entries.values())}
        made[name] = f"pipemap:{{texthash:{_lines(folder / name, numbers)}, {_inline(values)}}}"
    yield made


# ---------------------------------------------------------------------- databases


def _cf(folder: Path, kind: str, tables: Tables, text: Callable[[str], str]) -> dict[str, str]:
    for name in tables:
        (folder / f"{name}.cf").write_text(text(name))
        (folder / f"{name}.cf").chmod(0o644)
    return {name: f"{kind}:{folder}/{name}.cf" for name in tables}


def _sql(tables: Tables) -> str:
    made = ""
    for name, entries in tables.items():
        made += f"CREATE TABLE t_{name} (k VARCHAR(200), v VARCHAR(200));\n"
        made += "".join(f"INSERT INTO t_{name} VALUES ('{key}', '{value}');\n" for key, value in entries.items())
    return made


def _query(name: str) -> str:
    return f"query = SELECT v FROM t_{name} WHERE k = '%s'\n"


@contextmanager
def sqlite(folder: Path, tables: Tables, kind: str) -> Iterator[dict[str, str]]:
    import apsw

    database = apsw.Connection(str(folder / "mail.db"))
    database.execute(_sql(tables))
    database.close()
    (folder / "mail.db").chmod(0o644)
    yield _cf(folder, kind, tables, lambda name: f"dbpath = {folder}/mail.db\n{_query(name)}")


@contextmanager
def pgsql(folder: Path, tables: Tables, kind: str) -> Iterator[dict[str, str]]:
    server = Postgres(folder / "server").start(_sql(tables))
    where = f"hosts = 127.0.0.1:{server.port}\nuser = postgres\ndbname = mail\n"
    try:
        yield _cf(folder, kind, tables, lambda name: where + _query(name))
    finally:
        server.stop()


@contextmanager
def mysql(folder: Path, tables: Tables, kind: str) -> Iterator[dict[str, str]]:
    server = MariaDb(folder / "server").start(_sql(tables))
    where = f"hosts = 127.0.0.1:{server.port}\nuser = mail\npassword = pass word\ndbname = mail\n"
    try:
        yield _cf(folder, kind, tables, lambda name: where + _query(name))
    finally:
        server.stop()


@contextmanager
def redis(folder: Path, tables: Tables, kind: str) -> Iterator[dict[str, str]]:
    server = RedisServer(folder / "server").start()
    try:
        for name, entries in tables.items():
            for key, value in entries.items():
                server.cli("HSET", name, key, value)
        yield _cf(folder, kind, tables, lambda name: f"hosts = 127.0.0.1:{server.port}\nhash = {name}\n")
    finally:
        server.stop()


@contextmanager
def ldap(folder: Path, tables: Tables, kind: str) -> Iterator[dict[str, str]]:
    ldif = "dn: dc=example,dc=com\nobjectClass: domain\ndc: example\n\n"
    for name, entries in tables.items():
        ldif += f"dn: ou={name},dc=example,dc=com\nobjectClass: organizationalUnit\nou: {name}\n\n"
        for number, (key, value) in enumerate(entries.items()):
            ldif += f"dn: cn={number},ou={name},dc=example,dc=com\nobjectClass: inetOrgPerson\nobjectClass: mailUser\n"
            ldif += f"cn: {number}\nsn: x\nmail: {key}\nmaildrop: {value}\n\n"
    server = Slapd(folder / "server").start(ldif)
    where = f"server_host = 127.0.0.1\nserver_port = {server.port}\nbind = no\nversion = 3\n"
    where += "query_filter = (mail=%s)\nresult_attribute = maildrop\n"
    try:
        yield _cf(folder, kind, tables, lambda name: f"{where}search_base = ou={name},dc=example,dc=com\n")
    finally:
        server.stop()


# ---------------------------------------------------------------------- servers


@contextmanager
def socketmaps(folder: Path, tables: Tables, kind: str) -> Iterator[dict[str, str]]:
    def reply(name: str, key: str) -> tuple[str, str]:
        text = tables[name].get(key)
        return ("NOTFOUND", "") if text is None else ("OK", text)

    with served(socketmap_handler(reply)) as port:
        yield {name: f"socketmap:inet:127.0.0.1:{port}:{name}" for name in tables}


@contextmanager
def tcp(folder: Path, tables: Tables, kind: str) -> Iterator[dict[str, str]]:
    """A server each: the protocol names no table."""

    def handler(entries: Mapping[str, str]) -> Handler:
        class One(socketserver.StreamRequestHandler):
            def handle(self) -> None:
                while line := self.rfile.readline():
                    text = entries.get(tcp_table.read_question(line.rstrip(b"\n")))
                    self.wfile.write(tcp_table.answer("500" if text is None else "200", text or "not found"))

        return One

    with ExitStack() as stack:
        yield {name: f"tcp:127.0.0.1:{stack.enter_context(served(handler(entries)))}" for name, entries in tables.items()}


MAKERS: dict[str, Maker] = {
    "texthash": texts,
    **dict.fromkeys(COMPILED, compiled),
    "regexp": patterns,
    "pcre": patterns,
    "inline": inline,
    "unionmap": unions,
    "pipemap": pipes,
    "sqlite": sqlite,
    "pgsql": pgsql,
    "mysql": mysql,
    "redis": redis,
    "ldap": ldap,
    "socketmap": socketmaps,
    "tcp": tcp,
}


def missing(kind: str) -> str:
    """The Debian package that this type wants and that is not there, or ""."""
    if kind == "pgsql":
        return "" if Postgres.bin() else "postgresql"
    programs = dict.fromkeys(COMPILED, ("postmap", "postfix"))
    programs |= {"mysql": ("mariadb-install-db", "mariadb-server"), "ldap": ("slapadd", "slapd")}
    programs |= {"redis": ("redis-server", "redis-server")}
    program, package = programs.get(kind, ("", ""))
    return package if program and not shutil.which(program) else ""
