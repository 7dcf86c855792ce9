"""A plain connection that prints what happens on it, with the time each step took.

Contract: one deadline for each answer, however it comes (`timed`; `again` begins it anew). Who speaks another protocol
than the one that is asked for is called by its name, as far as its first octets tell.
"""

import re
import socket
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from typing import NoReturn

import click

from appliance.config.values import Endpoint, parse_peer
from appliance.observe.text import clean

NOBODY = 2
#: Seconds that an answer may be waited for at most.
LONGEST = 86400.0
#: What servers say, by their first octets.
_LANGUAGES: tuple[tuple[re.Pattern[bytes], str], ...] = (
    (re.compile(rb"action="), "a policy server"),
    (re.compile(rb"\0\0[\x00-\x10].[acrtdyO4fps]", re.DOTALL), "a milter"),
    (re.compile(rb"[245][0-9][0-9][ -]"), "SMTP"),
    (re.compile(rb"HTTP/[0-9]|<!doctype|<html", re.IGNORECASE), "HTTP"),
    (re.compile(rb"[\x15\x16]\x03[\x00-\x04]"), "TLS"),
    (re.compile(rb"SSH-"), "SSH"),
    (re.compile(rb"\* (?:OK|BYE|PREAUTH)"), "IMAP"),
    (re.compile(rb"\+OK|-ERR"), "POP3 or Redis"),
    (re.compile(rb"SPAMD/"), "spamd"),
    (re.compile(rb"PONG|UNKNOWN COMMAND"), "clamd"),
    (re.compile(rb"ICAP/"), "ICAP"),
)


def waits(_ctx: click.Context, _param: click.Parameter, value: float) -> float:
    """The value of --timeout."""
    if not 0 < value <= LONGEST:  # nan is neither
        raise click.BadParameter(f"{value:g}: write seconds, more than 0 and at most {LONGEST:.0f}")
    return value


def endpoint(text: str) -> Endpoint:
    """ "inet:host:port", "host:port", "unix:/path" or "/path"."""
    try:
        return parse_peer(text.removeprefix("inet:"))
    except ValueError as why:
        raise click.BadParameter(str(why), param_hint="ADDRESS") from None


def language(start: bytes) -> str:
    """Who says this first, "" for nobody that is known."""
    return next((name for pattern, name in _LANGUAGES if pattern.match(start)), "")


class Line:
    """Connected, or the command has ended with what to do. `speaks`: what is asked for, in the words of `language`."""

    def __init__(self, address: str, timeout: float, speaks: str) -> None:
        self.address, self.timeout, self.speaks = address, timeout, speaks
        self._start, self._until = b"", time.monotonic() + timeout
        place = endpoint(address)
        began = time.monotonic()
        try:
            if place.path:
                self.sock = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
                self.sock.settimeout(timeout)
                self.sock.connect(place.path)
            else:
                self.sock = socket.create_connection((place.host, place.port), timeout)
        except OSError as error:
            self.fail(f"cannot connect: {error.strerror or error}")
        click.get_current_context().call_on_close(self.sock.close)
        click.echo(f"connected to {address} in {_ms(began)}")

    def send(self, octets: bytes) -> None:
        for text in octets.decode("utf-8", "backslashreplace").splitlines():
            click.echo(f"> {text}")
        try:
            self.sock.sendall(octets)
        except OSError as error:
            self.fail(f"cannot send: {error.strerror or error}", 1)

    def read(self) -> bytes:
        """What comes next; b"" at the end."""
        try:
            self.sock.settimeout(max(self._until - time.monotonic(), 0.001))
            octets = self.sock.recv(65536)
            if len(self._start) < 40:
                self._start += octets[:40]
            return octets
        except TimeoutError:
            self.fail(f"no answer within {self.timeout:g} s", 1)
        except OSError as error:
            self.fail(f"the connection broke: {error.strerror or error}", 1)

    def shown(self, octets: bytes) -> None:
        for text in octets.decode("utf-8", "backslashreplace").splitlines():
            click.echo(f"< {clean(text)}")

    @contextmanager
    def timed(self) -> Iterator[None]:
        """An answer is waited for, with a deadline; say how long it took."""
        began = time.monotonic()
        self.again()
        yield
        click.echo(f"  {_ms(began)}")

    def again(self) -> None:
        """The deadline begins anew."""
        self._until = time.monotonic() + self.timeout

    def fail(self, why: str, status: int = NOBODY) -> NoReturn:
        if (name := language(self._start)) and name != self.speaks:
            why = f"{why}; it looks like {name}"
        click.echo(f"{self.address}: {why}", err=True)
        sys.exit(status)


def _ms(began: float) -> str:
    return f"{(time.monotonic() - began) * 1000:.1f} ms"
