"""Peers that several tests start."""

from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.peers import clamd
from tests.peers.clamd import Clamd
from tests.peers.played import Played


@pytest.fixture
def av(tmp_path: Path) -> Iterator[Clamd]:
    """A real clamd that knows EICAR."""
    if not clamd.available():
        pytest.skip("Debian package clamav-daemon is not installed")
    server = Clamd(tmp_path / "clamd").start()
    yield server
    server.stop()


@pytest.fixture
def played() -> Iterator[Played]:
    """Milters that the test plays."""
    made = Played()
    yield made
    made.close()
