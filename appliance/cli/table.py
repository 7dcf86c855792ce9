"""`postgate table query TABLE KEY...` and `postgate table check`: what lookup tables answer, and whether they can.

Tables behind proxymap are opened by this command itself, with its own rights: what it finds is what proxymap finds
once its user may read the same files. Exit: 0 found (check: all well), 1 not found (check: something is wrong), 2
could not look.
"""

import asyncio
import re
import sys
from collections.abc import Iterator, Sequence
from pathlib import Path

import click
import msgspec

from appliance.cli.common import Group, config_option, snapshot_of
from appliance.config.blob import octets, shipped_policies
from appliance.config.references import Layout
from appliance.config.snapshot import Snapshot
from appliance.mail.later import answered
from appliance.mail.ports import Hit, Unavailable
from appliance.observe.text import clean, counted
from appliance.tables import KINDS, Opened, TableError, open_table, remotes, suffix_of, with_paths
from appliance.tables.proxied import open_proxied
from appliance.tables.proxied.direct import Direct

FOUND, NOT_FOUND, COULD_NOT_LOOK = 0, 1, 2
_BY_SUFFIX = {".cidr": "cidr", ".pcre": "pcre", ".regexp": "regexp"}
#: A word and a colon: whoever writes so means a type. A path has a slash or a dot before any colon.
_TYPED = re.compile(r"(?:proxy:)?[A-Za-z0-9_-]+:")
#: A key that no table has, in a domain for which the table is asked; whoever answers "no" answers.
_UNASKED = "the tables in its domain answer; its own server is asked for what they have"
_NOBODY = "postgate-table-check@"


class _Group(Group):
    """`postgate table FILE KEY` without a word in front is a query, and options may stand before the word."""

    def parse_args(self, ctx: click.Context, args: list[str]) -> list[str]:
        at = next(_words(args), None)
        if at is not None:
            word = args[at] if args[at] in self.commands else ""
            args = [word, *args[:at], *args[at + 1 :]] if word else ["query", *args]
        return super().parse_args(ctx, args)


def _words(args: Sequence[str]) -> Iterator[int]:
    """The places of what is no option and no value of one."""
    value = False
    for at, arg in enumerate(args):
        if not value and not arg.startswith("-"):
            yield at
        value = arg == "--config" and not value


@click.group(cls=_Group)
def command() -> None:
    """Ask lookup tables, or check them all."""


@command.command()
@click.argument("table")
@click.argument("keys", nargs=-1, required=True, metavar="KEY...")
@click.option("--json", "as_json", is_flag=True, help="One JSON object a key instead of lines.")
@config_option
def query(table: str, keys: tuple[str, ...], as_json: bool, config: str | None) -> None:
    """Look KEYs up in TABLE: "type:name", or a file (by its ending .cidr, .pcre, .regexp, else texthash).

    Each KEY is looked up as it is, without the shorter keys that a check would try after it. With --config a relative
    name is taken as that gateway takes it: from its policies folder, the shipped one, the wiring file's folder.
    """
    opened = load(spec_of(table), homes(config))
    try:
        hits = asyncio.run(_look_up(opened, keys))
    except Unavailable as why:
        click.echo(clean(str(why)), err=True)
        sys.exit(COULD_NOT_LOOK)
    for key, found in zip(keys, hits, strict=True):
        value, place = found or (None, None)
        if as_json:
            click.echo(msgspec.json.encode({"key": key, "value": value, "place": place}))
        else:
            click.echo(f"{key}\t{value}\t{place}" if found else f"{key}\tnot found")
    sys.exit(FOUND if all(hits) else NOT_FOUND)


async def _look_up(opened: Opened, keys: Sequence[str]) -> list[Hit | None]:
    direct = Direct(open_proxied)
    try:
        for remote in remotes(opened):
            remote.line = direct
        return [await answered(opened.get(key)) for key in keys]
    finally:
        direct.close()


@command.command()
@config_option
@click.option("--json", "as_json", is_flag=True, help="One JSON object instead of lines.")
def check(config: str | None, as_json: bool) -> None:
    """Open every table of a configuration, ask each that is not in memory, and say how they are."""
    snapshot = snapshot_of(config, COULD_NOT_LOOK)
    rows = [*_in_memory(snapshot), *asyncio.run(_asked(snapshot))]
    if as_json:
        click.echo(msgspec.json.encode([{"table": spec, "trouble": trouble, "is": what} for spec, trouble, what in rows]))
    else:
        for spec, trouble, what in rows:
            click.echo(f"{'WRONG' if trouble else 'ok   '} {spec}: {clean(trouble or what)}")
    sys.exit(NOT_FOUND if any(trouble for _, trouble, _ in rows) else FOUND)


def _in_memory(snapshot: Snapshot) -> Iterator[tuple[str, str, str]]:
    """(table, what is wrong, what it is); what is wrong with these would have kept the configuration out of force."""
    for spec, table in sorted(snapshot.tables.items()):
        if not any(remotes(table)):
            trouble = str(getattr(table, "absent", ""))  # a list that is fetched, and was not yet
            yield spec, trouble, f"{counted(sum(1 for _ in table.entries()), 'entry', 'entries')} in memory"


async def _asked(snapshot: Snapshot) -> list[tuple[str, str, str]]:
    direct, rows = Direct(open_proxied), []
    for spec in snapshot.proxied:
        try:
            domain = direct.sample(spec)
            await direct.look_up(spec, _NOBODY + (domain or "invalid"))
        except Unavailable as why:
            rows.append((spec, str(why).removeprefix(f"{spec}: "), ""))
        else:
            rows.append((spec, "", "answers" if domain is not None else _UNASKED))
    direct.close()
    return rows


def spec_of(text: str) -> str:
    """`type:name` as it is, an unknown type too (whoever opens it names those there are); for a file its type by its
    ending."""
    if _TYPED.match(text) and not Path(text).exists():
        return text
    if re.match(r"[a-z_]+:", text) and not Path(text).exists():
        return text  # what is wrong with the type is told where it is opened
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
    folders = (layout.policies_folder, layout.shipped, layout.folder, layout.synced_list(""))
    return [Path(folder) for folder in folders if folder]


def load(spec: str, folders: list[Path]) -> Opened:
    """The table; its flaws go to stderr. Ends the program where there is none."""

    def place(name: str) -> str:
        paths = [folder / name for folder in folders]
        return str(next((path for path in paths if _exists(path)), paths[0]))

    try:
        opened = open_table(with_paths(spec, place), lambda path: octets(path)[0])
    except (TableError, OSError) as why:
        click.echo(f"{spec}: {why.strerror if isinstance(why, OSError) else why}", err=True)
        sys.exit(COULD_NOT_LOOK)
    for flaw in opened.source.flaws:
        click.echo(
            f"{flaw.path or spec}:{flaw.line}:{flaw.column}: {'' if flaw.fatal else 'warning: '}{flaw.text}", err=True
        )
    return opened


def _exists(path: Path) -> bool:
    """The file, or the compiled one that Postfix names without its ending."""
    return any(path.with_name(path.name + ending).exists() for ending in ("", *_ENDINGS))


_ENDINGS = sorted({ending for kind in KINDS if (ending := suffix_of(f"{kind}:x"))})
