"""Whether a scanner does what it is there for, tried by ourselves: virus scanners must find the EICAR test file inside a
base64 attachment and as a part on its own, and should take mail as large as we do (threats C7).

Contract: goes the way that mail goes, through the scanner's own connector. A test that fails, or could not be made, is an
alarm: an error in the operators' log, a metric, a degraded state; it does not stop mail by itself. Hourly, and every
minute while something is wrong.
"""

import asyncio
import base64

import msgspec

from appliance.connectors import clamd, dialects
from appliance.connectors.conversation import NoAnswer
from appliance.connectors.scanner import Scanner
from appliance.connectors.source import TRACE, Octets
from appliance.observe import metrics, oplog
from appliance.protocol.errors import ProtocolError

log = oplog.get("scanner")
#: Seconds between two checkups, and while something is wrong.
EVERY, AGAIN = 3600.0, 60.0
_found = metrics.gauge("postgate_scanner_eicar_found", "1 if the last self-test found EICAR, 0 if not.", ["scanner"])
_tests = metrics.counter("postgate_scanner_selftests_total", "EICAR self-tests by result.", ["scanner", "kind"])
#: In two pieces, so that no scanner takes this file for the test file.
_EICAR = b"X5O!P%@AP[4\\PZX54(P^)7CC)7}$" + b"EICAR-STANDARD-ANTIVIRUS-TEST-FILE!$H+H*"


def eicar_mail() -> Octets:
    """EICAR as a base64 attachment: only who reads mail as mail finds it."""
    return Octets(
        TRACE + b"From: <postmaster@localhost>\r\nTo: <postmaster@localhost>\r\nSubject: self-test\r\n"
        b'MIME-Version: 1.0\r\nContent-Type: multipart/mixed; boundary="self-test"\r\n\r\n'
        b"--self-test\r\nContent-Type: text/plain\r\n\r\nThe attachment is the EICAR test file.\r\n"
        b'--self-test\r\nContent-Type: application/octet-stream; name="eicar.com"\r\n'
        b"Content-Transfer-Encoding: base64\r\n\r\n"
        + base64.encodebytes(_EICAR).replace(b"\n", b"\r\n")
        + b"--self-test--\r\n"
    )


class Checkup:
    """Of one scanner. `wanted`: octets of the largest message that we take, 0 = any. `eicar`: this process tests."""

    def __init__(self, scanner: Scanner, wanted: int, *, eicar: bool) -> None:
        self.scanner, self.wanted, self._eicar = scanner, wanted, eicar and scanner.kind in dialects.SCAN_FOR_VIRUSES
        self._last: float | None = None
        self._well = False
        self.tested = ""

    def wait(self, now: float) -> float:
        """Seconds until it is due."""
        if self._last is None:
            return 0.0
        pause = EVERY if self._well and self.scanner.limit_known else AGAIN
        return max(0.0, self._last + pause - now)

    async def run(self) -> None:
        """Never raises."""
        try:
            known = await self._limits()
            self._well = (not self._eicar or await self._test()) and known
        except Exception:
            log.exception("a checkup failed by a mistake of ours", scanner=self.scanner.name)
            self._well = False
        self._last = asyncio.get_running_loop().time()

    async def _limits(self) -> bool:
        """Compare what both sides take at most. A difference stays, so it is no reason to look again soon."""
        scanner = self.scanner
        try:
            await scanner.learn_limit(self.wanted or clamd.MOST)
        except (NoAnswer, ProtocolError) as error:
            scanner.condition.failed(str(error))
            return False
        if scanner.kind == clamd.KIND and scanner.limit and (not self.wanted or scanner.limit < self.wanted):
            ours = f"{self.wanted} octets" if self.wanted else "any size"
            scanner.condition.says(
                "size",
                f"scanner {scanner.name} takes at most {scanner.limit} octets, [smtp] size_limit is {ours}: larger mail "
                "is not scanned (outcome oversize); raise StreamMaxLength of clamd or lower size_limit",
            )
        else:
            scanner.condition.well("size")
        return True

    async def _test(self) -> bool:
        """EICAR through the real path."""
        scanner = self.scanner
        found = await scanner.trial(eicar_mail(), "self-test")
        if found.kind == "infected":
            part = await scanner.trial_part(_EICAR)
            if part.kind != "infected":
                found = msgspec.structs.replace(part, why=f"{part.why} for the test file as a part of its own".lstrip())
        _tests.labels(scanner.name, found.kind).inc()
        _found.labels(scanner.name).set(found.kind == "infected")
        if found.kind == "infected":
            self.tested = f"found ({', '.join(found.names)})"
            scanner.condition.well("self-test")
            return True
        self.tested = f"{found.kind} {found.why}".rstrip()
        if found.kind == "error":
            text = f"the self-test of scanner {scanner.name} could not be made: {found.why}"
        else:
            text = (
                f"scanner {scanner.name} DOES NOT FIND the EICAR test file (it answered {found.kind} {found.why}".rstrip()
                + "): mail is not scanned as it should be"
            )
            log.error("EICAR was not found", scanner=scanner.name, answer=found.kind, why=found.why)
        scanner.condition.says("self-test", text)
        return False
