"""The fixture of the configuration tests."""

from pathlib import Path

import pytest

from tests.config.folders import Folder


@pytest.fixture
def folder(tmp_path: Path) -> Folder:
    return Folder(tmp_path)
