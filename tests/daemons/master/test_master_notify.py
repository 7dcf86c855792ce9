"""What systemd is told reaches it, however busy it is."""

import errno
import socket
from collections.abc import Iterator
from pathlib import Path

import pytest

from appliance.daemons.master import notify


@pytest.fixture
def systemd(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[socket.socket]:
    """Its socket, which is not read: the kernel keeps a few datagrams for it."""
    monkeypatch.setattr(notify, "_unsaid", [])
    monkeypatch.setenv("NOTIFY_SOCKET", str(tmp_path / "notify"))
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as sock:
        sock.bind(str(tmp_path / "notify"))
        sock.setblocking(False)
        yield sock


def heard(sock: socket.socket) -> list[bytes]:
    found = []
    while True:
        try:
            found.append(sock.recv(4096))
        except BlockingIOError:
            return found


def full(sock: socket.socket) -> None:
    """It has not read for so long that the signs of life alone are more than is kept for it."""
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as other, pytest.raises(BlockingIOError):
        for _ in range(100_000):
            other.sendto(b"WATCHDOG=1", socket.MSG_DONTWAIT, sock.getsockname())


@pytest.mark.parametrize("later", [notify.again, lambda: notify.notify(notify.LIFE)])
def test_what_a_busy_systemd_had_no_room_for_is_said_again_in_its_order(systemd: socket.socket, later: object) -> None:
    assert callable(later)
    full(systemd)
    notify.notify("READY=1", "STATUS=serving x")
    notify.notify(notify.LIFE)
    notify.notify("RELOADING=1")
    notify.notify("READY=1")
    later()
    assert set(heard(systemd)) == {b"WATCHDOG=1"}
    later()
    said = [one.split(b"\n")[0] for one in heard(systemd) if one != b"WATCHDOG=1"]
    assert said == [b"READY=1", b"RELOADING=1", b"READY=1"]
    later()
    assert set(heard(systemd)) <= {b"WATCHDOG=1"}, "once"


def test_what_no_descriptor_was_left_for_is_said_again(systemd: socket.socket, monkeypatch: pytest.MonkeyPatch) -> None:
    def none_left(*_: object) -> None:
        raise OSError(errno.EMFILE, "Too many open files")

    with monkeypatch.context() as patched:
        patched.setattr(notify.socket, "socket", none_left)
        notify.notify("READY=1")
        notify.notify(notify.LIFE)
    notify.again()
    assert heard(systemd) == [b"READY=1"]


def test_signs_of_life_do_not_pile_up(systemd: socket.socket) -> None:
    full(systemd)
    for _ in range(1000):
        notify.notify(notify.LIFE)
    assert notify._unsaid == []


def test_where_nobody_is_told_nothing_is_kept(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(notify, "_unsaid", [])
    for where in ("", str(tmp_path / "nobody"), "@nobody-at-all"):
        monkeypatch.setenv("NOTIFY_SOCKET", where)
        notify.notify("READY=1")
        assert notify._unsaid == []
