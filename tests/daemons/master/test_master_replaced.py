"""Files that are replaced by others while the master is at them."""

import os
import socket
from datetime import UTC, datetime, timedelta
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from appliance.daemons.master import logtarget
from appliance.daemons.master.certificates import Certificates
from appliance.daemons.master.logtarget import LogTarget
from appliance.daemons.master.secrets import Secrets
from appliance.observe import metrics
from tests.daemons.master.test_master_certificates import pair


def goes_behind_the_reading(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """It is away for a moment, as whoever replaces it takes it away first."""
    read = Path.read_bytes

    def once(self: Path) -> bytes:
        octets = read(self)
        if self == path:
            path.unlink()
        return octets

    monkeypatch.setattr(Path, "read_bytes", once)


def test_a_new_certificate_is_given_out_if_its_key_is_away_behind_the_reading(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Else the workers never get it: the key that comes back is the one that is in force already."""
    chain, key = pair(datetime.now(UTC) + timedelta(days=30))
    (tmp_path / "chain").write_bytes(chain)
    (tmp_path / "key").write_bytes(key)
    told = list[str]()
    tls = SimpleNamespace(certificate=str(tmp_path / "chain"), key=str(tmp_path / "key"))
    listen: Any = [SimpleNamespace(name="public", tls=tls)]
    found = Certificates(listen, lambda: told.append("changed"), metrics.Registry())
    goes_behind_the_reading(tmp_path / "key", monkeypatch)
    found.look()
    assert (told, found.pairs()) == (["changed"], {"public": (chain, key)})


def test_a_new_password_is_given_out_if_its_file_is_away_behind_the_reading(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "password").write_text("secret\n")
    told = list[str]()
    entry = SimpleNamespace(password_file=str(tmp_path / "password"))
    wiring: Any = SimpleNamespace(scanners={}, recipients={"directory": entry})
    found = Secrets(wiring, lambda: told.append("changed"))
    goes_behind_the_reading(tmp_path / "password", monkeypatch)
    found.look()
    assert (told, found.pairs()["recipients"]) == (["changed"], {"recipients:directory": (b"secret", b"")})


def test_a_log_that_is_rotated_while_it_is_opened_is_found_by_the_next_look(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path, moved = tmp_path / "mail.log", list[int]()
    target = LogTarget(str(path), None, moved.append)
    opened = LogTarget._file

    def rotated(self: LogTarget) -> int:
        fd = opened(self)
        path.rename(tmp_path / "mail.log.1")
        path.write_bytes(b"")
        monkeypatch.undo()
        return fd

    monkeypatch.setattr(LogTarget, "_file", rotated)
    target.look(force=True)
    target.look()
    assert os.fstat(target.fd).st_ino == path.stat().st_ino
    assert moved[-1] == target.fd
    os.close(target.fd)


def test_a_syslog_that_is_replaced_while_it_is_dialled_is_found_by_the_next_look(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / "log"

    def syslog() -> socket.socket:
        path.unlink(missing_ok=True)
        sock = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM)
        sock.bind(str(path))
        return sock

    first, later = syslog(), list[socket.socket]()
    target = LogTarget(f"syslog:{path}", None, lambda fd: None)
    dialled = LogTarget._connected

    def replaced(self: LogTarget) -> int:
        fd = dialled(self)
        first.close()
        later.append(syslog())
        monkeypatch.undo()
        return fd

    monkeypatch.setattr(logtarget.LogTarget, "_connected", replaced)
    target.look(force=True)
    target.look()
    os.write(target.fd, b"a line")
    assert later[0].recv(100) == b"a line"
    later[0].close()
    os.close(target.fd)
