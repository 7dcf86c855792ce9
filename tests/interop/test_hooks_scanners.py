"""The recipes of docs/hooks.md about scanners, as they stand there, with other ports and folders; amavisd, a program and
YARA rules behind a whole gateway."""

import base64
import shutil
import tempfile
from collections.abc import Callable
from pathlib import Path

import pytest

from tests.daemons.scand.test_scand_archives import zipped
from tests.faults.senders import talk
from tests.interop.test_hooks_policy import recipe
from tests.interop.test_real_scanners import HAM
from tests.peers import amavis, icap, rspamd
from tests.peers.amavis import Amavis
from tests.peers.clamd import Clamd, eicar_mail
from tests.peers.gateway import ZONE, Gateway
from tests.peers.icap import CIcap
from tests.peers.inner import Inner
from tests.peers.policies import plain
from tests.peers.ports import wait_for
from tests.peers.rspamd import Rspamd
from tests.peers.spamd import GTUBE

pytestmark = pytest.mark.peer
SCANNED = plain(message='["size", "loop", ["antivirus", "antispam"]]')


def written(folder: Path, inner: Inner, name: str, changes: dict[str, str], path: str = "") -> Gateway:
    """The gateway of a recipe, started; its wiring with these changes. `path`: where Python finds modules."""
    made = Gateway(Path(tempfile.mkdtemp(dir=folder)), inner.port, zone=ZONE, policies=SCANNED)
    made.path = path or made.path
    wiring = recipe(name).replace("/var/lib/postgate", "state").replace("[gateway]\n", '[gateway]\ndrop = "off"\n')
    changes = {"0.0.0.0:25": f"127.0.0.1:{made.port}", "10.0.0.25]:25": f"127.0.0.1]:{inner.port}", **changes}
    for old, new in changes.items():
        assert old in wiring, old
        wiring = wiring.replace(old, new)
    made.config.write_text(wiring + '[dns]\nnameservers = ["127.0.0.1:9"]\nzone = "zone"\n')
    checked = made.cli("check")
    assert checked.returncode == 0, checked.stdout
    return made.start()


def test_postgate_before_rspamd(tmp_path: Path, inner: Inner) -> None:
    if not rspamd.available():
        pytest.skip("Debian package rspamd is not installed")
    judge = Rspamd(tmp_path / "rspamd").start()
    gateway = written(tmp_path, inner, "before-rspamd", {"127.0.0.1:11333": judge.addresses[0]})
    try:
        assert talk(gateway.port, HAM, "bob@example.com")[0] == "accepted"
        [ham] = inner.wait(1)
        told = b"sender@example.org bob@example.com 127.0.0.1 sender.example.org client.example.org"
        assert b"\r\nX-Told: " + told in ham.content
        assert b"X-Postgate-Spam: no, score=" in ham.content
        spam = talk(gateway.port, HAM.replace(b"Dear Bob,", GTUBE), "bob@example.com")
        assert spam[0] == "refused" and spam[1].startswith("550 5.7.1") and "rspamd" not in spam[1].lower()
        assert talk(gateway.port, HAM.replace(b"Subject: ", b"Subject: LOUD "), "bob@example.com")[0] == "accepted"
        assert b"X-Postgate-Mark: antispam=spam" in inner.wait(2)[1].content
        later = talk(gateway.port, HAM.replace(b"Subject: ", b"Subject: LATER "), "bob@example.com")
        assert later[1].startswith("451 4.7.1"), later
        judge.stop()
        assert talk(gateway.port, HAM.replace(b"Ann\r\n", b"Ann 2\r\n"), "bob@example.com")[0] == "accepted"
        assert b"X-Postgate-Mark: antispam=error" in inner.wait(3)[2].content
        assert "scanner rspamd (rspamd)" in gateway.cli("status", check=False).stdout
    finally:
        gateway.stop()
        judge.stop()


def test_postgate_and_an_icap_antivirus(tmp_path: Path, inner: Inner, av: Clamd) -> None:
    if not icap.available():
        pytest.skip("Debian packages c-icap and libc-icap-mod-virus-scan are not installed")
    services = CIcap(tmp_path / "c-icap", av)
    gateway = written(tmp_path, inner, "icap", {"127.0.0.1:1344": f"127.0.0.1:{services.port}"})
    try:
        assert talk(gateway.port, HAM, "bob@example.com")[0] == "accepted"
        assert inner.wait(1)[0].content.endswith(HAM)
        kind, reply = talk(gateway.port, eicar_mail(), "bob@example.com")
        assert kind == "refused" and reply.startswith("550 5.7.1") and "eicar" not in reply.lower()
        gateway.wait_log("Eicar-Test-Signature")
        services.stop()
        kind, reply = talk(gateway.port, HAM.replace(b"Ann\r\n", b"Ann 2\r\n"), "bob@example.com")
        assert kind == "refused" and reply.startswith("451 4.3.2")
    finally:
        gateway.stop()
        services.stop()
    assert len(inner.messages) == 1


def test_amavisd_judges_by_am_pdp(gateway: Callable[..., Gateway], tmp_path: Path, inner: Inner, av: Clamd) -> None:
    if not amavis.available():
        pytest.skip("Debian package amavisd-new is not installed, or we are not root")
    root = Path(tempfile.mkdtemp(dir="/tmp", prefix="pg-am"))
    judge = Amavis(root / "amavis", av)
    more = f'[scanners.amavis]\nkind = "amavis"\naddress = "127.0.0.1:{judge.port}"\nfolder = "{judge.folder}"\n'
    made = gateway(policies=SCANNED, more=more)
    try:
        log = judge.root / "home" / "amavis.log"
        assert talk(made.port, HAM, "bob@example.com")[0] == "accepted", log.read_text()[-2000:]
        [ham] = inner.wait(1)
        assert b"X-Virus-Scanned: " in ham.content, "amavisd's own field"
        assert b"X-Amavis-Alert" not in ham.content, "it finds nothing wrong with its line ends"
        kind, reply = talk(made.port, eicar_mail(), "bob@example.com")
        assert kind == "refused" and reply.startswith("550 5.7.1"), (reply, log.read_text()[-3000:])
        made.wait_log("INFECTED")
        # What amavisd cannot take apart to the end, it shows its virus scanners whole: by a hard link to our file.
        nested = b"".join(b'Content-Type: multipart/mixed; boundary="%d"\r\n\r\n--%d\r\n' % (n, n) for n in range(120))
        deep = HAM.partition(b"Content-Type")[0] + nested + b"Content-Type: text/plain\r\n\r\ndeep\r\n"
        assert talk(made.port, deep, "bob@example.com")[0] == "accepted", log.read_text()[-2000:]
        judge.stop()
        kind, reply = talk(made.port, HAM.replace(b"Ann\r\n", b"Ann 2\r\n"), "bob@example.com")
        assert kind == "refused" and reply.startswith("451 4.3.2")
        wait_for(lambda: not list(judge.folder.iterdir()), 10, "the folder of amavisd to be empty again")
    finally:
        made.stop()
        judge.stop()
        shutil.rmtree(root, ignore_errors=True)


#: As in Debian's 01-debian: without file(1) amavisd knows no archive.
FILE = "$path = '/usr/bin:/bin';\n$file = 'file';\n"
#: A zip archive whose one member is encrypted, as its flags say.
LOCKED = b"PK\3\4\x14\0\1\0\0\0\0\0!\x59" + b"\x12\x34\x56\x78" + b"\x14\0\0\0\x08\0\0\0\x05\0\0\0a.txt" + b"\xa7" * 20
LOCKED += b"PK\1\2\x14\0\x14\0\1\0\0\0\0\0!\x59" + b"\x12\x34\x56\x78" + b"\x14\0\0\0\x08\0\0\0\x05\0\0\0"
LOCKED += bytes(14) + b"a.txt" + b"PK\5\6\0\0\0\0\1\0\1\0\x33\0\0\0\x37\0\0\0\0\0"
CATEGORY = "$allowed_added_header_fields{lc('X-Amavis-Category')} = 1;\n"
#: Its virus scanner is not there.
FAILS = "$av_scanners[0][2][1] = '127.0.0.1:9';\n"
MANY = zipped(**{f"{number}.txt": b"text %d" % number for number in range(20)})


@pytest.mark.parametrize(
    ("archive", "local", "more", "sign"),
    [
        (LOCKED, ".example.com", "", "tag ***UNCHECKED***"),
        (MANY, ".example.net", "$MAXFILES = 5;\n", "amavisd: Maximum number of files"),
        (zipped(x=b"x"), ".example.com", FAILS, "tag ***UNCHECKED***"),
        (LOCKED, ".example.net", CATEGORY, "UncheckedEncrypted"),
    ],
)
def test_what_amavisd_could_not_check_is_not_clean(
    gateway: Callable[..., Gateway],
    tmp_path: Path,
    inner: Inner,
    av: Clamd,
    archive: bytes,
    local: str,
    more: str,
    sign: str,
) -> None:
    """Its own default says so for its local recipients; for others the setting that docs/content.md names."""
    if not amavis.available():
        pytest.skip("Debian package amavisd-new is not installed, or we are not root")
    assert more != CATEGORY or f"```text amavisd-unchecked\n{CATEGORY}```" in Path("docs/content.md").read_text()
    root = Path(tempfile.mkdtemp(dir="/tmp", prefix="pg-am"))
    judge = Amavis(root / "amavis", av, more=f"{FILE}@local_domains_maps = (['{local}']);\n{more}")
    wired = f'[scanners.amavis]\nkind = "amavis"\naddress = "127.0.0.1:{judge.port}"\nfolder = "{judge.folder}"\n'
    made = gateway(policies=SCANNED, more=wired)
    try:
        part = b"Content-Type: application/zip\r\nContent-Transfer-Encoding: base64\r\n\r\n"
        mail = HAM.partition(b"Content-Type")[0] + part + base64.encodebytes(archive).replace(b"\n", b"\r\n")
        mail = mail.replace(b"Subject: ", "Subject: *** \u00e4 ".encode())
        assert talk(made.port, mail, "bob@example.com")[0] == "accepted"
        made.wait_log(sign)
        if more == FAILS:
            return
        assert talk(made.port, HAM, "bob@example.com")[0] == "accepted"
        [ham] = inner.wait(1)
        assert b"minutes of our meeting below" in ham.content, "the other one is in quarantine"
    finally:
        made.stop()
        judge.stop()
        shutil.rmtree(root, ignore_errors=True)


def test_a_program_and_yara_rules(gateway: Callable[..., Gateway], tmp_path: Path, inner: Inner) -> None:
    """Two virus scanners: any finds, all must answer."""
    pytest.importorskip("yara_x", reason="the extra yara is not installed")
    program = tmp_path / "av.sh"
    program.write_text('#!/bin/sh\ngrep -q EVIL "$1" && { echo "$1: Evil.A FOUND"; exit 1; }\nexit 0\n')
    program.chmod(0o755)
    more = f'[scanners.program]\nkind = "command"\ncommand = ["{program}", "{{file}}"]\npattern = ": (.+) FOUND$"\n'
    more += 'exit_codes = { "0" = "clean", "1" = "infected" }\n[scanners.rules]\nkind = "yara"\n'
    made = gateway(policies=SCANNED, more=more)
    assert talk(made.port, HAM, "bob@example.com")[0] == "accepted"
    assert len(inner.wait(1)) == 1
    assert talk(made.port, HAM + b"EVIL\r\n", "bob@example.com")[1].startswith("550 5.7.1")
    made.wait_log("Evil.A")
    assert talk(made.port, eicar_mail(), "bob@example.com")[1].startswith("550 5.7.1")
    made.wait_log("EICAR_Test_File")
    program.unlink()
    kind, reply = talk(made.port, HAM.replace(b"Ann\r\n", b"Ann 2\r\n"), "bob@example.com")
    assert kind == "refused" and reply.startswith("451 4.3.2"), "all must answer"
    status = made.cli("status", check=False).stdout
    assert "runner.0" in status and "scanner program (command)" in status and "scanner rules (yara)" in status
    wait_for(lambda: not list((made.root / "state" / "scans").iterdir()), 10, "no message to be left")


def test_a_password_comes_from_a_file_and_stays_out_of_sight(
    gateway: Callable[..., Gateway], tmp_path: Path, inner: Inner
) -> None:
    """The controller of rspamd wants one; the file may change while the gateway runs."""
    if not rspamd.available():
        pytest.skip("Debian package rspamd is not installed")
    judge = Rspamd(tmp_path / "rspamd").start()
    secret = tmp_path / "password"
    secret.write_text("wrong\n")
    secret.chmod(0o600)
    more = f'[scanners.rspamd]\nkind = "rspamd"\naddress = "127.0.0.1:{judge.controller}"\npassword_file = "{secret}"\n'
    made = gateway(policies=SCANNED, more=more)
    try:
        assert talk(made.port, HAM, "bob@example.com")[0] == "accepted"
        assert b"X-Postgate-Mark: antispam=error" in inner.wait(1)[0].content
        secret.write_text("geheim\n")

        def well() -> bool:
            before = len(inner.messages)
            assert talk(made.port, HAM, "bob@example.com")[0] == "accepted"
            return b"X-Postgate-Mark" not in inner.wait(before + 1)[before].content

        wait_for(well, 30, "the new password to be in force")
        assert "geheim" not in made.log() + made.cli("status", check=False).stdout + made.cli("check").stdout
        made.stop()  # files of the queue come and go until then
        left = [path for path in (made.root / "state").rglob("*") if path.is_file() and b"geheim" in path.read_bytes()]
        assert left == []
    finally:
        made.stop()
        judge.stop()
