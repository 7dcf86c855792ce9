"""`postgate status`: workers, configuration, dependencies, queue, what is degraded. Exit: 0 all well, 1 degraded,
2 not running."""

import json
import sys
import time
from collections.abc import Iterator, Mapping
from typing import Any

import click

from appliance.cli import common
from appliance.observe.text import clean, counted

WELL, DEGRADED, NOT_RUNNING = 0, 1, 2
#: Characters of one line.
LONGEST = 10_000


@click.command()
@common.config_option
@click.option("--json", "as_json", is_flag=True, help="Everything, as one JSON object (exit 0 whenever it runs).")
def command(config: str | None, as_json: bool) -> None:
    """Show workers, configuration, dependencies, queue and what is degraded."""
    try:
        facts = common.ask(config, {"op": "status"})
    except click.ClickException as error:
        click.echo(json.dumps({"state": "not running", "problem": error.message}) if as_json else error.message)
        sys.exit(NOT_RUNNING)
    if as_json:
        click.echo(json.dumps(facts))
        return
    for line in lines(facts):
        click.echo(clean(line, LONGEST))  # a part of it may be what a stranger's server said
    sys.exit(DEGRADED if facts["degraded"] else WELL)


def lines(facts: Mapping[str, Any]) -> Iterator[str]:
    """The page for people."""
    yield f"Postgate {facts['version']} on {facts['hostname']}: {facts['state']} for {age(facts['now'] - facts['since'])}"
    yield from _configuration(facts)
    yield from (f"  listening     {name} on {address}" for name, address in facts["listening"].items())
    yield from _certificates(facts)
    yield f"  separation    {facts['separation'] or 'each service runs as its own user'}"
    yield ""
    yield "Processes"
    yield from (_worker(worker, facts["now"]) for worker in facts["workers"])
    yield from _mapping("Queue", facts["queue"])
    yield from _dependencies(facts)
    yield ""
    if facts["degraded"]:
        yield from ["Degraded", *(f"  ! {text}" for text in facts["degraded"])]
    else:
        yield "All is well." if facts["state"] == "running" else f"Nothing is degraded so far: it is {facts['state']}."


def _configuration(facts: Mapping[str, Any]) -> Iterator[str]:
    disk = facts["on_disk"]
    same = "as on disk" if disk["same"] else f"ON DISK IS {disk['hash'] or 'UNREADABLE'}: run `postgate reload`"
    yield f"  configuration {facts['config']}, running {facts['running']}, {same}"
    last = facts["last_reload"]
    if last:
        yield f"  last reload   {age(facts['now'] - last['at'])} ago: {last['text'].splitlines()[0]}"
    if reloading := facts.get("reloading"):  # a gateway that is older than this command does not say it
        yield f"  reload        {'under way' if reloading == 1 else 'under way, and one more behind it'}"
    yield f"  state         {facts['state_dir']}"


def _certificates(facts: Mapping[str, Any]) -> Iterator[str]:
    for name, held in facts["certificates"].items():
        until = time.strftime("%Y-%m-%d", time.gmtime(held["not_after"])) if held["not_after"] else "none"
        yield f"  certificate   {name}: {held['file']}, until {until}{'; ' + held['problem'] if held['problem'] else ''}"


def _worker(worker: Mapping[str, Any], now: float) -> str:
    health = worker["health"]
    memory = f"{health['rss'] / 1048576:.0f} MB" if "rss" in health else "-"
    lag = f"loop lag max {health['lag_max'] * 1000:.0f} ms" if "lag_max" in health else ""
    restarts = (
        f", {counted(worker['restarts'], 'restart')} (last end: {worker['last_end']})" if worker["restarts"] else ""
    )
    alive = f"{age(now - worker['since']):>8} {memory:>7}  {lag}" if worker["pid"] else ""
    return f"  {worker['worker']:<12} {worker['state']:<9} pid {worker['pid']:<7} {alive}{restarts}".rstrip()


def _mapping(title: str, values: Any) -> Iterator[str]:
    if isinstance(values, Mapping):
        yield ""
        yield title
        yield "  " + ", ".join(f"{key} {shown(value)}" for key, value in values.items())


def _dependencies(facts: Mapping[str, Any]) -> Iterator[str]:
    if facts["dependencies"]:
        yield ""
        yield "Dependencies"
    for worker, found in facts["dependencies"].items():
        for name, state in found.items():
            for text in _each(state):
                yield f"  {worker:<12} {name}: {text}"


def _each(state: Any) -> Iterator[str]:
    """A line for each of several that have facts of their own."""
    if state and isinstance(state, Mapping) and all(isinstance(one, Mapping) for one in state.values()):
        yield from (f"{name} {shown(one)}" for name, one in state.items())
    elif state and isinstance(state, list) and isinstance(state[0], Mapping):
        yield from map(shown, state)
    elif state:
        yield shown(state)


def shown(value: Any) -> str:
    """A value for people."""
    if isinstance(value, Mapping):
        return ", ".join(f"{key} {shown(one)}" for key, one in value.items()) or "none"
    if isinstance(value, list):
        return "; ".join(map(shown, value)) or "none"
    return f"{value:.1f}" if isinstance(value, float) else str(value)


def age(seconds: float) -> str:
    """A span of time for people: "12 s", "5 min", "3.2 h", "4.0 d"."""
    if seconds < 120:
        return f"{max(0.0, seconds):.0f} s"
    if seconds < 7200:
        return f"{seconds / 60:.0f} min"
    return f"{seconds / 3600:.1f} h" if seconds < 172800 else f"{seconds / 86400:.1f} d"
