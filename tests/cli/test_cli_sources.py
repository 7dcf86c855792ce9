"""`postgate check` and files of recipients: one that is not there is told with its place, not taken for good."""

from pathlib import Path

import apsw
import pytest
from click.testing import CliRunner

from appliance.cli.check import command

HEAD = """\
[relay]
domains = "example.com"
[recipients.staff]
"""


def warnings(folder: Path, lines: str) -> list[str]:
    (folder / "c.toml").write_text(HEAD + lines)
    done = CliRunner().invoke(command, ["--config", str(folder / "c.toml")])
    assert done.exit_code == 0 and "\ngood: " in done.output, done.output
    return [line for line in done.output.splitlines() if "cannot be fetched" in line]


@pytest.mark.parametrize(
    ("lines", "file", "column"),
    [
        ('kind = "csv"\nsource = "staff.csv"', "staff.csv", 10),
        ('kind = "csv"\nsource = ["there.csv", "staff.csv"]', "staff.csv", 24),
        ('kind = "map"\nsource = "texthash:staff"', "staff", 10),
        ('kind = "map"\nsource = "hash:staff"', "staff.db", 10),
        ('kind = "map"\nsource = "lmdb:staff"', "staff.lmdb", 10),
        ('kind = "map"\nsource = "sqlite:staff.sq"\nquery = "SELECT address FROM alias"', "staff.sq", 10),
    ],
)
def test_a_file_that_is_not_there(tmp_path: Path, lines: str, file: str, column: int) -> None:
    (tmp_path / "there.csv").write_text("ann@example.com\n")
    (said,) = warnings(tmp_path, lines)
    then = "until it is, the last list stays in force; without any, unknown recipients are put off"
    text = f"the list staff cannot be fetched: {tmp_path}/{file} is not there; {then}"
    assert said == f"{tmp_path}/c.toml:5:{column}: warning: {text}"
    if file.endswith(".sq"):
        apsw.Connection(str(tmp_path / file)).execute("CREATE TABLE alias (address)")
    else:
        (tmp_path / file).write_bytes(b"ann@example.com\n")
    assert warnings(tmp_path, lines) == []


def test_a_folder_is_no_list(tmp_path: Path) -> None:
    (tmp_path / "staff.csv").mkdir()
    (said,) = warnings(tmp_path, 'kind = "csv"\nsource = "staff.csv"')
    assert f"{tmp_path}/staff.csv is a folder; " in said


def test_a_server_is_not_looked_for(tmp_path: Path) -> None:
    assert warnings(tmp_path, 'kind = "http"\nsource = "https://127.0.0.1:1/users"') == []
