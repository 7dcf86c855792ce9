"""Nothing stands at the end of a message: what earlier stages found is done to it all the same."""

from pathlib import Path

import pytest

from appliance.config.model import Milterd
from appliance.daemons.milterd.rules import Door
from appliance.protocol.milter import packets as p
from appliance.protocol.milter.words import Event, Word
from tests.daemons.milterd.stage import Stage
from tests.daemons.policyd.whole import PLAIN, STAGES, Composed, build

pytestmark = pytest.mark.asyncio
ACCESS = """\
sender = ["inline:{hold@example.org=HOLD, {note@example.org=PREPEND X-Seen: yes}, {bcc@example.org=BCC x@example.com}}"]
"""


@pytest.mark.parametrize("message", ["", '"size"'])
@pytest.mark.parametrize(
    ("sender", "edits"),
    [
        ("hold@example.org", [p.Quarantine(b"hold: access:hold inline:1: sender hold@example.org: HOLD")]),
        ("note@example.org", [p.InsertHeader(1, b"X-Seen", b" yes")]),
        ("bcc@example.org", [p.AddRecipient(b"<x@example.com>")]),
        ("other@example.org", []),
    ],
)
async def test_what_earlier_stages_found(tmp_path: Path, message: str, sender: str, edits: list[p.Modification]) -> None:
    stages = STAGES.replace("message = []", f"message = [{message}]").replace(', "greylist"', "")
    engine = Composed().engine(build(tmp_path / "made", **PLAIN | {"access": ACCESS, "stages": stages}))
    async with Stage(tmp_path) as stage:
        stage.rules.doors = {
            "milter": Door(Milterd(name="milter", address="unix:x", authenticated="inbound"), engine, (), True)
        }
        stage.rules.engine = engine
        mta = await (await stage.mta()).begin()
        assert mta.machine.wants(Event.HEADER) == bool(message)
        for answer in (await mta.mail(sender), await mta.rcpt(), await mta.data()):
            assert answer is None or answer.reply.word is Word.CONTINUE
        heard = await mta.content()
        assert (heard.reply.word, list(heard.edits)) == (Word.ACCEPT, edits)
        mta.close()
