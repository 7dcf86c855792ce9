"""`postgate selftest` on a gateway that has a mistake: its rows must show it."""

from pathlib import Path

from tests.interop.selftest_runs import Played, selftest
from tests.peers.gateway import ROOT

#: Only the gateway's processes have the mistake, the self-test has not.
_CODE = """\
import sys

if "run" in sys.orig_argv:
    {code}
"""
MISTAKES = {
    "results by one's own authserv_id stay": """\
from appliance.engine import marks
    claims_to_be = marks.claims_to_be
    marks.claims_to_be = lambda field, served: claims_to_be(field, served[1:])""",
    "fields of strangers stay": """\
from appliance.engine import marks
    marks.OF_STRANGERS = ()""",
    "defaults of services are not taken": """\
from appliance.checks import policy_services
    from appliance.mail.actions import Entry
    policy_services.read_entry = lambda value, subject: Entry("dunno")""",
    "milters that fail do not matter": """\
from appliance.checks import milters
    milters.decide = lambda entry, said, stage: None""",
    "what rules find is not told": """\
from appliance.connectors import yara
    from appliance.mail.scan import ScanResult
    yara.result = lambda report, name, expected: ScanResult(kind="clean", scanner=name)""",
    "parts are not offered": """\
from appliance.connectors.scanner import Scanner
    async def nothing(*_):
        return []
    Scanner.scan_parts = nothing""",
    "one part is not offered": """\
from appliance.connectors import parts
    choose = parts.choose
    def fewer(report, most, octets):
        chosen = choose(report, most, octets)
        return chosen._replace(parts=chosen.parts[:-1])
    parts.choose = fewer""",
    "messages are not scanned as they came": """\
from appliance.connectors.scanner import Scanner
    from appliance.mail.scan import ScanResult
    async def clean(scanner, *_):
        return ScanResult(kind="clean", scanner=scanner.name)
    Scanner.scan = clean""",
    "scanners get messages without their beginning": """\
from appliance.mail.own_trace import own_trace
    from appliance.protocol import clamd
    stream = clamd.stream
    def headless(pieces):
        content = b"".join(pieces)
        return stream(iter((content[own_trace(content) :],)))
    clamd.stream = headless""",
}


def mutant(folder: Path, mistake: str, *words: str) -> Played:
    """A self-test whose gateway has this mistake."""
    (folder / "mutant").mkdir(exist_ok=True)
    (folder / "mutant" / "sitecustomize.py").write_text(_CODE.format(code=MISTAKES[mistake]))
    return selftest(folder, *words, PYTHONPATH=f"{folder}/mutant:{ROOT}")
