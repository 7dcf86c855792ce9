"""`postgate selftest`: a temporary gateway from your configuration, and a stranger who tries it over real SMTP.

Exit: 0 everything as expected, 1 a miss, 2 could not be played, 130 interrupted. Nothing of the running gateway is
touched; with --live it is asked, harmlessly.
"""

import asyncio
import sys

import click

from appliance.cli import common

COULD_NOT_PLAY, INTERRUPTED = 2, 130


@click.command()
@common.config_option
@click.option("--live", is_flag=True, help="The harmless part, against the running gateway.")
@click.option(
    "--recipient",
    metavar="ADDRESS",
    help="With --live: a mailbox that exists [default: postmaster@ our first domain].",
)
@click.option("--only", metavar="TEXT", multiple=True, help="Only scenarios with this text in their name; several: any.")
@click.option("--keep", is_flag=True, help="Leave the temporary folder (configuration, log, spool) behind.")
@click.option("--json", "as_json", is_flag=True, help="One JSON object a scenario.")
def command(
    config: str | None, live: bool, recipient: str | None, only: tuple[str, ...], keep: bool, as_json: bool
) -> None:
    """Play a stranger against a temporary gateway made from the configuration, and compare with what its policies say."""
    from appliance.cli.selftest import live as running
    from appliance.cli.selftest import stage, table

    shown = table.Shown(as_json)
    try:
        if live:
            misses = asyncio.run(running.play(config, recipient, only, shown))
        else:
            misses = asyncio.run(stage.play(config, only, keep, shown))
    except click.ClickException as error:
        error.show()
        sys.exit(COULD_NOT_PLAY)
    except (KeyboardInterrupt, asyncio.CancelledError):
        click.echo("interrupted", err=True)
        sys.exit(INTERRUPTED)
    sys.exit(1 if misses else 0)
