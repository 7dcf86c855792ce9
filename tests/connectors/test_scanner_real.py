"""The connectors with a real clamd and a real spamd."""

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from appliance.config.values import parse_peer
from appliance.connectors import icap as icap_connector
from appliance.connectors.checkup import Checkup
from appliance.connectors.conversation import Server
from appliance.connectors.dialects import Inside
from appliance.connectors.scanner import Scanner, Settings
from appliance.connectors.source import TRACE, Octets
from appliance.mail.edits import Edit
from appliance.mail.inspection import Inspection, Part, Report
from tests.connectors.scanner_peer import context
from tests.connectors.test_scanner_rspamd import full
from tests.peers import clamd, icap, rspamd, spamd
from tests.peers.clamd import EICAR, Clamd, eicar_mail, padded
from tests.peers.icap import CIcap
from tests.peers.rspamd import Rspamd
from tests.peers.spamd import GTUBE, Spamd

pytestmark = [pytest.mark.peer]
HAM = (
    TRACE
    + b"From: <a@example.org>\r\nTo: <b@example.com>\r\nSubject: the minutes\r\n\r\nDear Bob, see you next week.\r\n"
)


def make(kind: str, address: str) -> Scanner:
    peer = parse_peer(address)
    return Scanner(Settings("x", kind, (Server(peer.path, peer.host, peer.port),), 30.0))


@pytest.fixture(scope="module")
def av(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Clamd]:
    if not clamd.available():
        pytest.skip("Debian package clamav-daemon is not installed")
    server = Clamd(tmp_path_factory.mktemp("clamd") / "x", stream_max="3M").start()
    yield server
    server.stop()


@pytest.fixture(scope="module")
def judge(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Spamd]:
    if not spamd.available():
        pytest.skip("Debian package spamd is not installed")
    server = Spamd(Path(tmp_path_factory.mktemp("spamd")) / "x").start()
    yield server
    server.stop()


async def test_c7_clamd_finds_what_a_mail_carries(av: Clamd) -> None:
    for address in (av.address, f"127.0.0.1:{av.port}"):
        scanner = make("clamd", address)
        assert (await scanner.scan(Octets(HAM), context())).kind == "clean"
        found = await scanner.scan(Octets(TRACE + eicar_mail()), context())
        assert (found.kind, found.names) == ("infected", ("Eicar-Test-Signature.UNOFFICIAL",))


async def test_c7_the_limit_of_clamd_is_learned(av: Clamd) -> None:
    scanner = make("clamd", av.address)
    large = Octets(HAM + b"x" * (3 * 1024 * 1024))
    assert (await scanner.scan(large, context())).kind == "oversize", "by its own answer, in the middle of the content"
    assert not scanner.limit_known
    test = Checkup(scanner, 52428800, eicar=True)
    await test.run()
    assert scanner.limit == 3 * 1024 * 1024
    assert test.tested.startswith("found") and set(scanner.condition.wrong) == {"size"}
    assert (await scanner.scan(Octets(large.octets[: scanner.limit]), context())).kind == "clean"
    before = scanner._answers
    assert (await scanner.scan(Octets(large.octets[: scanner.limit + 1]), context())).kind == "oversize"
    assert scanner._answers == before, "it was not even sent"


async def test_spamd_scores(judge: Spamd) -> None:
    scanner = make("spamd", judge.address)
    ham = await scanner.scan(Octets(HAM), context())
    assert ham.kind == "clean" and ham.score < ham.threshold and ham.names
    spam = await scanner.scan(Octets(HAM.replace(b"Dear Bob", GTUBE)), context())
    assert spam.kind == "spam" and spam.score > 900 and "GTUBE" in spam.names
    large = Octets(HAM + b"x" * 600_000)
    assert (await scanner.scan(large, context())).kind == "oversize"


async def test_c1_clamd_finds_what_only_a_part_shows(av: Clamd) -> None:
    """Where clamd's own reader of mail stops, a reader that goes on finds what it is to find."""
    scanner = make("clamd", av.address)
    assert (await scanner.scan(Octets(TRACE + eicar_mail(body=padded())), context())).kind == "clean"
    parts = (Part("1", body=(0, 4)), Part("2", names=("x.com",), body=(4, len(EICAR)), flags=("alternate",)))
    found = await scanner.scan_parts(Inspection(Report(parts=parts), b"text" + EICAR), context(), 9, 1 << 20)
    assert [(result.kind, result.evidence) for result in found] == [("infected", {"part": "2"}), ("clean", {"parts": 1})]


async def test_clamd_says_which_signatures_it_has(av: Clamd) -> None:
    scanner = make("clamd", av.address)
    await scanner.scan(Octets(HAM), context())
    await scanner.learn_versions()
    assert scanner._versions[0].startswith("ClamAV ")
    await scanner.scan(Octets(HAM), context())
    assert await scanner.learn_versions() is None and len(scanner._known) == 1


@pytest.fixture(scope="module")
def judge2(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Rspamd]:
    if not rspamd.available():
        pytest.skip("Debian package rspamd is not installed")
    server = Rspamd(tmp_path_factory.mktemp("rs") / "x").start()
    yield server
    server.stop()


async def test_rspamd_decides(judge2: Rspamd) -> None:
    for address in judge2.addresses:
        scanner = make("rspamd", address)
        ham = await scanner.scan(Octets(HAM), full())
        assert (ham.kind, ham.action, ham.threshold) == ("clean", "no action", 15.0) and "TOLD" in ham.names
        told = "ann@example.org eve@example.com 192.0.2.1 mail.example.org%0D%0AX: y mail.example.org Q123"
        assert ham.edits == (Edit("delete", "X-Remove-Me", "", 0), Edit("append", "X-Told", told))
        spam = await scanner.scan(Octets(HAM.replace(b"Dear Bob", GTUBE)), full())
        assert (spam.kind, spam.action) == ("spam", "reject") and "GTUBE" in spam.names
        marked = await scanner.scan(Octets(HAM.replace(b"Subject: ", b"Subject: LOUD ")), full())
        assert (marked.kind, marked.action, round(marked.score)) == ("spam", "add header", 7)
        later = await scanner.scan(Octets(HAM.replace(b"Subject: ", b"Subject: LATER ")), full())
        assert (later.kind, later.action, later.why) == ("clean", "soft reject", "Come back later")
        large = await scanner.scan(Octets(HAM + b"x" * 3_000_000), full())
        assert large.kind == "clean"
        scanner.close()


async def test_rspamd_wants_a_password(judge2: Rspamd) -> None:
    server = (Server(host="127.0.0.1", port=judge2.controller),)
    for password, kind in ((b"", "error"), (b"wrong", "error"), (b"geheim", "clean")):
        scanner = Scanner(Settings("x", "rspamd", server, 10.0), inside=Inside(secrets={"x": password}))
        found = await scanner.scan(Octets(HAM), context())
        assert found.kind == kind and "geheim" not in found.why, found
        scanner.close()


@pytest.fixture
def services(av: Clamd, tmp_path: Path) -> Iterator[CIcap]:
    if not icap.available():
        pytest.skip("Debian packages c-icap and libc-icap-mod-virus-scan are not installed")
    server = CIcap(tmp_path / "c-icap", av)
    yield server
    server.stop()


@pytest.mark.parametrize("method", ["respmod", "reqmod"])
async def test_c_icap_asks_clamd_for_us(services: CIcap, method: Any) -> None:
    server = (Server(host="127.0.0.1", port=services.port),)
    scanner = Scanner(Settings("x", "icap", server, 20.0, options=icap_connector.Options("avscan", method)))
    assert (await scanner.scan(Octets(HAM), context())).kind == "clean"
    found = await scanner.scan(Octets(TRACE + eicar_mail()), context())
    assert found.kind == "infected" and found.names[0].startswith("Eicar-Test-Signature"), found
    large = Octets(HAM + b"x" * 2_000_000)
    assert (await scanner.scan(large, context())).kind == "clean"
    test = Checkup(scanner, 52428800, eicar=True)
    await test.run()
    assert test.tested.startswith("found"), test.tested
    part = await scanner.trial_part(EICAR)
    assert part.kind == "infected"
    scanner.close()


async def test_d2_a_c_icap_that_was_started_before_its_clamd_has_not_scanned(tmp_path: Path) -> None:
    """It says 204 to everything, EICAR too, and never looks for clamd again."""
    if not icap.available():
        pytest.skip("Debian packages c-icap and libc-icap-mod-virus-scan are not installed")
    blind = CIcap(tmp_path / "c-icap", "unix:/nonexistent/clamd.sock")
    server = (Server(host="127.0.0.1", port=blind.port),)
    scanner = Scanner(Settings("x", "icap", server, 20.0, options=icap_connector.Options("avscan")))
    found = await scanner.scan(Octets(TRACE + eicar_mail()), context())
    assert found.kind == "error" and "no antivirus engine" in found.why, found
    scanner.close()
    blind.stop()


async def test_c_icap_echoes(services: CIcap) -> None:
    """Its echo service finds nothing, in every way that it has to say so."""
    server = (Server(host="127.0.0.1", port=services.port),)
    scanner = Scanner(Settings("x", "icap", server, 20.0, options=icap_connector.Options("echo")))
    for octets in (HAM, HAM + b"x" * 5000, HAM + b"x" * 1_000_000):
        assert (await scanner.scan(Octets(octets), context())).kind == "clean"
    assert scanner._dialect._kept.used_again >= 2  # type: ignore[attr-defined]
    missing = Scanner(Settings("x", "icap", server, 20.0, options=icap_connector.Options("nothing-here")))
    found = await missing.scan(Octets(HAM), context())
    assert found.kind == "error" and "404" in found.why
    scanner.close()
    missing.close()
