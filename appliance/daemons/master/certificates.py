"""Certificates and keys: read by the master (who may be root), given to the workers as octets, read again when the files
change, watched for their end.

Contract: only a pair that fits together is given out; a broken new pair leaves the old one in force and raises an alarm.
What failure means for the mail: without any good pair a listener goes on without STARTTLS, and status says so.
"""

import base64
import os
import re
import ssl
import time
from calendar import timegm
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any

import msgspec

from appliance.config.model import Listen
from appliance.observe import metrics, oplog

log = oplog.get("master")
#: Seconds before the end when the alarm begins: three weeks.
SOON = 21 * 86400
_BLOCK = re.compile(rb"-----BEGIN CERTIFICATE-----(.+?)-----END CERTIFICATE-----", re.DOTALL)
Stamp = tuple[int, int, int]


class Held(msgspec.Struct):
    """What is known of one listener's pair. `pair` is in force; `problem` says what is wrong now, "" if nothing."""

    certificate: str
    key: str
    stamps: tuple[Stamp | None, Stamp | None] = (None, None)
    pair: tuple[bytes, bytes] | None = None
    not_after: float = 0.0
    problem: str = ""
    warned: float = 0.0


def _stamp(path: str) -> Stamp | None:
    try:
        found = os.stat(path)  # noqa: PTH116 - each second for each file
    except OSError:
        return None
    return found.st_mtime_ns, found.st_size, found.st_ino


def _item(data: bytes, at: int) -> tuple[int, int, int]:
    """(tag, where its content begins, where it ends) of the DER item at `at` (X.690 8.1). Raises ValueError."""
    if at + 2 > len(data):
        raise ValueError("certificate is cut short")
    tag, size, start = data[at], data[at + 1], at + 2
    if size & 0x80:
        count = size & 0x7F
        size, start = int.from_bytes(data[start : start + count], "big"), start + count
    if start + size > len(data):
        raise ValueError("certificate is cut short")
    return tag, start, start + size


def not_after(pem: bytes) -> float:
    """When the first certificate in `pem` ends, in seconds since 1970 (RFC 5280 4.1.2.5). Raises ValueError."""
    found = _BLOCK.search(pem)
    if not found:
        raise ValueError("no certificate in it")
    data = base64.b64decode(found[1])
    _, start, _ = _item(data, 0)
    _, at, _ = _item(data, start)
    if data[at : at + 1] == b"\xa0":  # the version, which version 1 leaves out
        at = _item(data, at)[2]
    for _field in ("serial number", "signature", "issuer"):
        at = _item(data, at)[2]
    _, begin, _ = _item(data, at)
    tag, start, end = _item(data, _item(data, begin)[2])
    text = data[start:end].decode("ascii")
    if tag == 0x17:  # UTCTime: two digits of the year, 1950 to 2049
        text = ("19" if text[:2] >= "50" else "20") + text
    return float(timegm(time.strptime(text, "%Y%m%d%H%M%SZ")))


def fits(certificate: bytes, key: bytes) -> str:
    """Why the pair cannot be used, "" if it can. OpenSSL reads files only: memory files stand in for them."""
    fds = []
    try:
        for octets in (certificate, key):
            fd = os.memfd_create("postgate-pem", os.MFD_CLOEXEC)
            fds.append(fd)
            os.write(fd, octets)
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        context.load_cert_chain(f"/proc/self/fd/{fds[0]}", f"/proc/self/fd/{fds[1]}", password=_no_password)
    except (ssl.SSLError, OSError, ValueError) as error:
        return "the key does not belong to the certificate, or one of them is damaged: " + (
            getattr(error, "reason", "") or str(error)
        )
    finally:
        for fd in fds:
            os.close(fd)
    return ""


def _no_password() -> str:
    raise ValueError("the key is encrypted; a gateway needs one without a passphrase")


def problem(certificate: str, key: str) -> str:
    """Why the pair in these files cannot be used now, "" if it can."""
    return _load(Held(certificate, key))[0]


class Certificates:
    """All pairs by listener name. `on_change(pairs)` when what is in force changed."""

    def __init__(self, listeners: Iterable[Listen], on_change: Callable[[], None], registry: metrics.Registry) -> None:
        self.held: dict[str, Held] = {}
        self._on_change = on_change
        self._end = registry.gauge(
            "postgate_certificate_not_after_seconds", "When a listener's certificate ends (epoch).", ("listener",)
        )
        self.replace(listeners)

    def replace(self, listeners: Iterable[Listen]) -> None:
        """Other files may be named now (a reload); the next look reads them."""
        named = {
            listen.name: (listen.tls.certificate, listen.tls.key or listen.tls.certificate)
            for listen in listeners
            if listen.tls.certificate
        }
        kept = {name: held for name, held in self.held.items() if named.get(name) == (held.certificate, held.key)}
        self.held = {name: kept.get(name) or Held(*files) for name, files in named.items()}

    def pairs(self) -> dict[str, tuple[bytes, bytes]]:
        """What is in force."""
        return {name: held.pair for name, held in self.held.items() if held.pair}

    def look(self) -> None:
        """Read what changed since the last look, and what could not be used then; each second."""
        changed = False
        for name, held in self.held.items():
            stamps = (_stamp(held.certificate), _stamp(held.key))
            if stamps != held.stamps or held.pair is None or held.problem:
                held.stamps = stamps
                changed |= self._read(name, held)
            self._watch_end(name, held)
        if changed:
            self._on_change()

    def _read(self, name: str, held: Held) -> bool:
        problem, pair = _load(held)
        if problem:
            kept = "the old pair stays in force" if held.pair else "no STARTTLS on this listener"
            before, held.problem = held.problem, f"{problem}; {kept}"
            if held.problem != before:
                log.error("certificate cannot be used", listener=name, reason=held.problem)
            return False
        held.problem, held.warned = "", 0.0
        changed, held.pair = held.pair != pair, pair
        if pair and changed:
            held.not_after = not_after(pair[0])
            self._end.labels(name).set(held.not_after)
            log.info("certificate in force", listener=name, file=held.certificate, until=_day(held.not_after))
        _warn_open(name, held.key)
        return changed

    def _watch_end(self, name: str, held: Held) -> None:
        """An alarm each day from three weeks before the end."""
        now = time.time()
        if held.pair and held.not_after - now < SOON and abs(now - held.warned) > 86400:
            held.warned = now
            log.warning("certificate ends soon or has ended", listener=name, until=_day(held.not_after))

    def facts(self) -> dict[str, dict[str, Any]]:
        """For status."""
        return {
            name: {"file": held.certificate, "not_after": held.not_after, "problem": held.problem}
            for name, held in self.held.items()
        }

    def degraded(self) -> list[str]:
        """What an operator should know now."""
        said = [f"listener {name}: {held.problem}" for name, held in self.held.items() if held.problem]
        soon = [(name, held) for name, held in self.held.items() if held.pair and held.not_after - time.time() < SOON]
        return said + [f"listener {name}: certificate ends {_day(held.not_after)}" for name, held in soon]


def _load(held: Held) -> tuple[str, tuple[bytes, bytes] | None]:
    try:
        pair = (Path(held.certificate).read_bytes(), Path(held.key).read_bytes())
        not_after(pair[0])
    except OSError as error:
        return f"{error.filename}: {error.strerror}", None
    except ValueError as error:
        return f"{held.certificate}: {error}", None
    problem = fits(*pair)
    return (f"{held.certificate}: {problem}", None) if problem else ("", pair)


def _warn_open(name: str, key: str) -> None:
    try:
        mode = Path(key).stat().st_mode
    except OSError:  # it is being replaced: the next look finds it changed
        return
    if mode & 0o007:
        log.warning(
            "key file is open to every user of this machine",
            listener=name,
            file=key,
            mode=f"{mode & 0o777:04o}",
            fix=f"chmod o= {key}",
        )


def _day(when: float) -> str:
    return time.strftime("%Y-%m-%d", time.gmtime(when))
