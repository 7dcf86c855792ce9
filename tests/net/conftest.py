"""Scripted name servers on loopback."""

from collections.abc import AsyncIterator

import pytest

from tests.net.nameserver import NameServer


@pytest.fixture
async def nameserver() -> AsyncIterator[NameServer]:
    server = NameServer()
    await server.start()
    yield server
    await server.stop()


@pytest.fixture
async def second_nameserver() -> AsyncIterator[NameServer]:
    server = NameServer()
    await server.start()
    yield server
    await server.stop()
