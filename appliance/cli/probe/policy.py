"""`postgate probe policy ADDRESS`: one request as Postfix sends it, and what the answer would do."""

import secrets
import sys
import time

import click

from appliance.cli.probe import ANSWERED, ODD
from appliance.cli.probe.line import Line, waits
from appliance.protocol.policy import ATTRIBUTES, STATES, Answer, AnswerReader, PolicyError, encode_request

#: What Postfix would do.
_MEANINGS = {
    "DUNNO": "no opinion: the next restriction decides",
    "OK": "accepted: the rest of this list of restrictions is skipped",
    "RELAY": "accepted: the rest of this list of restrictions is skipped",
    "REJECT": "refused",
    "DEFER": "put off",
    "DEFER_IF_PERMIT": "put off, unless something later refuses",
    "DEFER_IF_REJECT": "goes on; what refuses later is put off instead",
    "DISCARD": "accepted and thrown away",
    "HOLD": "goes on; the message is put on hold",
    "FILTER": "goes on; the message is sent to that filter",
    "REDIRECT": "goes on; the message goes to that address instead",
    "BCC": "goes on; a copy goes to that address",
    "PREPEND": "goes on; the field is put on top of the message",
    "WARN": "goes on; a line in Postfix's log",
    "INFO": "goes on; a line in Postfix's log",
    "": "an empty action: Postfix warns and takes it as OK",
}


@click.command()
@click.argument("address")
@click.option("--state", default="RCPT", show_default=True, type=click.Choice(STATES))
@click.option("--client", "client_address", default="192.0.2.1", show_default=True, metavar="ADDRESS")
@click.option("--client-name", default="unknown", show_default=True)
@click.option("--helo", "helo_name", default="mail.example.net", show_default=True)
@click.option("--from", "sender", default="friend@example.net", show_default=True)
@click.option("--to", "recipient", default="you@example.com", show_default=True)
@click.option("-a", "more", multiple=True, metavar="NAME=VALUE", help="Any other attribute; again for more.")
@click.option("--timeout", callback=waits, default=100.0, show_default=True, help="Seconds (Postfix's own default).")
def command(address: str, state: str, more: tuple[str, ...], timeout: float, **told: str) -> None:
    """Ask the policy server at ADDRESS (inet:host:port, unix:/path) one question."""
    attributes = request(state, told, more)
    try:
        octets = encode_request(attributes)
    except ValueError as why:
        raise click.BadParameter(str(why), param_hint="-a") from None
    line = Line(address, timeout, "a policy server")
    line.send(octets)
    with line.timed():
        answer, surplus = heard(line)
    if answer.oddity:
        click.echo(f"! {answer.oddity}: a Postfix client waits for its timeout then")
    if surplus:
        click.echo("! octets behind the answer: Postfix would connect anew for each request")
    click.echo(f"{answer.verb or '(nothing)'}: {meaning(answer.verb)}")
    sys.exit(ODD if answer.oddity or surplus or not answer.verb else ANSWERED)


def request(state: str, told: dict[str, str], more: tuple[str, ...]) -> dict[str, str]:
    """All attributes of Postfix 3.9, those given among them."""
    known = {
        "protocol_state": state,
        "protocol_name": "ESMTP",
        "client_port": "54321",
        "reverse_client_name": told["client_name"],
        "server_address": "127.0.0.1",
        "server_port": "25",
        "recipient_count": "1" if state in ("DATA", "END-OF-MESSAGE") else "0",
        "instance": f"{secrets.token_hex(2)}.{int(time.time()):x}.{secrets.token_hex(2)}.0",
        "size": "0",
        "encryption_keysize": "0",
        "compatibility_level": "3.9",
        "mail_version": "3.9.14",
        **told,
    }
    attributes = {name: known.get(name, "") for name in ATTRIBUTES if name != "request"}
    for pair in more:
        name, equals, value = pair.partition("=")
        if not equals or not name:
            raise click.BadParameter(f"{pair}: write NAME=VALUE", param_hint="-a")
        attributes[name] = value
    return attributes


def heard(line: Line) -> tuple[Answer, bool]:
    """The answer, printed."""
    reader = AnswerReader()
    while True:
        data = line.read()
        if not data:
            line.fail("hung up without an answer: it does not take this for a request of its protocol", ODD)
        line.shown(data)
        try:
            if (answer := reader.feed(data)) is not None:
                return answer, reader.surplus
        except PolicyError as why:
            line.fail(f"no policy server: {why}", ODD)


def meaning(verb: str) -> str:
    """What Postfix does with it."""
    if verb in _MEANINGS:
        return _MEANINGS[verb]
    if len(verb) == 3 and verb.isdecimal() and verb[0] in "45":
        ends = " and hung up on" if verb[1:] == "21" else ""
        return f"refused{ends}" if verb[0] == "5" else f"put off{ends}"
    return "accepted (all digits)" if verb.isdecimal() else "a restriction of Postfix's own, if it is one"
