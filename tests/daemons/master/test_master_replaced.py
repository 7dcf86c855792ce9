"""Files that are replaced by others while the master is at them."""

import errno
import os
import socket
from datetime import UTC, datetime, timedelta
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from appliance.daemons.master import certificates, logtarget, secrets
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


def cannot_be_read(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """No descriptor is left just then, or the rights are set behind the writing."""
    read = Path.read_bytes

    def refused(self: Path) -> bytes:
        if self == path:
            raise OSError(errno.EMFILE, "Too many open files")
        return read(self)

    monkeypatch.setattr(Path, "read_bytes", refused)


def test_a_new_certificate_that_could_not_be_read_is_read_by_a_later_look(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Else it stays out of force until the file changes once more: when the old one has ended."""
    said, until = list[str](), datetime.now(UTC) + timedelta(days=30)
    monkeypatch.setattr(
        certificates, "log", SimpleNamespace(error=lambda text, **_: said.append(text), info=lambda *_, **__: None)
    )
    tls = SimpleNamespace(certificate=str(tmp_path / "chain"), key=str(tmp_path / "key"))
    listen: Any = [SimpleNamespace(name="public", tls=tls)]
    found = Certificates(listen, lambda: None, metrics.Registry())
    for again in (False, True):
        chain, key = pair(until)
        (tmp_path / "chain").write_bytes(chain)
        (tmp_path / "key").write_bytes(key)
        (tmp_path / "key").chmod(0o600)
        with monkeypatch.context() as patched:
            cannot_be_read(tmp_path / "key", patched)
            found.look()
            found.look()
        assert (found.pairs() == {}) is not again and found.degraded()
        found.look()
        assert (found.pairs(), found.degraded()) == ({"public": (chain, key)}, [])
    assert said == ["certificate cannot be used"] * 2


def test_a_new_password_that_could_not_be_read_is_read_by_a_later_look(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    said, path = list[str](), tmp_path / "password"
    monkeypatch.setattr(secrets, "log", SimpleNamespace(error=lambda text, **_: said.append(text)))
    wiring: Any = SimpleNamespace(scanners={"s": SimpleNamespace(password_file=str(path))}, recipients={})
    found = Secrets(wiring, lambda: None)
    for password in (b"one", b"other"):
        path.write_bytes(password)
        path.chmod(0o600)
        with monkeypatch.context() as patched:
            cannot_be_read(path, patched)
            found.look()
            found.look()
        assert found.degraded()
        found.look()
        assert (found.pairs()["scanner"], found.degraded()) == ({"secret:s": (password, b"")}, [])
    assert said == ["a password cannot be read"] * 2


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


def test_a_log_that_cannot_be_given_to_its_group_leaves_no_descriptor(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It is tried each second: the master would soon have none left."""

    def refused(*_: object) -> None:
        raise OSError(errno.EPERM, "Operation not permitted")

    monkeypatch.setattr(os, "fchown", refused)
    target = LogTarget(str(tmp_path / "mail.log"), os.getgid(), lambda fd: None)
    before = len(os.listdir("/proc/self/fd"))
    for _ in range(3):
        target.look()
    assert len(os.listdir("/proc/self/fd")) == before and "not permitted" in target.problem


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
