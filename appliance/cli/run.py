"""`postgate run`: the gateway in the foreground, log on stderr (or where [logging] says), until SIGTERM or SIGINT.

Without --config it runs the embedded default, a gateway for example.com on 127.0.0.1:2525 with a demo inbox, by the same
code as any other, and says what to try next. Exit: 0 ended in good order, 1 could not start.
"""

import ctypes
import gc
import os
import socket
import sys
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import click

from appliance.cli import common

#: Shared libraries that attachments are looked into with: file, Debian package, what is not done without it.
_LIBRARIES = (
    ("libmagic.so.1", "libmagic1", "types of attachments are known by our own short table only"),
    ("libarchive.so.13", "libarchive13", "archives are not looked into"),
)
_PROBES = (
    (
        "clamd",
        "/run/clamav/clamd.ctl",
        "viruses are not looked for",
        "apt-get install clamav-daemon",
        "[scanners.clamav]",
    ),
    ("spamd", "127.0.0.1:783", "spam is not scored", "apt-get install spamd", "[scanners.spamassassin]"),
)


@click.command()
@common.config_option
def command(config: str | None) -> None:
    """Run the gateway in the foreground (without --config: a demo on 127.0.0.1:2525 for example.com)."""
    gc.disable()  # while all is loaded hardly anything becomes garbage; on again when the children are born
    from appliance.daemons import master  # the heavy part, not needed for --help

    if config is None:
        folder = common.demo_folder()
        folder.mkdir(parents=True, exist_ok=True)
        os.chdir(folder)
    sys.exit(master.run(config, None if config else announce))


def announce(facts: Mapping[str, Any]) -> None:
    """What the demo prints when it serves."""
    for line in lines(facts):
        click.echo(line)
    sys.stdout.flush()


def lines(facts: Mapping[str, Any]) -> Iterator[str]:
    """What runs, what is off and how to switch it on, what to try next."""
    server = next(iter(facts["listening"].values()))
    inbox = here(Path(facts["state_dir"]) / "inbox" / "new")
    yield ""
    yield f"Postgate takes mail for example.com on {server}; stop it with Ctrl-C."
    yield ""
    yield from (f"  off: {text}" for text in switched_off(facts))
    yield ""
    yield "Try, in another terminal:"
    yield f"  {program()} send-test --server {server} --to you@example.com"
    yield f"  swaks --server {server} --helo mail.example.net --from friend@example.net --to you@example.com"
    yield f"  ls {inbox}"
    yield f"  {program()} status"
    yield 'To put it in front of your own server: README.md, "In front of my server".'
    yield ""


def here(path: Path) -> Path:
    """As seen from this folder, where it lies below it."""
    return path.relative_to(Path.cwd()) if path.is_relative_to(Path.cwd()) else path


def program() -> str:
    """How this command was called, so that a printed line works as it stands in this folder."""
    called = Path(sys.argv[0])
    if called.name != "postgate":
        return f"{sys.executable} -m appliance.cli"
    return str(called) if called.exists() else "postgate"


def switched_off(facts: Mapping[str, Any]) -> Iterator[str]:
    """One line each, with how to switch it on."""
    if facts["separation"]:
        yield facts["separation"].replace("separation of users is off, ", "separation of users: ")
    for name, where, meaning, install, section in _PROBES:
        there = listens(where)
        found, first = ("is there, but not configured", "") if there else ("is not there", f"{install}, then ")
        yield f"{name} {found}: {meaning}; to switch on: {first}{section} in a config file (config.example.toml)"
    yield "Redis: not used, the embedded store keeps the state; nothing to do on a single machine"
    for library, package, meaning in _LIBRARIES:
        if not loads(library):
            yield f"{package} is not there: {meaning}; to switch on: apt-get install {package}, then start again"


def loads(library: str) -> bool:
    """Whether a shared library is installed."""
    try:
        ctypes.CDLL(library)
    except OSError:
        return False
    return True


def listens(where: str) -> bool:
    """Whether somebody listens at "host:port" or a unix path."""
    host, colon, port = where.rpartition(":")
    family = socket.AF_INET if colon else socket.AF_UNIX
    with socket.socket(family, socket.SOCK_STREAM) as sock:
        sock.settimeout(0.2)
        try:
            sock.connect((host, int(port)) if colon else where)
        except OSError:
            return False
    return True
