"""Checks for the engine's tests: scripted answers, at once or later."""

import asyncio
from collections.abc import Callable, Mapping
from typing import Any

from appliance.checks import Check, knobs
from appliance.engine.pipeline import Engine
from appliance.engine.policy import compile_policies
from appliance.mail.context import STAGES, Client, Context, Recipient
from appliance.mail.ports import Ports, Site
from appliance.mail.verdict import Action, Verdict
from appliance.protocol.smtp.address import Address

OUTCOMES = {str(action): action for action in Action} | {"fine": Action.DUNNO, "temperror": Action.MARK}
ARGUMENTS = {"prepend": "X-Seen: yes", "bcc": "copy@example.net", "redirect": "else@example.net", "filter": "smtp:[::1]"}
SITE = Site(hostname="mx.example.com", is_ours=lambda domain: domain == "example.com")
PORTS = Ports(site=SITE)


class Knobs(knobs.Policy):
    answer: str = ""
    limit: knobs.Count = 7
    wait: knobs.Duration = 90.0
    lists: knobs.Tables = ()
    scanners: knobs.Scanners = ()


def said(name: str, outcome: str, **more: Any) -> Verdict:
    return Verdict(check=name, outcome=outcome, argument=ARGUMENTS.get(outcome, ""), **more)


def check(name: str, answer: Any = "fine", *, gate: bool = False, replies: Mapping[str, str] | None = None) -> Check:
    """A check whose `answer` is an outcome, an exception, a callable(ctx, policy) of these, or something to await. The
    knob `answer` (set by an exception) is stronger."""

    def ask(ctx: Context, policy: Knobs, ports: Ports) -> Any:
        found = policy.answer or (answer(ctx, policy) if callable(answer) else answer)
        if isinstance(found, Exception):
            raise found
        return said(name, found) if isinstance(found, str) else found

    return Check(name, STAGES, gate, OUTCOMES, dict(replies or {}), "enforce", Knobs, ask)


def later(name: str, outcome: str | BaseException, delay: float = 0.0) -> Callable[..., Any]:
    async def answer() -> Verdict:
        await asyncio.sleep(delay)
        if isinstance(outcome, BaseException):
            raise outcome
        return said(name, outcome)

    return lambda ctx, policy: answer()


def engine(checks: list[Check], stages: Mapping[str, Any], files: Mapping[str, Any] | None = None, **more: Any) -> Engine:
    """An engine over these checks; `stages` are those of inbound (others empty)."""
    known = {item.name: item for item in checks}
    plan = {"inbound": {stage: [] for stage in STAGES} | dict(stages)}
    plan |= {role: {stage: [] for stage in STAGES} for role in ("outbound", "reinject")}
    limits = {key: more.pop(key) for key in ("deadline", "message_deadline") if key in more}
    policies, complaints = compile_policies({"stages.toml": plan | limits, **(files or {})}, checks=known)
    assert not [complaint for complaint in complaints if complaint.fatal], complaints
    return Engine(policies, PORTS, checks=known, **more)


def address(text: str) -> Address:
    local, _, domain = text.rpartition("@")
    return Address(local, domain, text)


def recipient(text: str) -> Recipient:
    return Recipient(address=address(text))


def context(stage: str = "rcpt", **more: Any) -> Context:
    fields: dict[str, Any] = {
        "transaction": "ID1",
        "client": Client(address="192.0.2.1", name="mail.example.net"),
        "helo": "mail.example.net",
        "sender": address("s@example.net"),
        "recipient": recipient("r@example.com") if stage == "rcpt" else None,
        "now": 1_700_000_000.0,
    }
    return Context(stage=stage, **(fields | more))  # type: ignore[arg-type]
