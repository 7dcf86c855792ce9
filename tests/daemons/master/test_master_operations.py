"""What the control socket is asked for: how long the processes have to answer is the asker's to say, up to a limit."""

from types import SimpleNamespace
from typing import Any, cast

import pytest

from appliance.daemons.master import operations


@pytest.mark.parametrize(
    ("request_", "within"),
    [
        ({}, operations.PATIENCE),
        ({"within": 0.2}, 0.2),
        ({"within": 60}, operations.PATIENCE),
        ({"within": -1}, operations.PATIENCE),
        ({"within": float("nan")}, operations.PATIENCE),
        ({"within": "soon"}, operations.PATIENCE),
        ({"within": None}, operations.PATIENCE),
    ],
)
def test_status_waits_as_long_as_it_is_asked_to_and_never_longer_than_as_a_rule(
    request_: dict[str, Any], within: float
) -> None:
    waited: list[float] = []
    children = SimpleNamespace(ask=lambda done, within: (waited.append(within), done({})))
    gateway = SimpleNamespace(children=children, status=lambda answers: {"state": "running", "answers": answers})
    answered: list[Any] = []
    operation, changes = operations.table(cast(Any, gateway))["status"]
    operation({"op": "status", **request_}, answered.append)
    assert waited == [within] and answered == [{"state": "running", "answers": {}}] and not changes
