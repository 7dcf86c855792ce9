"""`postgate stop`: end the running gateway in good order and wait for it. Exit: 0 ended, 1 not."""

import sys
import time

import click

from appliance.cli import common


@click.command()
@common.config_option
@click.option("--wait", default=60.0, show_default=True, help="Seconds to wait for the end.")
def command(config: str | None, wait: float) -> None:
    """End the running gateway: sessions are finished within the grace time, nothing accepted is lost."""
    answer = common.ask(config, {"op": "stop"})
    pid, deadline = answer["pid"], time.monotonic() + wait
    while time.monotonic() < deadline:
        try:
            common.ask(config, {"op": "health"}, patience=2.0)
        except click.ClickException:
            click.echo(f"ended (master process {pid})")
            return
        time.sleep(0.1)
    click.echo(f"master process {pid} has not ended within {wait:.0f} s; see its log", err=True)
    sys.exit(1)
