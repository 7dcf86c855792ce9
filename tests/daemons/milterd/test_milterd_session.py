"""What an MTA is told at each step, what the engine is asked, and what is asked of the MTA."""

import asyncio
from pathlib import Path
from typing import Any

import pytest

from appliance.engine.pipeline import Group
from appliance.mail.context import Context
from appliance.mail.edits import Edit
from appliance.mail.verdict import ACCEPT, Decision, Verdict
from appliance.protocol.milter import packets as p
from appliance.protocol.milter.mta import Heard
from appliance.protocol.milter.negotiation import offer
from appliance.protocol.milter.words import Actions, Event, Word
from tests.daemons.milterd.stage import Stage

NO = Decision(verb="reject", reply="550 5.1.1 no such mailbox")
LATER = Decision(verb="defer", reply="451 4.7.1 later")
BYE = Decision(verb="disconnect", reply="421 4.7.0 closing")
DROP = Decision(verb="discard")
GO, TAKEN = p.Reply(Word.CONTINUE), p.Reply(Word.ACCEPT)


def words(heard: Heard | None) -> str:
    assert heard is not None
    return heard.reply.text.decode() if heard.reply.word == Word.REPLY_CODE else heard.reply.word.name.lower()


async def test_a_message_from_connect_to_its_end(tmp_path: Path) -> None:
    async with Stage(tmp_path) as stage:
        mta = await (await stage.mta()).begin()
        answers = await mta.envelope("user@example.com", "other@example.com")
        assert [words(one) for one in answers] == ["continue"] * 4
        heard = await mta.content()
        assert heard.reply == TAKEN and not heard.edits
        assert [ctx.stage for ctx in stage.engine.asked] == ["connect", "helo", "mail", "rcpt", "rcpt", "data", "message"]
        last = stage.engine.asked[-1]
        assert (
            last.client.address == "192.0.2.1" and last.client.name == "client.example.org" and last.client.port == 40000
        )
        assert last.helo == "client.example.org" and last.sender is not None and last.sender.text == "a@example.org"
        assert [one.address.text for one in last.recipients] == ["user@example.com", "other@example.com"]
        assert last.content is not None
        octets = b"".join(last.content.chunks())
        assert octets.startswith(b"Received: from client.example.org (client.example.org [192.0.2.1])\r\n")
        assert octets.endswith(b"From: a@example.org\r\nTo: user@example.com\r\nSubject: hello\r\n\r\nbody\r\n")
        assert {ctx.transaction for ctx in stage.engine.asked} == {last.transaction} and last.listener == "milter"


@pytest.mark.parametrize(
    ("macros", "ours"),
    [
        ({"daemon_addr": "192.0.2.25", "daemon_port": "587"}, ("192.0.2.25", 587)),
        ({"daemon_addr": "0.0.0.0", "daemon_port": "25", "if_addr": "IPv6:2001:DB8::25"}, ("2001:db8::25", 25)),
        ({"daemon_addr": "::", "daemon_port": "x"}, ("", 0)),
        ({}, ("", 0)),
    ],
    ids=["Postfix", "Sendmail", "Sendmail on loopback", "nothing is told"],
)
async def test_the_address_that_the_client_came_to(tmp_path: Path, macros: dict[str, str], ours: tuple[str, int]) -> None:
    async with Stage(tmp_path) as stage:
        mta = await (await stage.mta(**macros)).begin()
        await mta.envelope()
        client = stage.engine.asked[-1].client
        assert (client.server_address, client.server_port) == ours


async def test_without_delay_each_stage_is_asked_where_it_stands(tmp_path: Path) -> None:
    async with Stage(tmp_path, delay_reject=False) as stage:
        mta = await stage.mta()
        assert words(await mta.connect()) == "continue" and [c.stage for c in stage.engine.asked] == ["connect"]
        assert words(await mta.helo()) == "continue" and [c.stage for c in stage.engine.asked] == ["connect", "helo"]
        stage.engine.rules["connect"] = lambda ctx: BYE
        mta = await stage.mta()
        assert words(await mta.connect()).startswith("421 4.7.0 closing [")


@pytest.mark.parametrize("stage_name", ["mail", "data"])
async def test_a_refusal_before_the_content_stands_for_the_message(tmp_path: Path, stage_name: str) -> None:
    async with Stage(tmp_path) as stage:
        stage.engine.rules[stage_name] = lambda ctx: NO
        mta = await (await stage.mta()).begin()
        answers = [await mta.mail()]
        if stage_name == "data":
            answers += [await mta.rcpt(), await mta.data()]
        assert words(answers[-1]).startswith("550 5.1.1 no such mailbox [")
        mta.machine.message_done = False  # an MTA that goes on all the same
        assert words(await mta.content()).startswith("550 5.1.1 no such mailbox [")
        assert not stage.engine.at("message")
        stage.engine.rules.clear()
        assert (await mta.message()).reply == TAKEN


async def test_one_recipient_is_refused_the_others_are_not(tmp_path: Path) -> None:
    async with Stage(tmp_path) as stage:
        stage.engine.rules["rcpt"] = lambda ctx: NO if ctx.recipient.address.local == "b" else ACCEPT
        mta = await (await stage.mta()).begin()
        answers = await mta.envelope("a@example.com", "b@example.com", "c@example.com")
        assert [words(one)[:3] for one in answers] == ["con", "con", "550", "con", "con"]
        assert (await mta.content()).reply == TAKEN
        assert [one.address.local for one in stage.engine.asked[-1].recipients] == ["a", "c"]


async def test_all_recipients_refused_and_an_mta_that_goes_on(tmp_path: Path) -> None:
    async with Stage(tmp_path) as stage:
        stage.engine.rules["rcpt"] = lambda ctx: LATER
        mta = await (await stage.mta()).begin()
        await mta.envelope("a@example.com")
        assert words(await mta.content()).startswith("554 5.5.1 Error: no valid recipients [")


async def test_what_is_thrown_away_at_rcpt_is_taken_out_at_the_end(tmp_path: Path) -> None:
    async with Stage(tmp_path) as stage:
        stage.engine.rules["rcpt"] = lambda ctx: DROP if ctx.recipient.address.local == "b" else ACCEPT
        mta = await (await stage.mta()).begin()
        await mta.envelope("a@example.com", "b@example.com")
        assert (await mta.content()).edits == (p.DeleteRecipient(b"<b@example.com>"),)
        await mta.envelope("b@example.com")
        assert (await mta.content()).reply == p.Reply(Word.DISCARD)
        assert len(stage.engine.at("message")) == 1


async def test_the_decision_becomes_edits(tmp_path: Path) -> None:
    decision = Decision(
        verb="accept",
        edits=(
            Edit("delete", "subject"),
            Edit("prepend", "X-Postgate-Mark", "spf=fail"),
            Edit("prepend", "Authentication-Results", "mx.example.com; spf=fail"),
        ),
        keep="quarantine",
        keep_reason="antivirus:suspicious",
        bcc=("audit@example.com",),
    )
    async with Stage(tmp_path) as stage:
        stage.engine.rules["message"] = lambda ctx: [Group((0,), decision)]
        mta = await (await stage.mta()).begin()
        assert (await mta.message()).edits == (
            p.ChangeHeader(1, b"Subject", b""),
            p.InsertHeader(1, b"X-Postgate-Mark", b" spf=fail"),
            p.InsertHeader(1, b"Authentication-Results", b" mx.example.com; spf=fail"),
            p.AddRecipient(b"<audit@example.com>"),
            p.Quarantine(b"quarantine: antivirus:suspicious"),
        )


async def test_an_old_mta_gets_values_without_the_blank(tmp_path: Path) -> None:
    async with Stage(tmp_path) as stage:
        stage.engine.rules["message"] = lambda ctx: [
            Group((0,), Decision(verb="accept", edits=(Edit("append", "X", "1"),)))
        ]
        mta = await (await stage.mta(offer(2))).begin()
        assert (await mta.message()).edits == (p.AddHeader(b"X", b"1"),)
        content = stage.engine.asked[-1].content
        assert content is not None and b"\r\nSubject: hello\r\n" in content.header


async def test_a_new_body(tmp_path: Path) -> None:
    async with Stage(tmp_path) as stage:
        edits = (Edit("body", value="new\n"), Edit("prepend", "X", "1"))
        stage.engine.rules["message"] = lambda ctx: [Group((0,), Decision(verb="accept", edits=edits))]
        mta = await (await stage.mta()).begin()
        assert (await mta.message()).edits == (p.InsertHeader(1, b"X", b" 1"), p.ReplaceBody(b"new\r\n"))
        mta = await (await stage.mta(p.Negotiate(6, 0x1FF & ~2, 0x1FFFFF))).begin()
        assert words(await mta.message()).startswith("451 4.7.1 ")
        assert any("CHANGE_BODY" in text for text in stage.front.degraded())


async def test_only_what_is_needed_is_asked_for(tmp_path: Path) -> None:
    async with Stage(tmp_path) as stage:
        mta = await stage.mta()
        agreed = mta.machine.agreement
        assert agreed is not None
        assert agreed.kept_away == {Event.UNKNOWN}
        assert agreed.quiet == {Event.CONNECT, Event.HELO, Event.HEADER, Event.END_OF_HEADER, Event.BODY}
        assert agreed.leading_space and not agreed.skips
    (tmp_path / "milter.sock").unlink()
    async with Stage(tmp_path, mixed="tempfail", authenticated="inbound") as stage:
        stage.engine.all_stages = False
        stage.engine.rules["rcpt"] = lambda ctx: ACCEPT
        stage.rules.doors = type(stage.rules)(mixed="tempfail", authenticated="inbound").doors
        door = stage.rules.doors["milter"]
        door._engine.all_stages = False  # type: ignore[attr-defined]
        door._engine.rules["rcpt"] = lambda ctx: ACCEPT  # type: ignore[attr-defined]
        door.__init__(door.front, door._engine, (), True)  # type: ignore[misc]
        assert door.want.needs == Actions.ADD_HEADER | Actions.CHANGE_HEADER, "for what is found at RCPT"
        assert {Event.DATA, Event.HEADER, Event.END_OF_HEADER, Event.BODY, Event.UNKNOWN} == door.want.declines


async def test_mail_of_our_own_side(tmp_path: Path) -> None:
    async with Stage(tmp_path, outbound=["198.51.100.0/24"]) as stage:
        for address, macros, role in (
            ("192.0.2.1", {}, "inbound"),
            ("192.0.2.1", {"auth_authen": "user"}, "outbound"),
            ("198.51.100.7", {}, "outbound"),
        ):
            mta = await stage.mta(**macros)
            mta.machine.agreement = mta.machine.agreement and mta.machine.agreement._replace(
                macros={**mta.machine.agreement.macros, 2: ("i", "auth_authen")}
            )
            await mta.connect(address)
            await mta.helo()
            await mta.message()
            assert stage.engine.asked[-1].role == role


@pytest.mark.parametrize(
    ("family", "address", "seen"),
    [
        ("4", b"192.0.2.1", "192.0.2.1"),
        ("6", b"2001:db8::1", "2001:db8::1"),
        ("6", b"IPv6:2001:DB8::1", "2001:db8::1"),
        ("6", b"IPv6:::ffff:192.0.2.1", "192.0.2.1"),
        ("L", b"/var/run/x", "local"),
        ("U", b"", "local"),
    ],
)
async def test_clients_as_mtas_write_them(tmp_path: Path, family: str, address: bytes, seen: str) -> None:
    async with Stage(tmp_path) as stage:
        mta = await stage.mta()
        await mta.do(mta.machine.connect(p.Connect(b"x.example", family, 25 if family in "46" else 0, address)))
        await mta.mail()
        assert stage.engine.asked[-1].client.address == seen


@pytest.mark.parametrize(("told", "bits"), [("256", 256), ("", 0), ("many", 0), ("9" * 5000, 0)])
async def test_tls_of_the_client(tmp_path: Path, told: str, bits: int) -> None:
    async with Stage(tmp_path) as stage:
        tls = {"tls_version": "TLSv1.3", "cipher": "TLS_AES_256_GCM_SHA384", "cipher_bits": told, "cert_subject": "x"}
        mta = await (await stage.mta(**tls)).begin()
        await mta.mail()
        found = stage.engine.asked[-1].client.tls
        assert found is not None and (found.version, found.bits, found.subject) == ("TLSv1.3", bits, "x")


@pytest.mark.parametrize(
    ("sender", "recipient", "answers"),
    [
        ("<>", "<postmaster>", ["continue", "continue"]),
        ("<root>", "<root>", ["continue", "continue"]),
        ("<a@b@c>", "", ["501 5.1.7"]),
        ("<a@example.org>", "<x y@example.com>", ["continue", "501 5.1.3"]),
        ("a@example.org", "user@example.com", ["continue", "continue"]),
        ("<\u00fc@example.org>", "", ["553 5.6.7"]),
    ],
)
async def test_addresses(tmp_path: Path, sender: str, recipient: str, answers: list[str]) -> None:
    async with Stage(tmp_path) as stage:
        mta = await (await stage.mta()).begin()
        got = [await mta.do(mta.machine.mail(sender.encode(), (b"SIZE=100", b"BODY=BINARYMIME", b"X-ODD=1")))]
        if recipient:
            got.append(await mta.do(mta.machine.rcpt(recipient.encode(), (b"NOTIFY=NEVER",))))
        assert [words(one)[: len(want)] for one, want in zip(got, answers, strict=True)] == answers
        if sender == "<root>":
            assert stage.engine.asked[-1].sender.text == "root@mx.example.com"  # type: ignore[union-attr]


async def test_several_messages_and_several_clients_over_one_connection(tmp_path: Path) -> None:
    async with Stage(tmp_path) as stage:
        mta = await stage.mta()
        for number in range(3):
            await mta.connect(f"192.0.2.{number}")
            await mta.helo()
            await mta.message()
            await mta.envelope()
            await mta.do(mta.machine.abort())
            await mta.message(body=b"second\r\n")
            await mta.do(mta.machine.quit_nc())
        asked = stage.engine.at("message")
        assert [ctx.client.address for ctx in asked] == [f"192.0.2.{number // 2}" for number in range(6)]
        assert len({ctx.transaction for ctx in asked}) == 6
        assert stage.front.memory.used == 0
        await mta.do(mta.machine.quit())
        assert await mta.closed()


async def test_what_earlier_stages_found_is_known_later(tmp_path: Path) -> None:
    found = {
        stage: Verdict(check=stage, outcome="x", stage=stage) for stage in ("connect", "helo", "mail", "rcpt", "data")
    }
    async with Stage(tmp_path) as stage:
        for name, verdict in found.items():
            stage.engine.rules[name] = lambda ctx, v=verdict: Decision(verb="accept", verdicts=(v,))
        mta = await (await stage.mta()).begin()
        await mta.message()
        await mta.helo("again.example.org")
        await mta.message()
        first, second = stage.engine.at("message")
        assert [v.check for v in first.trail] == list(found)
        assert [v.check for v in second.trail] == list(found) and second.helo == "again.example.org"
        assert [ctx.stage for ctx in stage.engine.asked].count("connect") == 1


async def test_a_large_message_goes_through_a_file(tmp_path: Path) -> None:
    body = b"0123456789abcde\r\n" * 60_000
    seen: list[bytes] = []

    def look(ctx: Context) -> list[Group]:
        assert ctx.content is not None
        seen.append(b"".join(ctx.content.chunks()))
        return [Group((0,), ACCEPT)]

    async with Stage(tmp_path) as stage:
        stage.engine.rules["message"] = look
        mta = await (await stage.mta()).begin()
        assert (await mta.message(body=body)).reply == TAKEN
        assert seen[0].endswith(b"\r\n\r\n" + body) and stage.front.memory.used == 0
        assert [item.name for item in tmp_path.iterdir()] == ["milter.sock"]


async def test_too_large_and_no_room(tmp_path: Path) -> None:
    async with Stage(tmp_path) as stage:
        stage.rules.smtp = stage.rules.smtp.model_copy(update={"size_limit": 100_000})
        mta = await (await stage.mta()).begin()
        assert words(await mta.message(body=b"x" * 100_001)).startswith("552 5.3.4 Error: message file too big [")
        stage.front.folder = "/nonexistent"
        assert words(await mta.message(body=b"x" * 90_000)).startswith("452 4.3.1 Insufficient system storage [")
        assert (await mta.message()).reply == TAKEN and not stage.engine.at("message")[1:]


async def test_d6_a_header_without_end_and_recipients_without_end(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The limits of SMTP hold for those who speak the milter protocol."""
    monkeypatch.setattr("appliance.daemons.milterd.collector.FIELDS", 50)
    async with Stage(tmp_path) as stage:
        mta = await (await stage.mta()).begin()
        fields = [(b"a", b" b")] * 51
        assert words(await mta.message(fields)).startswith("552 5.3.4 Message header is too large [")
        assert (await mta.message(fields[1:])).reply == TAKEN
        stage.rules.limits = stage.rules.limits.model_copy(update={"recipients": 2})
        stage.engine.asked.clear()
        stage.engine.rules["rcpt"] = lambda ctx: (
            Decision(verb="discard") if ctx.recipient.address.local == "thrown" else ACCEPT
        )
        answers = await mta.envelope("thrown@example.com", *["user@example.com"] * 3)
        assert [words(one) for one in answers[:3]] == ["continue"] * 3
        assert all(words(one).startswith("452 4.5.3 Error: too many recipients [") for one in answers[3:5])
        assert len(stage.engine.at("rcpt")) == 2 and (await mta.content()).reply == TAKEN


async def test_mail_of_a_login_is_asked_about_where_checks_of_outbound_mail_stand(tmp_path: Path) -> None:
    async with Stage(tmp_path) as stage:
        door = stage.rules.doors["milter"]
        door.standing = {"inbound": door.standing["inbound"], "outbound": frozenset({"mail", "message"})}
        logins: list[dict[str, str]] = [{}, {"auth_authen": "ann"}]
        for macros, count in zip(logins, (6, 2), strict=True):
            stage.engine.asked.clear()
            mta = await (await stage.mta(**macros)).begin()
            await mta.message()
            every = ["connect", "helo", "mail", "rcpt", "data", "message"]
            assert [ctx.stage for ctx in stage.engine.asked] == (every if count == 6 else ["mail", "message"])


@pytest.mark.parametrize("later", [False, True])
@pytest.mark.parametrize("version", [2, 3, 6])
async def test_what_stands_at_data_is_asked_of_an_mta_that_tells_of_none(
    tmp_path: Path, version: int, later: bool
) -> None:
    """Versions 2 and 3 know no DATA: what refuses there refuses at the end of the message."""

    async def slowly(decision: Decision) -> Decision:
        await asyncio.sleep(0)
        return decision

    async with Stage(tmp_path) as stage:
        mta = await (await stage.mta(offer(version))).begin()
        expected = (
            (NO, "550 5.1.1 no such mailbox ["),
            (LATER, "451 4.7.1 later ["),
            (DROP, "discard"),
            (ACCEPT, "accept"),
        )
        for decision, answer in expected:
            stage.engine.asked.clear()
            stage.engine.rules["data"] = lambda _ctx, found=decision: slowly(found) if later else found
            await mta.mail()
            await mta.rcpt()
            assert words(await mta.content()).startswith(answer)
            stages = [ctx.stage for ctx in stage.engine.asked if ctx.stage in ("data", "message")]
            assert stages == (["data", "message"] if decision is ACCEPT else ["data"])
        stage.engine.asked.clear()
        await mta.message()
        assert len(stage.engine.at("data")) == 1, "it is asked once"


@pytest.mark.parametrize("later", [False, True])
@pytest.mark.parametrize("refusing", ["connect", "helo", "mail"])
async def test_the_first_stage_that_refuses_ends_the_asking(tmp_path: Path, refusing: str, later: bool) -> None:
    """At once or behind a wait: no later stage makes a pass of it."""

    async def slowly() -> Decision:
        await asyncio.sleep(0)
        return NO

    async with Stage(tmp_path) as stage:
        stage.engine.rules[refusing] = lambda _ctx: slowly() if later else NO
        mta = await (await stage.mta()).begin()
        assert words(await mta.mail()).startswith("550 5.1.1 no such mailbox [")
        every = ["connect", "helo", "mail"]
        assert [ctx.stage for ctx in stage.engine.asked] == every[: every.index(refusing) + 1]


async def test_answers_that_take_time(tmp_path: Path) -> None:
    async with Stage(tmp_path, progress="1s") as stage:

        async def slowly(decision: Any) -> Any:
            await asyncio.sleep(0)
            return decision

        stage.engine.rules |= {
            "mail": lambda ctx: slowly(ACCEPT),
            "rcpt": lambda ctx: slowly(NO if ctx.recipient.address.local == "b" else ACCEPT),
            "message": lambda ctx: slowly([Group((0,), Decision(verb="accept", edits=(Edit("prepend", "X", "1"),)))]),
        }
        mta = await (await stage.mta()).begin()
        answers = await mta.envelope("a@example.com", "b@example.com")
        assert [words(one)[:3] for one in answers] == ["con", "con", "550", "con"]
        assert (await mta.content()).edits == (p.InsertHeader(1, b"X", b" 1"),)


@pytest.mark.parametrize(
    ("edit", "bit"),
    [
        (Edit("sender", value="new@example.org"), 0x40),
        (Edit("add_recipient", value="more@example.com"), 0x04),
        (Edit("delete_recipient", value="user@example.com"), 0x08),
        (Edit("body", value="new\n"), 0x02),
    ],
    ids=["sender", "add", "delete", "body"],
)
async def test_an_edit_that_was_not_agreed_on_is_never_left_out_in_silence(tmp_path: Path, edit: Edit, bit: int) -> None:
    async with Stage(tmp_path) as stage:
        stage.engine.rules["message"] = lambda ctx: [Group((0,), Decision(verb="accept", edits=(edit,)))]
        mta = await (await stage.mta(p.Negotiate(6, 0x1FF & ~bit, 0x1FFFFF))).begin()
        assert words(await mta.message()).startswith("451 4.7.1 ")
        stage.engine.rules.clear()
        assert (await mta.message()).reply == TAKEN


async def test_conversations_last_as_long_as_their_client(tmp_path: Path) -> None:
    class Told:
        def __init__(self) -> None:
            self.said: list[str] = []

        def reset(self) -> None:
            self.said.append("reset")

        def close(self) -> None:
            self.said.append("close")

    made: list[Told] = []

    def talks(role: str) -> Any:
        made.append(Told())
        return made[-1]

    asked: list[Any] = []
    async with Stage(tmp_path) as stage:
        heard = type(stage.engine).ask

        def ask(ctx: Context, talks: Any = None, **more: Any) -> Any:
            asked.append(talks)
            return heard(stage.engine, ctx)

        stage.engine.talks, stage.engine.ask = talks, ask  # type: ignore[assignment, method-assign]
        mta = await (await stage.mta()).begin()
        await mta.message()
        assert made[0].said == ["reset"] and set(map(id, asked)) == {id(made[0])}
        await mta.envelope("user@example.com")
        await mta.do(mta.machine.abort())
        await mta.message()
        assert made[0].said == ["reset"] * 3
        await mta.do(mta.machine.quit_nc())
        await mta.begin()
        await mta.message()
        assert made[0].said[3:] == ["close"] and made[1].said == ["reset"]
    assert made[1].said == ["reset", "close"] and len(made) == 2
