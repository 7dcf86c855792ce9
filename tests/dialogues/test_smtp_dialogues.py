"""All *.smtp scripts: with whole packets, and octet by octet."""

from pathlib import Path

import pytest

from tests.dialogues.player import SCRIPTS, play


@pytest.mark.parametrize("slow", [False, True], ids=["packets", "octets"])
@pytest.mark.parametrize("path", SCRIPTS, ids=lambda path: path.stem)
async def test_dialogue(path: Path, slow: bool) -> None:
    await play(path, slow)


def test_there_are_scripts() -> None:
    assert len(SCRIPTS) > 15
