"""`postgate route ADDRESS`: where mail for an address goes, by which setting, table and line; and as what it leaves.

Tables behind proxymap are opened by this command itself, with its own rights. Nothing is changed or sent, and DNS is not
asked. Exit: 0 there is a way, 1 there is none, or an answer instead of one ("error:"), or it leads back to this gateway,
2 it is not known: a table cannot answer, or its entry is no way.
"""

import asyncio
import sys
from typing import Any

import click
import msgspec

from appliance.addresses.expansion import Step
from appliance.cli.common import config_option, mailbox_of, place, snapshot_of
from appliance.config.generics import Generics
from appliance.config.odd import same
from appliance.config.routes import BY_DOMAIN, ROUTES, Route, Routes
from appliance.config.snapshot import Snapshot
from appliance.config.values import SERVERS, NextHop, parse_listen_address
from appliance.mail.later import answered
from appliance.mail.ports import Unavailable
from appliance.protocol.smtp.address import Address
from appliance.tables.proxied import open_proxied
from appliance.tables.proxied.direct import Direct

THERE, NOWHERE, UNKNOWN = 0, 1, 2


@click.command()
@click.argument("address")
@click.option("--sender", default="<>", metavar="ADDRESS", help='Whose mail it is ("<>": the null sender).')
@click.option("--json", "as_json", is_flag=True, help="One JSON object instead of lines.")
@config_option
def command(address: str, sender: str, as_json: bool, config: str | None) -> None:
    """Show where mail for ADDRESS goes."""
    snapshot = snapshot_of(config, UNKNOWN)
    to, whose = (mailbox_of(text, snapshot) for text in (address, sender))
    if not to.local:
        raise click.UsageError("nobody can be sent to at <>")
    told = asyncio.run(_told(snapshot, to, whose))
    if as_json:
        click.echo(msgspec.json.encode(told))
    else:
        _show(told)
    sys.exit({"goes": THERE, "not known": UNKNOWN}.get(told["result"], NOWHERE))


async def _told(snapshot: Snapshot, to: Address, sender: Address) -> dict[str, Any]:
    routes = Routes(snapshot.wiring, snapshot.tables)
    told: dict[str, Any] = {"address": to.text, "sender": sender.text, "hops": [], "leaves": []}
    direct = Direct(open_proxied)
    try:
        for remote in snapshot.remotes:
            remote.line = direct
        route = await answered(routes.route(to, sender))
        told |= await _way(snapshot, routes, route, to, sender)
        if _hands_back(routes, route):
            behind = await answered(routes.route(to, sender, back=True))
            told["behind"] = await _way(snapshot, routes, behind, to, sender)
    except Unavailable as why:
        return told | {"result": "not known", "why": str(why)}
    finally:
        direct.close()
    return told | {"result": told.get("behind", told)["result"]}


async def _way(snapshot: Snapshot, routes: Routes, route: Route, to: Address, sender: Address) -> dict[str, Any]:
    """What one route says. Raises Unavailable."""
    steps = await _left(snapshot, routes, route, to, sender)
    own = {hop: name for hop in route.hops if (name := _own(snapshot, hop))}
    told = {"by": route.by, "result": "loops" if len(own) == len(route.hops) > 0 else _result(route), "leaves": steps}
    if route.found is not None:
        told |= {"place": route.found.place, "key": route.found.key, "value": route.found.value}
    if told["result"] == "loops":
        told |= {"why": _mend(snapshot, route, to)}
    return told | {"hops": [_hop(routes, hop) | ({"own": own[hop]} if hop in own else {}) for hop in route.hops]}


def _hands_back(routes: Routes, route: Route) -> bool:
    """Does that way lead through a filter?"""
    return any(routes.filters.handed_back(str(hop)) for hop in route.hops)


def _result(route: Route) -> str:
    if not route.hops:
        return "nowhere"
    answers = {"error": "refused", "retry": "waits", "discard": "dropped"}
    return answers.get(route.hops[0].kind, "goes")


def _hop(routes: Routes, hop: NextHop) -> dict[str, Any]:
    if hop.kind == "filter":
        places = [str(one) for one in routes.filters.reached(hop) if one.kind in SERVERS]
        return {
            "hop": str(hop),
            "filter": hop.host,
            "delivers": not routes.filters.handed_back(str(hop)),
            "through": places,
        }
    if hop.kind not in SERVERS:
        return {"hop": str(hop)}
    return {"hop": str(hop), "tls": routes.tls_level(hop), "mx": hop.mx}


def _own(snapshot: Snapshot, hop: NextHop) -> str:
    """As what this gateway is that next hop, "" if it is not known to be."""
    listeners = [one for one in snapshot.wiring.listen if one.protocol == "smtp"]
    for listener in listeners:
        if same(hop, listener):
            return f'listener "{listener.name}" of this gateway'
    ports = {25, *(parse_listen_address(one.address).port for one in listeners)}
    if hop.kind in SERVERS and hop.port in ports and hop.host == snapshot.wiring.gateway.hostname:
        return "this gateway's own name" + (", unless its MX records name others: DNS is not asked" if hop.mx else "")
    return ""


def _mend(snapshot: Snapshot, route: Route, to: Address) -> str:
    """What to do about a loop."""
    if route.found is not None:
        return f"mail would come back to this gateway: name another server at {route.found.place}"
    if route.by == BY_DOMAIN:
        ways = "a next hop of its own in [relay] routes, or aliases for its names in [addresses]"
        at = place(snapshot, ("relay", "domains"))
        return f"mail would come back to this gateway: {to.domain} is none of [relay] domains ({at}); it needs {ways}"
    at = place(snapshot, ("relay", "routes" if route.by == ROUTES else "next_hop"))
    return f"mail would come back to this gateway: name another server at {at}"


async def _left(snapshot: Snapshot, routes: Routes, route: Route, to: Address, sender: Address) -> list[dict[str, Any]]:
    """What the generic maps make of both on that way; where a filter hands back, that is done behind it."""
    hops = () if _hands_back(routes, route) else routes.servers(route)
    generic = Generics(snapshot.wiring, snapshot.tables).on(hops, route.outward)
    steps: list[Step] = []
    if generic is not None:
        await generic.one(sender, "envelope_sender", steps)
        await generic.one(to, "envelope_recipient", steps)
    return [{"by": step.setting, "place": step.place, "from": step.before, "to": step.after[0]} for step in steps]


def _show(told: dict[str, Any]) -> None:
    click.echo(f"<{told['address']}> from <{told['sender']}>")
    if told["result"] == "not known":
        click.echo(f"not known: {told['why']}")
        return
    _show_way(told)
    if "behind" in told:
        click.echo("what it hands back goes on:")
        _show_way(told["behind"])


def _show_way(told: dict[str, Any]) -> None:
    if "place" in told:
        click.echo(f"  {told['place']}")
        click.echo(f"    {told['key']}  {told['value']}")
    click.echo(f"  by {told['by']}")
    for step in told["leaves"]:
        click.echo(f"  {step['by']}  {step['place']}")
        click.echo(f"    <{step['from']}> -> <{step['to']}>")
    for hop in told["hops"]:
        click.echo(f"= {hop['hop']}{_more(hop)}")
        if "own" in hop:
            click.echo(f"    that is {hop['own']}")
    if told["result"] == "loops" and "why" in told:
        click.echo(f"loops: {told['why']}")
    if not told["hops"]:
        click.echo("= nowhere: no next hop is configured for it")


def _more(hop: dict[str, Any]) -> str:
    """How a next hop is spoken to; what a filter does."""
    if "tls" in hop:
        return f"  (TLS: {hop['tls']}{', by MX' if hop['mx'] else ''})"
    if "filter" not in hop:
        return ""
    what = "delivers" if hop["delivers"] else "hands back"
    through = ", ".join(hop["through"]) or "a command"
    return f"  ([filters.{hop['filter']}], {through}: {what})"
