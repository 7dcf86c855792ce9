"""[recipients.NAME]: what does not fit together, with its place; tables = ["synced:NAME"]."""

import os
from pathlib import Path

import pytest

from appliance.config import blob
from appliance.config.snapshot import ConfigError, build

HEAD = """\
[gateway]
state_dir = "state"
policies = "policies"
[relay]
next_hop = "smtp:[192.0.2.1]:25"
domains = ["example.com", "example.net"]
"""
GOOD = {
    "ldap": 'kind = "ldap"\nsource = "ldaps://dc.example.com"\nbase = "dc=x"\n',
    "http": 'kind = "http"\nsource = "https://graph.example/v1.0/users"\naddresses = "value[].mail"\n',
    "csv": 'kind = "csv"\nsource = ["export.csv", "more.csv"]\n',
    "map": 'kind = "map"\nsource = "hash:relay_recipients"\n',
}


def mistakes(folder: Path, lists: str, tables: str = "[]", head: str = HEAD) -> list[str]:
    (folder / "policies").mkdir(exist_ok=True)
    (folder / "secret").write_text("x\n")
    (folder / "policies/recipient.toml").write_text(f"tables = {tables}\n")
    (folder / "c.toml").write_text(head + lists)
    try:
        return [str(warning) for warning in build(blob.read(str(folder / "c.toml"))).warnings]
    except ConfigError as error:
        return [str(mistake) for mistake in error.mistakes]


@pytest.mark.parametrize("kind", GOOD)
def test_good_ones(kind: str, tmp_path: Path) -> None:
    (found,) = mistakes(tmp_path, f"[recipients.x]\n{GOOD[kind]}")
    assert found == f'{tmp_path}/c.toml:7:1: no policy asks this list: write tables = ["synced:x"] into recipient.toml'


WRONG = [
    ("ldap", 'source = "dc.example.com"', '9:10: "dc.example.com": write ldaps://host/'),
    ("ldap", 'source = "ldap://dc.example.com"\npassword_file = "secret"', "9:10: "),
    ("ldap", 'source = ["ldaps://a", "ldap://u:p@b"]', "9:24: "),
    ("ldap", 'source = "ldaps://dc.example.com:x"', "9:10: "),
    ("ldap", 'bind_dn = "cn=x"', '11:11: bind_dn needs "password_file"'),
    ("ldap", "starttls = true", "11:12: starttls is for ldap:// only"),
    ("ldap", 'addresses = "value[].mail"', "11:13: addresses is of kind http, not of ldap"),
    ("ldap", 'domains = "other.example"', '11:11: "other.example" is none of [relay] domains'),
    ("ldap", 'domains = ["texthash:x"]', "11:11: domains stand here by their names"),
    ("ldap", "every = 60", "11:9: "),
    ("ldap", "most_shrink = 101", "11:15: "),
    ("ldap", 'bas = "x"', '11:1: unknown key "bas"'),
    ("ldap", 'password_file = "none"', "11:17: "),
    ("ldap", 'tls_ca = "none.pem"', "11:10: "),
    ("ldap", 'filter = "(mail=*"', "11:10: write a filter as RFC 4515 has it"),
    ("ldap", 'filter = "mail=*"', "11:10: write a filter"),
    ("ldap", 'filter = "(mail=*)(cn=x)"', "11:10: write a filter"),
    ("ldap", 'stale_after = "10m"', "11:15: each list would be stale"),
    ("http", 'source = "http://graph.example/"', "9:10: "),
    ("http", 'source = ["https://a/x", "https://b/x"]', "9:10: addresses of one host stand here"),
    ("http", 'addresses = "value[0].mail"', '10:13: recipients.x.addresses: "value[0].mail": write for example'),
    ("http", 'token_url = "https://login.example/token"', '11:13: token_url needs "client_id"'),
    ("http", 'client_id = "x"', '11:13: means nothing without "token_url"'),
    ("http", 'user = "joe"', '11:8: user needs "password_file"'),
    ("http", 'proxy = "proxy.example:3128"', '11:9: "proxy.example:3128": write "http://host:port"'),
    ("http", 'base = "dc=x"', "11:8: base is of kind ldap, not of http"),
    ("csv", 'password_file = "secret"', "10:17: password_file is of kind http or ldap, not of csv"),
    ("map", 'source = "pcre:x"', '9:10: "pcre:x": write "type:file"'),
    ("map", 'source = "sqlite:x.db"', "9:10: sqlite, and only that, needs a query"),
    ("map", 'query = "SELECT 1"', "9:10: sqlite, and only that, needs a query"),
]


@pytest.mark.parametrize(("kind", "line", "said"), WRONG, ids=[f"{kind}-{line}" for kind, line, _ in WRONG])
def test_what_does_not_fit_has_its_place(kind: str, line: str, said: str, tmp_path: Path) -> None:
    key = line.partition(" =")[0]
    good = "".join(part for part in GOOD[kind].splitlines(keepends=True) if not part.startswith(f"{key} ="))
    lines = [f"{part}\n" for part in good.splitlines()]
    at = next((n for n, part in enumerate(GOOD[kind].splitlines()) if part.startswith(f"{key} =")), len(lines))
    lines[at:at] = [f"{line}\n"]
    found = mistakes(tmp_path, "[recipients.x]\n" + "".join(lines))
    assert any(text.startswith(f"{tmp_path}/c.toml:{said}") for text in found), found


def test_names_are_names_of_files(tmp_path: Path) -> None:
    (found,) = mistakes(tmp_path, f'[recipients.".x"]\n{GOOD["csv"]}')
    assert '".x" names a file' in found and ":7:" in found


def test_for_domains_that_stand_in_a_table_a_source_says_which(tmp_path: Path) -> None:
    head = HEAD.replace('["example.com", "example.net"]', '["inline:{example.com=x}"]')
    (found,) = mistakes(tmp_path, f"[recipients.x]\n{GOOD['csv']}", head=head)
    assert ":8:8: [relay] domains names a table" in found
    (found,) = mistakes(tmp_path, f"[recipients.x]\n{GOOD['csv']}domains = ['example.com']\n", head=head)
    assert "no policy asks this list" in found


def test_a_list_that_is_not_there_yet_is_no_mistake(tmp_path: Path) -> None:
    (found,) = mistakes(tmp_path, f"[recipients.x]\n{GOOD['csv']}", '["synced:x"]')
    assert found.startswith(f"{tmp_path}/policies/recipient.toml:1:11: ") and "the list x is not there yet" in found
    kept = tmp_path / "state/recipients/x"
    kept.parent.mkdir(parents=True)
    kept.write_text("# head\nann@example.com ok\n")
    assert mistakes(tmp_path, f"[recipients.x]\n{GOOD['csv']}", '["synced:x"]') == []


def test_a_list_that_nobody_fetches_is_one(tmp_path: Path) -> None:
    (found,) = mistakes(tmp_path, f"[recipients.staff]\n{GOOD['csv']}", '["synced:staf"]')
    assert ':1:11: "synced:staf": there is no [recipients.staf] (did you mean staff?)' in found
    lists = f"[recipients.x]\n{GOOD['csv']}"
    (found,) = mistakes(tmp_path, lists, head=HEAD.replace('"example.net"', '"synced:x"'))[:1]
    assert ":6:27: " in found and "lists of recipients are for policies/recipient.toml" in found


@pytest.mark.skipif(os.geteuid() != 0, reason="needs root to read what others may not")
def test_syncd_cannot_make_the_master_read_other_files_for_it(tmp_path: Path) -> None:
    """The folder is syncd's: a link or a hard link there to a file that root alone may read is no list."""
    lists = f"[recipients.x]\n{GOOD['csv']}"
    secret, kept = tmp_path / "shadow", tmp_path / "state/recipients/x"
    secret.write_text("root s3cret\n")
    secret.chmod(0o600)
    kept.parent.mkdir(parents=True)
    os.chown(kept.parent, 65534, -1)
    watch = blob.TableWatch()
    for make, why in (
        (kept.symlink_to, "Too many levels of symbolic links"),
        (kept.hardlink_to, "belongs to another user"),
    ):
        make(secret)
        assert any(f"the list x cannot be read ({why}" in text for text in mistakes(tmp_path, lists, '["synced:x"]'))
        found = blob.read(str(tmp_path / "c.toml"))
        assert found.missing[str(kept)].startswith(why) and str(kept) not in found.files
        assert [watch.poll(found, [str(kept)]) for _ in range(3)] == [None] * 3, "nor later"
        kept.unlink()
    kept.write_text("# head\nann@example.com ok\n")
    os.chown(kept, 65534, -1)
    assert mistakes(tmp_path, lists, '["synced:x"]') == []
