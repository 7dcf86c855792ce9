from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from tests.queue.queue_rig import Rig


@pytest.fixture
async def rig(tmp_path: Path) -> AsyncIterator[Rig]:
    rig = Rig(tmp_path / "spool")
    rig.start_worker()
    yield rig
    rig.close()
