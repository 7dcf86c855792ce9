"""`postgate send-test`: send a mail by SMTP, show the dialogue and what came of it. Exit: 0 all accepted, 1 not."""

import smtplib
import sys
import time
from email.message import EmailMessage
from email.utils import formatdate, make_msgid

import click

from appliance.cli import common

#: The EICAR test file and the GTUBE line, in halves, so that no scanner takes this file for one.
_EICAR = "X5O!P%@AP[4\\PZX54(P^)7CC)7}$" + "EICAR-STANDARD-ANTIVIRUS-TEST-FILE!$H+H*"
_GTUBE = "XJS*C4JDBQADN1.NSBN3*2IDNEN*" + "GTUBE-STANDARD-ANTI-UBE-TEST-EMAIL*C.34X"
#: Where what listens everywhere is found on this machine.
_NEAR = {"0.0.0.0": "127.0.0.1", "::": "::1"}


@click.command()
@common.config_option
@click.option("--server", metavar="HOST:PORT", help="[default: the first listener of --config; else 127.0.0.1:2525]")
@click.option("--to", "to", default=("you@example.com",), multiple=True, show_default=True, help="Again for more.")
@click.option("--from", "sender", default="friend@example.net", show_default=True)
@click.option("--helo", default="mail.example.net", show_default=True, help="The name we greet with.")
@click.option("--subject", default="A test mail", show_default=True)
@click.option("--eicar", is_flag=True, help="Attach the EICAR test virus (harmless).")
@click.option("--gtube", is_flag=True, help="Put the GTUBE line in (certain spam).")
@click.option("--count", default=1, show_default=True, type=click.IntRange(1, 10000), help="So many mails.")
@click.option("--quiet", is_flag=True, help="Only the result.")
def command(
    config: str | None,
    server: str | None,
    to: tuple[str, ...],
    sender: str,
    helo: str,
    subject: str,
    eicar: bool,
    gtube: bool,
    count: int,
    quiet: bool,
) -> None:
    """Send a test mail to the gateway and show the dialogue."""
    host, _, port = (server or listener(config)).rpartition(":")
    if not port.isdigit():
        raise click.BadParameter("write HOST:PORT, for example 127.0.0.1:2525", param_hint="--server")
    accepted = 0
    for number in range(1, count + 1):
        mail = message(sender, to, f"{subject} {number}" if count > 1 else subject, eicar=eicar, gtube=gtube)
        accepted += send(host.strip("[]"), int(port), helo, sender, to, mail, show=not quiet)
    click.echo(f"{accepted} of {count} accepted")
    sys.exit(0 if accepted == count else 1)


def listener(config: str | None) -> str:
    """Where the gateway of `config` listens, as seen from this machine."""
    from appliance.config import blob
    from appliance.config.snapshot import ConfigError, build
    from appliance.config.values import parse_listen_address

    try:
        listeners = build(blob.read(config)).wiring.listen
    except (OSError, ConfigError) as error:
        raise click.ClickException(f"{error}\nname the server: --server HOST:PORT") from None
    for place in (parse_listen_address(listen.address) for listen in listeners):
        if place.port:
            return f"{_NEAR.get(place.host, place.host)}:{place.port}"
    raise click.ClickException(f"{config}: no listener has a port; name the server: --server HOST:PORT")


def message(sender: str, to: tuple[str, ...], subject: str, *, eicar: bool, gtube: bool) -> bytes:
    """The mail's octets."""
    mail = EmailMessage()
    mail["From"], mail["To"], mail["Subject"] = sender or "MAILER-DAEMON", ", ".join(to), subject
    mail["Date"], mail["Message-ID"] = formatdate(localtime=True), make_msgid(domain="send-test.invalid")
    lines = ["This mail was made by `postgate send-test`.", f"Sent at {time.strftime('%H:%M:%S')}."]
    mail.set_content("\n".join([*lines, *([_GTUBE] if gtube else [])]) + "\n")
    if eicar:
        mail.add_attachment(_EICAR.encode(), maintype="application", subtype="octet-stream", filename="eicar.com")
    return mail.as_bytes().replace(b"\r\n", b"\n").replace(b"\n", b"\r\n")


class _Talk(smtplib.SMTP):
    """smtplib that prints the dialogue as it goes."""

    show = True

    def _say(self, mark: str, text: str) -> None:
        if self.show:
            click.echo(f"{mark} {text}")

    def putcmd(self, cmd: str, args: str = "") -> None:
        self._say(">>>", f"{cmd} {args}".strip())
        super().putcmd(cmd, args)

    def getreply(self) -> tuple[int, bytes]:
        code, text = super().getreply()
        for line in text.decode("utf-8", "replace").splitlines() or [""]:
            self._say("<<<", f"{code} {line}")
        return code, text


def send(host: str, port: int, helo: str, sender: str, to: tuple[str, ...], mail: bytes, *, show: bool) -> bool:
    """One mail on a connection of its own; whether every recipient and the mail were accepted."""
    talk = _Talk(timeout=330, local_hostname=helo)
    talk.show = show
    try:
        talk.connect(host, port)
        refused = talk.sendmail(sender, to, mail)
        talk.quit()
    except smtplib.SMTPResponseException as error:
        click.echo(f"not accepted: {error.smtp_code} {_text(error.smtp_error)}")
        return False
    except smtplib.SMTPRecipientsRefused as error:
        for recipient, (code, text) in error.recipients.items():
            click.echo(f"{recipient} not accepted: {code} {_text(text)}")
        return False
    except (OSError, smtplib.SMTPException) as error:
        click.echo(f"cannot talk to {host}:{port}: {error or type(error).__name__}")
        return False
    return not refused


def _text(octets: bytes | str) -> str:
    return octets.decode("utf-8", "replace") if isinstance(octets, bytes) else octets
