"""YARA rules in scand: in the confined child, over parts, members and header; others at a reload; rules that fail."""

import asyncio
import base64
import contextlib
import io
import os
import signal
import subprocess
import sys
import zipfile
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import pytest

from appliance.config.blob import read
from appliance.config.mistakes import ConfigError
from appliance.config.snapshot import build
from appliance.connectors import yara as connector
from appliance.connectors.conversation import Server
from appliance.connectors.dialects import Inside
from appliance.connectors.embedded import Embedded
from appliance.connectors.scanner import Settings
from appliance.connectors.scanners import Scanners
from appliance.connectors.source import Octets
from appliance.daemons.scand import yara
from appliance.mail.inspection import Hit, Report
from appliance.mail.ports import Unavailable
from tests.connectors.scanner_peer import context
from tests.daemons.scand.test_scand_process import SLOW, Rig, child_of, terms
from tests.peers.clamd import EICAR, eicar_mail

pytest.importorskip("yara_x", reason="the extra yara is not installed")
SHIPPED = Path(__file__).resolve().parents[3] / "policies" / "yara"
TRACE = b"Received: x\r\n"
EVIL = {"own.yar": b'rule Evil { meta: kind = "suspicious" strings: $a = "EVIL" condition: $a }'}


def shipped() -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in SHIPPED.glob("*.yar")}


def attached(octets: bytes, name: str, kind: str = "application/octet-stream") -> bytes:
    return (
        TRACE
        + b'Content-Type: multipart/mixed; boundary="b"\r\n\r\n--b\r\n\r\ntext\r\n--b\r\n'
        + f"Content-Type: {kind}\r\n".encode()
        + f'Content-Disposition: attachment; filename="{name}"\r\n'.encode()
        + b"Content-Transfer-Encoding: base64\r\n\r\n"
        + base64.encodebytes(octets)
        + b"\r\n--b--\r\n"
    )


def zipped(name: str, octets: bytes) -> bytes:
    file = io.BytesIO()
    with zipfile.ZipFile(file, "w", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr(name, octets)
    return file.getvalue()


@pytest.fixture
async def rig(tmp_path: Path) -> AsyncIterator[Rig]:
    made = Rig(tmp_path, 2)
    made.scand._rules = shipped()
    await made.scand.start()
    yield made
    made.inspector.close()
    await made.scand.drain(0.0)
    made.listening.close()


async def settled(rig: Rig, rules: dict[str, bytes]) -> None:
    """The nursery has these rules."""
    async with asyncio.timeout(20):
        while (await rig.read(TRACE + b"\r\n" + os.urandom(8).hex().encode())).rules != yara.fingerprint(rules):
            await asyncio.sleep(0.02)


async def test_parts_members_and_header_in_the_confined_child(rig: Rig) -> None:
    assert "processes" in rig.scand._hatchery.refused, "the child is confined"
    found = await rig.read(TRACE + eicar_mail())
    assert found.hits == (Hit("2", "EICAR_Test_File", "infected"),) and found.rules == yara.fingerprint(shipped())
    found = await rig.read(attached(zipped("inner/invoice.pdf.exe", b"MZ" + EICAR), "a.zip"))
    assert set(found.hits) == {
        Hit("2!inner/invoice.pdf.exe", "EICAR_Test_File", "infected"),
        Hit("2!inner/invoice.pdf.exe", "Double_Extension", "suspicious"),
    }
    rules = {"h.yar": b'rule Head { strings: $a = "X-Mailer: Evil" condition: part == "header" and $a }'}
    rig.scand.commit(terms(2, rules))
    await settled(rig, rules)
    assert (await rig.read(TRACE + b"X-Mailer: Evil\r\n\r\nX\r\n")).hits == (Hit("header", "Head", "infected"),)
    assert (await rig.read(TRACE + b"\r\nX-Mailer: Evil\r\n")).hits == ()


async def test_rules_know_name_and_type(rig: Rig) -> None:
    rules = {
        "a.yar": b'rule Named { condition: filename == "x.bin" and content_type == "image/png" and part == "part" }',
        "b.yar": b'rule Named { meta: kind = "clean" condition: filename == "x.bin" }',
    }
    rig.scand.commit(terms(2, rules))
    await settled(rig, rules)
    assert (await rig.read(attached(b"x", "x.bin", "image/png"))).hits != ()
    assert (await rig.read(attached(b"x", "y.bin", "image/png"))).hits == ()
    twice = attached(b"x", "x.bin", "text/plain\r\nContent-Type: image/png")
    assert {hit.kind for hit in (await rig.read(twice)).hits} == {"infected", "clean"}


async def test_c1_a_find_behind_many_others_is_not_lost(rig: Rig) -> None:
    """Parts that some rule about harmless things fits are cheap to write."""
    rules = {
        "a.yar": b'rule Usual { meta: kind = "clean" strings: $a = "usual" condition: $a }',
        "b.yar": b'rule Bad { strings: $a = "bad" condition: $a }',
    }
    rig.scand.commit(terms(2, rules))
    await settled(rig, rules)
    parts = b"".join(b"--b\r\n\r\nusual %d\r\n" % number for number in range(300))
    found = await rig.read(
        TRACE + b'Content-Type: multipart/mixed; boundary="b"\r\n\r\n' + parts + b"--b\r\n\r\nbad\r\n--b--\r\n"
    )
    assert found.hits[:2] == (Hit("301", "Bad", "infected"), Hit("1", "Usual", "clean")) and len(found.hits) == 200
    assert connector.result(found, "y", True).names == ("Bad",)


async def test_a_nursery_that_dies_gets_the_rules_again(rig: Rig) -> None:
    await settled(rig, shipped())
    os.kill(rig.nursery, signal.SIGKILL)
    async with asyncio.timeout(20):
        while not (rig.scand._hatchery.restarts and rig.scand._hatchery.ready.is_set()):
            await asyncio.sleep(0.01)
    await settled(rig, shipped())
    assert (await rig.read(TRACE + eicar_mail())).hits


async def test_c6_a_fault_in_a_child_that_has_rules_kills_it(rig: Rig) -> None:
    """The library has a handler for SIGSEGV of its own; a real fault comes again behind it."""
    await settled(rig, shipped())
    slow = asyncio.create_task(rig.read(SLOW))
    child = await child_of(rig.nursery)
    with pytest.raises(Unavailable, match="SIGSEGV"):
        while not slow.done():
            with contextlib.suppress(ProcessLookupError):
                os.kill(child, signal.SIGSEGV)
            await asyncio.sleep(0.02)
        await slow
    assert (await rig.read(TRACE + eicar_mail())).hits


async def test_rules_that_fail_are_said_to_and_find_nothing_quietly(rig: Rig) -> None:
    rig.scand.commit(terms(2, {"x.yar": b"rule {"}))
    await settled(rig, {})
    assert "scand: the YARA rules are not in force" in rig.scand.health()["degraded"]
    scanner = embedded(rig)
    found = await scanner.scan(Octets(TRACE + eicar_mail()), context())
    assert found.kind == "error" and "not in force" in found.why
    rig.scand.commit(terms(2, EVIL))
    await settled(rig, EVIL)
    assert rig.scand.health()["degraded"] == []
    assert (await scanner.scan(Octets(attached(b"EVIL", "x")), context())).kind == "suspicious"


def test_without_executable_memory_rules_are_not_in_force() -> None:
    """As under systemd's MemoryDenyWriteExecute: the library panics, the process lives on."""
    text = (
        "import ctypes\nif ctypes.CDLL(None).prctl(65, 1, 0, 0, 0): raise SystemExit(77)\n"
        "from appliance.daemons.scand import yara\n"
        "try: yara.load({'a': b'rule a { condition: true }'})\nexcept ValueError as e: print('refused', e)\n"
        "print(yara.current())"
    )
    found = subprocess.run([sys.executable, "-c", text], capture_output=True, text=True, check=False)
    if found.returncode == 77:
        pytest.skip("this kernel has no PR_SET_MDWE")
    assert "refused" in found.stdout and "executable" in found.stdout and found.stdout.endswith("None\n"), found


def embedded(rig: Rig) -> Embedded:
    return Embedded(Settings("yara", "yara", (Server(),)), inside=Inside(inspector=rig.inspector))


async def test_the_scanner_says_what_was_found_and_where(rig: Rig) -> None:
    scanner = embedded(rig)
    assert (await scanner.scan(Octets(TRACE + b"\r\nhello\r\n"), context())).kind == "clean"
    found = await scanner.scan(Octets(TRACE + eicar_mail()), context())
    assert (found.kind, found.names, found.why) == ("infected", ("EICAR_Test_File",), "EICAR_Test_File in part '2'")
    assert found.evidence == {"rules": ["EICAR_Test_File 2 infected"]}
    found = await scanner.scan(Octets(attached(b"MZ", "cv.docx.scr")), context())
    assert (found.kind, found.names) == ("suspicious", ("Double_Extension",))
    inspection = await rig.inspector.inspect(Octets(TRACE + eicar_mail()))
    assert await scanner.scan_parts(inspection, context(), 9, 1 << 20) == []


async def test_one_job_serves_all_who_ask(rig: Rig) -> None:
    content = Octets(TRACE + eicar_mail())
    before = rig.inspector.jobs
    await asyncio.gather(embedded(rig).scan(content, context()), rig.inspector.inspect(content, connector.LIMITS))
    assert rig.inspector.jobs == before + 1


async def test_scand_away_is_an_error_and_passes(tmp_path: Path) -> None:
    made = Rig(tmp_path, 2)
    made.scand._rules = shipped()
    scanner = embedded(made)
    made.inspector._base = 0.2
    found = await scanner.scan(Octets(TRACE + b"\r\nx"), context())
    assert found.kind == "error" and "answers" in scanner.condition.wrong
    await made.scand.start()
    made.inspector._base = 10.0
    async with asyncio.timeout(20):
        while (await scanner.scan(Octets(TRACE + b"\r\nx"), context())).kind != "clean":
            await asyncio.sleep(0.05)
    assert scanner.condition.wrong == {}
    made.inspector.close()
    await made.scand.drain(0.0)
    made.listening.close()


async def test_scanners_make_the_right_one(tmp_path: Path) -> None:
    scanners = Scanners(tests=False)
    found = scanners.find([Settings("y", "yara", (Server(),)), Settings("c", "clamd", (Server(path="/x"),))])
    assert type(found["y"]) is Embedded and type(found["c"]) is not Embedded
    assert (await found["y"].scan(Octets(TRACE + b"\r\n"), context())).kind == "error"


def test_what_a_report_says() -> None:
    hits = (Hit("1", "A", "clean"), Hit("2", "B", "suspicious"), Hit("3", "C", "infected"), Hit("4", "C", "infected"))
    assert connector.result(Report(rules="x"), "y", True).kind == "clean"
    assert connector.result(Report(), "y", False).kind == "clean"
    assert connector.result(Report(hits=hits[:1], rules="x"), "y", True).kind == "clean"
    assert connector.result(Report(hits=hits[:2], rules="x"), "y", True).names == ("B",)
    found = connector.result(Report(hits=hits, rules="x"), "y", True)
    assert (found.kind, found.names, found.why) == ("infected", ("C",), "C in part '3', C in part '4'")
    limit = connector.result(Report(over="archive_octets", rules="x"), "y", True)
    assert (limit.kind, limit.why) == ("unscannable", "over the limit of archive_octets: not all was looked at")
    assert connector.result(Report(hits=hits[:1], over="parts", rules="x"), "y", True).kind == "unscannable"
    assert connector.result(Report(hits=hits[:2], over="parts", rules="x"), "y", True).kind == "suspicious"
    assert connector.result(Report(hits=hits, over="parts", rules="x"), "y", True).kind == "infected"
    many = tuple(Hit("1", f"R{number}", "infected") for number in range(100))
    found = connector.result(Report(hits=many, rules="x"), "y", True)
    assert len(found.names) == 100, "what each name means is not known here"
    assert found.why.endswith("R19 in part '1'")


# ------------------------------------------------------------------ the shipped rules

RULES = yara.Rules(shipped()) if not yara.is_missing() else None
AUTO = b"_VBA_PROJECT\0Attribut\0e VB_Name"
JS = b"<html><script>var b = new Blob([new Uint8Array(x)]); a.href = URL.createObjectURL(b); "
OLE = b"\xd0\xcf\x11\xe0\xa1\xb1\x1a\xe1" + bytes(100)
PROGRAM = b"TVqQ" + b"A" * 300


def hits(octets: bytes, name: str = "") -> set[str]:
    assert RULES is not None
    return {hit.rule for hit in RULES.look("1", (name,), octets)}


@pytest.mark.parametrize(
    ("rule", "octets", "name"),
    [
        ("EICAR_Test_File", EICAR, "x.txt"),
        ("EICAR_Test_File", b"before " + EICAR + b" behind", ""),
        ("Double_Extension", b"MZ", "invoice.pdf.exe"),
        ("Double_Extension", b"", "Invoice 2026.PDF      .SCR"),
        ("Double_Extension", b"", "photo.jpg.lnk"),
        ("Double_Extension", b"", "scan.docx.js" + 60 * " "),
        ("Double_Extension", b"", f"Books.pdf{26 * chr(0x2800)}.hta"),
        ("Double_Extension", b"", "invoice.pdf\u00a0\u00a0\t\u3000.exe"),
        ("Double_Extension", b"", "invoice.pdf-----\u200b.exe\u00a0"),
        ("Name_Turned_Around", b"", "invoice\u202efdp.exe"),
        ("Name_Turned_Around", b"", "invoice\u2067fdp.exe"),
        ("Name_Turned_Around", b"", "invoice\u202bfdp.js"),
        ("Name_Turned_Around", b"", "\u2068invoice\u2067fdp.exe\u2069"),
        ("Name_Turned_Around", b"", "\u202dinvoice\u202efdp.docm"),
        ("Macro_Dropper", AUTO + b"Sub AutoOpen() CreateObject(WScript.Shell)", "vbaProject.bin"),
        ("Macro_Dropper", b'Attribute VB_Name = "ThisDocument"\nSub Document_Open()\nShell "powershell"\n', "x.bas"),
        ("Macro_Dropper", b"_VBA_PROJECT".decode().encode("utf-16-le") + b" AutoOpen WScript.Shell", "x.doc"),
        ("Macro_Dropper", AUTO + b"\0Document_Open\0 URLDownloadToFileA \0", ""),
        ("Macro_Dropper", AUTO + b"\0\0" + "Workbook_Open powershell".encode("utf-16-le"), ""),
        ("Equation_Editor_Object", b"{\\rtf1{\\object\\objemb{\\*\\objclass Equation.3}", ""),
        ("Equation_Editor_Object", b"{\\rt{\\object 0 2ce02 02ce020000000000C000000000000046", ""),
        (
            "Equation_Editor_Object",
            OLE + "Equation.3".encode("utf-16-le"),
            "",
        ),
        ("HTML_Smuggling", JS + b"a.download = 'x.zip'; var x = atob('UEsDB'); a.click()</script>", "x.html"),
        ("HTML_Smuggling", b"<SCRIPT>navigator.msSaveOrOpenBlob(b, n); String.fromCharCode(1)</SCRIPT>", ""),
        (
            "HTML_Smuggling",
            b"<svg><script>a.href = 'data:application/zip,' + atob(x); a.click()</script>",
            "x.svg",
        ),
        ("HTML_Smuggling_Encoded_Program", b"<html><script>f(atob('" + PROGRAM + b"'))</script>", ""),
    ],
)
def test_shipped_rules_hit(rule: str, octets: bytes, name: str) -> None:
    assert rule in hits(octets, name)


@pytest.mark.parametrize(
    ("octets", "name"),
    [
        (EICAR[:-1], "eicar.txt"),
        (b"MZ", "setup.exe"),
        (b"x", "report.final.pdf"),
        (b"x", "v1.2.tar.gz"),
        (b"x", "notes.txt.pdf"),
        (b"x", "example.com"),
        (b"x", "\u0634\u0643\u0631\u0627.pdf"),
        (b"x", "\u2068Anna\u2069 Bericht.pdf"),
        (b"x", "\u202areport.pdf"),
        (b"x", "\u202b\u05d3\u05d5\u05d7\u202c.pdf"),
        (AUTO + b"Sub AutoOpen() MsgBox(Hello)", "vbaProject.bin"),
        (AUTO + b"Sub Helper() CreateObject(WScript.Shell)", "vbaProject.bin"),
        (b"Our attribute check in Workbook_Open fails. Attributes are set, powershell.exe runs", ""),
        (b"To install, open powershell in AutoOpen mode with WScript.Shell", "readme.txt"),
        (b"{\\rtf1 the Microsoft equation editor}", "x.rtf"),
        (b"Equation.3", "x.txt"),
        (b"<html><script>document.title = atob('eA==')</script>", "x.html"),
        (JS + b"img.src = a.href</script>", "picture.html"),
        (b"<html><script>a.download = 'x'; a.click()</script>", "x.html"),
        (b"<html><img src='data:image/png;base64," + PROGRAM + b"'>", "x.html"),
        (b"Content of a newsletter without any script, with the words Blob and atob", "x.txt"),
    ],
)
def test_shipped_rules_miss(octets: bytes, name: str) -> None:
    assert hits(octets, name) == set()


def test_a_name_behind_many_others_is_looked_at() -> None:
    """A part may have as many names as somebody writes; which one is shown depends on the reader."""
    assert RULES is not None
    names = tuple(f"{number}.txt" for number in range(30))
    found = RULES.look("1", (*names, "invoice.pdf.exe"), EICAR)
    assert {hit.rule for hit in found} == {"EICAR_Test_File", "Double_Extension"}


@pytest.mark.parametrize(
    "text",
    [
        b"They put <script> with atob( and navigator.msSaveOrOpenBlob( into an attachment",
        b'It begins with Attribute VB_Name = "x", then comes AutoOpen, which calls powershell',
    ],
)
def test_text_about_such_things_is_no_such_thing(text: bytes) -> None:
    """Nobody runs what stands in a text that is shown as text; an attachment may be opened as something else."""
    assert RULES is not None
    assert RULES.look("1", (), text, "text/plain") == []
    assert RULES.look("1", ("a.html",), text, "text/plain") and RULES.look("1", (), text, "text/html")


# ------------------------------------------------------------------ configuration


def configured(tmp_path: Path, **files: str) -> Any:
    (tmp_path / "policies" / "yara").mkdir(parents=True, exist_ok=True)
    for name, text in files.items():
        (tmp_path / "policies" / "yara" / f"{name}.yar").write_text(text)
    (tmp_path / "c.toml").write_text('[relay]\ndomains = "example.com"\n[scanners.yara]\nkind = "yara"\n')
    return build(read(str(tmp_path / "c.toml")))


def test_the_shipped_rules_are_in_force_without_a_warning(tmp_path: Path) -> None:
    found = configured(tmp_path)
    assert set(found.rules) == set(shipped()) and not [w for w in found.warnings if ".yar" in w.file]


def test_own_files_join_and_replace_the_shipped_ones(tmp_path: Path) -> None:
    found = configured(tmp_path, own=EVIL["own.yar"].decode(), eicar="")
    assert set(found.rules) == {*shipped(), "own.yar"} and found.rules["eicar.yar"] == b""
    assert found.hash != configured(tmp_path, own=EVIL["own.yar"].decode() + "\n").hash


def test_every_mistake_is_told_with_its_place(tmp_path: Path) -> None:
    with pytest.raises(ConfigError) as caught:
        configured(
            tmp_path,
            bad="rule A {\n  condition:\n    nobody\n}\n",
            worse="rule B { condition: $x }",
            inc='include "/etc/passwd"',
        )
    told = [str(mistake) for mistake in caught.value.mistakes]
    folder = tmp_path / "policies" / "yara"
    assert any(line.startswith(f"{folder}/bad.yar:3:5: YARA: unknown identifier `nobody`") for line in told), told
    assert any(line.startswith(f"{folder}/worse.yar:1:21: YARA: unknown pattern `$x`") for line in told)
    assert any(line.startswith(f"{folder}/inc.yar:1:") for line in told)


def test_without_such_a_scanner_rules_are_not_read(tmp_path: Path) -> None:
    configured(tmp_path, bad="")
    (tmp_path / "policies" / "yara" / "bad.yar").write_text("rule {")
    (tmp_path / "c.toml").write_text('[relay]\ndomains = "example.com"\n')
    assert build(read(str(tmp_path / "c.toml"))).rules == {}


def test_without_the_library_it_is_a_mistake(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("appliance.config.yara.yara_x", None)
    with pytest.raises(ConfigError, match=r"pip install 'postgate\[yara\]'"):
        configured(tmp_path)
