"""threats.md B1-B12 against a real session; a test's name bears its row."""

import asyncio
import re
from typing import Any

import pytest

from appliance.mail.verdict import ACCEPT
from tests.daemons.smtpd.stage import Client, Stage

HELLO = "EHLO client.example.net"
PSEUDO_ENDS = {
    "lf_dot_lf": b"\n.\n",
    "lf_dot_crlf": b"\n.\r\n",
    "crlf_dot_lf": b"\r\n.\n",
    "cr_dot_cr": b"\r.\r",
    "crlf_dot_cr": b"\r\n.\r",
    "cr_dot_crlf": b"\r.\r\n",
    "crcrlf_dot_crlf": b"\r\r\n.\r\r\n",
    "nul_before_dot": b"\r\n\0.\r\n",
    "nul_behind_dot": b"\r\n.\0\r\n",
    "crlf_nul_dot": b"\r\n.\r\0\n",
    "lf_dot_cr_lf": b"\n.\r\r\n",
}
SMUGGLED = b"MAIL FROM:<evil@example.net>\r\nRCPT TO:<b@example.com>\r\nDATA\r\nSubject: smuggled\r\n\r\nevil\r\n"


@pytest.mark.parametrize("end", PSEUDO_ENDS.values(), ids=PSEUDO_ENDS.keys())
async def test_b1_only_crlf_dot_crlf_ends_data(end: bytes) -> None:
    async with Stage() as stage:
        client = await stage.content()
        client.send(b"Subject: one\r\n\r\nhello" + end + SMUGGLED + b".\r\n")
        assert (await client.reply()).startswith("250 2.0.0 Ok: queued")
        assert (await client.say("NOOP")) == "250 2.0.0 Ok"
        assert len(stage.intake.kept) == 1
        content = stage.intake.kept[0].content
        assert b"evil@example.net" in content
        assert b"\n" not in content.replace(b"\r\n", b"")
        assert b"\r" not in content.replace(b"\r\n", b"")


@pytest.mark.parametrize("end", [b"\n.\n", b"\r.\r", b"\r\n.\n"])
async def test_b1_bare_line_ends_are_refused_where_the_operator_says_so(end: bytes) -> None:
    async with Stage(smtp={"bare_lf": "reject"}) as stage:
        client = await stage.content()
        client.send(b"Subject: one\r\n\r\nhello" + end + b"more\r\n.\r\n")
        reply = await client.reply()
        assert re.fullmatch(r"550 5\.5\.2 mx\.example\.com Error: bare <LF> received \[\w+\]", reply)
        assert not stage.intake.kept


async def test_b1_a_client_that_knows_no_crlf_gets_an_answer(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("appliance.daemons.smtpd.session.PSEUDO_END_WAIT", 0.05)
    async with Stage() as stage:
        client = await stage.content()
        client.send(b"Subject: one\n\nhello\n.\n")
        assert await client.reply() == "550 5.5.2 mx.example.com Error: bare <LF> received"
        assert await client.ended() == b""
        assert not stage.intake.kept


async def test_b2_what_is_kept_has_crlf_only_and_no_stuffed_dot() -> None:
    async with Stage() as stage:
        client = await stage.hello()
        body = b"Subject: x\n\n.\n..b\rc\r\n.d"
        client.send(b"MAIL FROM:<a@example.net>\r\nRCPT TO:<b@example.com>\r\n")
        client.send(b"BDAT %d LAST\r\n%b" % (len(body), body))
        for _ in range(3):
            assert (await client.reply()).startswith("250")
        assert stage.intake.kept[0].content.endswith(b"\r\nSubject: x\r\n\r\n.\r\n..b\r\nc\r\n.d\r\n")


async def test_b4_a_bare_lf_in_a_command_starts_no_second_one() -> None:
    async with Stage() as stage:
        client = await stage.hello()
        client.send(b"NOOP x\nMAIL FROM:<a@example.net>\r\nNOOP\r\n")
        assert await client.reply() == "500 5.5.2 Error: bare <LF> received"
        assert await client.ended() == b""
        assert not stage.engine_.at("mail")


@pytest.mark.parametrize("octet", [b"\r", b"\0", b"\x1b"])
async def test_b4_controls_in_a_command_are_refused(octet: bytes) -> None:
    async with Stage() as stage:
        client = await stage.hello()
        client.send(b"MAIL FROM:<a" + octet + b"@example.net>\r\n")
        assert (await client.reply()).startswith("500 5.5.2")
        client.send(b"EHLO a" + octet + b"b\r\n")
        assert (await client.reply()).startswith("500 5.5.2")
        assert not stage.engine_.at("mail")


async def test_b4_an_argument_is_escaped_wherever_it_goes(capfd: pytest.CaptureFixture[str]) -> None:
    async with Stage() as stage:
        client = await stage.connect()
        client.send("EHLO (evil)é\x20x)\r\n".encode())
        assert (await client.reply()).startswith("250")
        await client.say("MAIL FROM:<a@example.net>")
        await client.say("RCPT TO:<b@example.com>")
        await client.say("DATA")
        client.send(b"x\r\n.\r\n")
        await client.reply()
        received = stage.intake.kept[0].content.split(b"\r\n\t")[0]
        assert received == b"Received: from unknown (unknown [127.0.0.1])"


@pytest.mark.parametrize(
    "first",
    [
        b"GET / HTTP/1.1\r\n",
        b"POST /x HTTP/1.0\r\nHost: mx\r\n\r\nEHLO x\r\nMAIL FROM:<a@b.c>\r\n",
        b"SSH-2.0-OpenSSH_9.2\r\n",
        b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03",
        b"Subject: hello\r\n",
        b"CONNECT a:25 HTTP/1.1\n",
        b"PROXY TCP4 1.2.3.4 1.2.3.4 1 25\r\n",
    ],
)
async def test_b5_other_protocols_are_sent_away(first: bytes) -> None:
    async with Stage() as stage:
        client = await stage.connect()
        client.send(first)
        assert await client.reply() == "554 5.7.0 Error: I can break rules, too. Goodbye."
        assert await client.ended() == b""
        assert not stage.engine_.asked


async def test_b5_who_talks_before_the_greeting_is_marked() -> None:
    async with Stage() as stage:
        gate = asyncio.Event()
        connect = stage.state.connect

        async def wait(address: str, limits: object) -> object:
            await gate.wait()
            return await connect(address, limits)

        stage.state.connect = wait  # type: ignore[assignment,method-assign]
        client = await stage.connect(banner=False)
        client.send(b"EHLO hasty.example.net\r\n")
        while not (stage.front.sessions and stage.session().ahead):
            await asyncio.sleep(0.001)
        gate.set()
        assert (await client.reply()).startswith("220")
        assert (await client.reply()).startswith("250-mx")
        await client.say("MAIL FROM:<a@example.net>")
        assert "early_talk" in stage.engine_.at("mail")[0].signs


async def test_b5_who_waits_is_not_marked() -> None:
    async with Stage() as stage:
        client = await stage.hello()
        await client.say("MAIL FROM:<a@example.net>")
        assert not stage.engine_.at("mail")[0].signs


@pytest.mark.parametrize(
    "address",
    ["@relay.example.net:b@example.com", "a%evil.net@example.com", "evil.net!a@example.com", '"a@evil.net"@example.com'],
)
async def test_b8_what_is_judged_is_what_is_kept(address: str) -> None:
    async with Stage() as stage:
        client = await stage.hello()
        await client.say("MAIL FROM:<a@example.net>")
        assert (await client.say(f"RCPT TO:<{address}>")).startswith("250")
        await client.say("DATA")
        client.send(b"x\r\n.\r\n")
        await client.reply()
        judged = stage.engine_.at("rcpt")[0].recipient
        kept = stage.intake.kept[0].trailer.recipients[0]
        assert judged is not None
        assert (kept.address, kept.domain) == (judged.address.text, judged.address.domain)
        assert kept.domain == "example.com"


@pytest.mark.parametrize("address", ["a@b@example.com", "a@example.com.", "a@.example.com", "a@exa mple.com", "a@["])
async def test_b8_no_guessing(address: str) -> None:
    async with Stage() as stage:
        client = await stage.hello()
        await client.say("MAIL FROM:<a@example.net>")
        reply = await client.say(f"RCPT TO:<{address}>")
        if reply.startswith("250"):  # the trailing dot: one meaning only
            await client.say("DATA")
            client.send(b"x\r\n.\r\n")
            await client.reply()
            assert stage.intake.kept[0].trailer.recipients[0].domain == "example.com"
        else:
            assert reply.startswith("501 5.1.3")


@pytest.mark.parametrize("size", [998, 999, 1000, 2000, 65535, 65536, 1_000_000])
async def test_b9_lines_of_any_length_go_through_untouched(size: int) -> None:
    async with Stage() as stage:
        client = await stage.content()
        line = b"\xe9" * size + b"\r\n"
        client.send(b"Subject: long\r\n\r\n" + line + b".\r\n")
        assert (await client.reply()).startswith("250")
        assert stage.intake.kept[0].content.endswith(b"\r\nSubject: long\r\n\r\n" + line)


async def test_b11_no_version_and_no_exception_reaches_the_client(capfd: pytest.CaptureFixture[str]) -> None:
    def broken(ctx: object) -> None:
        raise ValueError("secret path /etc/x")

    async with Stage() as stage:
        stage.engine_.rules["message"] = broken
        client = await stage.content()
        client.send(b"x\r\n.\r\n")
        reply = await client.reply()
        assert re.fullmatch(r"451 4\.3\.0 Error: internal error, please try again later \[\w+\]", reply)
        assert await client.say("NOOP") == "250 2.0.0 Ok"
        assert not stage.intake.kept
    log = capfd.readouterr().err
    assert "secret path" in log
    assert reply[-12:-1] in log


@pytest.mark.parametrize("stage_name", ["mail", "rcpt", "data"])
async def test_b11_internal_errors_at_every_stage(stage_name: str) -> None:
    def broken(ctx: object) -> None:
        raise ValueError("secret")

    async with Stage() as stage:
        stage.engine_.rules[stage_name] = broken
        client = await stage.hello()
        client.send(b"MAIL FROM:<a@example.net>\r\nRCPT TO:<b@example.com>\r\nDATA\r\n")
        replies = [await client.reply() for _ in range(3)]
        assert [reply for reply in replies if reply.startswith("451 4.3.0 Error: internal error")]
        assert "secret" not in "".join(replies)
        assert await client.say("NOOP") == "250 2.0.0 Ok"


async def test_b11_an_internal_error_at_one_recipient_is_no_final_answer_to_the_next() -> None:
    def broken(ctx: Any) -> Any:
        if ctx.recipient.address.local == "broken":
            raise ValueError("secret")
        return ACCEPT

    async with Stage() as stage:
        stage.engine_.rules["rcpt"] = broken
        client = await stage.hello()
        client.send(b"MAIL FROM:<a@example.net>\r\nRCPT TO:<broken@example.com>\r\nRCPT TO:<b@example.com>\r\nDATA\r\n")
        assert [(await client.reply())[:3] for _ in range(4)] == ["250", "451", "250", "354"]
        client.send(b"x\r\n.\r\n")
        assert (await client.reply()).startswith("250")
        (kept,) = stage.intake.kept
    assert [one.address for one in kept.trailer.recipients] == ["b@example.com"]


async def test_b11_an_internal_error_before_the_greeting_ends_the_session() -> None:
    async def broken(address: str, limits: object) -> object:
        raise ValueError("secret")

    async with Stage() as stage:
        stage.state.connect = broken  # type: ignore[assignment,method-assign]
        client = await stage.connect(banner=False)
        assert await client.reply() == "421 4.3.0 mx.example.com Server local data error"
        assert await client.ended() == b""


async def test_b11_an_internal_error_amid_content_ends_the_session(monkeypatch: pytest.MonkeyPatch) -> None:
    def broken(self: object, data: bytes) -> None:
        raise ValueError("secret")

    async with Stage() as stage:
        client = await stage.content()
        monkeypatch.setattr("appliance.daemons.smtpd.body.Body.feed", broken)
        client.send(b"MAIL FROM:<evil@example.net>\r\n.\r\nNOOP\r\n")
        assert (await client.reply()).startswith("451 4.3.0 Error: internal error")
        assert await client.ended() == b""


async def test_b12_xclient_is_for_listed_clients_only() -> None:
    async with Stage() as stage:
        client = await stage.connect()
        assert "XCLIENT" not in await client.say(HELLO)
        assert (await client.say("XCLIENT ADDR=192.0.2.9")).startswith("550 5.7.0")
        assert stage.session().client.address == "127.0.0.1"


async def xclient_stage(stage: Stage) -> Client:
    client = await stage.connect()
    assert "250-XCLIENT NAME ADDR" in await client.say(HELLO)
    return client


async def test_b12_xclient_makes_another_client_of_it() -> None:
    async with Stage(listen={"xclient": ["127.0.0.0/8"]}) as stage:
        client = await xclient_stage(stage)
        reply = await client.say("XCLIENT NAME=mail.example.org ADDR=IPV6:2001:db8::9 PORT=99 HELO=mail.example.org")
        assert reply == "220 mx.example.com ESMTP"
        await client.say("EHLO mail.example.org")
        await client.say("MAIL FROM:<a@example.org>")
        seen = stage.engine_.at("mail")[0].client
        assert (seen.address, seen.name, seen.proof, seen.port) == ("2001:db8::9", "mail.example.org", "pass", 99)
        assert (await client.say("XCLIENT ADDR=192.0.2.1")).startswith("503 5.5.1 Error: MAIL transaction in progress")
        await client.say("RSET")
        assert (await client.say("XCLIENT ADDR=192.0.2.1 NAME=[TEMPUNAVAIL]")).startswith("220")
        await client.say("HELO x")
        await client.say("MAIL FROM:<a@example.org>")
        seen = stage.engine_.at("mail")[1].client
        assert (seen.address, seen.name, seen.proof) == ("192.0.2.1", "unknown", "temperror")
        assert (await client.say("RSET")).startswith("250")
        assert (await client.say("XCLIENT ADDR=nonsense")).startswith("501 5.5.4")


async def test_our_end_of_the_connection_is_known_and_a_relay_may_name_it() -> None:
    async with Stage(listen={"xclient": ["127.0.0.0/8"]}) as stage:
        client = await xclient_stage(stage)
        ours = client.writer.get_extra_info("peername")
        for words, seen in (
            ("", ("127.0.0.1", ours[1])),
            ("ADDR=192.0.2.1", ("127.0.0.1", ours[1])),
            ("DESTADDR=IPV6:2001:db8::25 DESTPORT=587", ("2001:db8::25", 587)),
            ("DESTADDR=[UNAVAILABLE] DESTPORT=[UNAVAILABLE]", ("", 0)),
        ):
            if words:
                assert (await client.say(f"XCLIENT {words}")).startswith("220")
                await client.say(HELLO)
            assert (await client.say("MAIL FROM:<a@example.org>")).startswith("250")
            asked = stage.engine_.at("mail")[-1].client
            assert (asked.server_address, asked.server_port) == seen
            await client.say("RSET")


async def test_b12_xforward_is_for_the_log_only(capfd: pytest.CaptureFixture[str]) -> None:
    async with Stage(listen={"xclient": ["127.0.0.0/8"]}) as stage:
        client = await xclient_stage(stage)
        assert (await client.say("XFORWARD NAME=orig.example.org ADDR=192.0.2.77")).startswith("250")
        assert (await client.say("XFORWARD IDENT=ABC SOURCE=REMOTE")).startswith("250")
        await client.say("MAIL FROM:<a@example.org>")
        assert (await client.say("XFORWARD NAME=x")).startswith("503")
        await client.say("RCPT TO:<b@example.com>")
        await client.say("DATA")
        client.send(b"x\r\n.\r\n")
        await client.reply()
        assert stage.engine_.at("message")[0].client.address == "127.0.0.1"
    assert ", orig_client=orig.example.org[192.0.2.77]" in capfd.readouterr().err


V2 = b"\r\n\r\n\0\r\nQUIT\n\x21\x11\0\x0c" + bytes((192, 0, 2, 5, 192, 0, 2, 1)) + b"\x04\xd2\0\x19"


@pytest.mark.parametrize("header", [b"PROXY TCP4 192.0.2.5 192.0.2.1 1234 25\r\n", V2], ids=["v1", "v2"])
@pytest.mark.parametrize("split", [False, True])
async def test_b12_proxy_names_the_client(header: bytes, split: bool) -> None:
    async with Stage(listen={"proxy": ["127.0.0.0/8"]}) as stage:
        client = await stage.connect(banner=False)
        for part in [bytes((octet,)) for octet in header] if split else [header]:
            client.send(part)
            await asyncio.sleep(0)
        assert (await client.reply()).startswith("220")
        await client.say(HELLO)
        await client.say("MAIL FROM:<a@example.org>")
        ctx = stage.engine_.at("mail")[0]
        assert (ctx.client.address, ctx.client.port) == ("192.0.2.5", 1234)
        assert (ctx.client.server_address, ctx.client.server_port) == ("192.0.2.1", 25)
        assert not ctx.signs
        assert stage.state.open == {"192.0.2.5": 1}


@pytest.mark.parametrize("start", [b"EHLO x\r\n", b"PROXY TCP4 nonsense\r\n", b"\r\n\r\n\0\r\nQUIT\n\x11\x11\0\0"])
async def test_b12_without_a_proxy_header_the_connection_ends(start: bytes) -> None:
    async with Stage(listen={"proxy": ["127.0.0.0/8"]}) as stage:
        client = await stage.connect(banner=False)
        client.send(start)
        assert await client.ended() == b""


async def test_b12_a_silent_proxy_is_cut_off() -> None:
    async with Stage(listen={"proxy": ["127.0.0.0/8"]}, limits={"timeout_tls": "1s"}) as stage:
        client = await stage.connect(banner=False)
        assert b"timeout" in await client.ended()


async def test_b12_who_talks_behind_a_proxy_before_the_greeting_is_marked() -> None:
    async with Stage(listen={"proxy": ["127.0.0.0/8"]}) as stage:
        client = await stage.connect(banner=False)
        client.send(b"PROXY TCP4 192.0.2.5 192.0.2.1 1234 25\r\nEHLO hasty\r\nMAIL FROM:<a@example.net>\r\n")
        for _ in range(3):
            assert (await client.reply())[:3] in ("220", "250")
        assert "early_talk" in stage.engine_.at("mail")[0].signs


@pytest.mark.parametrize("at_once", [True, False])
async def test_b1_a_chunk_is_no_commands_where_we_fail_before_it(at_once: bool) -> None:
    async def later(_ctx: Any) -> Any:
        raise RuntimeError

    def now(_ctx: Any) -> Any:
        raise RuntimeError

    async with Stage() as stage:
        stage.engine_.rules["data"] = now if at_once else later
        client = await stage.hello()
        await client.say("MAIL FROM:<a@example.net>")
        await client.say("RCPT TO:<b@example.com>")
        client.send(b"BDAT %d LAST\r\n%b" % (len(SMUGGLED), SMUGGLED))
        assert (await client.ended()).startswith(b"421 4.3.0 ")
        assert [ctx.sender.text for ctx in stage.engine_.at("mail") if ctx.sender] == ["a@example.net"]
