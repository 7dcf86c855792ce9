"""How `postgate selftest` ends, and what its rows say of whom it could not judge."""

import asyncio
import time
import tomllib
from pathlib import Path
from types import SimpleNamespace
from typing import Any, cast

import pytest
from click.testing import CliRunner

from appliance.checks import policy_services
from appliance.cli.selftest import command, scanners, services, stage
from appliance.cli.selftest.expect import Expected, expect
from appliance.cli.selftest.play import Mail, Play, Result
from appliance.cli.selftest.scene import Scene
from appliance.cli.selftest.stranger import Reply
from appliance.engine.policy import compile_policies
from appliance.engine.rules import PolicySet

FOUND = ("antivirus", "infected")


def policies(**files: dict[str, Any]) -> PolicySet:
    compiled, complaints = compile_policies({f"{name}.toml": values for name, values in files.items()})
    assert not [complaint for complaint in complaints if complaint.fatal]
    return compiled


def test_what_cannot_be_played_is_no_miss(tmp_path: Path) -> None:
    config = tmp_path / "config.toml"
    config.write_text(f'[gateway]\nstate_dir = "{tmp_path}/state"\n[relay]\ndomains = ["example.com"]\n')
    for words, told in ((["--only", "nosuch"], "no scenario has"), (["--live", "--only", "status"], "")):
        ended = CliRunner().invoke(command, ["--config", str(config), *words])
        assert ended.exit_code == 2, ended.output
        assert told in ended.output


class Gateway:
    """Its journal says so, and its status nothing of services."""

    def __init__(self, *outcomes: str) -> None:
        self.outcomes = outcomes

    async def verdicts(self, _sender: str) -> list[dict[str, Any]]:
        return [{"check": FOUND[0], "outcome": outcome} for outcome in self.outcomes]

    async def decided(self, _reply: Reply) -> None:
        return None

    async def status(self) -> dict[str, Any]:
        return {"dependencies": {}}


def play(gateway: Gateway, compiled: PolicySet) -> Play:
    made = object.__new__(Play)
    made.scene = cast(Any, SimpleNamespace(policy_folders=(), theirs_named=str))
    made.snapshot = cast(Any, SimpleNamespace(policies=compiled))
    made.gateway = cast(Any, gateway)
    made._signed, made._encrypted = set(), {}
    return made


@pytest.mark.parametrize(
    ("outcomes", "sets", "state"),
    [
        ((), {"mode": "off"}, "skipped"),
        (("infected",), {"mode": "off"}, "miss"),  # it is asked though it is off for this stranger
        (("infected",), {"mode": "monitor"}, "skipped"),
        (("infected",), {"infected": "accept"}, "skipped"),
        ((), {"parts_limit": 0}, "miss"),  # that alone does not explain it
        (("clean",), {"infected": "hold"}, "miss"),
        (("clean",), {}, "miss"),
    ],
)
async def test_an_exception_that_fits_explains_what_it_says_and_nothing_else(
    outcomes: tuple[str, ...], sets: dict[str, Any], state: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """EICAR is delivered."""

    async def delivered(_: Play, mail: Mail, reply: Reply, expected: Expected) -> tuple[bool, str]:
        return expected.kind == "deliver", "delivered"

    monkeypatch.setattr(Play, "_after", delivered)
    fits = {"match": {"client_address": "192.0.2.0/24"}, "set": sets, "reason": "known"}
    other = {"match": {"client_address": "10.0.0.0/8"}, "set": {"mode": "off"}, "reason": "other"}
    compiled = policies(antivirus={"exception": [other, *([fits] if sets else [])]})
    made = play(Gateway(*outcomes), compiled)
    mail = Mail("selftest-1", "a@b.example", b"")
    result = await made.compare(mail, Reply(250, "2.0.0 Ok"), expect(compiled, FOUND))
    assert result.state == state, result
    assert ("[[exception]] antivirus.toml (known)" in result.why) is bool(sets)
    assert "other" not in result.why


@pytest.mark.parametrize(
    ("reply", "state"), [(Reply(0, "no answer within 20 s"), "miss"), (Reply(250, "2.0.0 Ok"), "skipped")]
)
async def test_a_service_that_was_not_reached_in_time_is_told_so(
    reply: Reply, state: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    async def answered(*_: Any) -> Reply:
        return reply

    monkeypatch.setattr(Play, "send", answered)
    monkeypatch.setattr(Play, "mail", lambda *_: None)
    made, one = play(Gateway(), policies()), services.Service(policy_services.NAME, "grey")
    monkeypatch.setattr(services, "absent", lambda *_: "")
    monkeypatch.setattr(Play, "stranger", lambda *_: None)
    told = await services.answering(made, [one], {}, last=True)
    result = told[one].row[1]
    assert result.state == state
    assert ("no answer within 20 s" in result.got) is (state == "miss")
    assert ("stages" in result.why) is (state == "skipped")
    early = await services.answering(made, [one], {})
    assert (one in early) is (state == "skipped"), "who was not reached is asked once more, behind the scanners"


async def test_a_service_that_takes_too_long_at_all_its_stages_is_not_waited_for(monkeypatch: pytest.MonkeyPatch) -> None:
    async def hangs(*_: Any) -> Reply:
        await asyncio.sleep(3600)
        raise AssertionError("it is not waited for")

    monkeypatch.setattr(Play, "send", hangs)
    monkeypatch.setattr(Play, "mail", lambda *_: None)
    monkeypatch.setattr(Play, "stranger", lambda *_: None)
    monkeypatch.setattr(services, "ASKING", 0.1)
    listed = [services.Service(policy_services.NAME, f"grey{number}") for number in range(50)]
    began = time.monotonic()
    told = await services.answering(play(Gateway(), policies()), listed, {}, last=True)
    assert time.monotonic() - began < 5, "all are asked at the same time"
    assert set(told) == set(listed)


async def test_what_stays_in_trouble_is_waited_for_once(monkeypatch: pytest.MonkeyPatch) -> None:
    async def put_off(*_: Any) -> Result:
        return Result("miss", "delivered", "451 Later, by antivirus:error")

    monkeypatch.setattr(Play, "judge", put_off)
    monkeypatch.setattr(scanners, "RECOVERY", 3.0)
    monkeypatch.setattr(scanners, "LATER", 0.1)
    made = Play(*(cast("Any", None) for _ in range(6)))
    well = Result("ok", "451 put off", "451 Later")
    took = []
    for _ in range(2):
        began = time.monotonic()
        result = await scanners.recovered(made, well, ["antivirus"])
        assert result.state == "miss" and "; not used again within " in result.got
        took.append(time.monotonic() - began)
    assert took[1] < 3.0 <= took[0]


def test_the_temporary_gateway_neither_waits_nor_lingers(tmp_path: Path) -> None:
    (tmp_path / "policies").mkdir()
    exception = '[[exception]]\nmatch = {client_address = "10.0.0.0/8"}\nset = {wait = "1s"}\nreason = "near"\n'
    (tmp_path / "policies" / "early_talker.toml").write_text(f'wait = "30s"\n{exception}')
    config = tmp_path / "config.toml"
    config.write_text(f'[gateway]\nstate_dir = "{tmp_path}/state"\npolicies = "policies"\ngrace = "5m"\n')
    folder = tmp_path / "temporary"
    folder.mkdir()
    snapshot = Scene(str(config), folder).write(inner=1, clamd=2, spamd=3, dns=4, tls=("", ""))
    assert snapshot.wiring.gateway.grace == 2.0
    told = tomllib.loads((folder / "policies" / "early_talker.toml").read_text())
    assert (told["wait"], told["exception"][0]["set"]["wait"]) == ("2s", "1s")
    assert stage.END + 15 < 120, "it is over within two minutes"
