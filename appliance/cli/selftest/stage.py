"""Sets the stage of a self-test, plays all scenarios, and takes everything down again.

Contract: `play` gives the number of misses. Everything that was started ends, also when it is interrupted (SIGINT,
SIGTERM, SIGHUP: CancelledError or KeyboardInterrupt, once all is gone).
"""

import asyncio
import shutil
import signal
import sys
import tempfile
import time
from collections.abc import Mapping
from pathlib import Path

import click

from appliance.cli.selftest import (
    earlier,
    plays_listeners,
    plays_scanners,
    plays_services,
    scanners,
    scripted,
    services,
    unplayed,
)
from appliance.cli.selftest.gateway import Gateway, Trouble
from appliance.cli.selftest.inner import Inner
from appliance.cli.selftest.play import Play, Scenario
from appliance.cli.selftest.plays_content import CONTENT
from appliance.cli.selftest.plays_framing import FRAMING
from appliance.cli.selftest.plays_kill import KILLING
from appliance.cli.selftest.plays_sender import SENDER
from appliance.cli.selftest.plays_smtp import SMTP
from appliance.cli.selftest.plays_tls import TLS
from appliance.cli.selftest.plays_trouble import AWAY, CLOSING, TROUBLE
from appliance.cli.selftest.result import ROW, UNPLAYED, Result
from appliance.cli.selftest.scene import HONEST, MAILBOX, Scene
from appliance.cli.selftest.table import Shown
from appliance.config.mistakes import ConfigError
from appliance.net.selfsigned import self_signed

COULD_NOT_PLAY = 2
#: A TMPDIR longer than this is not used.
LONGEST = 40
#: What did not begin within so many seconds is not played, and what did ends by then: two minutes are enough for all.
ENOUGH, END = 85.0, 95.0
#: How many are played at the same time.
BESIDE = 4


async def play(config: str | None, only: tuple[str, ...], keep: bool, shown: Shown) -> int:
    """How many scenarios missed."""
    _interruptible()
    folder = _folder()
    try:
        await _play(config, folder, only, shown)
    except (Trouble, ConfigError, OSError) as error:
        click.echo(f"the self-test cannot be played: {error}", err=True)
        sys.exit(COULD_NOT_PLAY)
    finally:
        if not keep:
            shutil.rmtree(folder, ignore_errors=True)
    return shown.end(f"kept in {folder}" if keep else config or "the embedded default")


def _folder() -> Path:
    """A temporary one; sockets will be in it, and these have short names."""
    place = tempfile.gettempdir()
    return Path(tempfile.mkdtemp(prefix="postgate-selftest-", dir=place if len(place) <= LONGEST else "/tmp"))  # noqa: S108


def _interruptible() -> None:
    """The first SIGTERM or SIGHUP ends the play in good order."""
    loop, playing = asyncio.get_running_loop(), asyncio.current_task()

    def interrupt(number: int) -> None:
        loop.remove_signal_handler(number)
        if playing is not None:
            playing.cancel()

    for number in (signal.SIGTERM, signal.SIGHUP):
        loop.add_signal_handler(number, interrupt, number)


def _is_chosen(name: str, only: tuple[str, ...]) -> bool:
    return not only or any(text.lower() in name.lower() for text in only)


def scenarios(scene: Scene, only: tuple[str, ...]) -> list[Scenario]:
    """What is played, in this order. Raises ClickException if nothing is."""
    found = [*SMTP, *plays_listeners.listeners(scene), *FRAMING, *TLS, *SENDER, *CONTENT, *plays_scanners.finding(scene)]
    found += [*AWAY, *scanners.away(scene), *plays_services.away(scene), *TROUBLE, *KILLING, *CLOSING]
    chosen = [scenario for scenario in found if _is_chosen(scenario.name, only)]
    asked = [f"your {name} answers" for name in scene.theirs.wiring.scanners]
    asked += [service.row for service in services.configured(scene.theirs)]
    if not chosen and not any(_is_chosen(name, only) for name in asked):
        raise click.ClickException(f"no scenario has {' or '.join(map(repr, only))} in its name")
    return chosen


async def _play(config: str | None, folder: Path, only: tuple[str, ...], shown: Shown) -> None:
    began, scene = time.monotonic(), Scene(config, folder)
    chosen = scenarios(scene, only)
    inner = Inner(lambda address: address.partition("+")[0] == MAILBOX or address == MAILBOX)
    clamd, spamd, dns = scripted.Scanner(scripted.clamd), scripted.Scanner(scripted.spamd), scripted.Failing()
    for peer in (inner, clamd, spamd, dns):
        await peer.up()
    certificate, key = self_signed(scene.theirs.wiring.gateway.hostname)
    paths = folder / "certificate.pem", folder / "key.pem"
    paths[0].write_bytes(certificate)
    paths[1].touch(mode=0o600)
    paths[1].write_bytes(key)
    tls = str(paths[0]), str(paths[1])
    snapshot = scene.write(inner=inner.port, clamd=clamd.port, spamd=spamd.port, dns=dns.port, tls=tls)
    apart = scene.services.apart(HONEST)
    gateway = Gateway(scene.config, scene.port)
    shown.doing("starting a temporary gateway")
    try:
        await gateway.start()
        play = Play(scene, snapshot, gateway, inner, clamd, spamd)
        shown.doing("asking your services and scanners")
        if earlier.asks(play.policies):
            await play.send(play.mail())  # strangers learn what is asked of all of them
        for name, result, seconds in await _asked(play, apart):
            if result.state == "miss" or _is_chosen(name, only):
                shown.row(name, result, seconds)
        await _scenarios(play, chosen, shown, began)
        for name, result in unplayed.rows(scene.theirs):
            if _is_chosen(name, only):
                shown.row(name, result, 0.0)
    finally:
        shown.doing("stopping it")
        await gateway.stop()
        await inner.down()
        await clamd.down()
        await spamd.down()


async def _asked(play: Play, apart: Mapping[tuple[str, str], str]) -> list[services.Row]:
    """Everybody whom the operator's files ask, at the same time, by strangers who are kept `apart`; then the files are
    without those that do not answer. A scanner that is away may hide services behind it."""
    scene, wanted = play.scene, list(services.configured(play.snapshot))
    told, rows = await asyncio.gather(services.answering(play, wanted, apart), scanners.answering(play))
    scene.without(play.dead)
    if left := [one for one in wanted if one not in told]:
        scene.reread()
        await play.gateway.reload()
        told |= await services.answering(play, left, apart, last=True)
    scene.services.together()
    scene.services.without(out := [one for one in wanted if told[one].out])
    if apart or play.dead or out:
        play.snapshot = scene.reread()
        await play.gateway.reload()
    play.services = {one: told[one].row[1] for one in wanted}
    return [*(told[one].row for one in wanted), *rows]


async def _scenarios(play: Play, chosen: list[Scenario], shown: Shown, began: float) -> None:
    """In their order. Those that others may be played beside have begun when their turn comes."""
    end, places = began + END, asyncio.Semaphore(BESIDE)

    async def beside(scenario: Scenario) -> tuple[Result, float]:
        async with places:
            return await _in_time(play, scenario, began)

    begun = {one.name: asyncio.create_task(_played(play, one, end)) for one in chosen if one.ahead}
    for one in (one for one in chosen if one.beside and not one.ahead):
        begun[one.name] = asyncio.create_task(beside(one))
    try:
        for number, scenario in enumerate(chosen, 1):
            shown.doing(scenario.name, number, len(chosen))
            task = begun.get(scenario.name)
            result, seconds = await task if task is not None else await _in_time(play, scenario, began)
            shown.row(scenario.name, result, seconds)
    finally:
        for task in begun.values():
            task.cancel()


async def _in_time(play: Play, scenario: Scenario, began: float) -> tuple[Result, float]:
    """How it ended, and how long it took, if there is time for it at all."""
    if not scenario.always and time.monotonic() > began + ENOUGH:
        why = f"{ENOUGH:.0f} s were over (see what was slow): play it with --only"
        return Result("miss", "it is played", UNPLAYED, why), 0.0
    return await _played(play, scenario, began + END)


async def _played(play: Play, scenario: Scenario, end: float) -> tuple[Result, float]:
    """How it ended, and how long it took; it has until `end`."""
    began = time.monotonic()
    ROW.set(scenario.name)
    try:
        async with asyncio.timeout(end - began) as scope:
            result = await scenario.run(play)
    except TimeoutError as error:
        late = f"not over when {END:.0f} s of the whole were"
        result = Result("miss", "it can be played", late if scope.expired() else str(error) or "TimeoutError")
    except (OSError, Trouble, click.ClickException) as error:
        result = Result("miss", "it can be played", str(error) or type(error).__name__)
    return result, time.monotonic() - began
