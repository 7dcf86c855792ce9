"""The operators' log: what is not a mail event (start, reload, dead peers, errors with their traces).

Contract: `get(name).warning("what happened", key=value)` writes one line to stderr in the mail log's form, control
characters escaped; warnings and worse go to the mail log too where that is another place. An event text is constant
(values go into keywords): more than 20 of one text within 10 s are counted, not written. Nothing here blocks or raises.
"""

import sys
import time
import traceback
from collections.abc import MutableMapping
from typing import Any

from appliance.observe import maillog
from appliance.observe.sink import Sink
from appliance.observe.structured import structlog
from appliance.observe.text import clean

_LEVELS = {"debug": 10, "info": 20, "warning": 30, "error": 40}
_WINDOW, _MOST, _TEXTS = 10.0, 20, 1000
_FRAMES = 10


class _State:
    stderr = Sink(2, 0.0)


_seen: dict[tuple[str, str], list[float]] = {}


def _cap(_logger: Any, _method: str, event: MutableMapping[str, Any]) -> MutableMapping[str, Any]:
    """Rate cap per cause."""
    key, now = (str(event.get("_service", "")), str(event.get("event", ""))), time.monotonic()
    window = _seen.get(key)
    if window is None or now - window[0] > _WINDOW:
        if window is not None and window[1] > _MOST:
            event["suppressed_before"] = int(window[1] - _MOST)
        if len(_seen) >= _TEXTS:
            _seen.clear()
        _seen[key] = [now, 1.0]
        return event
    window[1] += 1
    if window[1] > _MOST:
        raise structlog.DropEvent
    return event


def trace(error: BaseException) -> str:
    """Where `error` came from, in one line, outermost first."""
    frames = traceback.extract_tb(error.__traceback__)[-_FRAMES:]
    where = " > ".join(f"{frame.filename.rsplit('/', 1)[-1]}:{frame.lineno} {frame.name}" for frame in frames)
    return f"{type(error).__name__}: {error} [{where}]"


def _text(event: MutableMapping[str, Any]) -> str:
    text = str(event.pop("event", ""))
    exc_info = event.pop("exc_info", None)
    error = sys.exc_info()[1] if exc_info is True else exc_info
    values = "".join(f" {key}={value}" for key, value in event.items())
    return text + (":" + values if values else "") + (f": {trace(error)}" if isinstance(error, BaseException) else "")


def _render(_logger: Any, method: str, event: MutableMapping[str, Any]) -> str:
    service = str(event.pop("_service", ""))
    level = event.pop("level", method)
    word = "" if level in ("info", "debug") else "warning: " if level == "warning" else "error: "
    text = clean(word + _text(event))
    if level in ("warning", "error", "critical") and maillog.fd() != 2:
        maillog.log(text, service)
    return maillog.classic(service) + text


class _Output:
    """structlog's last step: a line to stderr."""

    def msg(self, message: str) -> None:
        _State.stderr.put(message.encode("utf-8", "backslashreplace") + b"\n")

    debug = info = warning = error = critical = exception = msg


def configure(level: str = "info") -> None:
    """Set the least level that is written: debug, info, warning, error."""
    _State.stderr = Sink(2, 0.0)
    structlog.configure(
        processors=[structlog.processors.add_log_level, _cap, _render],
        wrapper_class=structlog.make_filtering_bound_logger(_LEVELS[level]),
        logger_factory=lambda *_args: _Output(),
        cache_logger_on_first_use=False,
    )


def get(name: str = "") -> Any:
    """A logger whose lines are `postgate/name[pid]: text: key=value ...` (default name: the process's service)."""
    return structlog.get_logger(_service=name)


def flush() -> None:
    """Write what waits, as far as stderr's reader takes it."""
    _State.stderr.flush()


configure()
