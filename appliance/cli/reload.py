"""`postgate reload`: put changed files in force in all processes at once. Exit: 0 in force, 1 nothing changed."""

import sys

import click

from appliance.cli import common

#: Seconds: a reload that is under way, and ours behind it (daemons/master/rounds.py DEADLINE each).
PATIENCE = 130.0


@click.command()
@common.config_option
def command(config: str | None) -> None:
    """Put changed files in force in all processes at once, or in none."""
    outcome = common.ask(config, {"op": "reload"}, patience=PATIENCE)
    click.echo(
        f"{outcome['text']} (hash {outcome['hash']})" if outcome["good"] else outcome["text"], err=not outcome["good"]
    )
    sys.exit(0 if outcome["good"] else 1)
