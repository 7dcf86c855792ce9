"""Option files of MySQL for mysql tables: groups, order, includes, quotes, where their hosts lead, mistakes."""

import os
from pathlib import Path

import pytest

from appliance.tables.proxied import Bad, mycnf, open_proxied
from appliance.tables.proxied.cf import Settings
from appliance.tables.proxied.mycnf import Options, unquoted
from appliance.tables.proxied.mysql import servers
from appliance.tables.proxied.servers import Place

KNOWN = ("hosts", "option_file", "option_group")


def read(root: Path, my: str, cf: str = "") -> tuple[Settings, Options]:
    (root / "my.cnf").write_text(my)
    (root / "t.cf").write_text(f"option_file = {root}/my.cnf\n{cf}")
    settings = Settings(str(root / "t.cf"), KNOWN)
    return settings, Options(settings)


@pytest.mark.parametrize(
    ("my", "cf", "user"),
    [
        ("[client]\nuser=joe\n", "", "joe"),
        ("# c\n; c\n\n[client]\n  user = joe  \n[mysqld]\nuser=mysql\n", "", "joe"),
        ("[client]\nuser=ann\nuser=joe\n", "", "joe"),
        ("[client-mariadb]\nuser=joe\n", "option_group =\n", "joe"),
        ("[mail]\nuser=joe\n", "", ""),
        ("[mail]\nuser=joe\n", "option_group = mail\n", "joe"),
        ("[mail]\nuser=ann\n[client]\nuser=joe\n", "option_group = mail\n", "joe"),
        ("[client]\nuser=joe # no comment\n", "", "joe # no comment"),
        ("[client ]\nuser\n", "", ""),
    ],
)
def test_groups_and_order(my: str, cf: str, user: str, tmp_path: Path) -> None:
    settings, options = read(tmp_path, my, cf)
    settings.done()
    assert options.text("user") == user


@pytest.mark.parametrize(
    ("text", "value"),
    [
        ("a b", "a b"),
        ("'a b'", "a b"),
        ('"a', "a"),
        (r"a\nb\sc\td", "a\nb c\td"),
        (r"\\x\"\'", "\\x\"'"),
        (r"\qend" + "\\", r"\qend" + "\\"),
        ('""', ""),
    ],
)
def test_quotes_and_escapes(text: str, value: str) -> None:
    assert unquoted(text) == value


def test_names_have_dashes_and_older_names(tmp_path: Path) -> None:
    _, options = read(tmp_path, "[client]\ntls_ca=/a\nunix_socket=/s\nssl-verify-server-cert\nssl_enforce = OFF\n")
    assert (options.text("ssl-ca"), options.text("socket")) == ("/a", "/s")
    assert options.flag("ssl-verify-server-cert") and not options.flag("ssl-enforce") and not options.flag("none")


def test_includes_stand_where_they_are_named_and_are_followed(tmp_path: Path) -> None:
    (tmp_path / "dir").mkdir()
    (tmp_path / "dir" / "my.cnf").write_text("[client]\nport=42\n")
    (tmp_path / "dir" / "other.cnf").write_text("[client]\nport=43\n")
    (tmp_path / "two.cnf").write_text("[client]\nuser=ann\n")
    settings, options = read(
        tmp_path, f"[client]\nuser=joe\n!include {tmp_path}/two.cnf\n!includedir {tmp_path}/dir\n!includedir /nowhere\n"
    )
    settings.done()
    assert (options.text("user"), options.port(3306)) == ("ann", 42)
    assert not settings.changed()
    (tmp_path / "dir" / "my.cnf").write_text("[client]\nport=4242\n")
    os.utime(tmp_path / "dir" / "my.cnf", (0, 0))
    assert settings.changed()


def test_the_files_of_the_system_unless_the_group_is_empty(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "sys.cnf").write_text("[client]\nuser=system\n")
    monkeypatch.setattr(mycnf, "SYSTEM", (str(tmp_path / "none.cnf"), str(tmp_path / "sys.cnf")))
    for text, user in (("", "system"), ("option_group = mail\n", "system"), ("option_group =\n", "")):
        (tmp_path / "t.cf").write_text(text)
        settings = Settings(str(tmp_path / "t.cf"), KNOWN)
        assert Options(settings).text("user") == user
        settings.done()


UNIX, TCP = Place("/s", "", 3306), Place("", "localhost", 3306)


@pytest.mark.parametrize(
    ("hosts", "my", "found"),
    [
        ("", "", [Place(mycnf.SOCKET, "", 3306), TCP]),
        ("localhost", f"socket={mycnf.SOCKET}", [Place(mycnf.SOCKET, "", 3306), TCP]),
        ("localhost", "socket=/s", [UNIX]),
        ("a b:99", "port=42", [Place("", "a", 42), Place("", "b", 99)]),
        ("a unix:/s", "socket=/other", [Place("", "a", 3306), UNIX]),
        ("localhost a", "host=b,c:7", [Place("", "b", 3306), Place("", "c", 7), Place("", "a", 3306)]),
        ("inet:localhost:99", "host=b\nport=42", [Place("", "b", 99)]),
        ("unix:/s", "host=b", [Place("", "b", 3306)]),
        ("unix:/s", "host=localhost", [UNIX]),
    ],
)
def test_where_hosts_lead(hosts: str, my: str, found: list[Place], tmp_path: Path) -> None:
    settings, options = read(tmp_path, f"[client]\n{my}\n", f"hosts = {hosts}\n" if hosts else "")
    assert servers(settings, options) == found
    settings.done()


@pytest.mark.parametrize(
    ("my", "said"),
    [
        ("user=joe\n", "my.cnf:1: an option before the first [group]"),
        ("[client]\nport=many\n", 'my.cnf:2: port: "many" is no port'),
        ("[client]\n\nssl-fp=AA:BB\n", "my.cnf:3: ssl-fp is not supported here"),
        ("[client]\nconnection=host=x\n", "my.cnf:2: connection is not supported here"),
        ("!include /nowhere/x.cnf\n", "my.cnf:1: !include: /nowhere/x.cnf: No such file"),
        ("!include {root}/my.cnf\n", "my.cnf:1: !include: {root}/my.cnf: is included 16 deep"),
        ("[client]\nssl-cipher=SECURE256\n", 'my.cnf:2: ssl-cipher: "SECURE256" names no cipher'),
        ("[client]\nhost=a:99999\n", 'my.cnf:2: host: "a:99999" is no address'),
    ],
)
def test_mistakes_have_their_place(my: str, said: str, tmp_path: Path) -> None:
    (tmp_path / "my.cnf").write_text(my.format(root=tmp_path))
    (tmp_path / "t.cf").write_text(f"option_file = {tmp_path}/my.cnf\ndbname = x\nquery = SELECT 1\n")
    with pytest.raises(Bad) as found:
        open_proxied(f"mysql:{tmp_path}/t.cf")
    assert f"{tmp_path}/{said.format(root=tmp_path)}" in str(found.value)


def test_tls_of_an_option_file_goes_before_that_of_the_cf_file(tmp_path: Path) -> None:
    for my, cf, wanted, verify in (
        ("", "", False, False),
        ("ssl-enforce=1", "", True, False),
        ("ssl-cipher=HIGH", "", True, False),
        ("ssl-verify-server-cert=1", "tls_verify_cert = no\n", True, True),
        ("ssl-verify-server-cert=0", "tls_verify_cert = yes\n", False, False),
        ("", "tls_ciphers = HIGH\n", True, False),
    ):
        (tmp_path / "my.cnf").write_text(f"[client]\n{my}\n")
        (tmp_path / "t.cf").write_text(f"option_file = {tmp_path}/my.cnf\ndbname = x\nquery = SELECT 1\n{cf}")
        table = open_proxied(f"mysql:{tmp_path}/t.cf")
        assert (bool(table._tls), table._tls.verify) == (wanted, verify)  # type: ignore[attr-defined]
        table.close()
