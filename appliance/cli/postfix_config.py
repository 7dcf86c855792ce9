"""`postgate postfix-config`: the lines of main.cf and master.cf by which a Postfix asks this gateway's fronts.

They name the sockets that are really bound, as the running gateway says; where none runs, those of the files (and it says
so). `--try` puts them into a copy of a Postfix configuration and lets `postconf` look at them; nothing of Postfix itself
is touched. Exit: 0 printed (and tried well), 1 no front, or postconf did not like them, 2 could not look.
"""

import os
import re
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

import click

from appliance.cli import common
from appliance.config.model import Front, Milterd, Policyd
from appliance.config.snapshot import Snapshot

GOOD, WRONG, COULD_NOT_LOOK = 0, 1, 2
#: Seconds beyond our own deadlines that the MTA waits: it must hear our default, not find its own.
BEYOND = 10
#: An answer holds one action, a header field for example: what found no room at RCPT is fetched at DATA.
AT_DATA = 3
#: Restrictions that stand before the question: the implicit check of recipients would come too late for greylisting.
BEFORE = ("permit_mynetworks", "permit_sasl_authenticated", "reject_unauth_destination", "reject_unlisted_recipient")
#: A socket in the folder that a jail of Postfix is.
QUEUE = "unix:/var/spool/postfix/"
#: What divides words in main.cf, or stands for a parameter: no name of a service can have it there.
_UNNAMABLE = re.compile(r"[\s,{}$]")
#: A parameter of the operator's own: -o of master.cf takes no blanks.
MUA = "mua_recipient_restrictions"
_OWN_SIDE = "for your own users: their services must not ask (here submission; do the same for smtps)"


class Setting(NamedTuple):
    """One parameter of main.cf. `parts` stand on lines of their own."""

    name: str
    parts: tuple[str, ...]

    @property
    def value(self) -> str:
        return ", ".join(self.parts)

    def __str__(self) -> str:
        return f"{self.name} =\n    " + ",\n    ".join(self.parts)


class Service(NamedTuple):
    """One service of master.cf, and why it is changed."""

    line: str
    options: tuple[str, ...]
    why: str

    def __str__(self) -> str:
        return "\n".join([f"# {self.why}", self.line, *(f"  -o {option}" for option in self.options)])


@click.command()
@common.config_option
@click.option("--try", "tried", is_flag=True, help="Put them into a copy of --postfix and have postconf look at them.")
@click.option("--postfix", default="/etc/postfix", show_default=True, metavar="DIR", help="Where main.cf stands.")
def command(config: str | None, tried: bool, postfix: str) -> None:
    """Print the lines of main.cf and master.cf by which Postfix asks this gateway."""
    snapshot = common.snapshot_of(config, COULD_NOT_LOOK)
    fronts = [front for _, front in snapshot.wiring.fronts()]
    if not fronts:
        click.echo("no front is configured: add a [[policyd]] or [[milterd]] block to the wiring file", err=True)
        sys.exit(WRONG)
    bound = listening(config)
    addresses = {front.name: address(front, bound) for front in fronts}
    if missing := [front.name for front in fronts if not addresses[front.name]]:
        click.echo(f"the running gateway does not serve {', '.join(missing)}: it needs a restart", err=True)
        sys.exit(WRONG)
    if odd := next((where for where in addresses.values() if _UNNAMABLE.search(where)), None):
        click.echo(f'Postfix cannot name "{odd}": give the socket a path without blanks, commas, braces and $', err=True)
        sys.exit(WRONG)
    settings, services = list(main_cf(snapshot, addresses)), list(master_cf(snapshot, addresses))
    if tried:
        sys.exit(try_out(Path(postfix), settings, services))
    show(settings, services, [*remarks(snapshot, addresses)], bound is not None)


def show(settings: list[Setting], services: list[Service], notes: list[str], running: bool) -> None:
    """Print it, ready to be pasted."""
    source = "the sockets that are bound now" if running else "the files: no gateway runs, port 0 would not be known"
    click.echo(f"# Postgate, from {source}")
    for note in notes:
        click.echo(f"# {note}")
    click.echo("#\n# main.cf")
    for setting in settings:
        click.echo(setting)
    if services:
        click.echo("\n# master.cf")
        for service in services:
            click.echo(service)


def listening(config: str | None) -> dict[str, str] | None:
    """What the running gateway has bound, by "service name"; None: none runs."""
    try:
        found: dict[str, str] = common.ask(config, {"op": "status"})["listening"]
    except click.ClickException:
        return None
    return found


def address(front: Front, bound: dict[str, str] | None) -> str:
    """In Postfix's words; "" if the running gateway does not have it."""
    if bound is None:
        return _within(front.address)
    service = "milterd" if isinstance(front, Milterd) else "policyd"
    found = bound.get(f"{service} {front.name}", "")
    if not found or found.startswith("unix:"):
        return _within(found)
    host, _, port = found.rpartition(":")
    near = {"0.0.0.0": "127.0.0.1", "[::]": "[::1]"}
    return f"inet:{near.get(host, host)}:{port}"


def _within(where: str) -> str:
    """A socket below Postfix's queue folder is named from there: so it is found in a jail and without one."""
    return f"unix:{where.removeprefix(QUEUE)}" if where.startswith(QUEUE) else where


# ---------------------------------------------------------------------- the lines


def main_cf(snapshot: Snapshot, addresses: dict[str, str]) -> Iterator[Setting]:
    """The parameters. Several fronts of one kind are one judgement: the first is asked."""
    wiring = snapshot.wiring
    if wiring.policyd:
        asks = policy_service(wiring.policyd[0], addresses[wiring.policyd[0].name])
        yield Setting("smtpd_recipient_restrictions", (*BEFORE, asks))
        yield Setting("smtpd_data_restrictions", (asks,) * AT_DATA)
        yield Setting("smtpd_end_of_data_restrictions", (asks,))
        yield Setting(MUA, ("permit_sasl_authenticated", "reject"))
    if wiring.milterd:
        yield Setting("smtpd_milters", (milter(wiring.milterd[0], addresses[wiring.milterd[0].name]),))
        yield Setting("milter_protocol", ("6",))


def remarks(snapshot: Snapshot, addresses: dict[str, str]) -> Iterator[str]:
    """What the lines leave to the operator."""
    wiring = snapshot.wiring
    if wiring.policyd and wiring.milterd:
        yield "policy server and milter are one judgement: take the restrictions or smtpd_milters, not both"
    if wiring.policyd:
        yield f"an answer holds one action (a header field, say): DATA asks {AT_DATA} times for what is left"
    if more := [addresses[front.name] for front in (*wiring.policyd[1:], *wiring.milterd[1:])]:
        yield f"further addresses, for other servers: {', '.join(more)}"


def policy_service(front: Policyd, where: str) -> str:
    """One entry of a restriction list."""
    default = "DEFER_IF_PERMIT" if front.default == "defer" else "DUNNO"
    words = f"timeout={_seconds(front.deadline + BEYOND)}, try_limit=2, retry_delay=1s, default_action={default}"
    return f"check_policy_service {{ {where}, {words} }}"


def milter(front: Milterd, where: str) -> str:
    """One entry of smtpd_milters."""
    step, end = _seconds(front.deadline + BEYOND), _seconds(front.message_deadline + BEYOND)
    limits = f"connect_timeout=10s, command_timeout={step}, content_timeout={end}"
    return f"{{ {where}, {limits}, default_action={front.default} }}"


def _seconds(value: float) -> str:
    return f"{value:.0f}s"


def master_cf(snapshot: Snapshot, addresses: dict[str, str]) -> Iterator[Service]:
    """The services: a server in a jail reaches no socket outside, and own users are not greylisted."""
    wiring = snapshot.wiring
    asked = [front.name for front in (*wiring.policyd[:1], *wiring.milterd[:1])]
    outside = [name for name in asked if addresses[name].startswith("unix:/")]
    if outside:
        why = f"no jail (chroot = n): it could not reach the unix socket of {', '.join(outside)}"
        yield Service("smtp inet n - n - - smtpd", (), why)
    options = []
    if wiring.policyd:
        options += [
            f"smtpd_recipient_restrictions=${MUA}",
            "smtpd_data_restrictions=",
            "smtpd_end_of_data_restrictions=",
        ]
    yield Service("submission inet n - n - - smtpd", ("smtpd_sasl_auth_enable=yes", *options), _OWN_SIDE)


# ---------------------------------------------------------------------- --try


def try_out(folder: Path, settings: list[Setting], services: list[Service]) -> int:
    """Put the lines into a copy and ask postconf; what it says is printed."""
    if shutil.which("postconf") is None:
        click.echo("postconf is not installed here", err=True)
        return COULD_NOT_LOOK
    with tempfile.TemporaryDirectory(prefix="postgate-try") as copy:
        for name in ("main.cf", "master.cf"):
            try:
                shutil.copyfile(folder / name, Path(copy) / name)
            except OSError as why:
                click.echo(f"{folder / name}: {why.strerror}", err=True)
                return COULD_NOT_LOOK
        looking = _Postconf(copy)
        if looking.unreadable:
            click.echo("\n".join(looking.unreadable), err=True)
            return COULD_NOT_LOOK
        for setting in settings:
            looking.run("-e", f"{setting.name} = {setting.value}")
        for service in services:
            kind = "/".join(service.line.split()[:2])
            looking.run("-M", "-e", f"{kind}={service.line}")
            for option in service.options:
                looking.run("-P", "-e", f"{kind}/{option}")
        click.echo(looking.run("-n", *(setting.name for setting in settings)))
        click.echo(looking.run("-M", *("/".join(service.line.split()[:2]) for service in services)))
    for complaint in looking.complaints:
        click.echo(complaint, err=True)
    click.echo("postconf found mistakes" if looking.complaints else f"postconf takes all of it (in a copy of {folder})")
    return WRONG if looking.complaints else GOOD


class _Postconf:
    """postconf on a copy. `complaints` are those that our lines made, not what it said of the files before; `unreadable`
    is that, where it could not read them."""

    def __init__(self, copy: str) -> None:
        self._copy = copy
        self.complaints: list[str] = []
        self._before: set[str] = set()
        self._status = 0
        self.run("-n")
        self.unreadable = self.complaints if self._status else []
        self._before, self.complaints = set(self.complaints), []

    def run(self, *words: str) -> str:
        """What it prints. The files' times are set back first: what changed within the last second, postconf reads again
        and again until that second is over."""
        for path in Path(self._copy).iterdir():
            os.utime(path, (0, 0))
        done = subprocess.run(  # noqa: S603 - our own words, no shell
            ["postconf", "-c", self._copy, *words],  # noqa: S607 - where the system's Postfix has it
            capture_output=True,
            text=True,
            check=False,
        )
        said = [re.sub(r"\S*/(main|master)\.cf, line \d+", r"\1.cf", line) for line in done.stderr.splitlines()]
        self._status = done.returncode
        if done.returncode and not said:
            said = [f"postconf {' '.join(words)}: status {done.returncode}"]
        known = {_which(line) for line in self._before}
        self.complaints += [line for line in dict.fromkeys(said) if _which(line) not in known]
        return done.stdout.rstrip()


def _which(complaint: str) -> str:
    """A complaint without the value that it shows."""
    return complaint.partition("=")[0]
