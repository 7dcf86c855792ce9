"""`postgate table FILE_OR_SPEC KEY`: what a lookup table answers, and where the answer stands.

Exit: 0 found, 1 not found, 2 could not look (no such table, mistakes in it).
"""

import sys
from pathlib import Path

import click
import msgspec

from appliance.cli.common import config_option
from appliance.config.blob import octets, shipped_policies
from appliance.config.references import Layout
from appliance.mail.ports import Unavailable
from appliance.tables import KINDS, Opened, TableError, open_table

FOUND, NOT_FOUND, COULD_NOT_LOOK = 0, 1, 2
_BY_SUFFIX = {".cidr": "cidr", ".pcre": "pcre", ".regexp": "regexp"}


@click.command()
@click.argument("table")
@click.argument("keys", nargs=-1, required=True, metavar="KEY...")
@click.option("--json", "as_json", is_flag=True, help="One JSON object a key instead of lines.")
@config_option
def command(table: str, keys: tuple[str, ...], as_json: bool, config: str | None) -> None:
    """Look KEYs up in TABLE: "type:name", or a file (by its ending .cidr, .pcre, .regexp, else texthash).

    Each KEY is looked up as it is, without the shorter keys that a check would try after it. With --config a relative
    name is taken as that gateway takes it: from its policies folder, the shipped one, the wiring file's folder.
    """
    opened = load(spec_of(table), homes(config))
    missed = False
    for key in keys:
        try:
            found = opened.get(key)
        except Unavailable as why:
            click.echo(str(why), err=True)
            sys.exit(COULD_NOT_LOOK)
        missed = missed or found is None
        value, place = found or (None, None)
        if as_json:
            click.echo(msgspec.json.encode({"key": key, "value": value, "place": place}))
        else:
            click.echo(f"{key}\t{value}\t{place}" if found else f"{key}\tnot found")
    sys.exit(NOT_FOUND if missed else FOUND)


def spec_of(text: str) -> str:
    """`type:name` as it is; for a file its type by its ending."""
    if text.partition(":")[0] in KINDS and not Path(text).exists():
        return text
    return f"{_BY_SUFFIX.get(Path(text).suffix, 'texthash')}:{text}"


def homes(config: str | None) -> list[Path]:
    """The folders in which relative names may begin, in the order of trial."""
    if config is None:
        return [Path.cwd()]
    main = Path(config).absolute()
    try:
        layout = Layout(str(main), str(main.parent), shipped_policies(), main.read_bytes())
    except OSError as why:
        click.echo(f"{config}: {why.strerror}", err=True)
        sys.exit(COULD_NOT_LOOK)
    return [Path(folder) for folder in (layout.policies_folder, layout.shipped, layout.folder) if folder]


def load(spec: str, folders: list[Path]) -> Opened:
    """The table; its flaws go to stderr. Ends the program where there is none."""

    def read(name: str) -> bytes:
        paths = [folder / name for folder in folders]
        return octets(str(next((path for path in paths if path.exists()), paths[0])))[0]

    try:
        opened = open_table(spec, read)
    except (TableError, OSError) as why:
        click.echo(f"{spec}: {why.strerror if isinstance(why, OSError) else why}", err=True)
        sys.exit(COULD_NOT_LOOK)
    for flaw in opened.source.flaws:
        click.echo(
            f"{flaw.path or spec}:{flaw.line}:{flaw.column}: {'' if flaw.fatal else 'warning: '}{flaw.text}", err=True
        )
    return opened
