"""Peers that several tests start."""

from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.peers import clamd
from tests.peers.clamd import Clamd


@pytest.fixture
def av(tmp_path: Path) -> Iterator[Clamd]:
    """A real clamd that knows EICAR."""
    if not clamd.available():
        pytest.skip("Debian package clamav-daemon is not installed")
    server = Clamd(tmp_path / "clamd").start()
    yield server
    server.stop()
