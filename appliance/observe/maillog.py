"""The mail log: one line an event in Postfix's wording (observe.lines makes the texts), classic syslog form.

Contract: `log` never blocks and never raises; control characters are escaped, texts are capped at 2,000 characters;
lines are written within 20 ms, at once where no loop runs. The log's reader standing still costs lines (counted),
never mail.
"""

import os
import socket
import time
from collections.abc import Iterable
from typing import ClassVar

from appliance.observe.sink import CHUNK, Sink, is_syslog
from appliance.observe.text import CAP, clean

#: Numbers of syslog facilities an operator may name.
FACILITIES = {"kern": 0, "user": 1, "mail": 2, "daemon": 3, "auth": 4, "syslog": 5, "lpr": 6, "news": 7} | {
    "uucp": 8,
    "cron": 9,
    "authpriv": 10,
    **{f"local{n}": 16 + n for n in range(8)},
}
_INFO, _WARNING = 6, 4
#: Lines of one cause that `capped` writes in so many seconds.
MOST, WINDOW = 100, 10.0


class _State:
    """Where this process logs."""

    sink = Sink(2)
    program = "postgate"
    service = "postgate"
    pid = os.getpid()
    host = socket.gethostname().split(".")[0] or "localhost"
    facility = 2
    syslog = False
    second = 0
    stamp = ""
    #: What stands before lines of this second, by service and severity.
    prefixes: ClassVar[dict[tuple[str, int], str]] = {}


def configure(
    fd: int, program: str = "postgate", pid: int = 0, service: str = "", host: str = "", facility: str = "mail"
) -> None:
    """Log to `fd` (a file, a stream, or a datagram socket = the local syslog) as `program/service[pid]`."""
    _State.sink = Sink(fd)
    _State.syslog = is_syslog(fd) if _open(fd) else False
    _State.program, _State.pid = program, pid or os.getpid()
    _State.service = service or _State.service
    _State.host = host.split(".")[0] or _State.host
    _State.facility = FACILITIES[facility]
    _State.prefixes.clear()


def _open(fd: int) -> bool:
    try:
        os.fstat(fd)
    except OSError:
        return False
    return True


def swap(fd: int) -> None:
    """Go on with another descriptor (the file was rotated); the old one stays the caller's to close."""
    flush()
    _State.sink.swap(fd)
    _State.syslog = is_syslog(fd)
    _State.prefixes.clear()


def flush() -> None:
    """Write what waits, as far as the reader takes it."""
    _State.sink.flush()


def fd() -> int:
    """The descriptor in use."""
    return _State.sink.fd


def stamp() -> str:
    """Local time as "Mon dd hh:mm:ss"."""
    now = int(time.time())
    if now != _State.second:
        _State.second, _State.stamp = now, time.strftime("%b %e %H:%M:%S", time.localtime(now))
        _State.prefixes.clear()
    return _State.stamp


def prefix(service: str = "", severity: int = _INFO) -> str:
    """What stands before a line's text. The local syslog wants a priority and no host name."""
    if int(time.time()) != _State.second:
        stamp()
    key = service, severity
    found = _State.prefixes.get(key)
    if found is None:
        priority = f"<{_State.facility * 8 + severity}>{stamp()} {_origin(service)}"
        found = _State.prefixes[key] = priority if _State.syslog else classic(service)
    return found


def _origin(service: str) -> str:
    return f"{_State.program}/{service or _State.service}[{_State.pid}]: "


def classic(service: str = "") -> str:
    """The prefix of a line in a file: "Mon dd hh:mm:ss host program/service[pid]: "."""
    return f"{stamp()} {_State.host} {_origin(service)}"


def log(text: str, service: str | None = None) -> None:
    """Write one line as `service` (default: this process's; "smtpd", "cleanup", "qmgr", "smtp" as in Postfix)."""
    severity = _WARNING if text.startswith("warning: ") else _INFO
    if not text.isprintable() or len(text) > CAP:
        text = clean(text)
    _State.sink.put(f"{prefix(service or '', severity)}{text}\n".encode("utf-8", "backslashreplace"))


def written(lines: str) -> None:
    """Lines as `log` writes them: each with `prefix` before it and a line feed behind, printable, no longer than CAP."""
    octets = lines.encode()
    if _State.syslog or len(octets) > CHUNK:
        _State.sink.put_all(octets.splitlines(keepends=True))
    else:
        _State.sink.put(octets)


def capped(cause: str, text: str) -> None:
    """Write one line about `cause` (one of a fixed, small set), which a stranger can make happen as often as they like:
    in a storm at most MOST lines, and the next one behind it says how many are missing."""
    now, window = time.monotonic(), _windows.setdefault(cause, [0.0, 0])
    if now - window[0] >= WINDOW:
        missing = int(window[1]) - MOST
        window[:] = now, 0
        text = f"{text} ({missing} more of these were not written)" if missing > 0 else text
    window[1] += 1
    if window[1] <= MOST:
        log(text)


def is_full(cause: str) -> bool:
    """Whether a line about `cause` would only be counted now."""
    window = _windows.get(cause)
    return window is not None and window[1] >= MOST and time.monotonic() - window[0] < WINDOW


#: Cause -> [when its window began, lines since then].
_windows: dict[str, list[float]] = {}


def raw(service: str, lines: Iterable[bytes]) -> None:
    """Write lines that are whole and clean already (JSON events) as `service`; no cap."""
    start = prefix(service).encode("utf-8", "backslashreplace")
    _State.sink.put_all([start + line + b"\n" for line in lines])
