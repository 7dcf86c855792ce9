"""`postgate check`: read all files in force and report every mistake as file:line:column.

Exit: 0 good, 1 mistakes, 2 could not run. Deterministic: the same files give the same output. Nothing is started, bound
or asked over the network.
"""

import sys
from collections.abc import Iterator, Mapping
from typing import Any

import click
import msgspec

from appliance.checks import catalogue
from appliance.cli.handlers import handlers
from appliance.cli.sources import sources
from appliance.config import blob as files
from appliance.config.mistakes import ConfigError, Mistake
from appliance.config.references import Layout
from appliance.config.snapshot import Blob, Snapshot, build
from appliance.config.values import parse_next_hop
from appliance.daemons.master import zones
from appliance.engine.plan import Steps, of_envelope
from appliance.mail.context import STAGES, Role, Stage
from appliance.observe.text import counted

GOOD, MISTAKES, COULD_NOT_RUN = 0, 1, 2


@click.command()
@click.option("--config", "path", metavar="FILE", type=click.Path(), help="The wiring file (none: the embedded default).")
@click.option("--json", "as_json", is_flag=True, help="One JSON object instead of lines.")
def command(path: str | None, as_json: bool) -> None:
    """Read all files in force and report every mistake with its place."""
    try:
        blob = files.read(path)
    except OSError as why:
        could_not_run(str(path), why.strerror or str(why), as_json)
    try:
        snapshot = build(blob)
    except ConfigError as error:
        report(None, error.mistakes, blob.label, as_json)
        sys.exit(MISTAKES)
    found = [
        *snapshot.warnings,
        *zones.complaints(snapshot),
        *certificates(blob, snapshot),
        *tables(blob, snapshot),
        *handlers(blob, snapshot),
    ]
    if any(mistake.fatal for mistake in found):
        report(None, sorted(found), blob.label, as_json)
        sys.exit(MISTAKES)
    doubts = [*found, *resolvers(blob, snapshot), *circles(blob, snapshot), *sources(blob, snapshot)]
    report(snapshot, sorted(doubts), blob.label, as_json)


def resolvers(blob: Blob, snapshot: Snapshot) -> list[Mistake]:
    """A warning where DNS lists are asked through a public resolver: they refuse it, or give it no answer."""
    from appliance.daemons.compose.lists import wanted_lists  # heavy, and only needed here
    from appliance.net.public import public_servers
    from appliance.net.resolver import system_nameservers
    from appliance.net.upstream import parse_server

    named = snapshot.wiring.dns.nameservers
    public = public_servers(parse_server(text)[0] for text in named or system_nameservers())
    if not public or not wanted_lists(snapshot.policies):
        return []
    where = Layout(blob.main, blob.folder, blob.shipped, blob.files[blob.main]).parsed.where
    line, column = where.value(("dns", "nameservers") if named else ("dns",))
    text = f"DNS lists do not answer a public resolver ({', '.join(public)})"
    return [Mistake(blob.label, line, column, f"{text}: run one here (unbound) and name it in [dns] nameservers", False)]


def circles(blob: Blob, snapshot: Snapshot) -> list[Mistake]:
    """A warning where call-ahead asks a server of this machine, which may be the one that asks us: its milter or policy
    client would put the same question to us again."""
    wiring, recipient = snapshot.wiring, snapshot.policies.checks["recipient"]
    fronts = [service for service, _ in wiring.fronts()]
    if not fronts or recipient.mode == "off" or not recipient.knobs.callahead:  # type: ignore[attr-defined]
        return []
    where = Layout(blob.main, blob.folder, blob.shipped, blob.files[blob.main]).parsed.where
    for index, text in enumerate(wiring.relay.next_hop):
        hop = parse_next_hop(text)
        if not hop.mx and not hop.path and (hop.host == "localhost" or hop.host.startswith("127.") or hop.host == "::1"):
            line, column = where.value(("relay", "next_hop", index))
            asks = " and ".join(sorted(set(fronts)))
            told = f"call-ahead asks {text} for recipients: if that is the MTA which asks {asks} here, each question "
            told += "comes back; name a list of recipients and callahead = false in recipient.toml, or a port without us"
            return [Mistake(blob.label, line, column, told, False)]
    return []


def certificates(blob: Blob, snapshot: Snapshot) -> list[Mistake]:
    """Pairs that no listener could use. (A gateway would go on with its old ones, or without STARTTLS.)"""
    found = []
    for index, listen in enumerate(snapshot.wiring.listen):
        if listen.tls.certificate:
            from appliance.daemons.master.certificates import problem  # heavy, and only needed here

            if text := problem(listen.tls.certificate, listen.tls.key):
                where = Layout(blob.main, blob.folder, blob.shipped, blob.files[blob.main]).parsed.where
                line, column = where.value(("listen", index, "tls", "certificate"))
                found.append(Mistake(blob.label, line, column, f'listener "{listen.name}": {text}'))
    return found


def tables(blob: Blob, snapshot: Snapshot) -> list[Mistake]:
    """Tables that proxymap could not open: a .cf file with mistakes, a library that is missing."""
    found = []
    for spec in snapshot.proxied:
        from appliance.tables.proxied import Bad, open_proxied  # heavy, and only needed here
        from appliance.tables.text import TableError

        try:
            open_proxied(spec).close()
        except Bad as why:
            places = why.places or ((blob.label, 1, f"{spec}: {why}"),)
            found += [Mistake(file, line, 1, text) for file, line, text in places]
        except TableError as why:
            found.append(Mistake(blob.label, 1, 1, f"{spec}: {why}"))
    return found


def could_not_run(path: str, why: str, as_json: bool) -> None:
    if as_json:
        click.echo(msgspec.json.encode({"ok": False, "file": path, "error": why}))
    else:
        click.echo(f"{path}: cannot be read: {why}", err=True)
    sys.exit(COULD_NOT_RUN)


def report(snapshot: Snapshot | None, mistakes: list[Mistake], label: str, as_json: bool) -> None:
    """All mistakes, warnings among them, and what would run."""
    if as_json:
        found = [mistake._asdict() for mistake in mistakes]
        click.echo(msgspec.json.encode({"ok": snapshot is not None, "file": label, "mistakes": found, **facts(snapshot)}))
        return
    for mistake in mistakes:
        click.echo(
            str(mistake) if mistake.fatal else f"{mistake.file}:{mistake.line}:{mistake.column}: warning: {mistake.text}"
        )
    if snapshot is None:
        wrong = sum(mistake.fatal for mistake in mistakes)
        click.echo(f"{wrong} mistake{'s' if wrong != 1 else ''}: this does not run", err=True)
        return
    click.echo(summary(snapshot))
    for line in policy_clients(snapshot):
        click.echo(line)


def policy_clients(snapshot: Snapshot) -> Iterator[str]:
    """Which checks a policy client's requests are judged by, at which states of its protocol, and which are left out
    there: for each role that their mail may have. Fronts that are alike stand together."""
    plan, known = snapshot.policies.plan, catalogue()
    envelope = of_envelope(plan, known)
    alike: dict[tuple[Role, bool], list[str]] = {}
    for front in snapshot.wiring.policyd:
        both = front.role == "inbound" and bool(front.outbound or front.authenticated == "outbound")
        alike.setdefault((front.role, both), []).append(f'"{front.name}"')
    for (first, other), fronts in alike.items():
        roles: tuple[Role, ...] = (first, "outbound") if other else (first,)
        for role in roles:
            kept = {stage: _names(envelope.steps[role, stage], snapshot, role, stage) for stage in STAGES}
            mail = f" of {role} mail" if other else ""
            yield f"policy clients of {', '.join(fronts)} see{mail}: {_by_state(kept) or 'nothing'}"
            left = {stage: _names(plan.steps[role, stage], snapshot, role, stage) for stage in STAGES}
            left = {stage: [name for name in names if name not in kept[stage]] for stage, names in left.items()}
            for wire, what in ((False, "the content"), (True, "the session itself")):
                some = {stage: [name for name in names if known[name].wire is wire] for stage, names in left.items()}
                if told := _by_state(some):
                    yield f"  left out there, as the protocol does not tell {what}: {told}"


def _by_state(names: Mapping[Stage, list[str]]) -> str:
    """Checks by the state of the protocol, where there are any."""
    return "; ".join(f"{_STATES[stage]} ({', '.join(listed)})" for stage, listed in names.items() if listed)


def _names(steps: Steps, snapshot: Snapshot, role: Role, stage: Stage) -> list[str]:
    """The checks of a stage that are on, and have anything to do there."""
    found = [name for step in steps for name in step if snapshot.policies.checks[name].mode != "off"]
    knobs, checks = snapshot.policies.checks, catalogue()
    return [name for name in found if not (idle := checks[name].idle) or not idle(knobs[name].knobs, role, stage)]


#: Stages as policy clients call them.
_STATES = {
    "connect": "CONNECT",
    "helo": "EHLO/HELO",
    "mail": "MAIL",
    "rcpt": "RCPT",
    "data": "DATA",
    "message": "END-OF-MESSAGE",
}


def facts(snapshot: Snapshot | None) -> dict[str, Any]:
    """What would run, as plain values."""
    if snapshot is None:
        return {}
    wiring = snapshot.wiring
    return {
        "hash": snapshot.hash,
        "hostname": wiring.gateway.hostname,
        "state_dir": wiring.gateway.state_dir,
        "listeners": [{"name": item.name, "role": item.role, "address": item.address} for item in wiring.listen],
        "fronts": [{"service": service, "name": item.name, "address": item.address} for service, item in wiring.fronts()],
        "domains": list(wiring.relay.domains),
        "next_hop": list(wiring.relay.next_hop),
        "checks": {name: check.mode for name, check in snapshot.policies.checks.items()},
        "scanners": sorted(wiring.scanners),
        "tables": sorted(snapshot.tables),
    }


def summary(snapshot: Snapshot) -> str:
    """One line: what would run."""
    wiring = snapshot.wiring
    served = [f"{item.name} ({item.role}) on {item.address}" for item in wiring.listen]
    listeners = ", ".join([*served, *(f"{item.name} ({service}) on {item.address}" for service, item in wiring.fronts())])
    modes = [check.mode for check in snapshot.policies.checks.values()]
    counts = ", ".join(f"{modes.count(mode)} {word}" for mode, word in _MODES if mode in modes)
    hops = ", ".join(wiring.relay.next_hop) or "by route"
    return (
        f"good: {wiring.gateway.hostname}, {listeners}; {counted(len(wiring.relay.domains), 'domain')} to {hops}; "
        f"checks: {counts or 'none'}; scanners: {', '.join(sorted(wiring.scanners)) or 'none'}; "
        f"{counted(len(snapshot.tables), 'table')}; configuration {snapshot.hash}"
    )


_MODES = (("enforce", "enforced"), ("monitor", "monitored"), ("off", "off"))
