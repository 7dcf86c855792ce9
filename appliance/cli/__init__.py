"""The command `postgate`. Each command lives in a module of its own and is loaded only when it is asked for."""

import importlib

import click

from appliance import __version__

#: Command: (where it is: "module:attribute", one line for --help).
COMMANDS: dict[str, tuple[str, str]] = {
    "run": ("appliance.cli.run:command", "Run the gateway in the foreground."),
    "check": ("appliance.cli.check:command", "Read all files in force and report every mistake."),
    "reload": ("appliance.cli.reload:command", "Put changed files in force in all processes at once."),
    "status": ("appliance.cli.status:command", "Show workers, configuration, dependencies, queue."),
    "stop": ("appliance.cli.stop:command", "End the running gateway in good order."),
    "table": ("appliance.cli.table:command", "Look keys up in a lookup table."),
    "address": ("appliance.cli.address:command", "Show what becomes of an address before the queue."),
    "route": ("appliance.cli.route:command", "Show where mail for an address goes, and by which line."),
    "queue": ("appliance.cli.queue:command", "Show and manage queued messages."),
    "quarantine": ("appliance.cli.quarantine:command", "Show and manage quarantined messages."),
    "greylist": ("appliance.cli.greylist:command", "Show and manage the greylist."),
    "identity": ("appliance.cli.identity:command", "Show whose mail was accepted, and since when."),
    "recipients": ("appliance.cli.recipients:command", "Import and look up known recipients."),
    "selftest": ("appliance.cli.selftest:command", "Play a stranger against a temporary gateway made from your files."),
    "probe": ("appliance.cli.probe:command", "Play the client side against any server and print each step."),
    "postfix-config": ("appliance.cli.postfix_config:command", "Print the lines by which Postfix asks this gateway."),
    "send-test": ("appliance.cli.send_test:command", "Send a test mail and show the dialogue."),
    "install-users": ("appliance.cli.install_users:command", "Make the service users (once, as root)."),
}


def _with_config(group: click.Group) -> click.Group:
    """`postgate queue --config FILE list` means the same as `postgate queue list --config FILE`."""

    def tell(ctx: click.Context, _param: click.Parameter, value: str | None) -> None:
        if value:
            ctx.default_map = {name: {"config": value} for name in group.commands}

    if not any(option.name == "config" for option in group.params):
        text = "The wiring file; may also stand behind the command."
        group.params.append(click.Option(["--config"], metavar="FILE", expose_value=False, callback=tell, help=text))
    return group


class _Lazy(click.Group):
    """A group that imports a command's module when the command is called, not before."""

    def list_commands(self, ctx: click.Context) -> list[str]:
        return list(COMMANDS)

    def get_command(self, ctx: click.Context, cmd_name: str) -> click.Command | None:
        if cmd_name not in COMMANDS:
            return None
        module, _, attribute = COMMANDS[cmd_name][0].partition(":")
        command = getattr(importlib.import_module(module), attribute)
        assert isinstance(command, click.Command)
        return _with_config(command) if isinstance(command, click.Group) else command

    def format_commands(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        with formatter.section("Commands"):
            formatter.write_dl([(name, text) for name, (_, text) in COMMANDS.items()])


@click.group(cls=_Lazy, context_settings={"help_option_names": ["-h", "--help"]})
@click.version_option(__version__, prog_name="postgate")
def main() -> None:
    """Postgate, a mail gateway that explains itself."""
