"""`postgate recipients sync [NAME]...`: fetch the lists of [recipients.NAME] now.

The gateway that runs does it (syncd); where none runs, this command does, as the owner of STATE_DIR/recipients. Exit: 0
all lists are fresh (dry run: would be), 1 a source failed or its list was refused (the old list stays), 2 could not run.
"""

import json
import os
import socket
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import click
import msgspec

from appliance.cli import common
from appliance.config import recipients_entry
from appliance.config.model import Wiring
from appliance.config.references import LISTS
from appliance.config.syntax import parse
from appliance.config.wiring import load
from appliance.observe.text import counted
from appliance.tables.known import launch
from appliance.tables.known.keep import Outcome

DONE, WRONG, COULD_NOT = 0, 1, 2
#: Seconds in which a daemon that is there says hello.
_HELLO = 5.0


@click.command("sync")
@click.argument("names", nargs=-1, metavar="[NAME]...")
@common.config_option
@click.option("--force", is_flag=True, help="Also if a list lost more than most_shrink.")
@click.option("--empty", is_flag=True, help="Also if no recipient is left.")
@click.option("--dry-run", is_flag=True, help="Fetch, and only show what would be added and removed.")
@click.option("--json", "as_json", is_flag=True, help="One JSON object a list.")
def command(names: tuple[str, ...], config: str | None, force: bool, empty: bool, dry_run: bool, as_json: bool) -> None:
    """Fetch lists of known recipients (NAMEs of [recipients.NAME]; none: all) from their directory, file or server."""
    wiring = _wiring(config)
    if not wiring.recipients:
        raise click.UsageError(f"{config} has no [recipients.NAME]")
    if unknown := [name for name in names if name not in wiring.recipients]:
        raise click.UsageError(f"{config} has no [recipients.{unknown[0]}]")
    request = {"names": names, "force": force, "empty": empty, "dry_run": dry_run}
    good = True
    for outcome in _asked(config, request) or _by_ourselves(config, wiring, request):
        good &= not outcome.problem
        if as_json:
            click.echo(msgspec.json.encode(outcome))
        else:
            _show(outcome, dry_run)
    sys.exit(DONE if good else WRONG)


def _show(outcome: Outcome, dry_run: bool) -> None:
    if dry_run:
        for mark, addresses, count in (("+", outcome.more, outcome.added), ("-", outcome.fewer, outcome.removed)):
            click.echo("".join(f"{mark} {address}\n" for address in addresses), nl=False)
            if count > len(addresses):
                click.echo(f"{mark} and {count - len(addresses)} more")
    others = f"{outcome.foreign} of other domains, {outcome.wrong} no address"
    if outcome.problem:
        kept = f"the list of {outcome.count} stays" if outcome.at else "there is no list yet"
        click.echo(f"{outcome.name}: {kept}: {outcome.problem}", err=True)
        return
    held = f"{counted(outcome.count, 'recipient')}, +{outcome.added} -{outcome.removed} ({others})"
    click.echo(f"{outcome.name}: {'would be ' if dry_run else ''}{held}")


def _asked(config: str | None, request: dict[str, Any]) -> list[Outcome]:
    """What the gateway that runs says; [] if none runs. Raises ClickException."""
    path = common.state_dir(config) / "run" / "recipients.sock"
    with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as sock:
        sock.settimeout(_HELLO)
        try:
            sock.connect(str(path))
        except (FileNotFoundError, ConnectionRefusedError):
            return []
        except OSError as error:
            raise click.ClickException(f"{path}: {error.strerror}; run as root or as the gateway's user") from None
        try:
            with sock.makefile("rb") as answers:
                if not answers.readline():
                    raise click.ClickException("syncd ended before it had answered: see postgate status")
                sock.settimeout(None)
                sock.sendall(json.dumps(request).encode() + b"\n")
                return list(_outcomes(answers))
        except TimeoutError:
            text = "the gateway that runs fetches no lists: postgate reload, or see postgate status"
            raise click.ClickException(text) from None
        except OSError as error:
            raise click.ClickException(f"{path}: {error.strerror}: see postgate status") from None


def _outcomes(answers: Any) -> Iterator[Outcome]:
    for line in answers:
        answer = json.loads(line)
        if "error" in answer:
            raise click.ClickException(str(answer["error"]))
        if "done" in answer:
            return
        yield msgspec.convert(answer, Outcome)
    raise click.ClickException("syncd ended before it had answered: see postgate status")


def _by_ourselves(config: str | None, wiring: Wiring, request: dict[str, Any]) -> Iterator[Outcome]:
    """No gateway runs."""
    folder = common.state_dir(config) / LISTS
    ours = [domain for domain in wiring.relay.domains if ":" not in domain]
    try:
        folder.mkdir(mode=0o700, exist_ok=True, parents=True)
        for name in request["names"] or wiring.recipients:
            entry = wiring.recipients[name]
            secret = Path(entry.password_file).read_bytes() if entry.password_file else b""
            order = recipients_entry.order(name, entry, str(folder), ours, recipients_entry.first_line(secret))
            wishes = {key: request[key] for key in ("force", "empty", "dry_run")}
            yield launch.run_here(msgspec.structs.replace(order, **wishes))
    except OSError as error:
        click.echo(f"{error.filename or folder}: {error.strerror or os.strerror(error.errno or 0)}", err=True)
        sys.exit(COULD_NOT)


def _wiring(config: str | None) -> Wiring:
    """The wiring file alone: what the policies say is of no interest here."""
    if config is None:
        raise click.UsageError("say which gateway (--config FILE)")
    try:
        text = Path(config).read_bytes()
    except OSError as error:
        raise click.ClickException(f"{config}: {error.strerror}") from None
    found, mistakes = load(config, parse(config, text), str(Path(config).absolute().parent))
    if fatal := [str(mistake) for mistake in mistakes if mistake.fatal]:
        click.echo("\n".join(fatal), err=True)
        sys.exit(COULD_NOT)
    return found
