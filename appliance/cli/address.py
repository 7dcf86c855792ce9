"""`postgate address rewrite sender|recipient ADDRESS`: what becomes of an address, step by step, with table and line.

Tables behind proxymap are opened by this command itself, with its own rights. Nothing is changed or sent. Exit: 0 it is
taken, 1 it is refused, unknown, or none of ours where nobody's mail goes out, 2 it is put off: a table cannot answer, or
the maps lead nowhere.
"""

import asyncio
import sys
from typing import Any

import click
import msgspec

from appliance.addresses import Expansion, Refused, Rewriter, Step, Unreasonable
from appliance.cli.common import Group, config_option, mailbox_of, place, snapshot_of
from appliance.config.routes import Routes
from appliance.config.snapshot import Snapshot
from appliance.daemons.compose.rewriting import build_rewriter
from appliance.mail.later import answered
from appliance.mail.ports import Unavailable
from appliance.protocol.smtp.address import Address
from appliance.tables.proxied import open_proxied
from appliance.tables.proxied.direct import Direct

TAKEN, REFUSED, PUT_OFF = 0, 1, 2
#: Steps that are shown of those that lead nowhere.
SHOWN = 20


@click.group(cls=Group)
def command() -> None:
    """Show what becomes of addresses before the queue."""


@command.command()
@click.argument("what", type=click.Choice(["sender", "recipient"]))
@click.argument("address")
@click.option("--json", "as_json", is_flag=True, help="One JSON object instead of lines.")
@config_option
def rewrite(what: str, address: str, as_json: bool, config: str | None) -> None:
    """Rewrite ADDRESS ("<>" for the null sender) as that of a sender or a recipient, and print each step."""
    snapshot = snapshot_of(config, PUT_OFF)
    told = asyncio.run(_told(snapshot, what, mailbox_of(address, snapshot)))
    if as_json:
        click.echo(msgspec.json.encode(told))
    else:
        _show(told)
    sys.exit({"taken": TAKEN, "put off": PUT_OFF}.get(told["result"], REFUSED))


async def _told(snapshot: Snapshot, what: str, address: Address) -> dict[str, Any]:
    rewriter = build_rewriter(snapshot)
    told: dict[str, Any] = {"address": address.text, "what": what, "result": "taken", "steps": [], "to": [address.text]}
    direct = Direct(open_proxied)
    try:
        for remote in snapshot.remotes:
            remote.line = direct
        if rewriter is None:
            told |= {"why": "[addresses] rewrites nothing"}
        else:
            told |= await (_sender if what == "sender" else _recipient)(rewriter, address)
        foreign = what == "recipient" and told["result"] == "taken" and not await _is_ours(snapshot, rewriter, address)
        return told | (_foreign(snapshot, address) if foreign else {})
    except Refused as why:
        return told | {"result": "refused", "why": f"{why.place}: {why.reply}", "to": []}
    except Unavailable as why:
        steps = why.steps[:SHOWN] if isinstance(why, Unreasonable) else ()
        return told | {"result": "put off", "why": str(why), "to": [], "steps": _steps(steps)}
    finally:
        direct.close()


async def _is_ours(snapshot: Snapshot, rewriter: Rewriter | None, address: Address) -> bool:
    """Does anybody's mail for it come in? Raises Unavailable."""
    if address.domain == snapshot.wiring.gateway.hostname and address.local.lower() == "postmaster":
        return True
    is_ours = rewriter.is_ours if rewriter is not None else Routes(snapshot.wiring, snapshot.tables).is_ours
    return await answered(is_ours(address.domain))


def _foreign(snapshot: Snapshot, address: Address) -> dict[str, Any]:
    """What a domain of others means."""
    why = f"{address.domain} is none of [relay] domains ({place(snapshot, ('relay', 'domains'))}), nor one of aliases"
    doors = [one.name for one in snapshot.wiring.listen if one.protocol == "smtp" and one.role == "outbound"]
    if doors:
        names = ", ".join(f'"{name}"' for name in doors)
        return {"why": f"from outside it is refused (550 5.7.1): {why}; mail that comes by {names} goes there as shown"}
    return {"result": "refused", "why": f"550 5.7.1: {why}", "to": []}


async def _sender(rewriter: Rewriter, address: Address) -> dict[str, Any]:
    sender, steps = await rewriter.sender(address)
    copies = [*await rewriter.sender_bcc(sender), *await rewriter.always_bcc()]
    return {"steps": _steps(steps), "to": [sender.text], "copies": _copies(copies)}


async def _recipient(rewriter: Rewriter, address: Address) -> dict[str, Any]:
    found = await rewriter.reached(address)
    if found is None:
        steps = (await rewriter.recipient(address)).steps
        last = steps[-1].after[0].rpartition("@")[2] if steps else address.domain
        why = f"550 5.1.1: {last} has aliases only, and none of this name"
        return {"result": "unknown", "why": why, "to": [], "steps": _steps(steps)}
    told: dict[str, Any] = {"steps": _steps(found.steps), "to": [one.text for one in found.finals]}
    told["owners"] = {
        one.text: {"sender": owner.sender.text, "told": [whom.text for whom in owner.told]}
        for one in found.finals
        if (owner := found.owners.get(one.text.lower())) is not None
    }
    return told | {"copies": _copies(await rewriter.recipient_bcc(found.address))}


def _steps(steps: tuple[Step, ...]) -> list[dict[str, Any]]:
    return [{"by": step.setting, "place": step.place, "from": step.before, "to": list(step.after)} for step in steps]


def _copies(copies: list[Expansion]) -> list[dict[str, Any]]:
    return [{"steps": _steps(copy.steps), "to": [one.text for one in copy.finals]} for copy in copies]


def _show(told: dict[str, Any]) -> None:
    click.echo(f"{told['what']} <{told['address']}>")
    for step in told["steps"]:
        _show_step(step)
    for one in told["to"]:
        owner = told.get("owners", {}).get(one)
        click.echo(f"= <{one}> from <{owner['sender']}>" if owner else f"= <{one}>")
    for copy in told.get("copies", ()):
        for step in copy["steps"]:
            _show_step(step)
        for one in copy["to"]:
            click.echo(f"= copy <{one}>")
    if told["result"] != "taken" or "why" in told:
        click.echo(f"{told['result']}: {told['why']}" if told["result"] != "taken" else told["why"])


def _show_step(step: dict[str, Any]) -> None:
    click.echo(f"  {step['by']}  {step['place']}")
    click.echo(f"    <{step['from']}> -> {', '.join(f'<{one}>' for one in step['to'])}")
