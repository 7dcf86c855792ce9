"""`postgate recipients import`: the formats, the guards, and that the table it writes is read by the check."""

from pathlib import Path

import pytest
from click.testing import CliRunner, Result

from appliance.checks.recipient import listed
from appliance.cli.greylist import normalised
from appliance.cli.recipients import command, decoded, imported
from appliance.mail.lookup import split_extension
from appliance.protocol.smtp.address import parse_address
from appliance.stores.strangers import SEP
from appliance.tables import open_table

PLAIN = ["ann@example.com", "bob@example.com"]


@pytest.mark.parametrize(
    "text",
    [
        "ann@example.com\nbob@example.com\n",
        "# a comment\n\nBob@Example.COM\n  continued line of a map\nann@example.com\nann@example.com",
        "bob@example.com\tOK\nann@example.com  relay\n",
        "Name,Mail\nAnn,ann@example.com\n\"Bob, B.\",bob@example.com\n",
        "Name;Primary SMTP Address\nAnn;ann@example.com\nBob;bob@example.com\n",
        "name\te-mail\nAnn\tann@example.com\nBob\tbob@example.com\n",
        '"Identity","EmailAddresses"\n"Ann","SMTP:ann@example.com;smtp:bob@example.com;X400:c=de"\n',
        "ann@example.com,Ann\nbob@example.com,Bob\n",
        "Ann,ann@example.com\nBob,bob@example.com\n",
    ],
)  # fmt: skip
def test_formats(text: str) -> None:
    assert imported(text) == (PLAIN, [])


def test_names_without_a_domain_are_completed_or_said() -> None:
    assert imported("ann\nbob\n", "example.com").keys == PLAIN
    assert imported("ann\nbob@example.com\n").mistakes == ["1: 'ann': " + imported("ann").mistakes[0].split(": ", 2)[2]]


def test_a_whole_domain() -> None:
    assert imported("@Example.com OK\n").keys == ["@example.com"]


@pytest.mark.parametrize("encoding", ["utf-8", "utf-8-sig", "utf-16"])
def test_encodings(encoding: str) -> None:
    assert decoded("Mail\nann@example.com\n".encode(encoding)) == "Mail\nann@example.com\n"


def run(*arguments: object) -> Result:
    return CliRunner().invoke(command, ["import", *map(str, arguments)])


def test_the_table_is_written_beside_the_policies_and_read(tmp_path: Path) -> None:
    (tmp_path / "policies").mkdir()
    config = tmp_path / "config.toml"
    config.write_text('[gateway]\npolicies = "policies"\n')
    source = tmp_path / "export.csv"
    source.write_text("Mail\nann@example.com\n@example.net\n")
    result = run(source, "--config", config)
    assert result.exit_code == 0, result.output
    path = tmp_path / "policies" / "recipients"
    table = open_table(f"texthash:{path}", lambda name: Path(name).read_bytes())
    for text, there in {"Ann+x@example.com": True, "eve@example.com": False, "eve@example.net": True}.items():
        assert bool(listed(parse_address(text.encode())[0], [table], "+")) is there
    assert "2 recipients" in result.output
    assert path.stat().st_mode & 0o777 == 0o644


def test_mistakes_write_nothing_unless_they_are_skipped(tmp_path: Path) -> None:
    source, target = tmp_path / "list", tmp_path / "table"
    source.write_text("ann@example.com\na@b@c@@\n")
    result = run(source, "--output", target)
    assert (result.exit_code, target.exists()) == (1, False)
    assert f"{source}:2:" in result.output
    assert run(source, "--output", target, "--skip").exit_code == 0
    assert "ann@example.com ok" in target.read_text()


def test_a_truncated_export_does_not_replace_the_list(tmp_path: Path) -> None:
    source, target = tmp_path / "list", tmp_path / "table"
    source.write_text("".join(f"u{n}@example.com\n" for n in range(100)))
    run(source, "--output", target)
    source.write_text("u1@example.com\n")
    assert run(source, "--output", target).exit_code == 1
    assert "u99@example.com" in target.read_text()
    assert run(source, "--output", target, "--force").exit_code == 0
    assert "u99@example.com" not in target.read_text()


def test_a_file_that_is_no_text(tmp_path: Path) -> None:
    source = tmp_path / "list"
    source.write_bytes(b"\xc3\x28\xa0")
    assert run(source, "--output", tmp_path / "table").exit_code == 2


@pytest.mark.parametrize(("delimiter", "found"), [("+", "+"), ("-", "-"), ("=-", "=-"), ("", "")])
def test_extensions_are_cut_where_the_gateway_cuts_them(tmp_path: Path, delimiter: str, found: str) -> None:
    (tmp_path / "policies").mkdir()
    (tmp_path / "policies" / "recipients").write_text("ann@example.com 1\n")
    config = tmp_path / "config.toml"
    config.write_text(f'[gateway]\npolicies = "policies"\nrecipient_delimiter = "{delimiter}"\n')
    for letter in "+-=":
        done = CliRunner().invoke(command, ["show", f"ann{letter}x@example.com", "--config", str(config)])
        assert (done.exit_code == 0) is (letter in found), done.output
    _, to = normalised("s+x@example.org", "ann-x+y@example.com", str(config)).split(SEP)
    assert to == f"{split_extension('ann-x+y', delimiter)[0]}@example.com"
