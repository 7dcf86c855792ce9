"""A list of recipients that was waited for and has come is no trouble any more, whatever was noted late."""

from types import SimpleNamespace
from typing import Any

import pytest

from appliance.daemons.compose.lookups import Lookups
from appliance.observe import trouble
from appliance.tables.fixed import synced
from appliance.tables.text import Source


async def test_mail_that_began_before_the_list_came_does_not_keep_it_in_trouble(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(trouble, "tables", trouble.Touched())
    lookups = Lookups({})

    def with_list(data: bytes) -> Any:
        return SimpleNamespace(tables={"synced:staff": synced(data, Source("staff"))}, remotes=())

    lookups.bind(with_list(b""))
    trouble.tables.note("table synced:staff", "never fetched", "4F00")
    assert [one["what"] for one in lookups.health()["degraded"]] == ["table synced:staff"]
    lookups.adopt(with_list(b"# head\nann@example.com ok\n"))
    trouble.tables.note("table synced:staff", "never fetched", "4F01")
    assert lookups.health()["degraded"] == []
    assert lookups.health()["put off by"] == {"table synced:staff": "2 (last: 4F00, 4F01)"}
    lookups.adopt(SimpleNamespace(tables={}, remotes=()))  # type: ignore[arg-type]
    assert lookups.health()["degraded"] == [], "nor where the list is left out"
    lookups.close()
