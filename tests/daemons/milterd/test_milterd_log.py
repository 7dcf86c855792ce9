"""How much of the log one MTA can fill: all about mail of one that waits for its answers, some of one that stuffs."""

import asyncio
from pathlib import Path
from typing import Any

import pytest

from appliance.daemons.milterd.front import SAID
from appliance.engine.pipeline import Group
from appliance.mail.verdict import Decision
from appliance.observe import events as journal
from appliance.observe import maillog, metrics
from appliance.protocol.milter import packets as p
from appliance.protocol.milter.encoding import encode
from appliance.protocol.milter.negotiation import offer
from appliance.protocol.milter.words import Actions
from tests.daemons.milterd.stage import Stage
from tests.peers import bad_clients

MESSAGES = 400


@pytest.fixture
def told(monkeypatch: pytest.MonkeyPatch) -> list[dict[str, Any]]:
    """The journal's events."""
    found: list[dict[str, Any]] = []
    monkeypatch.setattr(journal, "emit", found.append)
    return found


async def stuffed(stage: Stage) -> None:
    """Whole messages, no answer awaited, until they are all answered: three lines each (client=, passed, message-id=)."""
    said = bad_clients.milter().said
    reader, writer = await asyncio.open_unix_connection(stage.path)
    writer.write(b"".join(said(number) for number in range(MESSAGES)) + encode(p.Quit()))
    await asyncio.wait_for(reader.read(), 30)
    writer.close()


async def test_p4_who_waits_for_no_answer_fills_no_disk(
    tmp_path: Path, told: list[dict[str, Any]], capfd: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    now = [1000.0]
    monkeypatch.setattr(maillog.time, "monotonic", lambda: now[0])
    async with Stage(tmp_path) as stage:
        await stuffed(stage)
        maillog.flush()
        lines = capfd.readouterr().err.splitlines()
        assert len(stage.engine.at("message")) == MESSAGES
        assert len(lines) == maillog.MOST
        assert 0 < len(told) <= maillog.MOST
        now[0] += maillog.WINDOW
        await stuffed(stage)
        maillog.flush()
        first = capfd.readouterr().err.splitlines()[0]
        assert first.endswith(f" ({3 * MESSAGES - maillog.MOST} more of these were not written)")


async def test_all_that_an_mta_which_waits_has_sent_is_told(
    tmp_path: Path, told: list[dict[str, Any]], capfd: pytest.CaptureFixture[str]
) -> None:
    async with Stage(tmp_path) as stage:
        await stuffed(stage)
        told.clear()
        maillog.flush()
        capfd.readouterr()
        mta = await (await stage.mta()).begin()  # its header and body come in one piece: it was told not to wait
        for _ in range(50):
            await mta.envelope()
            await mta.content()
        maillog.flush()
        assert len(capfd.readouterr().err.splitlines()) == 3 * 50
        assert len(told) == 50


@pytest.mark.parametrize("step", ["connect", "helo", "mail", "rcpt", "data", "message"])
async def test_what_is_to_be_noted_at_each_step_is_in_the_log(
    tmp_path: Path, step: str, capfd: pytest.CaptureFixture[str]
) -> None:
    """A check that is only watched (monitor) would be watched by nobody else."""
    noted = Decision(verb="accept", notes=("monitor: test:hit would reject",))
    async with Stage(tmp_path) as stage:
        stage.engine.rules[step] = lambda _ctx: [Group((0,), noted)] if step == "message" else noted
        mta = await (await stage.mta()).begin()
        await mta.message()
        maillog.flush()
        (line,) = [line for line in capfd.readouterr().err.splitlines() if "would reject" in line]
        where = "END-OF-MESSAGE" if step == "message" else step
        assert f"; {where} from client.example.org[192.0.2.1] helo=<client.example.org>" in line


def count(result: str) -> float:
    """Messages that ended so."""
    name = f'postgate_milterd_messages_total{{result="{result}"}} '
    lines = metrics.exposition().decode().splitlines()
    return sum(float(line.removeprefix(name)) for line in lines if line.startswith(name))


async def test_messages_are_counted_and_want_of_room_is_told(tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    async with Stage(tmp_path) as stage:
        mta = await (await stage.mta()).begin()
        before = count("accept"), count("defer")
        await mta.message()
        stage.front.folder = "/nonexistent"
        await mta.message(body=b"x" * 90_000)
        assert (count("accept"), count("defer")) == (before[0] + 1, before[1] + 1)
        maillog.flush()
        said = capfd.readouterr().err
        assert said.count("no place for a message: id=") == 1 and "No such file or directory" in said


async def test_an_action_that_an_mta_does_not_offer_is_named_once(
    tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    """Mail that needs it is put off: status says so, as the page promises, and the log when it begins."""
    offered = offer()
    less = p.Negotiate(offered.version, offered.actions & ~Actions.QUARANTINE, offered.steps)
    async with Stage(tmp_path) as stage:
        (await stage.mta()).close()
        assert stage.front.degraded() == []
        for _ in range(3):
            (await stage.mta(less)).close()
        (said,) = stage.front.degraded()
        assert said == "an MTA at milter does not offer QUARANTINE: mail that needs it is put off"
        maillog.flush()
        assert capfd.readouterr().err.count(str(said)) == 1
        held = Decision(verb="accept", keep="hold", keep_reason="why")
        stage.engine.rules["message"] = lambda _ctx: [Group((0,), held)]
        before, mta = count("defer"), await (await stage.mta(less)).begin()
        assert (await mta.message()).reply.text.startswith(b"451 4.7.1 ") and count("defer") == before + 1
        maillog.flush()
        assert capfd.readouterr().err.count("why=the MTA does not offer QUARANTINE") == 1
        stage.front._met[str(said)] -= SAID
        assert stage.front.degraded() == []
