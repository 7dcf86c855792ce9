"""`postgate identity list|forget`: of whom mail was accepted, since when, how often.

An identity is an organisation's domain ("example.org"), or a network where nothing else was proven. Exit: 0 done, 1
nothing there (a MATCH without hits), 2 could not run.
"""

import sys
import time
from collections.abc import Iterator
from typing import Any

import click
import msgspec

from appliance.cli import common
from appliance.cli.greylist import PAGE, reach
from appliance.observe.text import counted
from appliance.stores import wire
from appliance.stores.console import Console
from appliance.stores.senders import Known

DONE, NOTHING = 0, 1


def records(console: Console, match: str) -> Iterator[tuple[str, Known, float]]:
    """(key, record, what makes its times wall times) of all identities whose key contains `match`, in key order."""
    after = ""
    while True:
        rows, after, offset = console.ask(wire.List("identity", match, after, PAGE))
        for key, raw, _ in rows:
            yield key, msgspec.convert(raw, Known), offset
        if not after:
            return


def line(key: str, known: Known, offset: float) -> str:
    """For people."""
    first, last = (time.strftime("%Y-%m-%d %H:%M:%S", time.localtime(at + offset)) for at in (known.first, known.last))
    messages, days = counted(known.messages, "message"), counted(known.days, "day")
    return f"{key}: {messages} on {days}, first {first}, last {last}"


def facts(key: str, known: Known, offset: float) -> dict[str, Any]:
    """For --json."""
    counts = {"days": known.days, "messages": known.messages}
    return {"key": key, "first": known.first + offset, "last": known.last + offset, **counts}


@click.group(cls=common.Group)
def command() -> None:
    """Show whose mail was accepted."""


@command.command("list")
@click.argument("match", default="")
@common.config_option
@click.option("--limit", default=1000, show_default=True, type=click.IntRange(min=0), help="0: all of them.")
@click.option("--json", "as_json", is_flag=True, help="One JSON object a line.")
def list_(match: str, config: str | None, limit: int, as_json: bool) -> None:
    """Identities whose name contains MATCH (a domain, a network)."""
    shown = 0
    with reach(config) as console:
        for record in records(console, match.lower()):
            shown += 1
            click.echo(msgspec.json.encode(facts(*record)) if as_json else line(*record))
            if limit and shown >= limit:
                click.echo(f"... only the first {limit} (--limit)", err=True)
                break
    if not shown and not as_json:
        click.echo("No such identity" if match else "No mail was accepted yet")
    sys.exit(NOTHING if match and not shown else DONE)


@command.command()
@click.argument("name")
@common.config_option
def forget(name: str, config: str | None) -> None:
    """Forget that mail of NAME ("example.org", "192.0.2.0/24") was accepted: it is new again."""
    name = name.lower()
    with reach(config) as console:
        gone = [bool(console.ask(wire.Delete("identity", key))) for key in (f"id:{name}", f"net:{name}", name)]
    click.echo(f"{name} is forgotten" if any(gone) else "No such identity")
    sys.exit(DONE if any(gone) else NOTHING)
