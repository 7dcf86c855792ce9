"""The self-test's signed mail: the verdicts must be a pass as well as the results that stand in the mail."""

from types import SimpleNamespace
from typing import Any, cast

import pytest

from appliance.cli.selftest import plays_sender
from appliance.cli.selftest.fate import Became
from appliance.cli.selftest.play import Mail, Play
from appliance.cli.selftest.stranger import Reply
from appliance.engine.policy import compile_policies

CHECKS = ("spf", "dkim", "dmarc")


def play(verdicts: dict[str, str], results: dict[str, str], **files: dict[str, Any]) -> Play:
    """A mail that is delivered: what checks said of it, what the gateway wrote on top."""
    compiled, _ = compile_policies({f"{name}.toml": values for name, values in files.items()})
    written = "; ".join(f"{check}={outcome}" for check, outcome in results.items())
    arrived = f"Authentication-Results: mx.example; {written}\r\nFrom: <a@b.example>\r\n\r\nx\r\n".encode()

    async def send(_mail: Mail, _stranger: object = None) -> Reply:
        return Reply(250, "2.0.0 Ok")

    async def said(_sender: str) -> list[dict[str, str]]:
        return [{"check": check, "outcome": outcome} for check, outcome in verdicts.items()]

    async def nothing(_reply: Reply) -> None:
        return None

    async def of(*_: object) -> Became:
        return Became("delivered", arrived)

    async def has(*_: object) -> bytes:
        return arrived

    made = Play(*(cast("Any", None) for _ in range(6)))
    made.scene = cast("Any", SimpleNamespace(policy_folders=()))
    made.snapshot = cast("Any", SimpleNamespace(policies=compiled))
    made.gateway = cast("Any", SimpleNamespace(verdicts=said, decided=nothing))
    made.inner, made.fate = cast("Any", SimpleNamespace(has=has)), cast("Any", SimpleNamespace(of=of))
    vars(made)["send"] = send
    return made


PASS = dict.fromkeys(CHECKS, "pass")


@pytest.mark.parametrize("check", CHECKS)
async def test_a_verdict_and_a_result_that_differ_are_a_miss(check: str) -> None:
    assert (await plays_sender.signed(play(PASS, PASS))).state == "ok"
    unsaid = await plays_sender.signed(play(PASS | {check: "none"}, PASS))
    assert unsaid.state == "miss" and f"{check}:none" in unsaid.got
    unwritten = await plays_sender.signed(play(PASS, PASS | {check: "none"}))
    assert (unwritten.state, unwritten.got) == ("miss", f"no {check}=pass")


async def test_who_is_off_need_not_say_anything() -> None:
    both = {check: "pass" for check in CHECKS if check != "dkim"}
    result = await plays_sender.signed(play(both, both, dkim={"mode": "off"}))
    assert (result.state, result.expected) == ("ok", "delivered, spf=pass dmarc=pass")
