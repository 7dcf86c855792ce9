"""`postgate recipients import|show|forget`: the list of known recipients, and what call-ahead remembers.

`import` writes a texthash table (policies/recipients of the gateway's configuration, or --output), whole or not at all;
with `tables = ["texthash:recipients"]` in policies/recipient.toml the running gateway reads it within a second or two.
Exit: 0 done (show: known), 1 mistakes in the file or not known, 2 could not run.
"""

import asyncio
import csv
import os
import sys
import time
import tomllib
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

import click
import msgspec

from appliance.cli import common
from appliance.mail.later import answered
from appliance.mail.lookup import address_map_keys, search
from appliance.mail.ports import Probe
from appliance.protocol.smtp.address import AddressError, parse_address
from appliance.stores import wire
from appliance.stores.console import Console
from appliance.tables import open_table

DONE, WRONG, COULD_NOT = 0, 1, 2
#: Names of columns that hold addresses, without blanks, dashes and underscores, in lower case.
COLUMNS = frozenset({"mail", "email", "address", "emailaddress", "emailaddresses", "primarysmtpaddress", "proxyaddresses",
                     "smtpaddress", "recipient", "mailbox"})  # fmt: skip
_BOMS = ((b"\xef\xbb\xbf", "utf-8-sig"), (b"\xff\xfe", "utf-16"), (b"\xfe\xff", "utf-16"))


class Entry(NamedTuple):
    """One address as it stands in the file, and its line."""

    text: str
    line: int


class Imported(NamedTuple):
    """Keys for the table, sorted, and mistakes as "line: what"."""

    keys: list[str]
    mistakes: list[str]


def decoded(data: bytes) -> str:
    """Text of a file as it comes from other systems: UTF-8, or UTF-16 with its mark. Raises UnicodeDecodeError."""
    return data.decode(next((name for mark, name in _BOMS if data.startswith(mark)), "utf-8"))


def entries(text: str) -> Iterator[Entry]:
    """The addresses of a CSV file (a delimiter in its first line), of one address a line, or of a Postfix map."""
    first = next((line for line in text.splitlines() if line.strip() and not line.lstrip().startswith("#")), "")
    delimiter = next((mark for mark in (";", ",", "\t") if mark in first), "")
    # "user@example.com<TAB>OK" is a Postfix map: only a heading makes a tab part columns.
    if delimiter and (delimiter != "\t" or _heading(first.split("\t"))):
        yield from _columns(text, delimiter)
        return
    found = list(_words_first(text))
    # One column with a heading: the heading is no address, what follows is.
    headed = len(found) > 1 and _heading([found[0].text]) and "@" in found[1].text
    yield from found[1:] if headed else found


def _words_first(text: str) -> Iterator[Entry]:
    """The first word of each line that is no comment and continues nothing."""
    for number, line in enumerate(text.splitlines(), 1):
        word = line.split(None, 1)[0] if line.strip() else ""
        if word and not word.startswith("#") and not line[0].isspace():
            yield Entry(word, number)


def _heading(cells: list[str]) -> list[int]:
    """The columns that hold addresses, by their names."""
    plain = [cell.strip(' "').lower().replace(" ", "").replace("-", "").replace("_", "") for cell in cells]
    return [index for index, cell in enumerate(plain) if cell in COLUMNS]


def _columns(text: str, delimiter: str) -> Iterator[Entry]:
    """Cells of the address columns; without a heading the first cell of each row with an @ in it."""
    rows = csv.reader(text.splitlines(), delimiter=delimiter)
    wanted: list[int] | None = None
    for row in rows:
        if not row or row[0].lstrip().startswith("#"):
            continue
        if wanted is None:
            wanted = _heading(row)
            if wanted:
                continue
        cells = [row[i] for i in wanted if i < len(row)] if wanted else [c for c in row if "@" in c][:1] or row[:1]
        for cell in cells:
            yield from (Entry(address, rows.line_num) for address in _addresses(cell))


def _addresses(cell: str) -> Iterator[str]:
    """The addresses of a cell: one, or several as in proxyAddresses ("SMTP:a@example.com;smtp:b@...;X500:...")."""
    for part in cell.replace(";", " ").replace(",", " ").split():
        kind, colon, rest = part.partition(":")
        if not colon:
            yield part
        elif kind.lower() == "smtp":
            yield rest


def imported(text: str, domain: str = "") -> Imported:
    """Keys of a table: user@domain, or @domain for a domain whole. `domain` completes names without one."""
    keys, mistakes = set(), []
    for entry in entries(text):
        whole = entry.text.startswith("@")
        complete = f"{entry.text}@{domain}" if domain and "@" not in entry.text else entry.text
        try:
            address, _ = parse_address(("x" + complete if whole else complete).encode(), utf8=True)
        except AddressError as error:
            mistakes.append(f"{entry.line}: {entry.text!r}: {error}")
            continue
        if not address.domain:
            mistakes.append(f"{entry.line}: {entry.text!r}: no domain (complete names with --domain)")
            continue
        keys.add(f"@{address.domain}" if whole else address.text.lower())
    return Imported(sorted(keys), mistakes)


def written(path: Path, keys: list[str], source: str) -> None:
    """Replace the table at once: readers see the old one or the new one, whole. Raises OSError."""
    head = f"# Known recipients, {len(keys)} of them, imported {time.strftime('%Y-%m-%d %H:%M')} from {source}.\n"
    head += "# Written by `postgate recipients import`: changes made here are lost with the next import.\n"
    fresh = path.with_name(f".{path.name}.new")
    with fresh.open("w", encoding="utf-8") as file:
        file.write(head + "".join(f"{key} ok\n" for key in keys))
        file.flush()
        os.fsync(file.fileno())
    fresh.chmod(0o644)
    fresh.replace(path)


def policies_folder(config: str | None) -> Path:
    """The policies folder that the wiring file names."""
    if config is None:
        raise click.UsageError("say which gateway (--config FILE) or which file (--output FILE)")
    try:
        gateway = tomllib.loads(Path(config).read_text("utf-8")).get("gateway", {})
    except (OSError, ValueError) as error:
        raise click.ClickException(f"{config}: {error}") from None
    return Path(config).absolute().parent / str(gateway.get("policies", "policies"))


def _count(path: Path) -> int:
    try:
        return sum(1 for line in path.read_text("utf-8").splitlines() if line and not line.startswith("#"))
    except OSError:
        return 0


@click.group()
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
    except (OSError, UnicodeError) as error:
        click.echo(f"{file}: cannot be read: {error}", err=True)
        sys.exit(COULD_NOT)
    for mistake in found.mistakes:
        click.echo(f"{file}:{mistake}", err=True)
    if found.mistakes and not skip:
        click.echo(f"nothing written: {len(found.mistakes)} lines hold no address (--skip leaves them out)", err=True)
        sys.exit(WRONG)
    before = _count(target)
    if not force and len(found.keys) * 2 < before:
        click.echo(f"nothing written: {len(found.keys)} recipients instead of {before} (--force if that is so)", err=True)
        sys.exit(WRONG)
    try:
        written(target, found.keys, file.name)
    except OSError as error:
        click.echo(f"{target}: cannot be written: {error.strerror}", err=True)
        sys.exit(COULD_NOT)
    click.echo(f"{len(found.keys)} recipients in {target} (before: {before})")
    click.echo(f'policies/recipient.toml: tables = ["texthash:{target.name}"]')


@command.command()
@click.argument("address")
@common.config_option
@click.option("--table", default="", help='Look in this table ("texthash:FILE"; else policies/recipients).')
@click.option("--json", "as_json", is_flag=True)
def show(address: str, config: str | None, table: str, as_json: bool) -> None:
    """What the list and call-ahead know of ADDRESS."""
    try:
        parsed, _ = parse_address(address.encode(), utf8=True)
    except AddressError as error:
        raise click.UsageError(f"{address}: {error}") from None
    path = Path(table.partition(":")[2]) if table else policies_folder(config) / "recipients"
    found = None
    if path.exists():
        opened = open_table(table or f"texthash:{path}", lambda name: Path(name).read_bytes())
        found = asyncio.run(answered(search([opened], address_map_keys(parsed))))
    probe = _remembered(config, f"{parsed.local}@{parsed.domain}")
    facts = {"listed": found.place if found else None, "callahead": probe}
    if as_json:
        click.echo(msgspec.json.encode(facts))
    else:
        click.echo(f"listed     {found.place if found else 'no'}")
        click.echo(f"call-ahead {_words(probe)}")
    sys.exit(DONE if found or (probe and probe.state == "known") else WRONG)


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
