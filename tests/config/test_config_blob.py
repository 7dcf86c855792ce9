"""The blob: what is read, what it hashes to, what a changed table makes of it, and its last good copy."""

import os
from pathlib import Path

import msgspec
import pytest

from appliance.config import blob, lastgood
from appliance.config.snapshot import build
from tests.config.folders import WIRING, Folder


def test_the_wiring_file_itself_must_be_readable(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError):
        blob.read(str(tmp_path / "none.toml"))
    with pytest.raises(OSError):
        blob.read(str(tmp_path))


def test_a_pipe_in_the_place_of_a_table_does_not_hang(folder: Folder) -> None:
    os.mkfifo(folder.path / "pipe")
    folder.wiring(WIRING.replace('"example.com"', '"texthash:pipe"'))
    assert "not a regular file" in blob.read(folder.main).missing[f"{folder.path}/pipe"]


def test_the_hash_follows_the_contents(folder: Folder) -> None:
    first = blob.read(folder.main).hash
    assert blob.read(folder.main).hash == first
    folder.write("policies/helo.toml", 'mode = "off"\n')
    assert blob.read(folder.main).hash != first


def test_keys_of_certificates_are_not_in_it(folder: Folder) -> None:
    folder.write("c.pem", "certificate")
    folder.write("k.pem", "very private")
    folder.wiring(
        WIRING + '[[listen]]\nname = "b"\naddress = "[::]:26"\ntls = { certificate = "c.pem", key = "k.pem" }\n'
    )
    assert b"very private" not in msgspec.msgpack.encode(blob.read(folder.main))


def test_relative_paths_begin_in_the_folder_of_the_file_also_through_a_link(folder: Folder, tmp_path: Path) -> None:
    other = tmp_path / "other"
    other.mkdir()
    (other / "gateway.toml").symlink_to(folder.main)
    (other / "policies").symlink_to(folder.path / "policies")
    assert build(blob.read(str(other / "gateway.toml"))).wiring.gateway.state_dir == f"{other}/state"


def test_a_child_builds_the_same_from_the_octets_alone(folder: Folder, monkeypatch: pytest.MonkeyPatch) -> None:
    folder.write("policies/access.toml", 'client = ["texthash:t"]\n')
    folder.write("policies/t", "a OK\n")
    sent = msgspec.msgpack.encode(blob.read(folder.main))
    for path in sorted(folder.path.rglob("*"), reverse=True):
        path.rmdir() if path.is_dir() else path.unlink()
    monkeypatch.chdir("/")
    snapshot = build(msgspec.msgpack.decode(sent, type=blob.Blob))
    assert snapshot.tables["texthash:t"].get("a") == ("OK", f"{folder.path}/policies/t:1")
    assert snapshot.wiring.gateway.state_dir == f"{folder.path}/state"


def test_a_changed_table_is_taken_when_it_looks_the_same_twice(folder: Folder) -> None:
    folder.write("policies/access.toml", 'client = ["texthash:t"]\n')
    table = folder.write("policies/t", "a OK\n")
    snapshot = build(blob.read(folder.main))
    watch = blob.TableWatch()
    assert watch.poll(snapshot.blob, snapshot.table_files) is None
    folder.write("policies/t", "a REJ")
    assert watch.poll(snapshot.blob, snapshot.table_files) is None, "it may still be written"
    folder.write("policies/t", "a REJECT\n")
    assert watch.poll(snapshot.blob, snapshot.table_files) is None
    changed = watch.poll(snapshot.blob, snapshot.table_files)
    assert changed is not None and changed.hash != snapshot.hash
    assert build(changed, snapshot).tables["texthash:t"].get("a") == ("REJECT", f"{table}:1")
    assert watch.poll(changed, snapshot.table_files) is None


def test_a_version_that_does_not_get_into_force_is_not_offered_each_second(folder: Folder) -> None:
    folder.write("policies/access.toml", 'client = ["texthash:t"]\n')
    folder.write("policies/t", "a OK\n")
    snapshot = build(blob.read(folder.main))
    folder.write("policies/t", "without a value\nnothing\n")
    watch = blob.TableWatch()
    offers = [watch.poll(snapshot.blob, snapshot.table_files) is not None for _ in range(2 * watch.AGAIN)]
    assert offers.index(True) == 1
    assert offers.count(True) == 2


def test_a_table_that_was_only_touched_is_no_change(folder: Folder) -> None:
    folder.write("policies/access.toml", 'client = ["texthash:t"]\n')
    table = folder.write("policies/t", "a OK\n")
    snapshot = build(blob.read(folder.main))
    os.utime(table, (1, 1))
    watch = blob.TableWatch()
    assert [watch.poll(snapshot.blob, snapshot.table_files) for _ in range(4)] == [None] * 4


def test_a_table_that_vanished_stays_in_force(folder: Folder) -> None:
    folder.write("policies/access.toml", 'client = ["texthash:t"]\n')
    table = Path(folder.write("policies/t", "a OK\n"))
    snapshot = build(blob.read(folder.main))
    table.unlink()
    watch = blob.TableWatch()
    assert watch.poll(snapshot.blob, snapshot.table_files) is None
    assert watch.poll(snapshot.blob, snapshot.table_files) is None


def test_last_good_comes_back_whole(folder: Folder, tmp_path: Path) -> None:
    read = blob.read(folder.main)
    lastgood.save(tmp_path, read)
    assert lastgood.load(tmp_path) == read
    assert (tmp_path / lastgood.NAME).stat().st_mode & 0o777 == 0o600
    assert [path.name for path in tmp_path.iterdir() if path.suffix == ".tmp"] == []


@pytest.mark.parametrize(
    "damage", [lambda data: data[:-1], lambda data: b"", lambda data: data[:100] + b"X" + data[101:]]
)
def test_a_damaged_last_good_is_none(folder: Folder, tmp_path: Path, damage: "object") -> None:
    assert lastgood.load(tmp_path) is None
    lastgood.save(tmp_path, blob.read(folder.main))
    file = tmp_path / lastgood.NAME
    file.write_bytes(damage(file.read_bytes()))  # type: ignore[operator]
    assert lastgood.load(tmp_path) is None


def test_a_save_that_fails_leaves_the_old_one(folder: Folder, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    read = blob.read(folder.main)
    lastgood.save(tmp_path, read)

    def fail(fd: int) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(os, "fsync", fail)
    with pytest.raises(OSError):
        lastgood.save(tmp_path, msgspec.structs.replace(read, hash="other"))
    assert lastgood.load(tmp_path) == read
