"""Every parameter of Postfix's ldap_table(5), mysql_table(5), pgsql_table(5) and sqlite_table(5), with its default and
other values: each is read, or changes no answer, or is refused with its line and what to do."""

import os
import re
import shutil
import subprocess
from pathlib import Path
from typing import NamedTuple

import pytest

from appliance.tables.proxied import Bad, cf, open_proxied

NEEDED = {
    "ldap": {"search_base": "dc=x"},
    "mysql": {"dbname": "mail", "query": "SELECT 1"},
    "pgsql": {"dbname": "mail", "query": "SELECT 1"},
    "sqlite": {"dbpath": "/nowhere/mail.db", "query": "SELECT 1"},
}


class Said(NamedTuple):
    """`taken`: values of a file that is read, the default first; `refused`: value -> what the mistake says."""

    taken: tuple[str, ...]
    refused: dict[str, str] = {}  # noqa: RUF012


COMMON = {
    "domain": Said(
        ("", "example.com, example.net", "!a.example, inline:{b=1} static:x", "socketmap:inet:a:1:b"),
        {
            "hash:/nowhere/domains": "cannot be read by",
            "nis:x": "no table type",
            "/nowhere/domains": "No such file",
            "a !": "nothing stands behind",
        },
    ),
    "result_format": Said(("%s", "smtp:[%s] %u %d %S %U %D %1 %%"), {"%z": "none of %s"}),
    "expansion_limit": Said(("0", "1"), {"many": "no number"}),
}
WORDS = {name: Said(("", "word")) for name in ("select_field", "table", "where_field", "additional_conditions")}
SQL = {
    **COMMON,
    **WORDS,
    "query": Said(("SELECT a FROM b WHERE c = '%s'", "SELECT '%u%d%1%S%U%D%%'"), {"SELECT '%z'": "none of %s"}),
}
SERVER = {
    **SQL,
    "hosts": Said(("localhost", "unix:/run/s", "inet:a inet:b:99", "a b:99"), {"a:99999": "no address"}),
    "user": Said(("", "someone")),
    "password": Said(("", "pass word")),
    "dbname": Said(("mail",), {"": "is missing"}),
    "retry_interval": Said(("60", "60s"), {"soon": "no number"}),
    "idle_interval": Said(("60", "60s"), {"soon": "no number"}),
}
RANKS = ("special_result_attribute", "terminal_result_attribute", "leaf_result_attribute")
URIS = ("postgresql://joe@a/b?sslmode=require", "postgres://a/b b:99 postgresql:///c?host=/run/s")
NO_URIS = ("mysql://a/b", "postgresql://a:port/b", "postgresql://a%2Cb/c", "postgresql://joe:secret@a/b?colour=blue")
PARAMETERS: dict[str, dict[str, Said]] = {
    "sqlite": {**SQL, "dbpath": Said(("/nowhere/mail.db",), {"": "is missing"})},
    "pgsql": {
        **SERVER,
        "hosts": Said(
            (*SERVER["hosts"].taken, *URIS), {**SERVER["hosts"].refused, **dict.fromkeys(NO_URIS, "a connection URI")}
        ),
        "encoding": Said(("UTF8", "LATIN1")),
        "select_function": Said(("gotos",)),
    },
    "mysql": {
        **SERVER,
        "charset": Said(("utf8mb4", "latin1")),
        "option_file": Said(("",), {"/nowhere/my.cnf": "No such file"}),
        "option_group": Said(("client", "", "mail")),
        "require_result_set": Said(("yes", "no"), {"perhaps": "neither yes nor no"}),
        "tls_ciphers": Said(
            ("", "HIGH:!aNULL", "ECDHE-RSA-AES256-GCM-SHA384"), {"SECURE256:+SECURE128": "names no cipher"}
        ),
        "tls_verify_cert": Said(("no", "yes"), {"perhaps": "neither yes nor no"}),
        **{name: Said(("",), {"/none": "No such file"}) for name in ("tls_CAfile", "tls_cert_file")},
        **{name: Said(("",)) for name in ("tls_CApath", "tls_key_file")},
    },
    "ldap": {
        **COMMON,
        "server_host": Said(("localhost", "a:99 b", "ldap://a:99 ldaps://b ldapi://%2Frun%2Fs"), {"http://a": "none of"}),
        "server_port": Said(("389", "778"), {"0": "no number"}),
        "timeout": Said(("10", "5s"), {"soon": "no number"}),
        "search_base": Said(("dc=x", "ou=%d, dc=x"), {"%z": "none of %s"}),
        "query_filter": Said(("(mailacceptinggeneralid=%s)", "(&(mail=%u)(x=%1))"), {"%z": "none of %s"}),
        "result_filter": Said(("%s", "<%s>"), {"%z": "none of %s"}),
        "result_attribute": Said(("maildrop", "a, b", "")),
        **{name: Said(("", "a, b")) for name in RANKS},
        "scope": Said(("sub", "base", "one"), {"all": "none of"}),
        "bind": Said(("yes", "no", "none", "simple"), {"kerberos": "none of yes, simple, no"}),
        "bind_dn": Said(("", "cn=x")),
        "bind_pw": Said(("", "pass word")),
        **{name: Said(("no", "yes", "30")) for name in ("cache", "cache_expiry", "cache_size")},
        "recursion_limit": Said(("1000", "2"), {"0": "no number"}),
        "size_limit": Said(("0", "5"), {"some": "no number"}),
        "dereference": Said(("0", "3"), {"never": "no number"}),
        "chase_referrals": Said(("0", "no", "", "1", "yes"), {"perhaps": "none of yes, true, 1"}),
        "version": Said(("3", "2"), {"x": "no number"}),
        "debuglevel": Said(("0", "255")),
        **{name: Said(("", "word")) for name in ("sasl_mechs", "sasl_realm", "sasl_authz_id", "sasl_minssf")},
        "start_tls": Said(("no", "yes"), {"perhaps": "neither yes nor no"}),
        "tls_require_cert": Said(("no", "yes")),
        **{name: Said(("",)) for name in ("tls_ca_cert_dir", "tls_ca_cert_file", "tls_cert", "tls_key")},
        "tls_random_file": Said(("", "/dev/urandom")),
        "tls_cipher_suite": Said(
            ("", "HIGH:!aNULL", "ECDHE-RSA-AES256-GCM-SHA384"), {"SECURE256:+SECURE128": "names no cipher"}
        ),
    },
}
EVERY = [(kind, name) for kind, names in PARAMETERS.items() for name in names]


def written(path: Path, kind: str, **values: str) -> str:
    path.write_text("".join(f"{name} = {value}\n" for name, value in (values | NEEDED[kind] | values).items()))
    return f"{kind}:{path}"


@pytest.mark.parametrize(("kind", "name"), EVERY)
def test_each_parameter_is_read_or_changes_nothing_or_is_refused(kind: str, name: str, tmp_path: Path) -> None:
    said, path = PARAMETERS[kind][name], tmp_path / "t.cf"
    for value in said.taken:
        open_proxied(written(path, kind, **{name: value})).close()
    for value, why in said.refused.items():
        with pytest.raises(Bad) as found:
            open_proxied(written(path, kind, **{name: value}))
        assert why in str(found.value) and (f"{path}:1: {name}" in str(found.value) or why == "No such file")


@pytest.mark.parametrize("kind", PARAMETERS)
def test_no_parameter_of_the_manual_is_missing_here(kind: str) -> None:
    if not shutil.which("man"):
        pytest.skip("no man(1)")
    done = subprocess.run(["man", f"{kind}_table"], env={"MANWIDTH": "200", "PATH": "/usr/bin:/bin"}, capture_output=True)
    if done.returncode:
        pytest.skip(f"Debian package postfix-{kind} is not installed")
    text = re.sub(".\x08", "", done.stdout.decode())
    listed = set(re.findall(r"^ {7}([a-z][A-Za-z_]+)(?: \(|$)", text, re.MULTILINE)) & set(re.findall(r"\w+", text))
    names = {name for name in listed if "_" in name or name in ("domain", "timeout", "scope", "bind", "cache")}
    assert len(names) > (0 if kind == "sqlite" else 4)
    assert names <= PARAMETERS[kind].keys()


def test_the_older_name_of_an_ldap_result_format_counts_unless_the_new_one_stands(tmp_path: Path) -> None:
    path = tmp_path / "t.cf"
    for more, expected in (({}, "<a>"), ({"result_format": "[%s]"}, "[a]")):
        table = open_proxied(written(path, "ldap", result_filter="<%s>", **more))
        assert table._form.joined("joe@example.com", ["a"]) == expected  # type: ignore[attr-defined]
        table.close()


def test_labels_are_those_that_stand_between_dots(tmp_path: Path) -> None:
    """As Postfix cuts a domain: nothing between two dots, or behind the last, is no label."""
    table = open_proxied(written(tmp_path / "t.cf", "sqlite", query="SELECT '%1 %2'"))
    for key, labels in (("joe@a.b", "ba"), ("joe@a..b.", "ba"), ("joe@b.", None), ("joe@.b", None), ("joe@", None)):
        parts = table._form.parts(key)  # type: ignore[attr-defined]
        assert (parts and parts["1"] + parts["2"]) == labels
    table.close()


def test_a_default_that_is_written_asks_for_no_tls(tmp_path: Path) -> None:
    names = ("tls_CAfile", "tls_CApath", "tls_cert_file", "tls_key_file")
    path = tmp_path / "t.cf"
    table = open_proxied(written(path, "mysql", tls_verify_cert="no", **dict.fromkeys(names, "")))
    assert not table._tls  # type: ignore[attr-defined]
    table = open_proxied(written(path, "mysql", tls_verify_cert="yes"))
    assert table._tls  # type: ignore[attr-defined]


@pytest.mark.parametrize(
    "kind, tls",
    [("mysql", {"tls_CAfile": "/nowhere/ca"}), ("ldap", {"start_tls": "yes", "tls_ca_cert_file": "/nowhere/ca"})],
)
def test_a_file_whose_tls_cannot_be_is_not_read_while_it_is_being_written(
    kind: str, tls: dict[str, str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As one with any other mistake: half of it may be a table that answers something else."""
    monkeypatch.setattr(cf, "STILL", 3600.0)
    path = tmp_path / "t.cf"
    spec = written(path, kind, **tls)
    os.utime(path, (0, 0))
    with pytest.raises(Bad, match="TLS") as refused:
        open_proxied(spec)
    assert not refused.value.unrest()
    path.write_text("query = SELECT 0\n")
    assert refused.value.unrest()


def test_comments_may_be_in_any_charset(tmp_path: Path) -> None:
    path = tmp_path / "t.cf"
    path.write_bytes(b"# f\xfcr die Stra\xdfe\ndbpath = /x\nquery = SELECT 1\n  # \xfc\n")
    open_proxied(f"sqlite:{path}").close()
    path.write_bytes(b"# f\xfcr\ndbpath = /x\nquery = SELECT '\xfc'\n")
    with pytest.raises(Bad, match=":3: byte 0xfc is not UTF-8"):
        open_proxied(f"sqlite:{path}")
