"""`postgate queue`: what waits, why, and what operators can do about it.

Exit: 0 done, 1 no message was meant or the act failed, 2 wrong use. Acts are durable when they are reported.
"""

from collections.abc import Callable
from typing import Any, TypeVar

import click

from appliance.cli import queue_socket
from appliance.cli.common import Group, config_option

_Command = TypeVar("_Command", bound=Callable[..., Any])


def filters(command: _Command) -> _Command:
    """Which messages: by id, or by what their envelope holds; conditions are combined."""
    for option in (
        click.argument("ids", nargs=-1, metavar="[ID]..."),
        click.option("--sender", help='Sender address; * and ? are wildcards; "<>" is the null sender.'),
        click.option("--recipient", default="", help="Recipient address; * and ? are wildcards."),
        click.option("--json", "as_json", is_flag=True, help="One JSON object a line."),
        config_option,
    ):
        command = option(command)
    return command


def acting(command: _Command) -> _Command:
    """Options of every command that changes something."""
    for option in (
        click.option("--all", "everything", is_flag=True, help="All messages."),
        click.option("--dry-run", is_flag=True, help="Only show what would be done."),
    ):
        command = option(command)
    return filters(command)


def next_hop(command: _Command) -> _Command:
    """Choose by destination."""
    return click.option("--next-hop", default="", help="As `queue list --json` names it; * and ? are wildcards.")(command)


def request(command: str, queue: str = "queue", **more: Any) -> dict[str, Any]:
    """The request to delivery that a command line means."""
    more.pop("config")
    more.pop("as_json")
    if "everything" in more:
        more["all"] = more.pop("everything")
    sender = more.pop("sender", None)
    if sender is not None:
        more["sender"] = sender or "<>"
    return {"command": command, "queue": queue, **more}


@click.group(cls=Group)
def command() -> None:
    """Show and manage queued messages."""


@command.command("list")
@filters
@next_hop
@click.option("--folder", type=click.Choice(["intake", "deferred", "hold"]), default=None, help="Only this folder.")
def list_(**given: Any) -> None:
    """List queued messages: * is being delivered, ! is on hold."""
    found = queue_socket.messages(given["config"], request("list", **given))
    queue_socket.show_list(found, given["as_json"], "mail queue")


@command.command()
@click.argument("ids", nargs=-1, required=True, metavar="ID...")
@click.option("--json", "as_json", is_flag=True, help="One JSON object a message.")
@config_option
def show(**given: Any) -> None:
    """Show all that is known of messages: envelope, verdicts, attempts, header."""
    for message in queue_socket.messages(given["config"], request("show", **given)):
        queue_socket.show_one(message, given["as_json"])


@command.command()
@acting
@next_hop
def flush(**given: Any) -> None:
    """Try messages now, whatever their waiting time."""
    queue_socket.act(given["config"], request("flush", **given), "put first in line", given["as_json"])


@command.command()
@acting
@next_hop
@click.option("--reason", default="", help="Kept with the message.")
def hold(**given: Any) -> None:
    """Park messages until they are released."""
    queue_socket.act(given["config"], request("hold", **given), "put on hold", given["as_json"])


@command.command()
@acting
def release(**given: Any) -> None:
    """Release messages from hold: they are tried at once, their lifetime begins anew."""
    queue_socket.act(given["config"], request("release", **given), "released", given["as_json"])


@command.command()
@acting
@next_hop
@click.option("--folder", type=click.Choice(["intake", "deferred", "hold"]), default=None, help="Only this folder.")
def delete(**given: Any) -> None:
    """Delete messages for good; nobody is told."""
    queue_socket.act(given["config"], request("delete", **given), "deleted", given["as_json"])


@command.command()
@acting
@next_hop
def requeue(**given: Any) -> None:
    """Treat messages as if they had just come in: attempts and refusals are forgotten."""
    queue_socket.act(given["config"], request("requeue", **given), "queued anew", given["as_json"])
