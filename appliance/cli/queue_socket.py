"""Speaking to delivery's operators' socket, and showing what it says; shared by `postgate queue` and `postgate
quarantine`.
"""

import json
import socket
import sys
import time
from collections.abc import Iterator
from typing import Any

import click

from appliance.cli.common import state_dir
from appliance.observe.text import counted

_MARKS = {"active": "*", "hold": "!"}
#: Seconds of silence after which delivery counts as stuck.
_PATIENCE = 60.0


def messages(config: str | None, request: dict[str, Any]) -> Iterator[dict[str, Any]]:
    """The messages that `request` concerns. Raises ClickException with what to do, also for acts that failed in part."""
    with _connected(config) as sock:
        sock.sendall(json.dumps({key: value for key, value in request.items() if value}).encode() + b"\n")
        with sock.makefile("rb") as answers:
            for line in answers:
                answer = json.loads(line)
                if "message" in answer:
                    yield answer["message"]
                elif "error" in answer:
                    raise click.ClickException(str(answer["error"]))
                else:
                    return
    raise click.ClickException("delivery ended before it had answered: is it being restarted? See: postgate status")


def _connected(config: str | None) -> socket.socket:
    state = state_dir(config)
    places = [state / "run" / "queue.sock", state / "spool" / "queue.sock"]
    for path in places:
        sock = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
        sock.settimeout(_PATIENCE)
        try:
            sock.connect(str(path))
            return sock
        except PermissionError:
            sock.close()
            raise click.ClickException(f"{path}: not allowed; run as root or as the gateway's user") from None
        except OSError:
            sock.close()
    start = f"postgate run --config {config}" if config else "postgate run"
    raise click.ClickException(f"no gateway is running here (nothing listens on {places[-1]}); start it: {start}")


def show_list(found: Iterator[dict[str, Any]], as_json: bool, name: str) -> None:
    """As mailq does, or one JSON object a line."""
    if as_json:
        for message in found:
            click.echo(json.dumps(message, ensure_ascii=False))
        return
    count = octets = 0
    for message in found:
        if not count:
            click.echo(f"{'-Queue ID-':<22} {'--Size--':>8} {'---Arrival Time----':>19} -Sender/Recipient------")
        count, octets = count + 1, octets + message["message_size"]
        click.echo("\n".join(_lines(message)) + "\n")
    click.echo(f"-- {octets // 1024} Kbytes in {counted(count, 'message')}." if count else f"The {name} is empty")


def _lines(message: dict[str, Any]) -> Iterator[str]:
    arrival = time.ctime(message["arrival_time"])[:19]
    mark = _MARKS.get(message["queue_name"], " ")
    sender = message["sender"] or "MAILER-DAEMON"
    yield f"{message['queue_id'] + mark:<22} {message['message_size']:>8} {arrival:>19} {sender}"
    if message["reason"]:
        yield f"{'(' + message['reason'] + ')':>76}"
    for recipient in message["recipients"]:
        if recipient["status"] != "done":
            yield f"{'':<51} {recipient['address']}"


def show_one(message: dict[str, Any], as_json: bool) -> None:
    """Everything that is known of a message."""
    if as_json:
        click.echo(json.dumps(message, ensure_ascii=False))
        return
    for key in ("queue_id", "queue_name", "sender", "message_size", "message_id", "attempts", "proven", "policy"):
        click.echo(f"{key:<14} {message[key]}")
    click.echo(f"{'arrival':<14} {time.ctime(message['arrival_time'])}")
    if message["next_try"]:
        click.echo(f"{'next try':<14} {time.ctime(message['next_try'])}  {', '.join(message['next_hop'])}")
    for key in ("reason", "keep_reason"):
        if message[key]:
            click.echo(f"{key:<14} {message[key]}")
    origin = message["origin"]
    click.echo(
        f"{'client':<14} {origin['client_name']}[{origin['client_address']}] helo={origin['helo']} {origin['protocol']}"
    )
    for one in message["recipients"]:
        whom = f"{one['address']} from {one['sender']}" if "sender" in one else one["address"]
        click.echo(f"{'recipient':<14} {whom}  {one['status']}  {one.get('delay_reason', '')}".rstrip())
    for verdict in message["verdicts"]:
        click.echo(f"{'verdict':<14} " + " ".join(f"{key}={value}" for key, value in verdict.items() if value))
    for edit in message["edits"]:
        click.echo(f"{'edit':<14} {edit['op']} {edit['name']}: {edit['value']}")
    click.echo("\n" + message["header"], nl=False)


def act(config: str | None, request: dict[str, Any], done: str, as_json: bool) -> None:
    """Do something to messages and say to which."""
    count = 0
    for message in messages(config, request):
        count += 1
        click.echo(json.dumps(message, ensure_ascii=False) if as_json else message["queue_id"])
    if not as_json:
        would = "would be " if request.get("dry_run") else ""
        click.echo(f"{count} message{'' if count == 1 else 's'} {would}{done}", err=True)
    if not count:
        sys.exit(1)
