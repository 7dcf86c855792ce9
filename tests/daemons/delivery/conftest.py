"""What all tests of delivery watch."""

from collections.abc import Iterator

import pytest

from appliance.observe import trouble
from tests.daemons.delivery.harness import Log, mail_log


@pytest.fixture
def log(monkeypatch: pytest.MonkeyPatch) -> Iterator[Log]:
    """The lines of the mail log; no table is in trouble yet."""
    monkeypatch.setattr(trouble, "tables", trouble.Touched())
    with mail_log(monkeypatch) as lines:
        yield lines
