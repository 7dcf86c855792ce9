"""What the commands share: the --config option, finding a gateway's state folder, speaking to its master."""

import json
import os
import socket
import sys
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

import click

from appliance.config import where

if TYPE_CHECKING:
    from appliance.config.positions import Path as Keys
    from appliance.config.snapshot import Snapshot
    from appliance.protocol.smtp.address import Address

_Command = TypeVar("_Command", bound=Callable[..., Any])


class Group(click.Group):
    """A group whose list of commands has their first sentences whole; click cuts them off at one line."""

    def format_commands(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        with formatter.section("Commands"):
            formatter.write_dl([(name, one.get_short_help_str(1000)) for name, one in sorted(self.commands.items())])


def config_option(command: _Command) -> _Command:
    """--config FILE, the same for every command."""
    option = click.option(
        "--config",
        "config",
        metavar="FILE",
        type=click.Path(dir_okay=False),
        help="The wiring file (none: the embedded default).",
    )
    return option(command)


def demo_folder() -> Path:
    """Where the embedded default lives: the working folder, or one of the user's own if that cannot be written."""
    here = Path.cwd()
    if os.access(here, os.W_OK | os.X_OK):
        return here
    state = os.environ.get("XDG_STATE_HOME") or str(Path.home() / ".local" / "state")
    return Path(state) / "postgate"


def snapshot_of(config: str | None, code: int) -> "Snapshot":
    """What the files of a configuration say. Where they do not run: why, with each place, and exit `code`."""
    from appliance.config import blob as blobs  # heavy, and not needed by all
    from appliance.config.snapshot import ConfigError, build

    try:
        return build(blobs.read(config))
    except OSError as why:
        click.echo(f"{config}: {why.strerror}", err=True)
    except ConfigError as error:
        click.echo(str(error), err=True)
    sys.exit(code)


def mailbox_of(text: str, snapshot: "Snapshot") -> "Address":
    """An ADDRESS of the command line: "<>" is the null sender, a name alone is at our own. Raises UsageError."""
    from appliance.addresses.values import address
    from appliance.protocol.smtp.address import NULL_SENDER

    try:
        return NULL_SENDER if text in ("", "<>") else address(text, snapshot.wiring.gateway.hostname)
    except ValueError as why:
        raise click.UsageError(str(why)) from None


def place(snapshot: "Snapshot", path: "Keys") -> str:
    """file:line:column of a value of the wiring file."""
    from appliance.config.references import Layout

    blob = snapshot.blob
    layout = Layout(blob.main, blob.folder, blob.shipped, blob.files[blob.main])
    return ":".join(map(str, (blob.label, *layout.parsed.where.value(path))))


def state_dir(config: str | None) -> Path:
    """The state folder of the gateway of `config`."""
    if config is None:
        return demo_folder() / "run"
    if not Path(config).is_file():
        raise click.ClickException(f"{config}: no such file")
    return where.state_dir(config)


def ask(config: str | None, request: Mapping[str, Any], patience: float = 10.0) -> dict[str, Any]:
    """Ask the running gateway's master one thing. Raises ClickException with what to do."""
    path = state_dir(config) / "run" / "control.sock"
    try:
        answer: dict[str, Any] = json.loads(_exchange(path, json.dumps(request).encode() + b"\n", patience))
    except (FileNotFoundError, ConnectionRefusedError):
        raise not_running(config, path) from None
    except PermissionError:
        raise click.ClickException(f"{path}: not allowed; run as root or as a member of group postgate") from None
    except (OSError, ValueError) as error:
        raise click.ClickException(f"{path}: the gateway does not answer: {error}") from None
    if "error" in answer:
        raise click.ClickException(str(answer["error"]))
    return answer


def not_running(config: str | None, path: Path) -> click.ClickException:
    """Nothing listens on `path`."""
    start = f"postgate run --config {config}" if config else "postgate run"
    return click.ClickException(f"no gateway is running here (nothing listens on {path}); start it: {start}")


def _exchange(path: Path, request: bytes, patience: float) -> bytes:
    with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as sock:
        sock.settimeout(patience)
        sock.connect(str(path))
        sock.sendall(request)
        parts = []
        while part := sock.recv(1 << 16):
            parts.append(part)
        return b"".join(parts)
