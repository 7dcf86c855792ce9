"""hash, btree, lmdb and cdb files of the real postmap: for the same keys our readers say what `postmap -q` says."""

import contextlib
import fcntl
import os
import random
import shutil
import subprocess
import time
from pathlib import Path

import pytest

from appliance.mail.ports import Unavailable
from appliance.tables.proxied import Asked, Bad, Step, cdb, files, open_proxied

pytestmark = [
    pytest.mark.peer,
    pytest.mark.skipif(not shutil.which("postmap"), reason="Debian package postfix is not installed (make packages)"),
]
KINDS = ("hash", "btree", "lmdb", "cdb")


def postmap(kind: str, path: Path) -> None:
    subprocess.run(["postmap", f"{kind}:{path}"], check=True, capture_output=True)


def oracle(kind: str, path: Path, keys: list[str]) -> dict[str, str]:
    """What the real Postfix finds: `postmap -q -` answers "key<TAB>value" for those that are there."""
    done = subprocess.run(
        ["postmap", "-q", "-", f"{kind}:{path}"],
        input="\n".join(keys) + "\n",
        capture_output=True,
        text=True,
        check=False,
    )
    return dict(line.split("\t", 1) for line in done.stdout.splitlines())


def entries(count: int, seed: int, longest_key: int) -> list[tuple[str, str]]:
    made = random.Random(seed)
    names = [f"u{made.getrandbits(48):x}@d{made.randrange(50)}.example" for _ in range(count)]
    names += [
        "ümläut@example.com",
        "k" * longest_key,
        "a",
        "@example.com",
        "example.com",
        "2001:db8",
        "user+ext@x.example",
    ]
    return [(name, f"{number} " + "x" * made.choice([0, 5, 80, 400])) for number, name in enumerate(names)]


@pytest.mark.parametrize("count", [0, 3, 300, 20000])
@pytest.mark.parametrize("kind", KINDS)
async def test_our_answers_are_those_of_postmap(kind: str, count: int, tmp_path: Path) -> None:
    path = tmp_path / "t"
    listed = entries(count, count, 400 if kind == "lmdb" else 3000)
    path.write_text("".join(f"{key} {value}\n" for key, value in listed))
    postmap(kind, path)
    keys = (
        [key for key, _ in listed[-2000:]] + [f"missing{n}@d{n % 50}.example" for n in range(300)] + ["A", "examplE.com"]
    )
    said = oracle(kind, path, keys)
    table = open_proxied(f"{kind}:{path}")
    ours = {key: value for key in keys if (value := await table.get(key.lower(), Step())) is not None}
    table.close()
    assert ours == said
    assert len(said) > 5


@pytest.mark.parametrize("kind", ["hash", "btree"])
async def test_items_that_have_pages_of_their_own(kind: str, tmp_path: Path) -> None:
    """Long values, long keys within a btree's inner pages."""
    path = tmp_path / "t"
    keys = [f"{'long' * 700}{number:05}" for number in range(400)]
    path.write_text("".join(f"{key} {'v' * 9000}{key[-5:]}\n" for key in keys))
    postmap(kind, path)
    table = open_proxied(f"{kind}:{path}")
    for key in keys:
        assert await table.get(key, Step()) == "v" * 9000 + key[-5:]
    assert await table.get("long" * 700 + "99999", Step()) is None
    table.close()


@pytest.mark.parametrize("kind", KINDS)
async def test_a_file_that_changed_is_read_anew(kind: str, tmp_path: Path) -> None:
    path = tmp_path / "t"
    path.write_text("a one\n")
    postmap(kind, path)
    table = open_proxied(f"{kind}:{path}")
    assert await table.get("a", Step()) == "one"
    path.write_text("a two\nb three\n")
    postmap(kind, path)
    assert [await table.get(key, Step()) for key in "ab"] == ["two", "three"]
    table.close()


async def wrong(table: Asked) -> list[str]:
    """Answers of a damaged file that are neither right nor trouble (a key may be gone with its record)."""
    found = []
    for number in range(40):
        with contextlib.suppress(Unavailable):
            answer = await table.get(f"key{number}", Step())
            found += [answer] if answer not in (f"value{number}", None) else []
    return found


def structure(whole: bytes) -> list[int]:
    """Octets, 250 at most, that are no free space (which is most of such a file)."""
    used = [at for at in range(len(whole)) if len(set(whole[max(0, at - 8) : at + 9])) > 1]
    return used[:: -(-len(used) // 250)]


@pytest.mark.parametrize("kind", KINDS)
async def test_damage_is_trouble_and_never_not_found(kind: str, tmp_path: Path) -> None:
    """Octets of all its parts knocked about: right, not found where the record itself is hit, or Unavailable."""
    path = tmp_path / "t"
    path.write_text("".join(f"key{n} value{n}\n" for n in range(40)))
    postmap(kind, path)
    file = next(tmp_path.glob("t.*"))
    whole = file.read_bytes()
    for length in {0, 1, 26, 100, 511, 600, 2047, len(whole) // 2, len(whole) - 1} - {len(whole)}:
        file.write_bytes(whole[:length])
        table = open_proxied(f"{kind}:{path}")
        assert await wrong(table) == []
        table.close()
    for position in structure(whole):
        file.write_bytes(whole[:position] + bytes([whole[position] ^ 0xFF]) + whole[position + 1 :])
        table = open_proxied(f"{kind}:{path}")
        assert len(await wrong(table)) <= 1  # a changed octet within a record is beyond any reader
        table.close()
    file.write_bytes(b"\xff" * len(whole))
    table = open_proxied(f"{kind}:{path}")
    with pytest.raises(Unavailable):
        await table.get("key1", Step())
    file.write_bytes(whole)
    assert await table.get("key1", Step()) == "value1"
    table.close()


@pytest.mark.parametrize("kind", ["hash", "btree", "lmdb"])
async def test_who_writes_is_waited_for_and_not_for_ever(
    kind: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / "t"
    path.write_text("a one\n")
    postmap(kind, path)
    monkeypatch.setattr(files, "LOCK", 0.3)
    table = open_proxied(f"{kind}:{path}")
    fd = os.open(next(tmp_path.glob("t.*")), os.O_RDWR)
    fcntl.flock(fd, fcntl.LOCK_EX)
    begun = time.monotonic()
    with pytest.raises(Unavailable, match="locked"):
        await table.get("a", Step())
    assert time.monotonic() - begun < 5
    os.close(fd)
    assert await table.get("a", Step()) == "one"
    table.close()


def test_a_file_that_is_not_there(tmp_path: Path) -> None:
    with pytest.raises(Bad, match=r"none\.db: cannot be read"):
        open_proxied(f"hash:{tmp_path}/none")


def test_the_hash_of_cdb() -> None:
    assert cdb.hashed(b"") == 5381
    assert cdb.hashed(b"one") == ((((5381 * 33) ^ 111) * 33 ^ 110) * 33 ^ 101) & 0xFFFFFFFF
