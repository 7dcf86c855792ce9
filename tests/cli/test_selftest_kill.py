"""The kill -9 row of the self-test: whoever dies has mail behind him that is accepted and not delivered."""

import asyncio
import os
import signal
from types import SimpleNamespace
from typing import Any, cast

import pytest

from appliance.cli.selftest import plays_kill
from appliance.cli.selftest.play import Mail, Play
from appliance.cli.selftest.stranger import Reply, Stranger

SERVICES = ("journal", "delivery", "smtpd")


class Stage:
    """A gateway and its inner server: what is accepted is delivered at once if that is there, and waits else. `loses`:
    who forgets the queue when he dies. `takes`: whether mail is accepted at all."""

    def __init__(self, loses: str = "", takes: bool = True) -> None:
        self.loses, self.takes = loses, takes
        self.places: dict[str, int] = dict(zip(SERVICES, range(1001, 1010), strict=False))
        self.queue: list[bytes] = []
        self.mails: list[bytes] = []
        self.there = True
        #: How many mails waited at each death.
        self.waited: dict[str, int] = {}

    def dies(self, service: str) -> None:
        self.waited[service] = len(self.queue)
        if service == self.loses:
            self.queue.clear()

    def kill(self, pid: int, number: int) -> None:
        assert number == signal.SIGKILL
        service = next(name for name, one in self.places.items() if one == pid)
        self.places[service] += 10
        self.dies(service)

    async def pids(self) -> dict[str, list[int]]:
        return {"master": [1], **{name: [pid] for name, pid in self.places.items()}}

    async def down(self) -> None:
        self.there = False

    async def up(self) -> None:
        self.there = True
        self.mails += self.queue
        self.queue.clear()

    async def send(self, mail: Mail, stranger: Stranger | None = None) -> Reply:
        await asyncio.sleep(0)
        if not self.takes:
            return Reply(550, "5.7.1 No")
        (self.mails if self.there else self.queue).append(mail.octets)
        return Reply(250, "2.0.0 Ok")


def play(stage: Stage) -> Play:
    made = Play(*(cast("Any", None) for _ in range(6)))

    async def master() -> None:
        stage.dies("master")

    async def nothing(*_: object) -> Any:
        return {}

    gateway = SimpleNamespace(pids=stage.pids, kill=master, start=nothing, places=nothing, decided=nothing)
    gateway.has_dropped = lambda _reply: False
    made.gateway, made.inner, vars(made)["send"] = cast("Any", gateway), cast("Any", stage), stage.send
    vars(made)["stopped"] = nothing
    return made


@pytest.mark.parametrize("loses", ["", *SERVICES, "master"])
async def test_mail_waits_when_a_process_dies_and_what_it_loses_is_a_miss(
    loses: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    if loses:  # what is lost is waited for in vain
        monkeypatch.setattr(plays_kill, "RECOVERY", 2.0)
    stage = Stage(loses)
    monkeypatch.setattr(os, "kill", stage.kill)
    result = await plays_kill.killed(play(stage))
    assert set(stage.waited) == {*SERVICES, "master"}
    assert all(waited >= plays_kill.QUEUED for waited in stage.waited.values()), stage.waited
    assert result.state == ("miss" if loses else "ok"), result
    assert ("accepted mails are lost" in result.got) is bool(loses)


async def test_where_no_mail_is_accepted_nobody_waits_for_long(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(plays_kill, "PATIENCE", 2.0)
    stage = Stage(takes=False)
    monkeypatch.setattr(os, "kill", stage.kill)
    loop = asyncio.get_running_loop()
    began = loop.time()
    result = await plays_kill.killed(play(stage))
    assert (result.state, result.got) == ("miss", "no mail was accepted meanwhile")
    assert loop.time() - began < 2.0 * (1 + len(SERVICES)), "the whole time is taken once"
