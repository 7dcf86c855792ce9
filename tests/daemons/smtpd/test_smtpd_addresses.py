"""Sessions with addresses rewritten: at RCPT and behind the end of data; what is kept, what is answered, what is told."""

import asyncio
from collections.abc import Awaitable
from typing import Any

import msgspec
import pytest

from appliance.addresses import Rewriter, Settings
from appliance.daemons.smtpd import addresses
from appliance.engine.pipeline import Group
from appliance.mail import apply
from appliance.mail.edits import Edit
from appliance.mail.ports import Hit, Unavailable
from appliance.mail.verdict import ACCEPT
from appliance.queue.envelope import Expanded
from appliance.tables import open_table
from tests.daemons.smtpd.stage import Stage

VIRTUAL = """\
alias.example           domain
info@alias.example      a@example.com, b@example.com
one@alias.example       a@example.com
loop@alias.example      loop@alias.example, loop2@alias.example
round@alias.example     trip@alias.example
trip@alias.example      round@alias.example
gone@alias.example      error:5.1.6 it has moved
nowhere@alias.example   nobody@alias.example, noone@alias.example
half@alias.example      nobody@alias.example, a@example.com
"""


def table(text: str) -> Any:
    return open_table("texthash:/maps/it", lambda _: text.encode())


class Moody:
    """A table that can be away, and can answer late."""

    pattern = False

    def __init__(self, text: str, at_once: bool = True) -> None:
        self._table, self.at_once = table(text), at_once
        self.away = False
        self.gate: asyncio.Event | None = None

    def get(self, key: str) -> Hit | Awaitable[Hit | None] | None:
        if self.at_once:
            return self._answer(key)
        return self._later(key)

    async def _later(self, key: str) -> Hit | None:
        if self.gate is not None:
            await self.gate.wait()
        return self._answer(key)

    def _answer(self, key: str) -> Hit | None:
        if self.away:
            raise Unavailable("texthash:/maps/it: it is away")
        found: Hit | None = self._table.get(key)
        return found


def staged(listen: dict[str, Any] | None = None, **told: Any) -> Stage:
    """A stage whose rewriter has these settings; texts of maps become tables."""
    maps = {key: (table(value) if isinstance(value, str) else value,) for key, value in told.items() if "_maps" in key}
    stage = Stage(**({"listen": listen} if listen else {}))
    stage.rewriter_ = Rewriter(
        Settings(
            **{
                "origin": "mx.example.com",
                "home": "example.com",
                "is_relayed": lambda domain: domain == "example.com",
                **told,
                **maps,
            }
        )
    )
    return stage


MESSAGE = b"From: Joe <x@host.example.com>\r\nTo: a@example.com\r\nSubject: s\r\n\r\nbody\r\n"


async def send(
    stage: Stage, *recipients: str, sender: str = "x@host.example.com", message: bytes = MESSAGE, **parameters: str
) -> str:
    """One message; the answer to its end, or to the last RCPT if none was taken."""
    client = await stage.hello()
    await client.say(f"MAIL FROM:<{sender}>")
    answers = [await client.say(f"RCPT TO:<{one}>{parameters.get(one, '')}") for one in recipients]
    if not any(answer.startswith("250") for answer in answers):
        return answers[-1]
    assert (await client.say("DATA")).startswith("354")
    client.send(message + b".\r\n")
    return await client.reply()


def whom(stage: Stage, index: int = -1) -> list[tuple[str, str]]:
    return [(one.address, one.original) for one in stage.intake.kept[index].trailer.recipients]


async def test_recipients_become_others_and_keep_where_they_came_from() -> None:
    async with staged(virtual_alias_maps=VIRTUAL) as stage:
        assert (await send(stage, "info@alias.example", "c@example.com")).startswith("250")
        kept = stage.intake.kept[0].trailer
        assert whom(stage) == [
            ("a@example.com", "info@alias.example"),
            ("b@example.com", "info@alias.example"),
            ("c@example.com", ""),
        ]
        assert [one.orcpt for one in kept.recipients] == ["rfc822;info@alias.example"] * 2 + [""]
        assert [one.domain for one in kept.recipients] == ["example.com"] * 3


async def test_what_the_client_said_of_the_original_stays() -> None:
    async with staged({"role": "outbound"}, virtual_alias_maps=VIRTUAL) as stage:
        client = await stage.hello()
        await client.say("MAIL FROM:<x@example.com>")
        said = " NOTIFY=SUCCESS,FAILURE ORCPT=rfc822;first@else.example"
        assert (await client.say(f"RCPT TO:<info@alias.example>{said}")).startswith("250")
        await client.say("DATA")
        client.send(MESSAGE + b".\r\n")
        await client.reply()
        kept = stage.intake.kept[0].trailer
        # That it was expanded is the report of success, those of failure come from each.
        assert [(one.notify, one.orcpt) for one in kept.recipients] == [("FAILURE", "rfc822;first@else.example")] * 2
        assert kept.expanded == (Expanded("info@alias.example", "rfc822;first@else.example", "expanded"),)


@pytest.mark.parametrize(
    ("named", "notify", "orcpt", "expanded"),
    [
        ("one@alias.example", "NEVER", "rfc822;one@alias.example", "one@alias.example"),  # one is others, too
        ("renamed@example.com", "SUCCESS", "rfc822;renamed@example.com", ""),  # another name for the same one
        ("toalias@example.com", "NEVER", "rfc822;toalias@example.com", "one@alias.example"),
        ("x@example.com", "SUCCESS", "", ""),
        ("self@alias.example", "SUCCESS", "", ""),
    ],
)
async def test_what_becomes_others_is_reported_at_once(named: str, notify: str, orcpt: str, expanded: str) -> None:
    canonical = "renamed@example.com c@example.com\ntoalias@example.com one@alias.example\n"
    virtual = VIRTUAL + "self@alias.example self@alias.example\n"
    told = {"virtual_alias_maps": virtual, "canonical_maps": canonical, "is_relayed": lambda _: True}
    async with staged({"role": "outbound"}, **told) as stage:
        assert (await send(stage, named, **{named: " NOTIFY=SUCCESS"})).startswith("250")
        kept = stage.intake.kept[0].trailer
        assert [(one.notify, one.orcpt) for one in kept.recipients] == [(notify, orcpt)]
        assert kept.expanded == ((Expanded(expanded, orcpt),) if expanded else ())
        assert (await send(stage, named, **{named: " NOTIFY=FAILURE"})).startswith("250")
        assert stage.intake.kept[1].trailer.expanded == ()


async def test_the_same_recipient_twice_is_kept_once_and_two_ways_to_one_twice() -> None:
    """Postfix, enable_original_recipient = yes: (address, original) is what counts."""
    async with staged(virtual_alias_maps=VIRTUAL) as stage:
        await send(stage, "one@alias.example", "a@example.com", "ONE@alias.example", "a@example.com")
        assert whom(stage) == [("a@example.com", "one@alias.example"), ("a@example.com", "")]


async def test_nobody_of_this_name_where_only_aliases_are() -> None:
    async with staged(virtual_alias_maps=VIRTUAL) as stage:
        assert (await send(stage, "nobody@alias.example")).startswith("550 5.1.1")
        assert (await send(stage, "gone@alias.example")).startswith("550 5.1.6 it has moved")
        assert (await send(stage, "nowhere@alias.example")).startswith("550 5.1.1")
        assert not stage.intake.kept
        assert (await send(stage, "half@alias.example")).startswith("250")


async def test_one_bad_recipient_costs_no_other() -> None:
    async with staged(virtual_alias_maps=VIRTUAL) as stage:
        assert (await send(stage, "round@alias.example", "one@alias.example", "nobody@alias.example")).startswith("250")
        assert whom(stage) == [("a@example.com", "one@alias.example")]


async def test_a_loop_is_451_and_says_why_in_the_log(capfd: pytest.CaptureFixture[str]) -> None:
    async with staged(virtual_alias_maps=VIRTUAL, recursion_limit=20) as stage:
        assert (await send(stage, "round@alias.example")).startswith("451 4.3.0")
        await asyncio.sleep(0)
    log = capfd.readouterr().err
    assert "addresses: <round@alias.example>: aliases lead to aliases without end, last by virtual_alias_maps " in log
    assert "/maps/it:" in log


@pytest.mark.parametrize("at_once", [True, False])
async def test_a_table_that_is_away_puts_off_at_rcpt(at_once: bool) -> None:
    maps = Moody(VIRTUAL, at_once)
    async with staged(virtual_alias_maps=maps) as stage:
        maps.away = True
        assert (await send(stage, "one@alias.example")).startswith("451 4.3.0")
        maps.away = False
        assert (await send(stage, "one@alias.example")).startswith("250")
        assert len(stage.intake.kept) == 1


@pytest.mark.parametrize("key", ["sender_canonical_maps", "sender_bcc_maps", "recipient_bcc_maps"])
async def test_a_table_that_is_away_puts_off_behind_the_end(key: str, capfd: pytest.CaptureFixture[str]) -> None:
    maps = Moody("nobody@example.com x@example.com")
    async with staged(**{key: maps}) as stage:
        maps.away = True
        assert (await send(stage, "a@example.com")).startswith("451 4.3.0")
        assert not stage.intake.kept
        maps.away = False
        assert (await send(stage, "a@example.com")).startswith("250")
    assert "it is away -- not accepted, try again later; from=<x@host.example.com>" in capfd.readouterr().err


async def test_look_ups_without_end_are_given_up(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(addresses, "DEADLINE", 0.05)
    maps = Moody(VIRTUAL, at_once=False)
    maps.gate = asyncio.Event()
    async with staged(virtual_alias_maps=maps) as stage:
        assert (await send(stage, "one@alias.example")).startswith("451 4.3.0")


async def test_a_client_that_leaves_while_a_table_is_asked() -> None:
    maps = Moody(VIRTUAL, at_once=False)
    maps.gate = asyncio.Event()
    async with staged(virtual_alias_maps=maps) as stage:
        client = await stage.hello()
        await client.say("MAIL FROM:<x@example.com>")
        client.send(b"RCPT TO:<one@alias.example>\r\n")
        client.reset()
        while any(not session.lost for session in stage.front.sessions):
            await asyncio.sleep(0.01)
        maps.gate.set()
        while stage.front.sessions:
            await asyncio.sleep(0.01)
        assert (await send(stage, "one@alias.example")).startswith("250")


async def test_pipelined_recipients_keep_their_order_while_tables_are_asked() -> None:
    async with staged(virtual_alias_maps=Moody(VIRTUAL, at_once=False)) as stage:
        client = await stage.hello()
        client.send(
            b"MAIL FROM:<x@example.com>\r\nRCPT TO:<one@alias.example>\r\nRCPT TO:<nobody@alias.example>\r\n"
            b"RCPT TO:<info@alias.example>\r\nDATA\r\n"
        )
        codes = [(await client.reply())[:3] for _ in range(5)]
        assert codes == ["250", "250", "550", "250", "354"]


async def test_many_behind_aliases_are_for_the_next_transaction(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(addresses, "MOST", 5)
    async with staged(virtual_alias_maps=VIRTUAL) as stage:
        client = await stage.hello()
        await client.say("MAIL FROM:<x@example.com>")
        answers = [await client.say(f"RCPT TO:<{one}@example.com>") for one in "abcd"]
        answers += [await client.say("RCPT TO:<info@alias.example>"), await client.say("RCPT TO:<e@example.com>")]
        assert [answer[:3] for answer in answers] == ["250", "250", "250", "250", "452", "250"]
        assert answers[4].startswith("452 4.5.3")


async def test_who_asks_for_what_cannot_be_meant_again_and_again_is_shown_out() -> None:
    stage = staged(virtual_alias_maps=VIRTUAL, recursion_limit=20)
    stage.wiring = stage.wiring.model_copy(
        update={"limits": stage.wiring.limits.model_copy(update={"errors_soft": 50, "errors_hard": 5})}
    )
    async with stage:
        client = await stage.hello()
        await client.say("MAIL FROM:<x@example.com>")
        answers = [await client.say(f"RCPT TO:<round+{n}@alias.example>") for n in range(7)]
        assert [answer[:3] for answer in answers] == ["451"] * 6 + ["421"]


async def test_above_the_most_nothing_is_looked_up_any_more(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(addresses, "MOST", 2)
    monkeypatch.setattr(addresses, "OVERSHOOT", 3)
    asked: list[str] = []

    class Counted:
        pattern, at_once = False, True

        def get(self, key: str) -> Hit | None:
            asked.append(key)
            return ("a@example.com, b@example.com", "t:1") if key == "info@alias.example" else None

    async with staged(virtual_alias_maps=Counted()) as stage:
        client = await stage.hello()
        await client.say("MAIL FROM:<x@example.com>")
        assert (await client.say("RCPT TO:<info@alias.example>")).startswith("250")
        before = len(asked)
        for number in range(4):
            assert (await client.say(f"RCPT TO:<u{number}@example.com>")).startswith("452 4.5.3")
        assert len(asked) == before
        assert stage.session().errors == 1


async def test_a_client_that_is_gone_before_the_tables_have_answered_gets_nothing_kept(
    capfd: pytest.CaptureFixture[str],
) -> None:
    maps = Moody("nobody@example.com x@example.com", at_once=False)
    async with staged(sender_bcc_maps=maps) as stage:
        client = await stage.content("x@example.com", "a@example.com")
        maps.gate = asyncio.Event()
        session = stage.session()
        client.send(MESSAGE + b".\r\n")
        while not session.transaction.decoder.done:
            await asyncio.sleep(0.01)
        client.reset()
        while not session.lost:
            await asyncio.sleep(0.01)
        maps.gate.set()
        while stage.front.transactions:
            await asyncio.sleep(0.01)
        await asyncio.sleep(0.01)  # the line of the log is written with a later turn
        assert not stage.intake.kept
    assert "not kept: the client is gone before the answer" in capfd.readouterr().err


# ---------------------------------------------------------------------- sender, copies, header


async def test_the_sender_is_rewritten_and_its_reports_go_to_the_new_one() -> None:
    async with staged(sender_canonical_maps="x@host.example.com new@example.com") as stage:
        await send(stage, "a@example.com")
        assert stage.intake.kept[0].trailer.sender == "new@example.com"
        await send(stage, "a@example.com", sender="")
        assert stage.intake.kept[1].trailer.sender == ""


async def test_copies_want_no_reports_and_are_made_once() -> None:
    async with staged(
        always_bcc="all@archive.example",
        sender_bcc_maps="x@host.example.com sent@archive.example",
        recipient_bcc_maps="a@example.com got@archive.example\ngot@archive.example never@archive.example",
        virtual_alias_maps=VIRTUAL,
    ) as stage:
        await send(stage, "a@example.com", "b@example.com")
        kept = {one.address: one for one in stage.intake.kept[0].trailer.recipients}
        assert list(kept) == [
            "a@example.com",
            "got@archive.example",
            "b@example.com",
            "sent@archive.example",
            "all@archive.example",
        ]
        assert kept["got@archive.example"].notify == kept["all@archive.example"].notify == "NEVER"
        assert kept["got@archive.example"].orcpt == ""
        await send(stage, "b@example.com", sender="")
        assert [one for one, _ in whom(stage)] == ["b@example.com", "all@archive.example"]


async def test_copies_of_everything_go_with_what_is_delivered() -> None:
    async with staged(always_bcc="all@archive.example", recipient_bcc_maps="q@example.com got@archive.example") as stage:
        held = msgspec.structs.replace(ACCEPT, keep="quarantine", keep_reason="test")
        stage.engine_.rules["message"] = lambda ctx: [Group((0,), held), Group((1,), ACCEPT)]
        await send(stage, "q@example.com", "a@example.com")
        kept = {one.trailer.keep: [r.address for r in one.trailer.recipients] for one in stage.intake.kept}
        assert kept == {
            "quarantine": ["q@example.com", "got@archive.example"],
            "deliver": ["a@example.com", "all@archive.example"],
        }


async def test_a_redirected_message_goes_where_it_is_sent_to() -> None:
    async with staged(virtual_alias_maps=VIRTUAL, always_bcc="all@archive.example") as stage:
        away = msgspec.structs.replace(ACCEPT, redirect="one@alias.example")
        stage.engine_.rules["message"] = lambda ctx: [Group((0,), away)]
        await send(stage, "info@alias.example")
        assert [one for one, _ in whom(stage)] == ["one@alias.example"]


async def test_a_milters_recipients_are_rewritten_too() -> None:
    async with staged(virtual_alias_maps=VIRTUAL, recipient_bcc_maps="one@alias.example no@example.com") as stage:
        edits = (Edit("add_recipient", value="one@alias.example"), Edit("sender", value="m@host.example.com"))
        changed = msgspec.structs.replace(ACCEPT, edits=edits)
        stage.engine_.rules["message"] = lambda ctx: [Group((0,), changed)]
        await send(stage, "c@example.com")
        assert whom(stage) == [("c@example.com", ""), ("a@example.com", "one@alias.example")]
        assert stage.intake.kept[0].trailer.sender == "m@host.example.com"


async def test_what_a_filter_hands_back_is_not_rewritten_again() -> None:
    async with staged(
        {"role": "reinject"}, virtual_alias_maps=VIRTUAL, always_bcc="all@archive.example", canonical_maps="x y@z.example"
    ) as stage:
        await send(stage, "info@alias.example")
        assert whom(stage) == [("info@alias.example", "")]


def header_of(stage: Stage) -> bytes:
    kept = stage.intake.kept[-1]
    return apply.whole(kept.content, kept.trailer.edits).partition(b"\r\n\r\n")[0]


async def test_header_fields_of_our_own_clients_alone() -> None:
    for role, changed in (("inbound", False), ("outbound", True)):
        async with staged({"role": role}, masquerade_domains=("example.com",)) as stage:
            await send(stage, "a@example.com")
            assert (b"From: Joe <x@example.com>\r\n" in header_of(stage)) is changed
            assert stage.intake.kept[0].trailer.sender == "x@example.com"
            assert bool(stage.intake.kept[0].trailer.edits) is changed


async def test_networks_whose_fields_are_rewritten() -> None:
    stage = staged(masquerade_domains=("example.com",))
    told = stage.wiring.addresses.model_copy(update={"local_header_rewrite_clients": ()})
    plain = stage.wiring.model_copy(update={"addresses": told})
    stage.wiring = type(stage.wiring).model_validate(
        {
            "gateway": {"hostname": "mx.example.com"},
            "listen": [{"name": "public"}],
            "addresses": {"local_header_rewrite_clients": ["127.0.0.0/8"]},
        }
    )
    async with stage:
        await send(stage, "a@example.com")
        assert b"From: Joe <x@example.com>\r\n" in header_of(stage)
        stage.front.follow(stage.rules(plain))
        await send(stage, "a@example.com")
        assert b"From: Joe <x@host.example.com>\r\n" in header_of(stage)


async def test_what_was_rewritten_is_told(capfd: pytest.CaptureFixture[str]) -> None:
    async with staged(virtual_alias_maps=VIRTUAL, sender_canonical_maps="x@host.example.com n@example.com") as stage:
        await send(stage, "info@alias.example")
        queue_id = stage.intake.kept[0].trailer.queue_id
        await asyncio.sleep(0)
    log = capfd.readouterr().err
    assert f"{queue_id}: rewritten: virtual_alias_maps /maps/it:2: <info@alias.example> -> <a@example.com>, <b@e" in log
    assert f"{queue_id}: rewritten: sender_canonical_maps /maps/it:1: <x@host.example.com> -> <n@example.com>" in log


async def test_postmaster_of_this_host_has_mail_with_and_without_a_rewriter() -> None:
    for stage in (Stage(relay={"domains": ["example.com"]}), staged(virtual_alias_maps=VIRTUAL)):
        async with stage:
            for named in ("postmaster", "Postmaster@MX.example.com"):
                assert (await send(stage, named)).startswith("250")
                ((address, original),) = whom(stage)
                assert address.lower() == "postmaster@example.com"
                assert original.lower() == named.lower()


async def test_addresses_beyond_ascii_ask_for_smtputf8() -> None:
    async with staged(virtual_alias_maps="one@alias.example jörg@example.com") as stage:
        await send(stage, "one@alias.example")
        assert whom(stage) == [("jörg@example.com", "one@alias.example")]
        assert stage.intake.kept[0].trailer.smtputf8


async def test_the_original_of_an_address_beyond_ascii() -> None:
    stage = staged(virtual_alias_maps="müller@alias.example a@example.com")
    stage.utf8 = True
    async with stage:
        client = await stage.hello()
        await client.say("MAIL FROM:<x@example.com> SMTPUTF8")
        client.send("RCPT TO:<müller@alias.example>\r\n".encode())
        assert (await client.reply()).startswith("250")
        await client.say("DATA")
        client.send(MESSAGE + b".\r\n")
        await client.reply()
        (kept,) = stage.intake.kept[0].trailer.recipients
        assert kept.orcpt == "utf-8;m\\x{FC}ller@alias.example"
