"""`postgate probe milter ADDRESS`: one message as an MTA tells it, every step and what the filter makes of it.

Exit: 0 the filter answered each step in its protocol (whatever it decided), 1 it did not, 2 nobody is there.
"""

import sys
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path
from typing import Any

import click

from appliance.cli.probe import ANSWERED, ODD
from appliance.cli.probe.line import Line, waits
from appliance.mail.apply import split
from appliance.observe.text import clean
from appliance.protocol.errors import ProtocolError
from appliance.protocol.milter import packets as p
from appliance.protocol.milter import replycode
from appliance.protocol.milter.mta import Heard, MtaMachine, Sent
from appliance.protocol.milter.negotiation import Agreement, offer
from appliance.protocol.milter.words import HIGHEST, LOWEST, MAX_CHUNK, Event, Word

_MAIL = b"From: <%s>\r\nTo: <%s>\r\nSubject: a test message\r\nDate: Mon, 1 Jan 2024 12:00:00 +0000\r\n\r\nA test.\r\n"
#: A step: how it is shown, its event, what tells the filter of it.
Step = tuple[str, Event, Callable[[], Sent]]
#: What an MTA would do.
_MEANINGS = {
    Word.CONTINUE: "goes on",
    Word.ACCEPT: "accepted, nothing more is asked",
    Word.REJECT: "refused",
    Word.TEMPFAIL: "put off",
    Word.DISCARD: "accepted and thrown away",
    Word.SHUTDOWN: "421, the SMTP connection ends",
    Word.CONN_FAIL: "the filter is out of order",
    Word.SKIP: "no more of this kind is wanted",
}


class _Talk:
    """The machine on its connection. Ends the command where the filter breaks the protocol."""

    def __init__(self, line: Line, version: int) -> None:
        self.line, self.machine = line, MtaMachine(offer(version))

    def step(self, what: str, sent: Sent, wanted: bool = True) -> Heard | None:
        """One step, printed with its answer; None where no answer is waited for."""
        click.echo(f"> {what}" if wanted else f"- {what}: not wanted")
        try:
            self.line.sock.sendall(sent.octets)
        except OSError as error:
            self.line.fail(f"hung up: {error.strerror or error}", ODD)
        if not sent.waits:
            click.echo("  no answer is waited for" if wanted else "", nl=wanted)
            return None
        with self.line.timed():
            heard = self._answer()
        for shown in answers(heard):
            click.echo(f"< {shown}")
        return heard

    def _answer(self) -> Heard:
        while True:
            data = self.line.read()
            if not data:
                self.line.fail("hung up without an answer", ODD)
            try:
                heard = self.machine.receive(data)
            except ProtocolError as why:
                self.line.fail(f"no milter: {why}", ODD)
            for one in heard:
                if not one.progress:
                    return one
                click.echo("< progress: it is still at work")
                self.line.again()


@click.command()
@click.argument("address")
@click.option("--client", default="192.0.2.1", show_default=True, metavar="ADDRESS")
@click.option("--client-name", default="", help='Default: "[ADDRESS]", a client without a name.')
@click.option("--helo", default="mail.example.net", show_default=True)
@click.option("--from", "sender", default="friend@example.net", show_default=True)
@click.option("--to", default=("you@example.com",), multiple=True, show_default=True, help="Again for more.")
@click.option("--mail", "path", metavar="FILE", type=click.Path(dir_okay=False), help="The message; else a small one.")
@click.option("-m", "--macro", "macros", multiple=True, metavar="NAME=VALUE", help="A macro; again for more.")
@click.option("--protocol", default=HIGHEST, show_default=True, type=click.IntRange(LOWEST, HIGHEST))
@click.option(
    "--timeout",
    callback=waits,
    default=300.0,
    show_default=True,
    help="Seconds for each answer; progress begins them anew.",
)
def command(
    address: str,
    path: str | None,
    macros: tuple[str, ...],
    protocol: int,
    timeout: float,
    to: tuple[str, ...],
    **told: str,
) -> None:
    """Tell the milter at ADDRESS (inet:host:port, unix:/path) of one message, and print each step."""
    given = _macros(macros, told, to)
    content = _content(path, told, to)
    talk = _Talk(Line(address, timeout, "a milter"), protocol)
    talk.step(f"OPTNEG version {protocol}", talk.machine.negotiate())
    if talk.machine.agreement is not None:
        click.echo("".join(f"  {text}\n" for text in agreement(talk.machine.agreement)), nl=False)
    _message(talk, told, to, content, given)
    talk.line.sock.sendall(talk.machine.quit().octets)
    sys.exit(ANSWERED)


def _macros(pairs: tuple[str, ...], told: dict[str, str], to: tuple[str, ...]) -> dict[str, str]:
    """Those that MTAs send, those given among them."""
    name = told["client_name"] or f"[{told['client']}]"
    known = {"j": "mail.example.com", "i": "PROBE1", "v": "Postgate probe", "_": f"{name} [{told['client']}]"}
    known |= {"daemon_name": "probe", "mail_addr": told["sender"], "rcpt_addr": to[0]}
    for pair in pairs:
        key, equals, value = pair.partition("=")
        if not equals or not key:
            raise click.BadParameter(f"{pair}: write NAME=VALUE", param_hint="-m")
        known[key.strip("{}")] = value
    return known


def _content(path: str | None, told: dict[str, str], to: tuple[str, ...]) -> bytes:
    if path is None:
        return _MAIL % (told["sender"].encode(), to[0].encode())
    try:
        octets = Path(path).read_bytes()
    except OSError as error:
        raise click.BadParameter(f"{path}: {error.strerror}", param_hint="--mail") from None
    return octets.replace(b"\r\n", b"\n").replace(b"\n", b"\r\n")


def _message(talk: _Talk, told: dict[str, str], to: tuple[str, ...], content: bytes, macros: dict[str, str]) -> None:
    """From CONNECT to the end of the message, as far as the filter lets it."""
    machine, address = talk.machine, told["client"]
    name = (told["client_name"] or f"[{address}]").encode()
    where = p.Connect(name, "6" if ":" in address else "4", 54321, address.encode())
    steps: list[Step] = [
        (f"CONNECT {name.decode()} [{address}]", Event.CONNECT, partial(machine.connect, where, macros)),
        (f"HELO {told['helo']}", Event.HELO, partial(machine.helo, told["helo"].encode(), macros)),
        (f"MAIL <{told['sender']}>", Event.MAIL, partial(machine.mail, f"<{told['sender']}>".encode(), (), macros)),
    ]
    steps += [(f"RCPT <{one}>", Event.RCPT, partial(machine.rcpt, f"<{one}>".encode(), (), macros)) for one in to]
    steps += [("DATA", Event.DATA, partial(machine.data, macros)), *_of_content(machine, content, macros)]
    taken = 0
    for what, event, call in steps:
        if machine.done or machine.message_done:
            click.echo(f"  the rest is not sent: {what} and what follows")
            return
        if event is Event.DATA and not taken:
            click.echo("  no recipient is left: an MTA goes no further")
            return
        heard = talk.step(what, call(), machine.wants(event) or machine.waiting is event)
        taken += event is Event.RCPT and (heard is None or heard.reply.word == Word.CONTINUE)


def _of_content(machine: MtaMachine, content: bytes, macros: dict[str, str]) -> Iterator[Step]:
    """Header fields, the body in pieces, the end."""
    header, rest = split(content)
    fields: list[str] = []
    for line in header.decode("latin-1").split("\r\n")[:-1]:
        if line[:1] in (" ", "\t") and fields:
            fields[-1] += f"\n{line}"
        else:
            fields.append(line)
    for field in fields:
        name, _, value = field.partition(":")
        octets = name.rstrip().encode("latin-1"), value.encode("latin-1")
        yield f"HEADER {name}", Event.HEADER, partial(machine.header, *octets)
    yield "END OF HEADER", Event.END_OF_HEADER, partial(machine.end_of_header, macros)
    body = rest.removeprefix(b"\r\n")
    for start in range(0, len(body), MAX_CHUNK):
        piece = body[start : start + MAX_CHUNK]
        yield f"BODY {len(piece)} octets", Event.BODY, partial(machine.body, piece)
    yield "END OF MESSAGE", Event.END_OF_MESSAGE, partial(machine.end_of_message, macros)


def agreement(agreed: Agreement) -> Iterator[str]:
    """What filter and MTA agreed on, in words."""
    yield f"version {agreed.version}; it may: {_names(agreed.actions) or 'only answer'}"
    away, quiet = (sorted(event.name.lower() for event in events) for events in (agreed.kept_away, agreed.quiet))
    yield f"it does not want: {', '.join(away) or 'nothing is left out'}"
    yield f"it does not answer: {', '.join(quiet) or 'every step is answered'}"
    for stage, names in sorted(agreed.macros.items()):
        yield f"macros at stage {stage}: {' '.join(names) or 'none'}"


def _names(flags: Any) -> str:
    return ", ".join(str(flag.name).lower().replace("_", " ") for flag in flags)


def answers(heard: Heard) -> Iterator[str]:
    """The edits and the answer of a step."""
    for edit in heard.edits:
        parts = (clean(part.decode("utf-8", "replace")) if isinstance(part, bytes) else str(part) for part in edit)
        yield f"edit: {type(edit).__name__} {' '.join(part[:200] for part in parts)}".rstrip()
    if heard.step is Event.NEGOTIATE:
        yield "agreed"
    elif heard.reply.word == Word.REPLY_CODE:
        yield f"reply code: {_reply(heard.reply.text)}"
    else:
        yield f"{heard.reply.word.name.lower()}: {_MEANINGS[heard.reply.word]}"
    if heard.odd:
        yield f"! {heard.odd}"


def _reply(text: bytes) -> str:
    try:
        return replycode.parse(text).text
    except ProtocolError as why:
        return f"! {why}: Postfix takes its default action then"
