"""`postgate install-users`: make the group and the service users, once, as root; again is harmless."""

import grp
import os
import pwd
import shutil
import subprocess
import sys
from pathlib import Path

import click

from appliance.cli import common
from appliance.daemons.master.services import GROUP, SHIPPED

_PATH = "/usr/sbin:/sbin:/usr/bin:/bin"


@click.command()
@common.config_option
def command(config: str | None) -> None:
    """Make the group postgate and one user a service, so that the processes are separated from each other.

    With --config also: whether these users can reach the code and the state folder of that gateway.
    """
    if os.geteuid() != 0:
        raise click.ClickException("needs root: sudo postgate install-users")
    made = _group()
    made += [user for user in dict.fromkeys(spec.user for spec in SHIPPED) if _user(user, f"Postgate {user}")]
    click.echo(f"made: {', '.join(made)}" if made else "all service users are there already")
    if config is not None:
        _check_reach(config)
    click.echo("takes effect when the gateway is started as root the next time")


def _check_reach(config: str) -> None:
    """Users that cannot get at what they need are of no use: said now, not at the next start."""
    from appliance.daemons.master import separation

    try:
        separation.plan("require", SHIPPED, common.state_dir(config))
    except separation.SeparationError as error:
        raise click.ClickException(str(error).partition("but ")[2]) from None


def _run(program: str, *words: str) -> None:
    path = shutil.which(program, path=_PATH)
    if path is None:
        raise click.ClickException(f"{program} is missing; on Debian: apt-get install passwd")
    done = subprocess.run([path, *words], capture_output=True, text=True, check=False)  # noqa: S603 - fixed words, no shell
    if done.returncode != 0:
        click.echo(f"{program} {' '.join(words)}: {done.stderr.strip()}", err=True)
        sys.exit(1)


def _group() -> list[str]:
    try:
        grp.getgrnam(GROUP)
    except KeyError:
        _run("groupadd", "--system", GROUP)
        return [f"group {GROUP}"]
    return []


def _user(name: str, comment: str) -> bool:
    try:
        pwd.getpwnam(name)
    except KeyError:
        shell = next((path for path in ("/usr/sbin/nologin", "/sbin/nologin") if Path(path).exists()), "/bin/false")
        _run(
            "useradd", "--system", "--gid", GROUP, "--home-dir", "/nonexistent", "--no-create-home",
            "--shell", shell, "--comment", comment, name,
        )  # fmt: skip
        return True
    return False
