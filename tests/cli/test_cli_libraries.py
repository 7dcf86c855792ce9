"""What is switched off because a shared library is not installed."""

import pytest

from appliance.cli import run


def test_a_library_that_is_missing_is_told_with_its_package(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(run, "_LIBRARIES", (("libc.so.6", "libc6", "x"), ("libnone.so.0", "libnone0", "nothing works")))
    lines = list(run.switched_off({"separation": ""}))
    assert [line for line in lines if "libnone0" in line] == [
        "libnone0 is not there: nothing works; to switch on: apt-get install libnone0, then start again"
    ]
    assert not [line for line in lines if "libc6" in line]
