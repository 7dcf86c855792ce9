"""`postgate probe PROTOCOL ADDRESS`: plays the client side against any server and prints each step.

Exit: 0 the server answered in its protocol (SMTP: and took all), 1 it did not, 2 nobody is there. Nothing is changed at
the server but what a question itself changes (a greylist notes the attempt).
"""

import importlib

import click

ANSWERED, ODD, NOBODY = 0, 1, 2
#: Protocol: (where it is, one line for --help).
PROBES: dict[str, tuple[str, str]] = {
    "policy": ("appliance.cli.probe.policy:command", "Ask a Postfix policy server one question."),
    "milter": ("appliance.cli.probe.milter:command", "Tell a milter of one message."),
    "smtp": ("appliance.cli.probe.smtp:command", "Speak SMTP up to RCPT, and take it back."),
}


class _Lazy(click.Group):
    """Loads the protocol that is asked for."""

    def list_commands(self, ctx: click.Context) -> list[str]:
        return list(PROBES)

    def get_command(self, ctx: click.Context, cmd_name: str) -> click.Command | None:
        if cmd_name not in PROBES:
            return None
        module, _, attribute = PROBES[cmd_name][0].partition(":")
        command = getattr(importlib.import_module(module), attribute)
        assert isinstance(command, click.Command)
        return command

    def format_commands(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        with formatter.section("Protocols"):
            formatter.write_dl([(name, text) for name, (_, text) in PROBES.items()])


@click.group(cls=_Lazy)
def command() -> None:
    """Play the client side against any server and print each step."""
