"""`postgate recipients import|sync|show|forget`: the list of known recipients, and what call-ahead remembers.

`import` writes a texthash table (policies/recipients of the gateway's configuration, or --output), whole or not at all;
with `tables = ["texthash:recipients"]` in policies/recipient.toml the running gateway reads it within a second or two.
Exit: 0 done (show: known), 1 mistakes in the file or not known, 2 could not run.
"""

import asyncio
import csv
import sys
import time
import tomllib
from pathlib import Path

import click
import msgspec

from appliance.cli import common
from appliance.cli.recipients_sync import command as sync
from appliance.config import where
from appliance.config.references import LISTS
from appliance.mail.later import answered
from appliance.mail.lookup import address_map_keys, search
from appliance.mail.ports import Probe
from appliance.observe.text import counted
from appliance.protocol.smtp.address import AddressError, parse_address
from appliance.stores import wire
from appliance.stores.console import Console
from appliance.tables import open_table
from appliance.tables.known.keep import count, written
from appliance.tables.known.texts import decoded, imported

DONE, WRONG, COULD_NOT = 0, 1, 2


def policies_folder(config: str | None) -> Path:
    """The policies folder that the wiring file names."""
    if config is None:
        raise click.UsageError("say which gateway (--config FILE) or which file (--output FILE)")
    try:
        gateway = tomllib.loads(Path(config).read_text("utf-8")).get("gateway", {})
    except (OSError, ValueError) as error:
        raise click.ClickException(f"{config}: {error}") from None
    return Path(config).absolute().parent / str(gateway.get("policies", "policies"))


@click.group(cls=common.Group)
def command() -> None:
    """Import and look up known recipients."""


@command.command("import")
@click.argument("file", type=click.Path(exists=True, dir_okay=False, path_type=Path))
@common.config_option
@click.option("--output", type=click.Path(dir_okay=False, path_type=Path), help="The table (else policies/recipients).")
@click.option("--domain", default="", help="Completes names that stand without a domain.")
@click.option("--skip", is_flag=True, help="Leave out lines that hold no address, instead of stopping.")
@click.option("--force", is_flag=True, help="Also if the new list has less than half of what the old one has.")
def import_(file: Path, config: str | None, output: Path | None, domain: str, skip: bool, force: bool) -> None:
    """Make a table of FILE: a CSV file (columns by their heading), one address a line, or a Postfix relay_recipient_maps
    file. "@example.com" stands for the whole domain."""
    target = output or policies_folder(config) / "recipients"
    try:
        found = imported(decoded(file.read_bytes()), domain)
    except (OSError, UnicodeError, csv.Error) as error:
        click.echo(f"{file}: cannot be read: {error}", err=True)
        sys.exit(COULD_NOT)
    for mistake in found.mistakes:
        click.echo(f"{file}:{mistake}", err=True)
    if found.mistakes and not skip:
        lines = counted(len(found.mistakes), "line holds", "lines hold")
        click.echo(f"nothing written: {lines} no address (--skip leaves them out)", err=True)
        sys.exit(WRONG)
    before = count(target)
    if not force and len(found.keys) * 2 < before:
        few = counted(len(found.keys), "recipient")
        click.echo(f"nothing written: {few} instead of {before} (--force if that is so)", err=True)
        sys.exit(WRONG)
    try:
        written(target, found.keys, f"imported from {file.name}", "import")
    except OSError as error:
        click.echo(f"{target}: cannot be written: {error.strerror}", err=True)
        sys.exit(COULD_NOT)
    click.echo(f"{counted(len(found.keys), 'recipient')} in {target} (before: {before})")
    click.echo(f'policies/recipient.toml: tables = ["texthash:{target.name}"]')


@command.command()
@click.argument("address")
@common.config_option
@click.option(
    "--table",
    default="",
    help='Look in this table ("texthash:FILE"; else policies/recipients and what sync has fetched).',
)
@click.option("--json", "as_json", is_flag=True)
def show(address: str, config: str | None, table: str, as_json: bool) -> None:
    """What the list and call-ahead know of ADDRESS."""
    try:
        parsed, _ = parse_address(address.encode(), utf8=True)
    except AddressError as error:
        raise click.UsageError(f"{address}: {error}") from None
    found, delimiter = None, where.recipient_delimiter(config)
    for spec in [table] if table else _lists(config):
        opened = open_table(spec, lambda name: Path(name).read_bytes())
        found = found or asyncio.run(answered(search([opened], address_map_keys(parsed, delimiter))))
    probe = _remembered(config, f"{parsed.local}@{parsed.domain}")
    facts = {"listed": found.place if found else None, "callahead": probe}
    if as_json:
        click.echo(msgspec.json.encode(facts))
    else:
        click.echo(f"listed     {found.place if found else 'no'}")
        click.echo(f"call-ahead {_words(probe)}")
    sys.exit(DONE if found or (probe and probe.state == "known") else WRONG)


def _lists(config: str | None) -> list[str]:
    """What `import` and `sync` have written, as far as it is there."""
    kept = common.state_dir(config) / LISTS
    fetched = sorted(path for path in kept.iterdir() if path.name[0] != ".") if kept.is_dir() else []
    return [f"texthash:{path}" for path in (policies_folder(config) / "recipients", *fetched) if path.is_file()]


def _words(probe: Probe | None) -> str:
    if probe is None:
        return "nothing remembered (or the gateway does not run)"
    when = time.strftime("%Y-%m-%d %H:%M:%S", time.localtime(probe.at))
    return f"{probe.state} since {when}, by {probe.source}: {probe.reply}"


def _remembered(config: str | None, key: str) -> Probe | None:
    try:
        with Console(common.state_dir(config) / "run" / "stated.sock") as console:
            raw = console.ask(wire.ProbeGet(key))
    except OSError:
        return None
    return None if raw is None else Probe(*raw)


@command.command()
@click.argument("address")
@common.config_option
def forget(address: str, config: str | None) -> None:
    """Forget what call-ahead found of ADDRESS ("@example.com": whether its next hop takes everything)."""
    try:
        with Console(common.state_dir(config) / "run" / "stated.sock") as console:
            there = console.ask(wire.Delete("probe", address))
    except OSError as error:
        raise click.ClickException(f"stated does not answer: {error}") from None
    click.echo("forgotten (a worker may remember it for a minute)" if there else "nothing was remembered")
    sys.exit(DONE if there else WRONG)


command.add_command(sync)
