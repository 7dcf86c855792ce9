"""`postgate quarantine`: messages that were kept because of their content.

Exit: 0 done, 1 no message was meant or the act failed, 2 wrong use.
"""

from typing import Any

import click

from appliance.cli import queue_socket
from appliance.cli.common import Group, config_option
from appliance.cli.queue import acting, filters, request


@click.group(cls=Group)
def command() -> None:
    """Show and manage quarantined messages."""


@command.command("list")
@filters
def list_(**given: Any) -> None:
    """List quarantined messages with the reason of each."""
    found = queue_socket.messages(given["config"], request("list", "quarantine", **given))
    queue_socket.show_list(found, given["as_json"], "quarantine")


@command.command()
@click.argument("ids", nargs=-1, required=True, metavar="ID...")
@click.option("--json", "as_json", is_flag=True, help="One JSON object a message.")
@config_option
def show(**given: Any) -> None:
    """Show all that is known of messages: envelope, verdicts, header."""
    for message in queue_socket.messages(given["config"], request("show", "quarantine", **given)):
        queue_socket.show_one(message, given["as_json"])


@command.command()
@acting
def release(**given: Any) -> None:
    """Deliver quarantined messages after all, at once."""
    queue_socket.act(given["config"], request("release", "quarantine", **given), "released", given["as_json"])


@command.command()
@acting
def delete(**given: Any) -> None:
    """Delete quarantined messages for good."""
    queue_socket.act(given["config"], request("delete", "quarantine", **given), "deleted", given["as_json"])
