"""What hangs on a message: archives of every kind, bombs, documents, types of octets (threats C4, C5)."""

import base64
import bz2
import gzip
import io
import lzma
import random
import shutil
import struct
import subprocess
import tarfile
import zipfile
import zlib
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace

import pytest

from appliance.daemons.scand import archives, filetypes, macros, reader
from appliance.mail.inspection import Part, Report
from appliance.protocol.mime import LIMITS, Limits

EXE = b"MZ\x90\0" + bytes(200)
reader.warm()


def mail(octets: bytes, name: bytes = b"x.bin") -> bytes:
    head = b'Content-Type: application/octet-stream; name="' + name + b'"\r\nContent-Transfer-Encoding: base64\r\n\r\n'
    return head + base64.encodebytes(octets)


def looked(octets: bytes, limits: Limits = LIMITS) -> Report:
    return reader.read(mail(octets), 0, limits, None)


def flags(octets: bytes) -> set[str]:
    return set(looked(octets).parts[0].flags)


def members(report: Report) -> dict[str, Part]:
    return {part.path: part for part in report.parts if "member" in part.flags}


def zipped(**files: bytes) -> bytes:
    out = io.BytesIO()
    with zipfile.ZipFile(out, "w", zipfile.ZIP_DEFLATED) as file:
        for name, octets in files.items():
            file.writestr(name.replace("__", "."), octets)
    return out.getvalue()


def tarred(kind: str = "", **files: bytes) -> bytes:
    out = io.BytesIO()
    with tarfile.open(fileobj=out, mode=f"w:{kind}") as file:  # type: ignore[call-overload]
        for name, octets in files.items():
            info = tarfile.TarInfo(name.replace("__", "."))
            info.size = len(octets)
            file.addfile(info, io.BytesIO(octets))
    return out.getvalue()


@pytest.mark.parametrize("kind", ["zip", "tar", "tar.gz", "tar.bz2", "tar.xz"])
def test_c4_members_of_archives(kind: str) -> None:
    files = {"dir/a__exe": EXE, "b__txt": b"hello"}
    octets = zipped(**files) if kind == "zip" else tarred(kind.partition(".")[2], **files)
    report = looked(octets)
    found = members(report)
    assert set(found) == {"1!dir/a.exe", "1!b.txt"}
    assert (found["1!dir/a.exe"].detected, found["1!dir/a.exe"].size) == (filetypes.EXE, len(EXE))
    assert found["1!b.txt"].names == ("b.txt",)
    assert "archive" in report.parts[0].flags and not report.unread and not report.over


def old_lzma(octets: bytes) -> bytes:
    return lzma.compress(octets, lzma.FORMAT_ALONE)


@pytest.mark.parametrize("pack", [gzip.compress, bz2.compress, lzma.compress, old_lzma])
def test_c4_a_single_file_that_was_compressed(pack: object) -> None:
    (member,) = members(looked(pack(EXE))).values()  # type: ignore[operator]
    assert member.detected == filetypes.EXE


def built(tmp_path: Path, *command: str) -> bytes:
    """The archive `out` that a real program makes of a.exe."""
    if shutil.which(command[0]) is None:
        pytest.skip(f"{command[0]} is not installed")
    (tmp_path / "a.exe").write_bytes(EXE)
    subprocess.run([*command], cwd=tmp_path, check=True, stdout=subprocess.DEVNULL)
    return (tmp_path / "out").read_bytes()


@pytest.mark.peer
@pytest.mark.parametrize(
    "command",
    [
        ("7z", "a", "-t7z", "out", "a.exe"),
        ("7z", "a", "-tzip", "out", "a.exe"),
        ("genisoimage", "-quiet", "-J", "-R", "-o", "out", "a.exe"),
    ],
)
def test_c4_archives_of_real_programs(tmp_path: Path, command: tuple[str, ...]) -> None:
    if command[0] == "7z":
        command = tuple("./out" if word == "out" else word for word in command)
    octets = built(tmp_path, *(word.replace("./out", "out.") if command[0] == "7z" else word for word in command))
    (member,) = members(looked(octets)).values()
    assert (member.names, member.detected) == (("a.exe",), filetypes.EXE)


@pytest.mark.peer
@pytest.mark.parametrize("options", [("-tzip",), ("-tzip", "-mem=AES256"), ("-t7z",), ("-t7z", "-mhe=on")])
def test_c4_encrypted_archives_are_named(tmp_path: Path, options: tuple[str, ...]) -> None:
    report = looked(built(tmp_path, "7z", "a", "-psecret", *options, "out.", "a.exe"))
    assert {"archive", "encrypted"} <= set(report.parts[0].flags)
    assert not report.unread
    if "-mhe=on" not in options:
        assert members(report)["1!a.exe"].flags == ("encrypted", "member")


def cab(name: bytes, octets: bytes) -> bytes:
    """A cabinet with one stored file."""
    entry = struct.pack("<IIHHHH", len(octets), 0, 0, 0x5D21, 0, 0x20) + name + b"\0"
    data = struct.pack("<IHH", 0, len(octets), len(octets)) + octets
    files, begin = 36 + 8, 36 + 8 + len(entry)
    head = struct.pack("<4sIIIIIBBHHHHH", b"MSCF", 0, begin + len(data), 0, files, 0, 3, 1, 1, 1, 0, 0, 0)
    return head + struct.pack("<IHH", begin, 1, 0) + entry + data


def rar(name: bytes, octets: bytes, flags: int = 0, main: int = 0) -> bytes:
    """A RAR archive (version 4) with one stored file; flag 4: encrypted, 0x80 in `main`: its headers, too."""

    def block(rest: bytes) -> bytes:
        return struct.pack("<H", zlib.crc32(rest) & 0xFFFF) + rest

    size, crc = len(octets), zlib.crc32(octets)
    body = struct.pack("<IIBIIBBHI", size, size, 2, crc, 0x5D210000, 20, 0x30, len(name), 0x20) + name
    entry = block(struct.pack("<BHH", 0x74, 0x8000 | flags, 7 + len(body)) + body) + octets
    end = block(struct.pack("<BHH", 0x7B, 0x4000, 7))
    return b"Rar!\x1a\x07\0" + block(struct.pack("<BHH", 0x73, main, 13) + bytes(6)) + entry + end


@pytest.mark.parametrize("octets", [cab(b"a.exe", EXE), rar(b"a.exe", EXE)])
def test_c4_cab_and_rar(octets: bytes) -> None:
    (member,) = members(looked(octets)).values()
    assert (member.names, member.detected) == (("a.exe",), filetypes.EXE)


def test_c4_encrypted_rar() -> None:
    report = looked(rar(b"a.exe", EXE, flags=4))
    assert members(report)["1!a.exe"].flags == ("encrypted", "member") and "encrypted" in report.parts[0].flags
    assert "encrypted" in flags(rar(b"a.exe", EXE, main=0x80))


def test_c4_nested_archives() -> None:
    inner = zipped(a__exe=EXE)
    report = looked(tarred("gz", b__zip=inner))
    assert members(report)["1!b.zip!a.exe"].detected == filetypes.EXE


def test_c4_too_deep() -> None:
    octets = EXE
    for _ in range(LIMITS.archive_depth):
        octets = zipped(x__zip=octets)
    assert looked(octets).over == ""
    report = looked(zipped(x__zip=octets))
    assert report.over == "archive_depth" and "unread" in report.parts[0].flags


@pytest.mark.parametrize("kind", ["zip", "tar.gz", "tar.bz2", "tar.xz", "gz"])
def test_c4_bombs(kind: str) -> None:
    zeros = bytes(40 * 1024 * 1024)
    files = {"a__txt": zeros}
    octets = {"zip": lambda: zipped(**files), "gz": lambda: gzip.compress(zeros)}.get(
        kind, lambda: tarred(kind.partition(".")[2], **files)
    )()
    assert len(octets) < 50000
    report = looked(octets)
    assert report.over == "archive_ratio"
    assert looked(octets, LIMITS._replace(archive_ratio=10**6)).over == ""
    assert looked(octets, LIMITS._replace(archive_ratio=10**6, archive_bytes=10**6)).over == "archive_bytes"


def test_c4_a_bomb_of_bombs() -> None:
    """As 42.zip: each layer holds several of the next."""
    octets = bytes(5 * 1024 * 1024)
    for _ in range(4):
        octets = zipped(**{f"lib{number}__zip": octets for number in range(8)})
    assert len(octets) < 1_000_000
    assert looked(octets).over in ("archive_ratio", "archive_bytes")


def test_c4_overlapping_members() -> None:
    """Many directory entries for the same octets (as zbsm.zip)."""
    one = zipped(a__txt=bytes(1024 * 1024))
    start = one.index(b"PK\x01\x02")
    entry = one[start : one.index(b"PK\x05\x06")]
    count = 300
    end = struct.pack("<4sHHHHIIH", b"PK\x05\x06", 0, 0, count, count, len(entry) * count, start, 0)
    assert looked(one[:start] + entry * count + end).over == "archive_ratio"


def test_c4_many_names() -> None:
    octets = zipped(**{f"n{number}": b"" for number in range(LIMITS.archive_names + 1)})
    report = looked(octets)
    assert report.over == "archive_names"
    assert len(members(report)) <= LIMITS.archive_names


def test_c4_many_archives_share_the_caps() -> None:
    part = b"--x\r\nContent-Transfer-Encoding: base64\r\n\r\n" + base64.encodebytes(zipped(a=b"", b=b""))
    content = b"Content-Type: multipart/mixed; boundary=x\r\n\r\n" + part * 10
    assert reader.read(content, 0, LIMITS._replace(archive_names=39), None).over == ""
    assert reader.read(content, 0, LIMITS._replace(archive_names=19), None).over == "archive_names"


def test_c4_a_zip_with_two_lists_of_names() -> None:
    """What the directory hides stands in the headers of members, and the other way round."""
    octets = zipped(a__exe=EXE)
    at = octets.rindex(b"a.exe")
    hidden = octets[:at] + b"a.txt" + octets[at + 5 :]
    names = {name for part in members(looked(hidden)).values() for name in part.names}
    assert {"a.exe", "a.txt"} <= names


@pytest.mark.parametrize(
    "octets", [b"PK\x03\x04" + b"junk" * 30, b"7z\xbc\xaf\x27\x1c" + b"junk" * 30, b"Rar!\x1a\x07\0" + b"junk" * 9]
)
def test_c4_broken_archives_are_named(octets: bytes) -> None:
    report = looked(octets)
    assert "unread" in report.parts[0].flags and report.unread[0].startswith("1!: ")


@pytest.mark.parametrize("sign", [b"\x1f\x8b", b"BZh", b"\x04\x22\x4d\x18"])
def test_c4_what_only_begins_like_a_compressed_file_is_broken(sign: bytes) -> None:
    """libarchive gives such octets back as they are: no archive in an archive without end."""
    report = looked(sign + b"plain octets" * 30)
    assert not report.over and report.unread == ("1!: broken archive",)


def test_c4_a_member_that_is_not_what_it_was_promised_to_be_is_named() -> None:
    octets = bytearray(zipped(a__dat=EXE))
    octets[octets.index(b"PK\x01\x02") - 1] ^= 1  # the last octet that was compressed
    assert looked(bytes(octets)).unread
    stored = bytearray(zipped(a__dat=EXE))
    stored[8:10] = bytes(2)  # the member says "stored", the directory "deflated"; readers believe the directory
    body = bytes(stored[30 + len("a.dat") : stored.index(b"PK\x01\x02")])
    stored[14:18], stored[22:26] = struct.pack("<I", zlib.crc32(body)), struct.pack("<I", len(body))
    assert any("in two ways" in why for why in looked(bytes(stored)).unread)
    assert not looked(zipped(b__zip=zipped(a__dat=b"text" * 99), a__dat=b"text")).unread


@pytest.mark.parametrize(
    ("octets", "word"),
    [(bytes(7) + b"**ACE**" + bytes(50), "application/x-ace"), (b"MSWIM\0\0\0" + bytes(200), "application/x-ms-wim")],
)
def test_c4_archives_that_nobody_can_open_are_named(octets: bytes, word: str) -> None:
    report = looked(octets)
    assert {"archive", "unread"} <= set(report.parts[0].flags) and word in report.unread[0]


@pytest.mark.parametrize("front", [b"GIF89a" + bytes(40), b"%PDF-1.4\n", b"some octets in front of it"])
def test_c4_a_zip_behind_something_else_is_looked_into(front: bytes) -> None:
    """Readers of zip begin at its end, whatever it is called and begins with."""
    octets = front + zipped(a__exe=EXE)
    assert members(looked(octets))["1!a.exe"].detected == filetypes.EXE
    assert members(looked(zipped(b__zip=octets)))["1!b.zip!a.exe"].detected == filetypes.EXE
    assert not members(looked(front + b"PK\x05\x06" + bytes(18))), "an empty list of members is none"


@pytest.mark.parametrize(
    "front", [b"GIF89a" + bytes(40), b"%PDF-1.4\n", b"MZ\x90\0" + bytes(4000), zipped(b__txt=b"text")]
)
@pytest.mark.parametrize("octets", [cab(b"a.exe", EXE), rar(b"a.exe", EXE)], ids=["cab", "rar"])
def test_c4_other_archives_behind_something_else_are_looked_into(front: bytes, octets: bytes) -> None:
    """Programs that unpack themselves are made so, and readers look for the beginning."""
    assert members(looked(front + octets))["1!a.exe"].detected == filetypes.EXE
    assert members(looked(tarred(b__dat=front + octets)))["1!b.dat!a.exe"].detected == filetypes.EXE
    assert members(looked(zipped(b__dat=front + bytes(70000) + octets)))["1!b.dat!a.exe"].detected == filetypes.EXE


@pytest.mark.peer
def test_c4_a_7z_behind_something_else_is_looked_into(tmp_path: Path) -> None:
    octets = built(tmp_path, "7z", "a", "-t7z", "out.", "a.exe")
    assert members(looked(b"GIF89a" + bytes(40) + octets))["1!a.exe"].detected == filetypes.EXE
    report = looked(b"GIF89a" + bytes(40) + octets * 7)
    assert any("more than 5 archives" in why for why in report.unread)
    assert not looked(b"GIF89a" + octets[:6] + random.Random(1).randbytes(90)).unread, "a sign alone is no archive"


@pytest.mark.parametrize("kind", ["tar", "zip"])
def test_an_archive_that_stands_in_another_is_looked_into_once(kind: str) -> None:
    out = io.BytesIO()
    with zipfile.ZipFile(out, "w", zipfile.ZIP_STORED) as file:
        file.writestr("a.cab", cab(b"a.exe", EXE))
    octets = out.getvalue() if kind == "zip" else tarred(a__cab=cab(b"a.exe", EXE))
    assert list(members(looked(octets))) == ["1!a.cab", "1!a.cab!a.exe"]


@pytest.mark.parametrize("name", [b"x.7z.002", b"x.zip.010", b"x.r01", b"x.tar.gz.003"])
def test_c4_a_volume_of_a_split_archive_is_named(name: bytes) -> None:
    report = reader.read(mail(random.Random(2).randbytes(500), name), 0, LIMITS, None)
    assert {"archive", "unread"} <= set(report.parts[0].flags) and "volume" in report.unread[0]


def test_c4_zips_one_behind_the_other_are_all_looked_into() -> None:
    """Readers see the first or the last."""
    first, last = zipped(a__dat=EXE), zipped(b__txt=b"text")
    for octets in (first + last, last + first, last + first + last):
        found = members(looked(octets))
        assert found["1!a.dat"].detected == filetypes.EXE and "1!b.txt" in found
    assert any("one behind the other" in why for why in looked(first + last * 7).unread)
    report = looked(zipped(a__zip=last, b__zip=last))
    assert not report.unread and not report.over


@pytest.mark.parametrize("pack", [lambda **files: zipped(**files), lambda **files: tarred("gz", **files)])
def test_c4_what_is_large_in_an_archive_is_looked_into_as_well(pack: Callable[..., bytes]) -> None:
    report = looked(pack(a__ace=bytes(7) + b"**ACE**" + bytes(70000)))
    assert "application/x-ace" in report.unread[0]
    tnef = TNEF + attribute(0x18010, b"b.bin\0") + attribute(0x6800F, bytes(range(256)) * 300)
    report = looked(pack(winmail__dat=tnef + attribute(0x18010, b"a.exe\0") + attribute(0x6800F, EXE)))
    assert members(report)["1!winmail.dat!a.exe"].detected == filetypes.EXE


def test_octets_of_no_known_kind_are_no_program() -> None:
    """libmagic takes what begins with a jump or a move for a DOS program without a header."""
    generator = random.Random(1)
    for first in [first for first in range(256) for _ in range(10)]:
        octets = bytes([first]) + generator.randbytes(600)
        assert octets[:2] in (b"MZ", b"ZM") or filetypes.detect(octets) != filetypes.EXE, first
    assert filetypes.detect(EXE) == filetypes.EXE


def test_c5_links_and_paths_in_archives_are_data() -> None:
    out = io.BytesIO()
    with tarfile.open(fileobj=out, mode="w") as file:
        for name, link in (("passwd", "/etc/passwd"), ("up", "../../..")):
            info = tarfile.TarInfo(name)
            info.type, info.linkname = tarfile.SYMTYPE, link
            file.addfile(info)
        for name in ("../../evil.sh", "/abs/evil.sh", "$(id); rm -rf ~"):
            info = tarfile.TarInfo(name)
            info.size = 2
            file.addfile(info, io.BytesIO(b"hi"))
    found = {part.names[0]: part.size for part in members(looked(out.getvalue())).values()}
    assert found == {"passwd": 0, "up": 0, "../../evil.sh": 2, "/abs/evil.sh": 2, "$(id); rm -rf ~": 2}


def test_c4_time_is_capped() -> None:
    taking = reader.Taking(LIMITS, None, 1000, until=0.0)
    taking.run(mail(zipped(a=b"x" * 100)), 0)
    assert taking.report().over == "time"


def test_without_libarchive_names_are_still_known(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(archives, "ffi", None)
    report = looked(zipped(a__exe=EXE))
    assert report.missing == ("libarchive13",) and "unread" in report.parts[0].flags
    assert members(report)["1!a.exe"].names == ("a.exe",)


@pytest.mark.parametrize(
    ("octets", "kind"),
    [
        (EXE, filetypes.EXE),
        (b"\x7fELF\x02\x01", filetypes.ELF),
        (b"L\0\0\0\x01\x14\x02\0\0\0", "application/x-ms-shortcut"),
        (bytes.fromhex("e4525c7b8cd8a74daeb15378d02996d3") + bytes(9), "application/onenote"),
        (b"MSCF\0\0\0\0", "application/vnd.ms-cab-compressed"),
        (b"Rar!\x1a\x07\x01\0", "application/x-rar"),
        (bytes(32769) + b"CD001", filetypes.ISO),
        (b"<html><head><HTA:APPLICATION id=x>", filetypes.HTA),
        (b"@echo off\r\ndel *", "text/x-script"),
        (b"#!/bin/sh\n", "text/x-script"),
        (b"ITSF\3\0\0\0", "application/vnd.ms-htmlhelp"),
        (b"%PDF-1.7\n", "application/pdf"),
        (b"MZ: the beginning of a text that is no program at all, and it goes on like this", "text/plain"),
        (b"RIFF\x24\0\0\0WAVEfmt " + bytes(40), "audio/x-wav"),
        (b"", ""),
    ],
)
def test_types_by_octets(octets: bytes, kind: str) -> None:
    assert looked(octets).parts[0].detected == kind


def ole(*names: str, stream: bytes = b"") -> bytes:
    """An OLE2 file with these streams in its root (the smallest that is well-formed)."""
    data = stream.ljust(4096, b"\0")
    sectors = [b"".join(struct.pack("<I", word) for word in (0xFFFFFFFD, *range(2, 2)))]
    chain = [0xFFFFFFFD, 0xFFFFFFFE, *range(3, 10), 0xFFFFFFFE]
    directory_sectors = (len(names) + 1 + 3) // 4
    chain = [0xFFFFFFFD]
    chain += [*range(2, 1 + directory_sectors), 0xFFFFFFFE]
    first = 1 + directory_sectors
    chain += [*range(first + 1, first + 8), 0xFFFFFFFE]
    sectors = [b"".join(struct.pack("<I", word) for word in chain).ljust(512, b"\xff")]

    def entry(name: str, kind: int, child: int, right: int, start: int, size: int) -> bytes:
        text = name.encode("utf-16-le") + b"\0\0"
        return (
            text.ljust(64, b"\0")
            + struct.pack("<HBBIII", len(text), kind, 1, 0xFFFFFFFF, right, child)
            + bytes(36)
            + struct.pack("<IQ", start, size)
        )

    entries = [entry("Root Entry", 5, 1, 0xFFFFFFFF, 0xFFFFFFFE, 0)]
    for number, name in enumerate(names, 1):
        following = number + 1 if number < len(names) else 0xFFFFFFFF
        entries.append(entry(name, 2, 0xFFFFFFFF, following, first, 4096))
    directory = b"".join(entries).ljust(512 * directory_sectors, b"\0")
    head = b"\xd0\xcf\x11\xe0\xa1\xb1\x1a\xe1" + bytes(16) + struct.pack("<HHHHH", 0x3E, 3, 0xFFFE, 9, 6) + bytes(6)
    head += struct.pack("<IIIIIIIII", 0, 1, 1, 0, 4096, 0xFFFFFFFE, 0, 0xFFFFFFFE, 0)
    head += struct.pack("<I", 0) + b"\xff" * (109 * 4 - 4)
    return head + sectors[0] + directory + data


RELS = (
    b'<Relationships><Relationship Id="a" Type="http://x/relationships/attachedTemplate" '
    b'Target="http://e/" TargetMode="External"/></Relationships>'
)


@pytest.mark.parametrize(
    ("octets", "wanted"),
    [
        (ole("WordDocument", "_VBA_PROJECT"), {"macro"}),
        (ole("Workbook", stream=struct.pack("<HHIBB", 0x85, 6, 0, 0, 1)), {"macro"}),
        (ole("Workbook", stream=struct.pack("<HHIBB", 0x85, 6, 0, 0, 0)), set()),
        (ole("Workbook", stream=struct.pack("<HHI", 0x2F, 4, 0)), {"encrypted"}),
        (ole("WordDocument", stream=bytes(10) + struct.pack("<H", 0x100)), {"encrypted"}),
        (ole("WordDocument"), set()),
        (ole("EncryptedPackage", "EncryptionInfo"), {"encrypted"}),
        (ole("\x01Ole10Native"), {"macro"}),
        (ole("WordDocument")[:600], {"unread"}),
        (zipped(**{"word/vbaProject__bin": b"x"}), {"archive", "macro"}),
        (zipped(**{"xl/macrosheets/sheet1__xml": b"x"}), {"archive", "macro"}),
        (zipped(**{"word/activeX/activeX1__bin": b"x"}), {"archive", "macro"}),
        (zipped(**{"word/_rels/settings__xml__rels": RELS}), {"archive", "macro"}),
        (zipped(**{"word/_rels/document__xml__rels": RELS.replace(b"attachedTemplate", b"hyperlink")}), {"archive"}),
        (zipped(**{"Basic/Standard/Module1__xml": b"x"}), {"archive", "macro"}),
        (zipped(**{"word/document__xml": b"x"}), {"archive"}),
        (rb"{\rtf1{\object\objemb{\*\objdata 0105}}}", {"macro"}),
        (rb"{\rtf1 hello}", set()),
    ],
)
def test_documents(octets: bytes, wanted: set[str]) -> None:
    assert flags(octets) - {"attachment"} == wanted


@pytest.mark.parametrize(("answer", "wanted"), [(True, {"macro"}), (False, set()), (ValueError("broken"), set())])
def test_oletools_look_deeper(answer: object, wanted: set[str], monkeypatch: pytest.MonkeyPatch) -> None:
    """Where they are installed (extra `macro`); what they break on stays as it was."""

    class Parser:
        def __init__(self, name: str, data: bytes) -> None:
            assert data.startswith(b"\xd0\xcf\x11\xe0")

        def detect_macros(self) -> object:
            if isinstance(answer, Exception):
                raise answer
            return answer

    monkeypatch.setattr(macros, "olevba", SimpleNamespace(VBA_Parser=Parser))
    assert flags(ole("PowerPoint Document")) - {"attachment"} == wanted


def test_a_document_in_an_archive() -> None:
    report = looked(zipped(a__doc=ole("_VBA_PROJECT")))
    assert "macro" in members(report)["1!a.doc"].flags


def test_without_olefile_no_document_is_called_harmless(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(macros, "olefile", None)
    report = looked(ole("WordDocument"))
    assert "unread" in report.parts[0].flags and report.missing == ("olefile",)


TNEF = b"\x78\x9f\x3e\x22\0\0"


def attribute(kind: int, octets: bytes) -> bytes:
    """Of a TNEF file."""
    return b"\x02" + struct.pack("<II", kind, len(octets)) + octets + b"\0\0"


def test_winmail_dat() -> None:
    tnef = TNEF + attribute(0x18010, b"a.exe\0") + attribute(0x6800F, EXE)
    assert members(looked(tnef))["1!a.exe"].detected == filetypes.EXE
