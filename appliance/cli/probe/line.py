"""A plain connection that prints what happens on it, with the time each step took."""

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


def endpoint(text: str) -> Endpoint:
    """ "inet:host:port", "host:port", "unix:/path" or "/path"."""
    try:
        return parse_peer(text.removeprefix("inet:"))
    except ValueError as why:
        raise click.BadParameter(str(why), param_hint="ADDRESS") from None


class Line:
    """Connected, or the command has ended with what to do."""

    def __init__(self, address: str, timeout: float) -> None:
        self.address, self.timeout = address, timeout
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
            return self.sock.recv(65536)
        except TimeoutError:
            self.fail(f"no answer within {self.timeout:g} s", 1)
        except OSError as error:
            self.fail(f"the connection broke: {error.strerror or error}", 1)

    def shown(self, octets: bytes) -> None:
        for text in octets.decode("utf-8", "backslashreplace").splitlines():
            click.echo(f"< {clean(text)}")

    @contextmanager
    def timed(self) -> Iterator[None]:
        """Say how long the step took."""
        began = time.monotonic()
        yield
        click.echo(f"  {_ms(began)}")

    def fail(self, why: str, status: int = NOBODY) -> NoReturn:
        click.echo(f"{self.address}: {why}", err=True)
        sys.exit(status)


def _ms(began: float) -> str:
    return f"{(time.monotonic() - began) * 1000:.1f} ms"
