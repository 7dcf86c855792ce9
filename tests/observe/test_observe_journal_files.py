"""The journal on disk: order, search, retention, a full disk."""

import errno
import os
import time
from pathlib import Path

import pytest

from appliance.observe import journal_files
from appliance.observe.journal_files import JournalFiles, files, search


def test_lines_are_kept_in_order_and_found_newest_file_first(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(journal_files, "FILE_SIZE", 20)
    kept = JournalFiles(tmp_path, 1e9, 10**9)
    for number in range(30):
        kept.append(b'{"id":"q%d"}\n' % number)
    kept.close()
    assert b"".join(path.read_bytes() for path in files(tmp_path)) == b"".join(b'{"id":"q%d"}\n' % n for n in range(30))
    assert list(search(tmp_path, '"q7"')) == [b'{"id":"q7"}\n']


def test_a_restart_begins_a_file_of_its_own_and_a_cut_line_is_skipped(tmp_path: Path) -> None:
    first = JournalFiles(tmp_path, 1e9, 10**9)
    first.append(b'{"n":1}\n{"n":')
    second = JournalFiles(tmp_path, 1e9, 10**9)
    second.append(b'{"n":2}\n')
    assert sorted(search(tmp_path, "n")) == [b'{"n":1}\n', b'{"n":2}\n']
    first.close()
    second.close()


def test_retention_by_size_and_by_age_keeps_the_newest(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(journal_files, "FILE_SIZE", 10)
    kept = JournalFiles(tmp_path, age=1e9, size=60)
    for number in range(10):
        kept.append(b'{"number":%d}\n' % number)
    kept.expire(time.time())
    left = files(tmp_path)
    assert 0 < sum(path.stat().st_size for path in left) <= 60
    assert b'"number":9' in left[-1].read_bytes()
    for path in left:
        os.utime(path, (1, 1))
    kept.age = 3600
    kept.expire(time.time())
    assert files(tmp_path) == left[-1:]
    kept.close()


def test_a_full_disk_is_an_error_and_leaves_no_half_line_open(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    kept = JournalFiles(tmp_path, 1e9, 10**9)
    kept.append(b'{"n":1}\n')
    real = os.write
    monkeypatch.setattr(journal_files.os, "write", lambda fd, data: real(fd, data[:3]))
    with pytest.raises(OSError) as caught:
        kept.append(b'{"n":2}\n')
    monkeypatch.undo()
    assert caught.value.errno == errno.ENOSPC
    kept.append(b'{"n":3}\n')
    assert (tmp_path / files(tmp_path)[0].name).read_bytes() == b'{"n":1}\n{"n\n{"n":3}\n'
    kept.close()


def test_what_a_disk_that_stays_full_has_cut_is_closed_off_when_there_is_room(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Else the first event behind it would be a part of the cut line, and lost."""
    kept, room, real = JournalFiles(tmp_path, 1e9, 10**9), [3], os.write

    def write(fd: int, data: bytes) -> int:
        if not room[0]:
            raise OSError(errno.ENOSPC, "No space left on device")
        written = real(fd, data[: room[0]])
        room[0] -= written
        return written

    monkeypatch.setattr(journal_files.os, "write", write)
    for _ in range(2):
        with pytest.raises(OSError) as caught:
            kept.append(b'{"n":1}\n')
        assert caught.value.errno == errno.ENOSPC
    monkeypatch.undo()
    kept.append(b'{"n":2}\n')
    assert list(search(tmp_path, "n")) == [b'{"n\n', b'{"n":2}\n']
    kept.close()
