"""A scripted name server on loopback."""

from tests.net.conftest import nameserver

__all__ = ["nameserver"]
