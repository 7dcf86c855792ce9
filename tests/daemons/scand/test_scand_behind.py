"""Archives behind others and behind anything else are looked into; honest ones that hold archives are not named (C4)."""

import bz2
import gzip
import io
import lzma
import random
import shutil
import struct
import subprocess
import time
import zipfile
from pathlib import Path

import pytest

from appliance.checks.attachments import decide, forbidden_by
from appliance.daemons.scand import behind, filetypes, reader
from appliance.protocol.mime import LIMITS
from tests.daemons.scand.test_scand_archives import (
    EXE,
    TNEF,
    attribute,
    built,
    cab,
    looked,
    mail,
    members,
    rar,
    tarred,
    zipped,
)

GIF = b"GIF89a" + bytes(range(1, 200)) * 5
END = b"PK\x05\x06"
LARGE = random.Random(3).randbytes(9 * 1024 * 1024)


def kinds(octets: bytes) -> set[str]:
    return {part.detected for part in members(looked(octets)).values()}


def stored(**files: bytes) -> bytes:
    out = io.BytesIO()
    with zipfile.ZipFile(out, "w", zipfile.ZIP_STORED) as file:
        for name, octets in files.items():
            file.writestr(name.replace("__", "."), octets)
    return out.getvalue()


@pytest.mark.parametrize("hidden", [cab(b"a.exe", EXE), rar(b"a.exe", EXE)], ids=["cab", "rar"])
@pytest.mark.parametrize("tail", [END, END + bytes(18), END * 40], ids=["sign", "record", "signs"])
def test_c4_a_sign_of_the_end_of_a_zip_hides_nothing_in_front_of_it(hidden: bytes, tail: bytes) -> None:
    assert filetypes.EXE in kinds(zipped(b__txt=b"text") + hidden + tail)


@pytest.mark.parametrize("kind", ["tar", "zip", "cpio", "iso"])
@pytest.mark.parametrize("hidden", [cab(b"a.exe", EXE), rar(b"a.exe", EXE), gzip.compress(EXE)], ids=["cab", "rar", "gz"])
def test_c4_what_stands_behind_the_end_of_a_container_is_looked_into(tmp_path: Path, kind: str, hidden: bytes) -> None:
    assert filetypes.EXE in kinds(container(tmp_path, kind, {"b.txt": b"text"}) + hidden)


def container(folder: Path, kind: str, files: dict[str, bytes]) -> bytes:
    """One whose members stand in it as they are."""
    named = {name.replace(".", "__"): octets for name, octets in files.items()}
    if kind in ("tar", "zip"):
        return tarred(**named) if kind == "tar" else stored(**named)
    program = {"cpio": "cpio", "iso": "genisoimage"}[kind]
    if shutil.which(program) is None:
        pytest.skip(f"{program} is not installed")
    for name, octets in files.items():
        (folder / name).write_bytes(octets)
    if kind == "cpio":
        made = subprocess.run(
            ["cpio", "-o", "-H", "newc"], cwd=folder, input="\n".join(files).encode(), capture_output=True, check=True
        )
        return made.stdout
    subprocess.run(["genisoimage", "-quiet", "-J", "-R", "-o", "out", *files], cwd=folder, check=True)
    return (folder / "out").read_bytes()


@pytest.mark.parametrize("kind", ["tar", "zip", "cpio", "iso"])
def test_stored_archives_are_looked_into_once_and_named_by_nobody(tmp_path: Path, kind: str) -> None:
    files = {f"{number}.cab": cab(b"a.txt", b"text %d" % number) for number in range(12)}
    files |= {
        "r.rar": rar(b"a.txt", b"text"),
        "g.gz": gzip.compress(b"text" * 50),
        "t.tar": tarred(c__cab=files["0.cab"]),
    }
    files["z.zip"] = stored(one__cab=files["1.cab"], two__zip=zipped(b__txt=b"text"))
    report = looked(container(tmp_path, kind, files))
    paths = [part.path for part in report.parts]
    assert len(paths) == len(set(paths)) and not report.unread and not report.over
    assert {"1!5.cab!a.txt", "1!z.zip!one.cab!a.txt", "1!t.tar!c.cab!a.txt"} <= set(paths)


def test_c4_a_copy_of_the_beginning_of_a_member_is_none() -> None:
    """What is passed over is a whole member, octet by octet."""
    honest, hidden = rar(b"a.txt", b"text" * 100), rar(b"a.txt", b"text" * 99 + EXE)
    assert honest[:16] == hidden[:16]
    assert {"1!a.rar!a.txt", "1!a.txt"} <= set(members(looked(tarred(a__rar=honest) + hidden)))


@pytest.mark.parametrize("pack", [gzip.compress, bz2.compress, lzma.compress], ids=["gz", "bz2", "xz"])
def test_c4_compressed_files_behind_something_else_are_looked_into(pack: object) -> None:
    octets = pack(EXE)  # type: ignore[operator]
    assert kinds(GIF + octets) == {filetypes.EXE}
    assert filetypes.EXE in kinds(zipped(b__gif=GIF + octets))


def test_c4_a_gz_with_a_long_name_or_a_wrong_checksum_is_one() -> None:
    octets = gzip.compress(EXE)
    long = octets[:3] + b"\x18" + octets[4:10] + b"n" * 4000 + b"\0" + b"c" * 60000 + b"\0" + octets[10:]
    assert behind.first(GIF + long, "") == (len(GIF), filetypes.GZIP)
    assert behind.first(GIF + octets[:-8] + bytes(8), "") == (len(GIF), filetypes.GZIP)


@pytest.mark.peer
@pytest.mark.parametrize("kind", ["gzip", "bzip2", "xz", "zip", "7z", "tar", "wim"])
def test_c4_what_7zip_finds_behind_a_picture_is_found_here(tmp_path: Path, kind: str) -> None:
    """The reader itself says where it begins."""
    octets = (
        GIF + built(tmp_path, "7z", "a", f"-t{kind}", "out.", "a.exe") + (b"\xaa" * 100_000 if kind == "zip" else b"")
    )
    (tmp_path / "x.gif").write_bytes(octets)
    said = subprocess.run(["7z", "l", "x.gif"], cwd=tmp_path, capture_output=True, text=True, check=False).stdout
    assert f"Offset = {len(GIF)}\n" in said
    found = behind.first(octets, "image/gif")
    assert found is not None and found[0] == len(GIF)
    report = looked(octets)
    assert "archive" in report.parts[0].flags
    assert report.unread if kind == "wim" else filetypes.EXE in kinds(octets)


def test_c4_two_zips_with_octets_between_and_in_front() -> None:
    octets = GIF + zipped(a__dat=EXE) + b"\xaa" * 500 + zipped(b__txt=b"text")
    assert {filetypes.EXE} <= kinds(octets) and "1!b.txt" in members(looked(octets))


@pytest.mark.parametrize("pack", ["zip", "tar", "gz"])
def test_c4_an_archive_in_a_large_member_is_looked_into(pack: str) -> None:
    """gz declares no size."""
    inner = LARGE[: 7 * 1024 * 1024] + cab(b"a.exe", EXE) + LARGE[:3_000_000]
    octets = {"zip": lambda: stored(b__dat=inner), "tar": lambda: tarred(b__dat=inner)}.get(
        pack, lambda: gzip.compress(inner, 1)
    )()
    assert filetypes.EXE in kinds(octets)


def test_random_octets_are_no_archive() -> None:
    assert behind.first(LARGE, "") is None
    assert not looked(tarred(b__dat=LARGE)).unread


@pytest.mark.parametrize(
    "unit",
    [
        b"\x1f\x8b\x08\x08",
        b"\x1f\x8b\x08\x00\0\0\0\0\0\3\3",
        b"ustar ",
        b"\x60\xea\x20\x0a",
        b"07070",
        b"PK\x03\x04",
        b"-lh5-",
        b"\x28\xb5\x2f\xfd",
        b"7z\xbc\xaf\x27\x1c",
    ],
)
def test_c3_false_signs_take_linear_time(unit: bytes) -> None:
    def cost(size: int) -> float:
        octets, best = tarred(a__dat=unit * (size // len(unit))), 60.0
        for _ in range(3):
            start = time.process_time()
            looked(octets)
            best = min(best, time.process_time() - start)
        return best

    assert cost(1_600_000) < 30 * max(cost(200_000), 0.001)


@pytest.mark.peer
def test_c4_each_volume_of_a_real_split_archive_is_named(tmp_path: Path) -> None:
    (tmp_path / "a.exe").write_bytes(b"MZ" + random.Random(4).randbytes(30_000))
    if shutil.which("7z") is None:
        pytest.skip("7z is not installed")
    subprocess.run(["7z", "a", "-v10k", "x.7z", "a.exe"], cwd=tmp_path, check=True, stdout=subprocess.DEVNULL)
    volumes = sorted(tmp_path.glob("x.7z.0*"))
    assert len(volumes) >= 3
    for volume in volumes:
        report = reader.read(mail(volume.read_bytes(), volume.name.encode()), 0, LIMITS, None)
        assert {"archive", "unread"} <= set(report.parts[0].flags) and report.unread, volume.name


def mapi(*properties: tuple[int, bytes]) -> bytes:
    """The properties of an attachment: tags with the kind of value in their lower half."""
    out = struct.pack("<I", len(properties))
    for tag, value in properties:
        out += struct.pack("<III", tag, 1, len(value)) + value + bytes(-len(value) % 4)
    return out


NAME = (0x3707001F, "evil.exe\0".encode("utf-16-le"))


@pytest.mark.parametrize("content", [(0x37010102, EXE), (0x3701000D, bytes(range(16)) + EXE)], ids=["octets", "object"])
def test_c4_attachments_in_mapi_properties_are_members(content: tuple[int, bytes]) -> None:
    tnef = TNEF + attribute(0x18010, b"a.txt\0") + attribute(0x69005, mapi(NAME, content))
    (part,) = members(looked(tnef)).values()
    assert (part.names, part.detected) == (("a.txt", "evil.exe"), filetypes.EXE)


def test_c4_a_message_in_a_winmail_dat_is_looked_into() -> None:
    inner = TNEF + attribute(0x18010, b"b.exe\0") + attribute(0x6800F, EXE)
    tnef = TNEF + attribute(0x69005, mapi((0x3701000D, bytes(16) + inner)))
    assert filetypes.EXE in kinds(tnef)


@pytest.mark.parametrize("octets", [b"\x05\0\0\0", b"\x01\0\0\0\x99\0\x01\x37" + bytes(8), mapi((0x37010102, EXE))[:-8]])
def test_c4_mapi_properties_that_cannot_be_read_are_unscannable(octets: bytes) -> None:
    report = looked(TNEF + attribute(0x69005, octets))
    verdict = decide(report, forbidden_by((), (), ()))
    assert "unread" in report.parts[0].flags and verdict.outcome == "unscannable"


def test_tars_of_tars_are_looked_into_once() -> None:
    inner = tarred(b__txt=b"text")
    report = looked(tarred(**{f"{number}__tar": inner for number in range(9)}))
    assert len(members(report)) == 18 and not report.unread
