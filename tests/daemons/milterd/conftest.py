"""Every connection runs on asyncio's own loop and on uvloop."""

import asyncio
from collections.abc import Callable, Mapping

import pytest
import uvloop

from appliance.observe import events, maillog, sink


@pytest.fixture(autouse=True)
def log_to_stderr() -> None:
    """Whatever tests before have set."""
    maillog.configure(2, "postgate", service="milterd")
    maillog._windows.clear()


def pytest_asyncio_loop_factories(
    config: pytest.Config, item: pytest.Item
) -> Mapping[str, Callable[[], asyncio.AbstractEventLoop]]:
    return {"asyncio": asyncio.SelectorEventLoop, "uvloop": uvloop.new_event_loop}


@pytest.fixture(autouse=True)
def log_at_once(monkeypatch: pytest.MonkeyPatch) -> None:
    """Lines and events are written with the turn of the loop, so that a test can wait for what it does, not for time."""
    monkeypatch.setattr(sink, "LINGER", 0.0)
    monkeypatch.setattr(events, "LINGER", 0.0)
