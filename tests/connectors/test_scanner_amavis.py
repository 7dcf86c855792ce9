"""amavisd as a scanner, with a scripted server and a real runner between: what is told, what is made of the answer."""

import asyncio
import re
from pathlib import Path

import pytest

from appliance.config.blob import read
from appliance.config.snapshot import build
from appliance.connectors.conversation import Server
from appliance.connectors.dialects import Inside
from appliance.connectors.scanner import Scanner, Settings
from appliance.mail.edits import Edit
from tests.connectors.scanner_peer import MAIL, Message, context
from tests.connectors.test_scanner_rspamd import full
from tests.daemons.test_runner import Stage, script, until
from tests.peers import hostile
from tests.peers.good_scanners import CONTINUE as CLEAN
from tests.peers.good_scanners import read_amavis as read_request
from tests.peers.hostile import FAULTS, Good, Hostile


class Amavis:
    """A runner that lends files to a scripted amavisd."""

    def __init__(self, tmp_path: Path, peer: Hostile, timeout: float = 5.0, second: Hostile | None = None) -> None:
        self.shared = tmp_path / "amavis"
        self.shared.mkdir(exist_ok=True)
        self.stage = Stage(tmp_path, y={"command": script("pass")})
        text = f'[relay]\ndomains = "example.com"\n[scanners.am]\nkind = "amavis"\nfolder = "{self.shared}"\n'
        (tmp_path / "c.toml").write_text(f'{text}address = "127.0.0.1:{peer.port}"\n')
        lending = build(read(str(tmp_path / "c.toml")))
        self.stage.runner.prepare(lending)
        self.stage.runner.commit(lending)
        servers = tuple(Server(host="127.0.0.1", port=one.port) for one in (peer, second) if one is not None)
        settings = Settings("am", "amavis", servers, timeout)
        self.scanner = Scanner(settings, inside=Inside(self.stage.asking), rest=30.0 if second else 0.0)

    async def __aenter__(self) -> "Amavis":
        await self.stage.__aenter__()
        return self

    async def __aexit__(self, *_: object) -> None:
        await self.stage.__aexit__()


async def test_all_that_amavisd_is_told(tmp_path: Path) -> None:
    heard: list[str] = []
    octets = b""

    async def look(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        nonlocal octets
        heard[:] = (await reader.readuntil(b"\r\n\r\n")).decode().split("\r\n")
        octets = Path(dict(line.split("=", 1) for line in heard if line)["mail_file"]).read_bytes()

    async with Hostile(Good(look, CLEAN)) as peer, Amavis(tmp_path, peer) as amavis:
        found = await amavis.scanner.scan(Message(), full())
        assert (found.kind, found.action) == ("clean", "continue")
        assert octets == MAIL.replace(b"\r\n", b"\n")
        folder = heard[10].removeprefix("tempdir=")
        assert folder.startswith(str(amavis.shared))
        assert heard == [
            "request=AM.PDP",
            "sender=<ann@example.org>",
            "recipient=<bob@example.com>",
            "recipient=<eve@example.com>",
            "protocol_name=ESMTP",
            "helo_name=mail.example.org%0d%0aX:%20y",
            "client_address=192.0.2.1",
            "client_name=mail.example.org",
            "policy_bank=ORIGINATING",
            "queue_id=Q123",
            f"tempdir={folder}",
            "tempdir_removed_by=client",
            f"mail_file={folder}/email.txt",
            "delivery_care_of=client",
            "",
            "",
        ]
        await until(lambda: not list(amavis.shared.iterdir()))


@pytest.mark.parametrize(
    ("answer", "kind", "action", "names"),
    [
        (CLEAN, "clean", "continue", ()),
        (b"return_value=accept\r\n\r\n", "clean", "accept", ()),
        (b"setreply=554 5.7.0 Reject,%20id=1-1%20-%20INFECTED:%20Eicar-Signature\r\nreturn_value=reject\r\n\r\n",
         "infected", "reject", ("Eicar-Signature",)),
        (b"setreply=250 2.7.0 Ok,%20discarded,%20id=1%20-%20INFECTED:%20A\r\nreturn_value=discard\r\n\r\n",
         "infected", "discard", ("A",)),
        (b"setreply=554 5.7.0 Reject,%20id=1-1%20-%20spam\r\nreturn_value=reject\r\n\r\n", "spam", "reject", ()),
        (b"setreply=250 2.7.0 Ok,%20discarded,%20UBE\r\nreturn_value=discard\r\n\r\n", "spam", "discard", ()),
        (b"return_value=continue\r\nquarantine=because\r\n\r\n", "clean", "quarantine", ()),
        (b"setreply=451 4.5.0 Error\r\nreturn_value=tempfail\r\n\r\n", "error", "", ()),
        (b"return_value=clean\r\n\r\n", "error", "", ()),
        (b"chgheader=1 Subject %20***UNCHECKED***%20x\r\n" + CLEAN, "unscannable", "continue", ()),
        (b"chgheader=1 Subject =?UTF-8?Q?=2A**UNCHECKED***_=C3=A4?=\r\n" + CLEAN, "unscannable", "continue", ()),
        (b"chgheader=1 Subject =?UTF-8?B?KioqVU5DSEVDS0VEKioqIMOk?=\r\n" + CLEAN, "unscannable", "continue", ()),
        (b"addheader=Subject ***UNCHECKED***\r\n" + CLEAN, "unscannable", "continue", ()),
        (b"insheader=1 X-Amavis-Hold Maximum%20decoding%20depth\r\n" + CLEAN, "unscannable", "continue", ()),
        (b"insheader=1 X-Amavis-Category mx;%20category=UncheckedEncrypted\r\n" + CLEAN,
         "unscannable", "continue", ()),
        (b"setreply=554 5.7.0 Reject,%20id=1%20-%20UNCHECKED:%20encrypted\r\nreturn_value=reject\r\n\r\n",
         "unscannable", "reject", ()),
        (b"chgheader=1 Subject ***SPAM***%20***UNCHECKED***%20x\r\n" + CLEAN, "clean", "continue", ()),
        (b"chgheader=1 Subject =?UTF-8?B?K?=\r\n" + CLEAN, "clean", "continue", ()),
        (b"delheader=1 X-Amavis-Hold\r\n" + CLEAN, "clean", "continue", ()),
        (b"insheader=1 X-Amavis-Category mx;%20category=Clean\r\n" + CLEAN, "clean", "continue", ()),
    ],
)  # fmt: skip
async def test_every_answer(tmp_path: Path, answer: bytes, kind: str, action: str, names: tuple[str, ...]) -> None:
    async with Hostile(Good(read_request, answer)) as peer, Amavis(tmp_path, peer) as amavis:
        found = await amavis.scanner.scan(Message(), context())
    assert (found.kind, found.action, found.names) == (kind, action, names), found


async def test_edits(tmp_path: Path) -> None:
    lines = b"delheader=2 X-A\r\nchgheader=1 Subject [S]%20x\r\ninsheader=1 X-B b\r\naddheader=X-C c\r\n"
    lines += b"delrcpt=<a@example.com>\r\naddrcpt=<a+spam@example.com>\r\n"
    async with Hostile(Good(read_request, lines + CLEAN)) as peer, Amavis(tmp_path, peer) as amavis:
        found = await amavis.scanner.scan(Message(), context())
    assert found.edits == (
        Edit("delete", "X-A", "", 2),
        Edit("change", "Subject", "[S] x", 1),
        Edit("prepend", "X-B", "b"),
        Edit("append", "X-C", "c"),
        Edit("delete_recipient", "", "a@example.com"),
        Edit("add_recipient", "", "a+spam@example.com"),
    )


@pytest.mark.parametrize("fault", FAULTS)
async def test_a_fault_is_an_error_in_bounded_time_and_passes(tmp_path: Path, fault: str) -> None:
    """The list of all connectors; and no file is left with anybody."""
    async with Hostile(Good(read_request, CLEAN), FAULTS[fault]) as peer, Amavis(tmp_path, peer, 0.5) as amavis:
        found = await amavis.scanner.scan(Message(), context("T7"))
        assert found.kind == "error" and found.seconds < 5 and str(peer.port) in found.why, found
        assert re.search(r"\d\.\d s\)|within \d", found.why), found.why
        assert amavis.scanner.condition.facts()["state"] == "degraded"
        assert "1 (last: T7)" in amavis.scanner.condition.facts()["not scanned"]
        await peer.be(None)
        await peer.be(hostile.answers)
        async with asyncio.timeout(10):
            while (await amavis.scanner.scan(Message(), context())).kind != "clean":
                await asyncio.sleep(0.01)
        await until(lambda: not list(amavis.shared.iterdir()))


@pytest.mark.parametrize("fault", ["hangs_at_once", "hangs_behind_the_question", "hangs_in_its_answer", "too_late"])
async def test_the_next_server_answers_where_one_hangs(tmp_path: Path, fault: str) -> None:
    """In a share of the time; who hung is asked last then, and what it was lent is taken back."""
    good = Good(read_request, CLEAN)
    async with Hostile(good, FAULTS[fault]) as hung, Hostile(good) as well, Amavis(tmp_path, hung, 3.0, well) as amavis:
        found = await amavis.scanner.scan(Message(), context())
        assert found.kind == "clean" and 1.2 < found.seconds < 2.9, found
        for number in range(3):
            assert (await amavis.scanner.scan(Message(MAIL + b"%d" % number), context())).kind == "clean"
        assert (hung.connections, well.connections) == (1, 4)
        await until(lambda: not list(amavis.shared.iterdir()))


async def test_a_folder_that_is_not_there(tmp_path: Path) -> None:
    async with Hostile(Good(read_request, CLEAN)) as peer, Amavis(tmp_path, peer) as amavis:
        amavis.shared.rmdir()
        found = await amavis.scanner.scan(Message(), context())
    assert found.kind == "error" and "No such file" in found.why and peer.connections == 0


async def test_one_octet_at_a_time_is_an_answer(tmp_path: Path) -> None:
    async with Hostile(Good(read_request, CLEAN), hostile.trickles) as peer, Amavis(tmp_path, peer, 10.0) as amavis:
        assert (await amavis.scanner.scan(Message(), context())).kind == "clean"


async def test_others_do_not_notice(tmp_path: Path) -> None:
    """One amavisd hangs: who asks another gets an answer at once."""
    good = Good(read_request, CLEAN)
    for name in ("slow", "quick"):
        (tmp_path / name).mkdir()
    async with (
        Hostile(good, hostile.hangs_at_once) as bad,
        Hostile(good) as well,
        Amavis(tmp_path / "slow", bad) as slow,
        Amavis(tmp_path / "quick", well) as quick,
    ):
        waiting = asyncio.create_task(slow.scanner.scan(Message(), context("T1")))
        assert (await quick.scanner.scan(Message(), context("T2"))).kind == "clean"
        assert not waiting.done()
        waiting.cancel()
