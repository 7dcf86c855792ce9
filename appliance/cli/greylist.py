"""`postgate greylist list|show|delete|pass`: what the running gateway's greylist knows, and setting it right.

Senders and recipients are given as they are in mails; they are looked up as the check remembers them (without case,
extension, and what changes from attempt to attempt). Exit: 0 done, 1 nothing there (a MATCH without hits), 2 could not
run.
"""

import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any, NamedTuple

import click
import msgspec

from appliance.cli import common
from appliance.config import where
from appliance.mail.triplet import recipient_key, sender_key
from appliance.observe.text import counted
from appliance.protocol.smtp.address import AddressError, parse_address
from appliance.stores import greylist, wire
from appliance.stores.console import Console
from appliance.stores.strangers import SEP

DONE, NOTHING = 0, 1
PAGE = 500
KINDS = {"triplet": greylist.Triplet, "origin": greylist.Origin, "pair": greylist.Pair}
REMEMBER = 3110400.0


class Record(NamedTuple):
    """One record: its key in parts, what it holds, when it is forgotten (wall time)."""

    kind: str
    key: str
    value: Any
    expires: float
    offset: float

    @property
    def parts(self) -> list[str]:
        """[origin, sender, recipient], [origin] or [sender, recipient]."""
        return self.key.split(SEP)

    def line(self) -> str:
        """For people."""
        value, show = self.value, self._when
        if isinstance(value, greylist.Origin):
            text = f"passed {counted(value.passes, 'time')}, last used {show(value.last)}"
        elif value.passed:
            text = f"passed {show(value.passed)}, last used {show(value.last)}"
        else:
            text = f"waits since {show(value.first)}"
        if isinstance(value, greylist.Triplet):
            text += f", {counted(value.attempts, 'attempt')}"
        elif isinstance(value, greylist.Pair) and value.late:
            text += f", late attempts from {', '.join(value.late)}"
        return f"{' '.join(part or '<>' for part in self.parts)}: {text}"

    def _when(self, steady: float) -> str:
        return time.strftime("%Y-%m-%d %H:%M:%S", time.localtime(steady + self.offset))

    def facts(self) -> dict[str, Any]:
        """For --json."""
        return {"kind": self.kind, "key": self.parts, "expires": self.expires, **_fields(self.value, self.offset)}


def _fields(value: Any, offset: float) -> dict[str, Any]:
    found: dict[str, Any] = {name: getattr(value, name) for name in value.__struct_fields__}
    times = ("first", "last", "counted", "passed")
    return {name: one + offset if name in times and one else one for name, one in found.items()}


def records(console: Console, kind: str, match: str) -> Iterator[Record]:
    """All records of a kind whose key contains `match`, in key order."""
    after = ""
    while True:
        rows, after, offset = console.ask(wire.List(kind, match, after, PAGE))
        for key, raw, expires in rows:
            yield Record(kind, key, msgspec.convert(raw, KINDS[kind]), expires, offset)
        if not after:
            return


def reach(config: str | None) -> Console:
    """stated of the running gateway. Raises ClickException."""
    path: Path = common.state_dir(config) / "run" / "stated.sock"
    try:
        return Console(path)
    except PermissionError:
        raise click.ClickException(f"{path}: not allowed; run as root or as a member of group postgate") from None
    except (FileNotFoundError, ConnectionRefusedError):
        raise common.not_running(config, path) from None
    except OSError as error:
        raise click.ClickException(f"{path}: stated does not answer: {error}; is the gateway running?") from None


def normalised(sender: str, recipient: str, config: str | None) -> str:
    """Sender and recipient as they are remembered, joined as in keys."""
    try:
        who = sender_key(parse_address(sender.encode(), utf8=True)[0])
        to = recipient_key(parse_address(recipient.encode(), utf8=True)[0], where.recipient_delimiter(config))
    except AddressError as error:
        raise click.UsageError(str(error)) from None
    return f"{who}{SEP}{to}"


@click.group(cls=common.Group)
def command() -> None:
    """Show and manage the greylist."""


@command.command("list")
@click.argument("match", default="")
@common.config_option
@click.option("--kind", type=click.Choice(list(KINDS)), default="triplet", show_default=True)
@click.option("--limit", default=1000, show_default=True, type=click.IntRange(min=0), help="0: all of them.")
@click.option("--json", "as_json", is_flag=True, help="One JSON object a line.")
def list_(match: str, config: str | None, kind: str, limit: int, as_json: bool) -> None:
    """Records whose origin, sender or recipient contains MATCH (an address, a domain, a network)."""
    shown = 0
    with reach(config) as console:
        for record in records(console, kind, match.lower()):
            shown += 1
            click.echo(msgspec.json.encode(record.facts()) if as_json else record.line())
            if limit and shown >= limit:
                click.echo(f"... only the first {limit} (--limit)", err=True)
                break
    if not shown and not as_json:
        click.echo("The greylist has no such records" if match else "The greylist is empty")
    sys.exit(NOTHING if match and not shown else DONE)


@command.command()
@click.argument("sender")
@click.argument("recipient")
@common.config_option
@click.option("--json", "as_json", is_flag=True, help="One JSON object a line.")
def show(sender: str, recipient: str, config: str | None, as_json: bool) -> None:
    """Everything about mail of SENDER to RECIPIENT: its triplets, their origins, the pair."""
    pair = normalised(sender, recipient, config)
    with reach(config) as console:
        found = [r for r in records(console, "triplet", f"{SEP}{pair}") if r.key.endswith(f"{SEP}{pair}")]
        origins = {record.parts[0] for record in found}
        for origin in sorted(origins):
            found += [r for r in records(console, "origin", origin) if r.key == origin]
        found += [r for r in records(console, "pair", pair) if r.key == pair]
    for record in found:
        click.echo(msgspec.json.encode(record.facts()) if as_json else f"{record.kind:<8} {record.line()}")
    sys.exit(DONE if found else NOTHING)


@command.command()
@click.argument("sender")
@click.argument("recipient", required=False)
@common.config_option
@click.option("--kind", type=click.Choice(["triplet", "origin"]), default="triplet", show_default=True)
def delete(sender: str, recipient: str | None, config: str | None, kind: str) -> None:
    """Forget mail of SENDER to RECIPIENT; with --kind origin: that an origin ("net:192.0.2.0/24") is accepted."""
    gone = 0
    with reach(config) as console:
        if kind == "origin":
            gone += bool(console.ask(wire.Delete("origin", sender)))
        elif recipient is None:
            raise click.UsageError("say which recipient")
        else:
            pair = normalised(sender, recipient, config)
            keys = [r.key for r in records(console, "triplet", f"{SEP}{pair}") if r.key.endswith(f"{SEP}{pair}")]
            gone += sum(bool(console.ask(wire.Delete("triplet", key))) for key in keys)
            gone += bool(console.ask(wire.Delete("pair", pair)))
    click.echo(f"{counted(gone, 'record')} forgotten")
    sys.exit(DONE if gone else NOTHING)


@command.command("pass")
@click.argument("sender")
@click.argument("recipient")
@common.config_option
def pass_(sender: str, recipient: str, config: str | None) -> None:
    """Let mail of SENDER to RECIPIENT pass from every address, until it was not used for 36 days."""
    who, to = normalised(sender, recipient, config).split(SEP)
    with reach(config) as console:
        console.ask(wire.PassGreylist(who, to, REMEMBER))
    click.echo(f"{who} to {to} passes from now on")
