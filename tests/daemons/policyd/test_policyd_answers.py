"""What is asked at which state, what is remembered between requests, and decisions in the words of access(5)."""

import asyncio
from pathlib import Path
from typing import Any

import pytest

from appliance.daemons.policyd import answers, record
from appliance.daemons.policyd.states import STAGES
from appliance.engine.judge import Group, Judgement
from appliance.engine.rules import Ruling
from appliance.mail.context import Context
from appliance.mail.edits import Edit
from appliance.mail.identity import Identity
from appliance.mail.login import Login
from appliance.mail.replies import parse
from appliance.mail.verdict import ACCEPT, Action, Decision, Verdict
from appliance.protocol.policy import STATES
from tests.daemons.policyd.stage import Stage

pytestmark = pytest.mark.asyncio
EMPTY = {"sender": "", "recipient": "", "instance": ""}


def found(name: str, outcome: str = "x", **more: Any) -> Verdict:
    return Verdict(check=name, outcome=outcome, **more)


@pytest.mark.parametrize("state", STATES)
async def test_each_state_asks_its_stages_once(tmp_path: Path, state: str) -> None:
    assert set(STAGES) == set(STATES)
    async with Stage(tmp_path) as stage:
        client = await stage.client()
        assert await client.ask(protocol_state=state) == "DUNNO"
        assert tuple(ctx.stage for ctx in stage.engine.asked) == STAGES[state]
        assert await client.ask(protocol_state=state, recipient="second@example.com") == "DUNNO"
        again = [ctx.stage for ctx in stage.engine.asked[len(STAGES[state]) :]]
        assert again == [one for one in STAGES[state] if one not in ("connect", "helo", "mail", "data")]


async def test_a_session_is_joined_from_connect_to_the_end_of_the_message(tmp_path: Path) -> None:
    async with Stage(tmp_path) as stage:
        for name in ("connect", "helo", "mail", "rcpt", "data"):
            stage.engine.rules[name] = lambda ctx: Decision(verb="accept", verdicts=(found(ctx.stage),))
        who = Identity(name="example.org", proof="spf")
        stage.engine.rules["mail"] = lambda ctx: Decision(verb="accept", verdicts=(found("mail"),), identity=who)
        client = await stage.client()
        await client.ask(protocol_state="CONNECT", helo_name="mail.example.org", **EMPTY)
        await client.ask(protocol_state="EHLO", **EMPTY)
        await client.ask(protocol_state="RCPT", recipient="a@example.com")
        await client.ask(protocol_state="RCPT", recipient="b@example.com")
        await client.ask(protocol_state="DATA", recipient="", recipient_count="2")
        await client.ask(protocol_state="END-OF-MESSAGE", recipient="", size="777")
        last = stage.engine.asked[-1]
        assert [ctx.stage for ctx in stage.engine.asked] == ["connect", "helo", "mail", "rcpt", "rcpt", "data", "message"]
        assert [verdict.check for verdict in last.trail] == ["connect", "helo", "mail", "rcpt", "rcpt", "data"]
        assert [one.address.text for one in last.recipients] == ["a@example.com", "b@example.com"]
        assert last.identity == who and last.declared_size == 777 and last.content is None
        assert len({ctx.transaction for ctx in stage.engine.at("rcpt")}) == 1
        await client.ask(instance="another")
        assert not [v for v in stage.engine.asked[-1].trail if v.check == "rcpt"], "another message begins anew"


async def test_who_asks_is_in_the_context(tmp_path: Path) -> None:
    async with Stage(tmp_path, outbound=["198.51.100.0/24"]) as stage:
        client = await stage.client()
        await client.ask(
            encryption_protocol="TLSv1.3",
            encryption_cipher="AES",
            encryption_keysize="256",
            ccert_subject="a+20b",
            sender="odd one@example.org",
            size="99",
        )
        ctx = stage.engine.asked[-1]
        assert ctx.client.tls is not None
        assert (ctx.client.tls.version, ctx.client.tls.bits, ctx.client.tls.subject) == ("TLSv1.3", 256, "a b")
        assert (ctx.client.address, ctx.client.port, ctx.client.proof) == ("192.0.2.7", 54321, "pass")
        assert (ctx.client.server_address, ctx.client.server_port) == ("192.0.2.1", 25)
        assert ctx.sender is not None and ctx.sender.text == '"odd one"@example.org'
        assert ctx.declared_size == 99 and ctx.esmtp and ctx.role == "inbound" and ctx.listener == "policy"
        await client.ask(client_name="unknown", instance="2")
        assert stage.engine.asked[-1].client.proof == "fail"
        assert stage.engine.asked[-1].client.reverse_name == "mail.example.org"
        await client.ask(client_name="unknown", reverse_client_name="unknown", instance="3")
        assert stage.engine.asked[-1].client.proof == "none"
        for said, address in (("2001:DB8::25", "2001:db8::25"), ("unknown", ""), ("", "")):
            await client.ask(server_address=said, server_port=said, instance="33" + said)
            ours = stage.engine.asked[-1].client
            assert (ours.server_address, ours.server_port) == (address, 0)
        await client.ask(client_address="198.51.100.9", instance="4")
        assert stage.engine.asked[-1].role == "outbound"
        for number, said in enumerate(("::ffff:198.51.100.9", "::FFFF:c633:6409")):
            await client.ask(client_address=said, instance=f"mapped{number}")
            asked = stage.engine.asked[-1]
            assert (asked.client.address, asked.role) == ("198.51.100.9", "outbound")
        assert stage.engine.asked[-1].login is None
        await client.ask(sasl_username="anna", sasl_method="PLAIN", sasl_sender="a@example.org", instance="5")
        assert stage.engine.asked[-1].role == "outbound"
        assert stage.engine.asked[-1].login == Login("anna", "PLAIN", "a@example.org")
        await client.ask(sasl_username="", sasl_method="PLAIN", instance="5b")
        assert stage.engine.asked[-1].login is None
        await client.ask(recipient="müller@exämple.com", instance="6")
        assert stage.engine.asked[-1].recipient is not None
        assert stage.engine.asked[-1].recipient.address.text == "müller@xn--exmple-cua.com"
        assert stage.engine.asked[-1].smtputf8 and not stage.engine.asked[0].smtputf8


async def test_the_same_question_twice_is_judged_once(tmp_path: Path) -> None:
    async with Stage(tmp_path) as stage:
        stage.engine.rules["rcpt"] = lambda ctx: (
            Decision(verb="reject", reply="550 5.1.1 no [x]")
            if ctx.recipient and ctx.recipient.address.local == "no"
            else Decision(verb="accept", edits=(Edit("prepend", "X-One", "1"), Edit("prepend", "X-Two", "2")))
        )
        client = await stage.client()
        assert await client.ask() == "PREPEND X-Two: 2"
        assert await client.ask() == "PREPEND X-One: 1", "what found no place comes with the next request"
        assert await client.ask() == "DUNNO"
        assert await client.ask(recipient="no@example.com") == "550 5.1.1 no [x]"
        assert await client.ask(recipient="no@example.com") == "550 5.1.1 no [x]"
        assert len(stage.engine.at("rcpt")) == 2
        assert await client.ask(recipient="other@example.com") == "DUNNO", "a field is added once to a message"


async def test_memory_is_bounded_and_unsaid_actions_are_told(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    said: list[str] = []
    monkeypatch.setattr(record.maillog, "capped", lambda _cause, text: said.append(text))
    async with Stage(tmp_path, messages=3) as stage:
        stage.engine.rules["rcpt"] = lambda ctx: Decision(verb="accept", keep="hold", keep_reason="why", bcc=("a@b.c",))
        client = await stage.client()
        for number in range(10):
            assert await client.ask(instance=str(number)) == "HOLD why"
        assert len(stage.front.messages) == 3
        assert len(said) == 7 and "no request came to say: BCC a@b.c" in said[0]
        stage.front.messages.sweep(stage.front.clock() + 4000)
        assert len(stage.front.messages) == 0


@pytest.mark.parametrize(
    ("ends", "instance"), [("END-OF-MESSAGE", "1"), ("no instance", ""), ("the worker", "1"), ("nothing yet", "1")]
)
async def test_what_nobody_can_fetch_any_more_is_told(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, ends: str, instance: str
) -> None:
    said: list[str] = []
    monkeypatch.setattr(record.maillog, "capped", lambda _cause, text: said.append(text))
    async with Stage(tmp_path) as stage:
        field = Edit("prepend", "X-One", "1")
        stage.engine.rules["rcpt"] = lambda ctx: Decision(verb="accept", keep="hold", keep_reason="why", edits=(field,))
        client = await stage.client()
        assert await client.ask(instance=instance) == "HOLD why"
        if ends == "END-OF-MESSAGE":
            assert await client.ask(instance=instance, protocol_state=ends) == "DUNNO", "it takes no field any more"
            assert await client.ask(instance=instance, protocol_state=ends) == "DUNNO"
        elif ends == "the worker":
            await stage.front.drain(0)
        assert [line.partition(": ")[2] for line in said] == (
            [] if ends == "nothing yet" else ["no request came to say: PREPEND X-One: 1"]
        )
        stage.front.messages.sweep(stage.front.clock() + 4000)


def decide(action: Action, argument: str = "", reply: str = "", stage: str = "rcpt") -> Decision:
    judgement = Judgement()
    ruling = Ruling(action, argument, parse(reply) if reply else None)
    judgement.add(Verdict(check="test", outcome="hit", reason="because", stage=stage), ruling)
    return judgement.decision((), "ID")


@pytest.mark.parametrize(
    ("action", "argument", "reply", "answer"),
    [
        (Action.ACCEPT, "", "", "DUNNO"),
        (Action.DUNNO, "", "", "DUNNO"),
        (Action.MARK, "", "", "PREPEND X-Postgate-Mark: test=hit"),
        (Action.WARN, "", "", "WARN test:hit because"),
        (Action.INFO, "", "", "INFO test:hit because"),
        (Action.PREPEND, "X-A: b", "", "PREPEND X-A: b"),
        (Action.BCC, "copy@example.com", "", "BCC copy@example.com"),
        (Action.REDIRECT, "trap@example.com", "", "REDIRECT trap@example.com"),
        (Action.FILTER, "smtp:[127.0.0.1]:10025", "", "FILTER smtp:[127.0.0.1]:10025"),
        (Action.HOLD, "", "", "HOLD test:hit because"),
        (Action.QUARANTINE, "", "", "HOLD test:hit because"),
        (Action.DISCARD, "", "", "DISCARD test:hit because"),
        (Action.DEFER_IF_REJECT, "", "451 4.7.1 Later", "DEFER_IF_REJECT 4.7.1 Later [ID]"),
        (Action.DEFER_IF_PERMIT, "", "451 4.7.1 Greylisted", "DEFER_IF_PERMIT 4.7.1 Greylisted [ID]"),
        (Action.DEFER, "", "451 4.3.0 Busy", "451 4.3.0 Busy [ID]"),
        (Action.REJECT, "", "554 5.7.1 Listed", "554 5.7.1 Listed [ID]"),
        (Action.REJECT, "", "550 5.1.1 Recipient address rejected: no such mailbox", "550 5.1.1 no such mailbox [ID]"),
        (Action.DISCONNECT, "", "421 4.7.0 Bye", "421 4.7.0 Bye [ID]"),
        (Action.DISCONNECT, "", "554 5.7.0 Bye", "421 4.7.0 Bye [ID]"),
    ],
)
async def test_every_action_has_its_word(tmp_path: Path, action: Action, argument: str, reply: str, answer: str) -> None:
    async with Stage(tmp_path) as stage:
        stage.engine.rules["rcpt"] = lambda _ctx: decide(action, argument, reply)
        client = await stage.client()
        assert await client.ask() == answer


@pytest.mark.parametrize("later", [False, True])
@pytest.mark.parametrize("refusing", ["connect", "helo", "mail", "rcpt"])
async def test_the_first_stage_that_refuses_ends_the_asking(tmp_path: Path, refusing: str, later: bool) -> None:
    """At once or behind a wait: no later stage makes a pass of it."""

    async def slowly() -> Decision:
        await asyncio.sleep(0)
        return decide(Action.REJECT, "", "554 5.7.1 Listed")

    async with Stage(tmp_path) as stage:
        stage.engine.rules[refusing] = lambda _ctx: slowly() if later else decide(Action.REJECT, "", "554 5.7.1 Listed")
        client = await stage.client()
        assert await client.ask() == "554 5.7.1 Listed [ID]"
        every = ["connect", "helo", "mail", "rcpt"]
        assert [ctx.stage for ctx in stage.engine.asked] == every[: every.index(refusing) + 1]


async def test_before_mail_only_refusals_are_said(tmp_path: Path) -> None:
    async with Stage(tmp_path) as stage:
        client = await stage.client()
        stage.engine.rules["connect"] = lambda _ctx: decide(Action.HOLD)
        assert await client.ask(protocol_state="CONNECT", client_port="1", **EMPTY) == "DUNNO"
        stage.engine.rules["connect"] = lambda _ctx: decide(Action.REJECT, "", "554 5.7.1 Listed")
        assert await client.ask(protocol_state="CONNECT", client_port="2", **EMPTY) == "554 5.7.1 Listed [ID]"


async def test_no_field_can_be_added_behind_the_end(tmp_path: Path) -> None:
    async with Stage(tmp_path) as stage:
        stage.engine.rules["message"] = lambda _ctx: Decision(
            verb="accept", marks=("size:over",), edits=(Edit("prepend", "X", "y"),)
        )
        client = await stage.client()
        assert await client.ask(protocol_state="END-OF-MESSAGE") == "DUNNO"


async def test_recipients_that_are_judged_apart_have_one_answer_at_the_end(tmp_path: Path) -> None:
    async with Stage(tmp_path) as stage:
        refused = decide(Action.REJECT, "", "550 5.7.1 No", "message")
        stage.engine.rules["message"] = lambda ctx: [Group((0,), ACCEPT), Group((1,), refused)]
        client = await stage.client()
        await client.ask(recipient="a@example.com")
        await client.ask(recipient="b@example.com")
        answer = await client.ask(protocol_state="END-OF-MESSAGE", recipient="")
        assert answer == "HOLD test:hit, accepted for other recipients"
        stage.engine.rules["message"] = lambda ctx: [Group((0, 1), refused)]
        assert await client.ask(protocol_state="END-OF-MESSAGE", recipient="") == "550 5.7.1 No [ID]"


async def test_results_of_authentication_are_one_line(tmp_path: Path) -> None:
    async with Stage(tmp_path) as stage:
        text = "spf=pass smtp.mailfrom=" + "x" * 60 + ".example.org"
        verdict = found("spf", authres=(text,))
        stage.engine.rules["mail"] = lambda _ctx: Decision(verb="accept", verdicts=(verdict,))
        client = await stage.client()
        assert await client.ask() == f"PREPEND Authentication-Results: mx.example.com; {text}"
        assert await client.ask(sasl_username="anna", instance="2") == "DUNNO", "ours is not told from strangers"


async def test_a_filter_and_a_hold_of_another_check_both_count() -> None:
    judgement = Judgement()
    judgement.add(Verdict(check="a", outcome="b", stage="rcpt"), Ruling(Action.HOLD))
    judgement.add(Verdict(check="c", outcome="d", stage="rcpt"), Ruling(Action.FILTER, "smtp:x"))
    listed = answers.effects(judgement.decision(()), _site(), True)
    assert listed == ["HOLD a:b", "FILTER smtp:x"]


def _site() -> Any:
    from appliance.mail.ports import Site

    return Site(hostname="mx.example.com", is_ours=lambda _domain: False)


async def test_contexts_say_what_the_client_said(tmp_path: Path) -> None:
    seen: list[Context] = []
    async with Stage(tmp_path) as stage:
        stage.engine.rules["rcpt"] = lambda ctx: seen.append(ctx) or ACCEPT  # type: ignore[func-returns-value]
        client = await stage.client()
        await client.ask(helo_name="[192.0.2.7]", protocol_name="SMTP")
        assert seen[0].helo == "[192.0.2.7]" and not seen[0].esmtp
