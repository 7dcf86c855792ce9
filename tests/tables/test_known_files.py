"""Recipients out of files: CSV exports, and each type of Postfix map whose keys can be listed, by the real postmap."""

import sqlite3
import subprocess
from collections.abc import Iterable
from pathlib import Path

import pytest

from appliance.tables.known import Failed, Origin, fetch
from appliance.tables.known.texts import Entry, Keys, proxied

PEOPLE = [f"user{number}@example.com" for number in range(3000)]


def keys(entries: Iterable[Entry], *domains: str, whole: bool = True) -> Keys:
    made = Keys(domains=domains, whole=whole)
    for entry in entries:
        made.add(entry)
    return made


def of(*source: str, kind: str = "map", query: str = "") -> Keys:
    return keys(fetch(Origin(kind=kind, source=source, query=query), "", lambda _: None))


@pytest.mark.peer
@pytest.mark.parametrize("kind", ["texthash", "hash", "btree", "lmdb", "cdb"])
@pytest.mark.parametrize("count", [0, 1, 3000])
def test_every_key_of_a_map(kind: str, count: int, tmp_path: Path) -> None:
    path = tmp_path / "map"
    # long values: they stand on overflow pages of their own
    path.write_text(
        "".join(f"{address} {'x' * (5000 if n % 500 == 7 else 20)}\n" for n, address in enumerate(PEOPLE[:count]))
    )
    if kind != "texthash":
        subprocess.run(["postmap", f"{kind}:{path}"], check=True)
    assert of(f"{kind}:{path}").found == set(PEOPLE[:count])


@pytest.mark.peer
@pytest.mark.parametrize("kind", ["hash", "btree", "lmdb"])
def test_keys_that_were_deleted_are_gone(kind: str, tmp_path: Path) -> None:
    path = tmp_path / "map"
    path.write_text("".join(f"{address} x\n" for address in PEOPLE))
    subprocess.run(["postmap", f"{kind}:{path}"], check=True)
    gone = PEOPLE[::3]
    subprocess.run(["postmap", "-d", "-", f"{kind}:{path}"], input="\n".join(gone), text=True, check=True)
    assert of(f"{kind}:{path}").found == set(PEOPLE) - set(gone)


@pytest.mark.peer
@pytest.mark.parametrize("kind", ["hash", "btree", "lmdb", "cdb"])
def test_a_damaged_map_is_no_list(kind: str, tmp_path: Path) -> None:
    path = tmp_path / "map"
    path.write_text("".join(f"{address} x\n" for address in PEOPLE))
    subprocess.run(["postmap", f"{kind}:{path}"], check=True)
    (file,) = tmp_path.glob("map.*")
    data = bytearray(file.read_bytes())
    for change in (data[: len(data) // 2], data[:3], b"", bytes(len(data)), data[:4096] + b"\xff" * (len(data) - 4096)):
        file.write_bytes(change)
        with pytest.raises(Failed, match="map"):
            of(f"{kind}:{path}")


def test_a_query(tmp_path: Path) -> None:
    with sqlite3.connect(tmp_path / "m.db") as database:
        database.execute("CREATE TABLE alias (address TEXT, active INT)")
        database.executemany("INSERT INTO alias VALUES (?, ?)", [("A@example.com", 1), ("b@example.com", 0), (None, 1)])
    database.close()
    assert of(f"sqlite:{tmp_path}/m.db", query="SELECT address FROM alias WHERE active").found == {"a@example.com"}
    with pytest.raises(Failed, match="no such column"):
        of(f"sqlite:{tmp_path}/m.db", query="SELECT mail FROM alias")
    with pytest.raises(Failed, match="readonly"):
        of(f"sqlite:{tmp_path}/m.db", query="DELETE FROM alias RETURNING address")


def test_several_files_are_united(tmp_path: Path) -> None:
    (tmp_path / "a").write_text("mail;name\nann@example.com;Ann\n")
    (tmp_path / "b").write_bytes("name;proxyAddresses\nBob;smtp:bob@example.com,SMTP:Bob@example.net\n".encode("utf-16"))
    assert of(str(tmp_path / "a"), str(tmp_path / "b"), kind="csv").found == {
        "ann@example.com",
        "bob@example.com",
        "bob@example.net",
    }
    (tmp_path / "b").write_text(
        '"proxyAddresses"\n"smtp:bob@example.com;SMTP:Bob@example.net;X500:x"\n"eve@example.com"\n'
    )
    assert of(str(tmp_path / "b"), kind="csv").found == {"bob@example.com", "bob@example.net", "eve@example.com"}
    with pytest.raises(Failed, match="No such file"):
        of(str(tmp_path / "a"), str(tmp_path / "c"), kind="csv")


def test_a_map_whose_comments_are_in_another_charset(tmp_path: Path) -> None:
    (tmp_path / "m").write_bytes(b"# f\xfcr alle\nann@example.com ok\nj\xfcrgen@example.com ok\n")
    found = of(f"texthash:{tmp_path}/m")
    assert (found.found, found.wrong) == ({"ann@example.com"}, 1)


@pytest.mark.parametrize(
    ("value", "address"),
    [
        ("SMTP:Ann@example.com", ["Ann@example.com"]),
        ("smtp:ann@example.com", ["ann@example.com"]),
        (" smtp: ann@example.com ", ["ann@example.com"]),
        ("ann@example.com", ["ann@example.com"]),
        ("X500:/o=Corp/cn=ann", []),
        ("SIP:ann@example.com", []),
        ("EUM:17@example.com;phone-context=x", []),
        ("SPO:SPO_ab@SPO_cd", []),
        ("smtp:", []),
        ("", []),
    ],
)
def test_values_of_proxy_addresses(value: str, address: list[str]) -> None:
    assert list(proxied(value)) == address


@pytest.mark.parametrize(
    ("text", "key"),
    [
        ("Ann@Example.COM", "ann@example.com"),
        ("ÜSER@BÜCHER.example", "üser@xn--bcher-kva.example"),
        ("user@bücher.example", "user@xn--bcher-kva.example"),
        ("user+ext@example.com", "user+ext@example.com"),
        ("@example.com", "@example.com"),
        ("o'neil@example.com", "o'neil@example.com"),
        ("#ann@example.com", ""),
        ('"ann b"@example.com', ""),
        ("ann", ""),
        ("ann@", ""),
        ("a@b@example.com", ""),
        ("ann@example.com\n", ""),
        ("ann@\udcff.example", ""),
        ("postmaster", ""),
    ],
)
def test_keys_as_they_are_looked_up(text: str, key: str) -> None:
    made = keys([Entry(text, 1)])
    assert made.found == ({key} if key else set()) and made.wrong == (not key)


def test_a_source_speaks_for_its_domains_only() -> None:
    entries = [
        Entry(text, 1) for text in ("a@example.com", "a@sub.example.com", "a@example.net", "@example.net", "@example.com")
    ]
    made = keys(entries, "example.com", whole=False)
    assert (made.found, made.foreign, made.wrong) == ({"a@example.com"}, 2, 2)
    assert keys(entries, "example.com").found == {"a@example.com", "@example.com"}
