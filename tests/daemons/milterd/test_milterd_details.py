"""Small print of the milter's side: what is declined, what comes with the end of a message, who is remembered."""

import asyncio
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from appliance.config.model import Milterd
from appliance.daemons.milterd.rules import Door
from appliance.engine.pipeline import Group
from appliance.mail.edits import Edit
from appliance.mail.identity import Identity
from appliance.mail.login import Login
from appliance.mail.verdict import ACCEPT, Decision, Verdict
from appliance.protocol.milter import packets as p
from appliance.protocol.milter.encoding import encode
from appliance.protocol.milter.words import Actions, Event, Word
from tests.daemons.milterd.stage import PlayedEngine, Stage

pytestmark = pytest.mark.asyncio


@pytest.mark.parametrize(("checks", "wanted"), [(("loop", "suspicion"), False), (("loop", "dkim"), True)])
async def test_no_body_where_no_check_looks_at_it(tmp_path: Path, checks: tuple[str, ...], wanted: bool) -> None:
    async with Stage(tmp_path) as stage:
        door = stage.rules.doors["milter"]
        steps = {(role, "message"): (checks,) for role in ("inbound", "outbound")}
        stage.engine.policies = SimpleNamespace(plan=SimpleNamespace(steps=steps), checks={})
        made = Door(door.front, stage.engine, (), True)  # type: ignore[arg-type]
        assert (Event.BODY not in made.want.declines) == wanted
        assert Event.HEADER not in made.want.declines
        stage.rules.doors = {"milter": made}
        mta = await (await stage.mta()).begin()
        assert mta.machine.wants(Event.BODY) == wanted
        assert (await mta.message()).reply == p.Reply(Word.ACCEPT)


async def test_a_last_piece_of_body_comes_with_the_end(tmp_path: Path) -> None:
    """As Sendmail may send it."""
    async with Stage(tmp_path) as stage:
        bodies: list[bytes] = []

        def judge(ctx: Any) -> list[Group]:
            bodies.append(b"".join(ctx.content.chunks()).partition(b"\r\n\r\n")[2])
            return [Group((0,), ACCEPT)]

        stage.engine.rules["message"] = judge
        mta = await (await stage.mta()).begin()
        await mta.envelope()
        for event in (p.Header(b"Subject", b" x"), p.EndOfHeader(), p.Body(b"one\r\n"), p.EndOfMessage(b"two\r\n")):
            mta.writer.write(encode(event))
        assert await mta.reader.readexactly(5) == encode(p.Reply(Word.ACCEPT))
        assert bodies == [b"one\r\ntwo\r\n"]


async def test_odd_syntax_is_a_sign(tmp_path: Path) -> None:
    async with Stage(tmp_path) as stage:
        mta = await (await stage.mta()).begin()
        await mta.message()
        assert "lenient_syntax" not in stage.engine.asked[-1].signs
        await mta.do(mta.machine.mail(b"a@example.org", (), mta.macros))
        await mta.rcpt()
        assert "lenient_syntax" in stage.engine.asked[-1].signs


@pytest.mark.parametrize(("keep", "told"), [("deliver", True), ("hold", False)])
async def test_whose_mail_was_taken_is_remembered(tmp_path: Path, keep: Any, told: bool) -> None:
    class Senders:
        def __init__(self) -> None:
            self.keys: list[str] = []

        def accepted(self, keys: Any) -> None:
            self.keys += keys

    async with Stage(tmp_path) as stage:
        stage.front.senders = senders = Senders()
        who = Identity(name="example.org", proof="spf")
        stage.engine.rules["mail"] = lambda ctx: Decision(verb="accept", identity=who)
        stage.engine.rules["message"] = lambda ctx: [Group((0,), Decision(verb="accept", keep=keep))]
        mta = await (await stage.mta()).begin()
        await mta.message()
        assert senders.keys == [who.key] * told
        stage.engine.rules["message"] = lambda ctx: [Group((0,), Decision(verb="reject", reply="550 5.7.1 no"))]
        await mta.message()
        assert senders.keys == [who.key] * told


async def test_what_a_message_holds_is_given_back_with_its_abort(tmp_path: Path) -> None:
    async with Stage(tmp_path) as stage:
        mta = await stage.mta()
        for end in (mta.machine.abort, mta.machine.quit_nc):
            await mta.begin()
            await mta.envelope()
            await mta.do(mta.machine.header(b"Subject", b" x"))
            await mta.do(mta.machine.end_of_header(mta.macros))
            await mta.do(mta.machine.body(b"x" * 1000))
            (one,) = stage.front.connections
            while one.machine.place != "body" or one.machine.unread:
                await mta.do(mta.machine.body(b"x"))
                await asyncio.sleep(0)
            assert stage.front.memory.used > 1000
            await mta.do(end())
            while one.machine.in_message:
                await asyncio.sleep(0)
            assert stage.front.memory.used == 0 and one.session.message is None
            assert (one.session.helo == "") == (end == mta.machine.quit_nc)


@pytest.mark.parametrize(
    ("told", "known"), [(b"<root>", "root@mx.example.com"), ("<a@ex\u00e4mple.org>".encode(), "a@xn--exmple-cua.org")]
)
async def test_a_recipient_is_taken_out_as_the_mta_wrote_it(tmp_path: Path, told: bytes, known: str) -> None:
    async with Stage(tmp_path) as stage:
        edit = Edit("delete_recipient", value=known)
        stage.engine.rules["message"] = lambda ctx: [Group((0,), Decision(verb="accept", edits=(edit,)))]
        mta = await (await stage.mta()).begin()
        await mta.do(mta.machine.mail(b"<a@example.org>", (b"SMTPUTF8",), mta.macros))
        await mta.do(mta.machine.rcpt(told, (), mta.macros))
        assert stage.engine.asked[-1].recipient.address.text == known  # type: ignore[union-attr]
        await mta.data()
        assert (await mta.content()).edits == (p.DeleteRecipient(told),)


async def test_what_was_found_of_a_client_is_not_found_of_the_next(tmp_path: Path) -> None:
    found = Decision(verb="accept", verdicts=(Verdict(check="rdns", outcome="none", stage="connect"),))
    async with Stage(tmp_path) as stage:
        stage.engine.rules["connect"] = lambda ctx: found
        mta = await (await stage.mta()).begin()
        await mta.message()
        assert stage.engine.asked[-1].trail == found.verdicts
        del stage.engine.rules["connect"]
        await mta.do(mta.machine.quit_nc())
        await mta.begin()
        await mta.message()
        assert stage.engine.asked[-1].trail == ()


@pytest.mark.parametrize("at", ["mail", "data"])
async def test_what_is_thrown_away_before_its_content(tmp_path: Path, at: str) -> None:
    async with Stage(tmp_path) as stage:
        stage.engine.rules[at] = lambda ctx: Decision(verb="discard")
        mta = await (await stage.mta()).begin()
        answers = await mta.envelope()
        word = Word.DISCARD if at == "data" else Word.CONTINUE
        assert answers[-1] is not None and answers[-1].reply == p.Reply(word)
        if at == "mail":
            assert (await mta.content()).reply == p.Reply(Word.DISCARD)
        assert not stage.engine.at("message")


async def test_the_declared_size_is_in_the_context(tmp_path: Path) -> None:
    async with Stage(tmp_path) as stage:
        mta = await (await stage.mta()).begin()
        await mta.mail("a@example.org", b"BODY=8BITMIME", b"SIZE=4711", b"RET=HDRS")
        assert stage.engine.asked[-1].declared_size == 4711


async def test_encryption_that_is_told_with_mail(tmp_path: Path) -> None:
    """By an MTA that takes no lists of macros and tells what it likes."""
    async with Stage(tmp_path) as stage:
        mta = await (await stage.mta(p.Negotiate(5, 0x3F, 0x37F))).begin()
        assert mta.machine.agreement is not None and mta.machine.agreement.version == 5
        mta.writer.write(encode(p.Macros("M", {"tls_version": "TLSv1.3", "cipher_bits": "256"})) + encode(p.Mail(b"<>")))
        assert await mta.reader.readexactly(5) == encode(p.Reply(Word.CONTINUE))
        client = stage.engine.asked[-1].client
        assert client.tls is not None and (client.tls.version, client.tls.bits) == ("TLSv1.3", 256)


async def test_macros_of_a_message_are_not_those_of_the_next(tmp_path: Path) -> None:
    async with Stage(tmp_path) as stage:
        mta = await (await stage.mta()).begin()
        anna = {"auth_authen": "anna", "auth_type": "PLAIN", "auth_author": "a@example.org", "auth_ssf": "128"}
        for macros, role in (({"i": "1", **anna}, "outbound"), ({"i": "2"}, "inbound")):
            mta.writer.write(encode(p.Macros("M", macros)) + encode(p.Mail(b"<a@example.org>")))
            assert await mta.reader.readexactly(5) == encode(p.Reply(Word.CONTINUE))
            assert stage.engine.asked[-1].role == role
            mta.writer.write(encode(p.Rcpt(b"<user@example.com>")))
            assert await mta.reader.readexactly(5) == encode(p.Reply(Word.CONTINUE))
            (one,) = stage.front.connections
            assert one.machine.macro("i") == macros["i"]
            login = Login("anna", "PLAIN", "a@example.org", "128") if macros["i"] == "1" else None
            assert [(ctx.login, ctx.mta_id) for ctx in stage.engine.asked[-2:]] == [(login, macros["i"])] * 2


async def test_what_the_client_itself_says_of_a_login_is_nobodys(tmp_path: Path) -> None:
    """AUTH= of MAIL, header fields, macros of another step of the session."""
    async with Stage(tmp_path) as stage:
        mta = await (await stage.mta()).begin()
        mta.writer.write(encode(p.Mail(b"<a@example.org>", [b"AUTH=anna"])))
        assert await mta.reader.readexactly(5) == encode(p.Reply(Word.CONTINUE))
        await mta.rcpt()
        await mta.data()
        await mta.content(
            [(b"X-Auth", b"anna"), (b"Authentication-Results", b"mx.example.com; auth=pass smtp.auth=anna")]
        )
        assert {ctx.login for ctx in stage.engine.asked} == {None} and stage.engine.asked[-1].stage == "message"


async def test_macros_of_a_client_are_not_those_of_the_next(tmp_path: Path) -> None:
    """Also where an MTA begins anew without a word."""
    async with Stage(tmp_path) as stage:
        mta = await stage.mta()
        for first in (True, False):
            told = encode(p.Macros("C", {"j": "mail.example.com"})) + encode(
                p.Connect(b"[192.0.2.1]", "4", 1, b"192.0.2.1")
            )
            told += encode(p.Macros("H", {"tls_version": "TLSv1.3"})) if first else b""
            mta.writer.write(told + encode(p.Helo(b"client.example.org")) + encode(p.Mail(b"<a@example.org>")))
            assert await mta.reader.readexactly(5) == encode(p.Reply(Word.CONTINUE))
            assert (stage.engine.asked[-1].client.tls is not None) == first


@pytest.mark.parametrize(
    ("kind", "heard", "wanted"),
    [
        ("amavis", True, Actions.ADD_RECIPIENT | Actions.DELETE_RECIPIENT),
        ("amavis", False, Actions(0)),
        ("rspamd", True, Actions.ADD_RECIPIENT | Actions.DELETE_RECIPIENT | Actions.CHANGE_SENDER),
        ("rspamd", False, Actions(0)),
        ("spamd", True, Actions(0)),
    ],
)
async def test_the_envelope_is_changed_where_a_scanner_may_want_that(kind: str, heard: bool, wanted: Actions) -> None:
    """What was not agreed on would put the mail off, each time it comes."""
    engine = PlayedEngine()
    engine.policy.knobs, engine.policy.rulings = SimpleNamespace(scanner_edits=heard), {}
    engine.ports = SimpleNamespace(scanners={"x": SimpleNamespace(kind=kind)})  # type: ignore[attr-defined]
    likes = Door(Milterd.model_validate({"address": "inet:127.0.0.1:1"}), engine, (), True).want.likes  # type: ignore[arg-type]
    assert likes & (Actions.ADD_RECIPIENT | Actions.DELETE_RECIPIENT | Actions.CHANGE_SENDER) == wanted
