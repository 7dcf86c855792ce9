"""`postgate probe smtp ADDRESS`: an SMTP session up to RCPT, then taken back: no message is sent."""

import sys

import click

from appliance.cli.probe import ANSWERED, ODD
from appliance.cli.probe.line import Line, waits
from appliance.protocol.errors import ProtocolError
from appliance.protocol.smtp.reply import Reply, ReplyReader


@click.command()
@click.argument("address")
@click.option("--helo", default="mail.example.net", show_default=True)
@click.option("--from", "sender", default="friend@example.net", show_default=True)
@click.option("--to", default=("you@example.com",), multiple=True, show_default=True, help="Again for more.")
@click.option("--lmtp", is_flag=True, help="Speak LMTP.")
@click.option("--timeout", callback=waits, default=60.0, show_default=True, help="Seconds for each answer.")
def command(address: str, helo: str, sender: str, to: tuple[str, ...], lmtp: bool, timeout: float) -> None:
    """Speak SMTP with ADDRESS (host:port, unix:/path): EHLO, MAIL, RCPT, RSET, QUIT."""
    line = Line(address, timeout, "SMTP")
    reader = ReplyReader()
    greeting = heard(line, reader)
    good = greeting.code == 220
    words = [f"{'LHLO' if lmtp else 'EHLO'} {helo}", f"MAIL FROM:<{sender}>", *(f"RCPT TO:<{one}>" for one in to), "RSET"]
    for word in words if good else ():
        reply = said(line, reader, word)
        if word.startswith("EHLO") and reply.code >= 500:
            reply = said(line, reader, f"HELO {helo}")
        good = good and (reply.code < 400 or word == "RSET")
        if reply.code == 421:
            line.fail("it ends the session", ODD)
        if reply.code >= 400 and not word.startswith(("RCPT", "RSET")):
            break
    said(line, reader, "QUIT")
    click.echo("all was accepted" if good else "not all was accepted")
    sys.exit(ANSWERED if good else ODD)


def said(line: Line, reader: ReplyReader, word: str) -> Reply:
    """Send one command; the reply to it."""
    line.send(f"{word}\r\n".encode())
    return heard(line, reader)


def heard(line: Line, reader: ReplyReader) -> Reply:
    """One whole reply, printed."""
    with line.timed():
        while True:
            data = line.read()
            if not data:
                line.fail("hung up", ODD)
            line.shown(data)
            try:
                if replies := reader.feed(data):
                    return replies[0]
            except ProtocolError as why:
                line.fail(f"no SMTP server: {why}", ODD)
