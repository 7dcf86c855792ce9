"""`postgate table FILE_OR_SPEC KEY`: what a lookup table answers, and where the answer stands.

Exit: 0 found, 1 not found, 2 could not look (no such table, mistakes in it).
"""

import sys
from pathlib import Path

import click
import msgspec

from appliance.config.blob import octets
from appliance.mail.ports import Unavailable
from appliance.tables import KINDS, Opened, TableError, open_table

FOUND, NOT_FOUND, COULD_NOT_LOOK = 0, 1, 2
_BY_SUFFIX = {".cidr": "cidr", ".pcre": "pcre", ".regexp": "regexp"}


@click.command()
@click.argument("table")
@click.argument("keys", nargs=-1, required=True, metavar="KEY...")
@click.option("--json", "as_json", is_flag=True, help="One JSON object a key instead of lines.")
def command(table: str, keys: tuple[str, ...], as_json: bool) -> None:
    """Look KEYs up in TABLE: "type:name", or a file (by its ending .cidr, .pcre, .regexp, else texthash).

    Each KEY is looked up as it is, without the shorter keys that a check would try after it.
    """
    opened = load(spec_of(table))
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


def load(spec: str) -> Opened:
    """The table; its flaws go to stderr. Ends the program where there is none."""
    try:
        opened = open_table(spec, lambda path: octets(path)[0])
    except (TableError, OSError) as why:
        click.echo(f"{spec}: {why.strerror if isinstance(why, OSError) else why}", err=True)
        sys.exit(COULD_NOT_LOOK)
    for flaw in opened.source.flaws:
        click.echo(
            f"{flaw.path or spec}:{flaw.line}:{flaw.column}: {'' if flaw.fatal else 'warning: '}{flaw.text}", err=True
        )
    return opened
