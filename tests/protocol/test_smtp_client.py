"""The client machine as a play: what the server says, what the client writes, what becomes of each recipient."""

import itertools

import pytest

from appliance.protocol.smtp.client import ClientMachine
from appliance.protocol.smtp.outgoing import (
    Closed,
    Event,
    Finished,
    Outgoing,
    OutgoingRecipient,
    Ready,
    Result,
    SendContent,
    StartTls,
    TlsRefused,
    Write,
)

FULL = ("PIPELINING", "SIZE 1000", "8BITMIME", "SMTPUTF8", "DSN", "CHUNKING", "XFORWARD NAME ADDR HELO")
PIPELINING = ("PIPELINING", "SIZE 1000", "8BITMIME")


def message(*recipients: str, **more: object) -> Outgoing:
    return Outgoing("s@x.example", tuple(map(OutgoingRecipient, recipients)), **more)  # type: ignore[arg-type]


def written(events: list[Event]) -> bytes:
    return b"".join(event.data for event in events if isinstance(event, Write))


def others(events: list[Event]) -> list[Event]:
    return [event for event in events if not isinstance(event, Write)]


def finished(events: list[Event]) -> Finished:
    (found,) = [event for event in events if isinstance(event, Finished)]
    return found


def kinds(events: list[Event]) -> list[str]:
    return [result.kind for result in finished(events).results]


def connected(*features: str, **options: bool) -> ClientMachine:
    machine = ClientMachine("mx.example.com", **options)
    assert (
        written(machine.receive(b"220 inner ESMTP\r\n"))
        == (b"LHLO" if machine.lmtp else b"EHLO") + b" mx.example.com\r\n"
    )
    lines = ["inner", *features]
    reply = "".join(f"250-{line}\r\n" for line in lines[:-1]) + f"250 {lines[-1]}\r\n"
    (ready,) = machine.receive(reply.encode())
    assert isinstance(ready, Ready)
    return machine


# The handshake


def test_features_are_read() -> None:
    machine = connected(*PIPELINING)
    assert machine.features == {"PIPELINING": "", "SIZE": "1000", "8BITMIME": ""}


def test_helo_where_ehlo_is_refused() -> None:
    machine = ClientMachine("mx.example.com")
    machine.receive(b"220 old\r\n")
    assert written(machine.receive(b"502 what?\r\n")) == b"HELO mx.example.com\r\n"
    assert machine.receive(b"250 old\r\n") == [Ready({})]
    assert machine.begin(message("a@b.c", size=5, body="8BITMIME")) == [Write(b"MAIL FROM:<s@x.example>\r\n")]


@pytest.mark.parametrize("wire", [b"554 no\r\n", b"450 later\r\n", b"421 busy\r\n", b"354 ?\r\n"])
def test_refused_at_the_greeting(wire: bytes) -> None:
    machine = ClientMachine("mx.example.com")
    (event,) = machine.receive(wire)
    assert isinstance(event, Closed)
    assert event.reply is not None
    assert event.reply.code == int(wire[:3])
    assert machine.receive(b"220 again\r\n") == machine.eof() == []


@pytest.mark.parametrize(("lmtp", "reply"), [(False, b"450 x\r\n"), (True, b"500 x\r\n"), (False, b"421 x\r\n")])
def test_refused_at_hello(lmtp: bool, reply: bytes) -> None:
    machine = ClientMachine("mx.example.com", lmtp=lmtp)
    machine.receive(b"220 x\r\n")
    (event,) = machine.receive(reply)
    assert isinstance(event, Closed)


def test_helo_refused_too() -> None:
    machine = ClientMachine("mx.example.com")
    machine.receive(b"220 x\r\n")
    machine.receive(b"500 x\r\n")
    assert isinstance(machine.receive(b"550 x\r\n")[0], Closed)


def test_rubbish_instead_of_a_greeting() -> None:
    (event,) = ClientMachine("mx.example.com").receive(b"SSH-2.0-OpenSSH\r\n")
    assert isinstance(event, Closed)
    assert "SSH-2.0" in event.text


def test_lost_before_the_greeting() -> None:
    machine = ClientMachine("mx.example.com")
    (event,) = machine.eof("conversation timed out")
    assert event == Closed("conversation timed out while receiving the initial server greeting")


# STARTTLS


def test_starttls_forgets_what_came_before() -> None:
    machine = connected("STARTTLS", "AUTH PLAIN")
    assert machine.starttls() == [Write(b"STARTTLS\r\n")]
    # Glued behind the 220: a forged EHLO reply (threats B3). It is gone, as is what still comes before the handshake.
    assert machine.receive(b"220 go\r\n250-x\r\n250 SIZE 1\r\n\x16\x03") == [StartTls()]
    assert machine.receive(b"250 forged\r\n") == []
    assert machine.tls_started() == [Write(b"EHLO mx.example.com\r\n")]
    assert machine.tls
    assert machine.features == {}
    assert machine.receive(b"250-inner\r\n250 PIPELINING\r\n") == [Ready({"PIPELINING": ""})]


def test_starttls_refused_goes_on() -> None:
    machine = connected("STARTTLS")
    machine.starttls()
    (event,) = machine.receive(b"454 4.7.0 no\r\n")
    assert isinstance(event, TlsRefused)
    assert written(machine.begin(message("a@b.c"))).startswith(b"MAIL")


def test_lost_in_the_tls_handshake() -> None:
    machine = connected("STARTTLS")
    machine.starttls()
    machine.receive(b"220 go\r\n")
    assert machine.eof("lost connection") == [Closed("lost connection while performing the TLS handshake")]


# Envelopes


def test_parameters_only_where_offered() -> None:
    recipient = OutgoingRecipient("a@b.c", "FAILURE,DELAY", "rfc822;A@b.c")
    full = Outgoing(
        "s@x.example", (recipient,), 500, "8BITMIME", False, "HDRS", "QQ+2B", {"NAME": "n.example", "PORT": "9"}
    )
    assert written(connected(*FULL).begin(full)) == (
        b"XFORWARD NAME=n.example\r\n"
        b"MAIL FROM:<s@x.example> SIZE=500 BODY=8BITMIME RET=HDRS ENVID=QQ+2B\r\n"
        b"RCPT TO:<a@b.c> NOTIFY=FAILURE,DELAY ORCPT=rfc822;A@b.c\r\n"
    )
    assert written(connected("PIPELINING").begin(full)) == (b"MAIL FROM:<s@x.example>\r\nRCPT TO:<a@b.c>\r\nDATA\r\n")


@pytest.mark.parametrize(("features", "replies"), [(FULL, b"222"), (FULL[1:], b"2232")])
def test_xforward_that_is_refused_is_a_remark(features: tuple[str, ...], replies: bytes) -> None:
    machine = connected(*features)
    machine.begin(message("a@b.c", xforward={"NAME": "n.example"}), b"x\r\n")
    machine.receive(b"550 5.7.0 not you\r\n")
    for digit in replies:
        events = machine.receive(b"%c50 ok\r\n" % digit)
    done = finished(events)
    assert done.remarks == (Result("failed", 550, "5.7.0", "550 5.7.0 not you", "XFORWARD"),)
    assert [result.kind for result in done.results] == ["delivered"]
    machine.begin(message("a@b.c"), b"x\r\n")  # nothing is said of the next one
    assert finished(machine.eof()).remarks == ()
    more = {"NAME": "n" * 250, "HELO": "h" * 250}  # two commands
    machine = connected(*features)
    machine.begin(message("a@b.c", xforward=more), b"x\r\n")
    machine.receive(b"550 one\r\n")
    machine.receive(b"550 two\r\n")
    assert [remark.text for remark in finished(machine.eof()).remarks] == ["550 one", "550 two"]


def test_null_sender_and_quoted_local_part() -> None:
    events = connected(*PIPELINING).begin(Outgoing("", (OutgoingRecipient('"a b>"@b.c'),)))
    assert written(events) == b'MAIL FROM:<>\r\nRCPT TO:<"a b>"@b.c>\r\nDATA\r\n'


@pytest.mark.parametrize(
    "envelope",
    [
        Outgoing("s@x", ()),
        message("a@b.c\r\nDATA"),
        message("a@b.c\n"),
        message("a@b.c> NOTIFY=NEVER"),
        message('"a\nb"@b.c'),
        message("a@b.c\0"),
        message("a@b.c", envid="x RET=FULL"),
        Outgoing("s@x>\r\nRCPT TO:<x@y", (OutgoingRecipient("a@b.c"),)),
        Outgoing("s@x", (OutgoingRecipient("a@b.c", "NEVER\r\nDATA"),)),
        Outgoing("s@x", (OutgoingRecipient("a@b.c", orcpt="rfc822;a b"),)),
    ],
)
def test_nothing_breaks_out_of_a_command(envelope: Outgoing) -> None:
    machine = connected(*FULL)
    with pytest.raises(ValueError, match=r"."):
        machine.begin(envelope)
    assert written(machine.begin(message("a@b.c"))).startswith(b"MAIL")


def test_smtputf8_needed_and_not_offered() -> None:
    machine = connected(*PIPELINING)
    for envelope in (message("ü@b.c"), message("a@b.c", smtputf8=True)):
        events = machine.begin(envelope)
        assert written(events) == b""
        assert finished(events).reusable
        (result,) = finished(events).results
        assert (result.kind, result.code, result.enhanced) == ("failed", 0, "5.6.7")
    assert machine.messages == 0
    assert b"SMTPUTF8\r\nRCPT TO:<\xc3\xbc@b.c>" in written(connected(*FULL).begin(message("ü@b.c")))


def test_too_big_for_the_server() -> None:
    machine = connected(*PIPELINING)
    (result,) = finished(machine.begin(message("a@b.c", size=1001))).results
    assert (result.kind, result.enhanced) == ("failed", "5.3.4")
    assert written(machine.begin(message("a@b.c", size=1000))).startswith(b"MAIL FROM:<s@x.example> SIZE=1000\r\n")
    for odd in ("SIZE", "SIZE 0", "SIZE lots"):
        assert written(connected("PIPELINING", odd).begin(message("a@b.c", size=10**9)))


# Messages


def test_pipelined_message() -> None:
    machine = connected(*PIPELINING)
    events = machine.begin(message("a@b.c", "d@e.f"), b"Subject: x\r\n\r\n.dot")
    assert written(events) == b"MAIL FROM:<s@x.example>\r\nRCPT TO:<a@b.c>\r\nRCPT TO:<d@e.f>\r\nDATA\r\n"
    events = machine.receive(b"250 ok\r\n250 ok\r\n250 ok\r\n354 go\r\n")
    assert events == [Write(b"Subject: x\r\n\r\n..dot\r\n.\r\n")]
    result = Result("delivered", 250, "2.0.0", "250 2.0.0 queued as 1", "end of DATA")
    assert machine.receive(b"250 2.0.0 queued as 1\r\n") == [Finished((result, result), True)]
    assert machine.begin(message("g@h.i"))[0] == Write(b"MAIL FROM:<s@x.example>\r\nRCPT TO:<g@h.i>\r\nDATA\r\n")
    assert machine.messages == 2


def test_one_command_at_a_time_without_pipelining() -> None:
    machine = connected("SIZE 1000", "CHUNKING")
    assert machine.begin(message("a@b.c", "d@e.f"), b"x\r\n") == [Write(b"MAIL FROM:<s@x.example>\r\n")]
    assert machine.receive(b"250 ok\r\n") == [Write(b"RCPT TO:<a@b.c>\r\n")]
    assert machine.receive(b"550 5.1.1 no\r\n") == [Write(b"RCPT TO:<d@e.f>\r\n")]
    assert machine.receive(b"250 ok\r\n") == [Write(b"DATA\r\n")]
    assert machine.receive(b"354 go\r\n") == [Write(b"x\r\n.\r\n")]
    events = machine.receive(b"250 ok\r\n")
    assert kinds(events) == ["failed", "delivered"]
    assert finished(events).results[0].command == "RCPT TO"


def test_streamed_content() -> None:
    machine = connected(*PIPELINING)
    machine.begin(message("a@b.c"))
    assert not machine.wants_content
    assert machine.receive(b"250 ok\r\n250 ok\r\n354 go\r\n") == [SendContent()]
    assert machine.wants_content
    assert machine.content(b"a\r") + machine.content(b"\n.b\n") + machine.end() == b"a\r\n..b\r\n.\r\n"
    assert not machine.wants_content
    assert kinds(machine.receive(b"250 ok\r\n")) == ["delivered"]
    assert machine.content(b"late") == machine.end() == b""


def test_mail_refused() -> None:
    machine = connected(*PIPELINING)
    machine.begin(message("a@b.c", "d@e.f"), b"x\r\n")
    events = machine.receive(b"451 4.7.1 later\r\n503 5.5.1 MAIL first\r\n503 x\r\n503 x\r\n")
    expected = Result("deferred", 451, "4.7.1", "451 4.7.1 later", "MAIL FROM")
    assert events == [Finished((expected, expected), True)]
    assert written(machine.begin(message("a@b.c"))).startswith(b"MAIL"), "there is nothing to reset"


def test_mail_refused_without_pipelining() -> None:
    machine = connected()
    machine.begin(message("a@b.c", "d@e.f"), b"x\r\n")
    assert kinds(machine.receive(b"550 5.7.1 no\r\n")) == ["failed", "failed"]


def test_mail_refused_and_the_rest_accepted_by_a_broken_server() -> None:
    machine = connected(*PIPELINING)
    machine.begin(message("a@b.c"), b"secret\r\n")
    assert machine.receive(b"550 5.7.1 no\r\n250 ok\r\n354 go\r\n") == [Write(b".\r\n")]
    assert kinds(machine.receive(b"250 took nothing\r\n")) == ["failed"]


@pytest.mark.parametrize("reply", [b"554 5.5.1 no valid recipients\r\n", b"503 x\r\n"])
def test_all_recipients_refused(reply: bytes) -> None:
    machine = connected(*PIPELINING)
    machine.begin(message("a@b.c", "d@e.f"), b"x\r\n")
    events = machine.receive(b"250 ok\r\n550 5.1.1 a\r\n450 4.2.0 b\r\n" + reply)
    assert written(events) == b""
    assert [(r.kind, r.text, r.command) for r in finished(events).results] == [
        ("failed", "550 5.1.1 a", "RCPT TO"),
        ("deferred", "450 4.2.0 b", "RCPT TO"),
    ]
    # The server still has our MAIL.
    assert written(machine.begin(message("g@h.i"))).startswith(b"RSET\r\nMAIL FROM:")
    events = machine.receive(b"250 reset\r\n250 ok\r\n250 ok\r\n354 go\r\n")
    assert events == [SendContent()]


def test_all_recipients_refused_and_the_server_wants_content_all_the_same() -> None:
    """The pipelined DATA got its 354: a lone dot ends it, nothing of the content goes (RFC 2920 3.1)."""
    for answer in (b"554 no recipients\r\n", b"250 ok\r\n"):
        machine = connected(*PIPELINING)
        machine.begin(message("a@b.c"), b"secret\r\n")
        assert machine.receive(b"250 ok\r\n550 no\r\n354 go\r\n") == [Write(b".\r\n")]
        events = machine.receive(answer)
        assert kinds(events) == ["failed"]
        assert finished(events).reusable
        assert written(machine.begin(message("g@h.i"))).startswith(b"MAIL")


def test_all_recipients_refused_without_pipelining() -> None:
    machine = connected()
    machine.begin(message("a@b.c"), b"x\r\n")
    machine.receive(b"250 ok\r\n")
    events = machine.receive(b"550 no\r\n")
    assert written(events) == b""
    assert kinds(events) == ["failed"]
    assert machine.begin(message("g@h.i")) == [Write(b"RSET\r\n")]
    assert machine.receive(b"250 ok\r\n") == [Write(b"MAIL FROM:<s@x.example>\r\n")]


def test_data_refused() -> None:
    machine = connected(*PIPELINING)
    machine.begin(message("a@b.c", "d@e.f"), b"x\r\n")
    events = machine.receive(b"250 ok\r\n250 ok\r\n550 5.1.1 no\r\n451 4.3.0 not now\r\n")
    assert [(r.kind, r.command) for r in finished(events).results] == [("deferred", "DATA"), ("failed", "RCPT TO")]
    assert written(machine.begin(message("g@h.i"))).startswith(b"RSET\r\n")


def test_data_answered_with_250_is_no_delivery() -> None:
    machine = connected(*PIPELINING)
    machine.begin(message("a@b.c"), b"x\r\n")
    events = machine.receive(b"250 ok\r\n250 ok\r\n250 ok\r\n")
    assert kinds(events) == ["deferred"]
    assert not finished(events).reusable
    assert isinstance(events[-1], Closed)


@pytest.mark.parametrize(
    ("reply", "kind"),
    [
        (b"552 too many recipients\r\n", "deferred"),
        (b"552 5.5.3 too many recipients\r\n", "deferred"),
        (b"452 4.5.3 too many recipients\r\n", "deferred"),
        (b"552 5.2.2 mailbox full\r\n", "failed"),
        (b"252 cannot verify\r\n", "delivered"),
        (b"354 what\r\n", "deferred"),
    ],
)
def test_replies_to_rcpt(reply: bytes, kind: str) -> None:
    machine = connected(*PIPELINING)
    machine.begin(message("a@b.c", "d@e.f"), b"x\r\n")
    machine.receive(b"250 ok\r\n250 ok\r\n" + reply + b"354 go\r\n")
    assert kinds(machine.receive(b"250 ok\r\n")) == ["delivered", kind]


@pytest.mark.parametrize(
    ("reply", "kind"), [(b"451 4.3.0 x\r\n", "deferred"), (b"554 5.6.0 x\r\n", "failed"), (b"354 ?\r\n", "deferred")]
)
def test_end_of_data_refused(reply: bytes, kind: str) -> None:
    machine = connected(*PIPELINING)
    machine.begin(message("a@b.c"), b"x\r\n")
    machine.receive(b"250 ok\r\n250 ok\r\n354 go\r\n")
    events = machine.receive(reply)
    assert kinds(events) == [kind]
    assert finished(events).results[0].command == "end of DATA"
    assert written(machine.begin(message("g@h.i"))).startswith(b"MAIL")


def test_probe_stops_behind_rcpt() -> None:
    machine = connected(*FULL)
    assert written(machine.begin(message("a@b.c", "d@e.f"), probe=True)).endswith(b"RCPT TO:<d@e.f>\r\n")
    events = machine.receive(b"250 ok\r\n250 2.1.5 ok\r\n550 5.1.1 no\r\n")
    assert [(r.kind, r.command) for r in finished(events).results] == [("delivered", "RCPT TO"), ("failed", "RCPT TO")]
    assert written(machine.begin(message("a@b.c"), probe=True)).startswith(b"RSET\r\nMAIL")
    for event in machine.receive(b"250 ok\r\n550 5.7.1 no\r\n503 x\r\n"):
        assert isinstance(event, Finished)
    assert written(machine.begin(message("a@b.c"), probe=True)).startswith(b"MAIL")


# BDAT


def test_bdat_whole() -> None:
    machine = connected(*FULL)
    assert not written(machine.begin(message("a@b.c"), b".x\ny")).endswith(b"DATA\r\n")
    assert machine.receive(b"250 ok\r\n250 ok\r\n") == [Write(b"BDAT 7 LAST\r\n.x\r\ny\r\n")]
    events = machine.receive(b"250 2.0.0 taken\r\n")
    assert [(r.kind, r.command) for r in finished(events).results] == [("delivered", "BDAT")]
    assert written(machine.begin(message("a@b.c"), b"")).startswith(b"MAIL")
    assert machine.receive(b"250 ok\r\n250 ok\r\n") == [Write(b"BDAT 0 LAST\r\n")]


def test_bdat_streamed() -> None:
    machine = connected(*FULL)
    machine.begin(message("a@b.c", "d@e.f"))
    assert machine.receive(b"250 ok\r\n250 ok\r\n550 5.1.1 no\r\n") == [SendContent()]
    assert machine.content(b"abc\r") == b"BDAT 3\r\nabc"
    assert machine.content(b"\n") == b"BDAT 2\r\n\r\n"
    assert machine.receive(b"250 3\r\n250 2\r\n") == []
    assert machine.content(b"") == b""
    assert machine.content(b"z") == b"BDAT 1\r\nz"
    assert machine.end() == b"BDAT 2 LAST\r\n\r\n"
    assert machine.receive(b"250 1\r\n") == []
    assert kinds(machine.receive(b"250 all\r\n")) == ["delivered", "failed"]


def test_bdat_chunk_refused() -> None:
    machine = connected(*FULL)
    machine.begin(message("a@b.c"))
    machine.receive(b"250 ok\r\n250 ok\r\n")
    machine.content(b"one")
    machine.content(b"two")
    assert machine.receive(b"552 5.3.4 too big\r\n") == []
    assert not machine.wants_content
    assert machine.content(b"three") == machine.end() == b""
    events = machine.receive(b"503 5.5.1 no transaction\r\n")
    assert [(r.kind, r.text, r.command) for r in finished(events).results] == [("failed", "552 5.3.4 too big", "BDAT")]
    assert written(machine.begin(message("a@b.c"))).startswith(b"RSET\r\n")


def test_bdat_refused_then_last_accepted_is_no_delivery() -> None:
    machine = connected(*FULL)
    machine.begin(message("a@b.c"))
    machine.receive(b"250 ok\r\n250 ok\r\n")
    machine.content(b"one")
    machine.end()
    assert kinds(machine.receive(b"451 4.3.0 no\r\n250 ok\r\n")) == ["deferred"]


def test_bdat_last_refused() -> None:
    machine = connected(*FULL)
    machine.begin(message("a@b.c"), b"x\r\n")
    machine.receive(b"250 ok\r\n250 ok\r\n")
    assert kinds(machine.receive(b"451 4.3.0 no\r\n")) == ["deferred"]
    assert written(machine.begin(message("g@h.i"))).startswith(b"RSET\r\nMAIL"), "RFC 3030 4.2"


def test_bdat_refused_then_lost_keeps_the_refusal() -> None:
    machine = connected(*FULL)
    machine.begin(message("a@b.c"))
    machine.receive(b"250 ok\r\n250 ok\r\n")
    machine.content(b"one")
    machine.content(b"two")
    machine.receive(b"552 5.3.4 too big\r\n")
    (result,) = finished(machine.eof()).results
    assert (result.kind, result.text, result.unknown) == ("failed", "552 5.3.4 too big", False)


def test_bdat_without_recipients_sends_nothing() -> None:
    machine = connected(*FULL)
    machine.begin(message("a@b.c"), b"secret")
    events = machine.receive(b"250 ok\r\n550 no\r\n")
    assert written(events) == b""
    assert kinds(events) == ["failed"]


@pytest.mark.parametrize("options", [{"chunking": False}, {"lmtp": True}, {"pipelining": False}])
def test_no_bdat(options: dict[str, bool]) -> None:
    machine = connected(*FULL, **options)
    machine.begin(message("a@b.c"), b"x")
    events = machine.receive(b"250 ok\r\n") + machine.receive(b"250 ok\r\n")
    assert b"BDAT" not in written(events)
    assert written(machine.receive(b"354 go\r\n")) == b"x\r\n.\r\n"


# LMTP


def test_lmtp_has_a_reply_for_each_recipient_taken() -> None:
    machine = connected(*PIPELINING, lmtp=True)
    machine.begin(message("a@b.c", "d@e.f", "g@h.i", "j@k.l"), b"x\r\n")
    events = machine.receive(b"250 ok\r\n250 ok\r\n550 5.1.1 no\r\n250 ok\r\n250 ok\r\n354 go\r\n")
    assert events == [Write(b"x\r\n.\r\n")]
    assert machine.receive(b"250 2.0.0 a\r\n452 4.2.2 g full\r\n") == []
    events = machine.receive(b"554 5.6.0 j\r\n")
    assert [r.text for r in finished(events).results] == [
        "250 2.0.0 a",
        "550 5.1.1 no",
        "452 4.2.2 g full",
        "554 5.6.0 j",
    ]
    assert finished(events).reusable


def test_lmtp_lost_among_the_replies() -> None:
    machine = connected(*PIPELINING, lmtp=True)
    machine.begin(message("a@b.c", "d@e.f"), b"x\r\n")
    machine.receive(b"250 ok\r\n250 ok\r\n250 ok\r\n354 go\r\n")
    machine.receive(b"250 2.0.0 a\r\n")
    results = finished(machine.eof()).results
    assert [(r.kind, r.unknown) for r in results] == [("delivered", False), ("deferred", True)]


def test_lmtp_without_recipients_gives_the_session_up() -> None:
    machine = connected(*PIPELINING, lmtp=True)
    machine.begin(message("a@b.c"), b"secret\r\n")
    events = machine.receive(b"250 ok\r\n550 no\r\n354 go\r\n")
    assert written(events) == b".\r\n"
    assert kinds(events) == ["failed"]
    assert not finished(events).reusable
    assert isinstance(events[-1], Closed)


# The end of a session


@pytest.mark.parametrize(
    ("before", "expected"),
    [
        (b"", ["deferred", "deferred"]),
        (b"250 ok\r\n", ["deferred", "deferred"]),
        (b"250 ok\r\n250 ok\r\n", ["deferred", "deferred"]),
        (b"250 ok\r\n550 no\r\n", ["failed", "deferred"]),
        (b"250 ok\r\n550 no\r\n250 ok\r\n", ["failed", "deferred"]),
        (b"250 ok\r\n550 no\r\n250 ok\r\n354 go\r\n", ["failed", "deferred"]),
    ],
)
def test_421_anywhere(before: bytes, expected: list[str]) -> None:
    machine = connected(*PIPELINING)
    machine.begin(message("a@b.c", "d@e.f"), b"x\r\n")
    events = machine.receive(before + b"421 4.3.2 shutting down\r\n250 ignored\r\n")
    assert kinds(events) == expected
    result = finished(events).results[1]
    assert (result.code, result.unknown) == (421, False)
    assert not finished(events).reusable
    assert isinstance(events[-1], Closed)
    assert machine.eof() == []


def test_421_while_content_streams() -> None:
    machine = connected(*PIPELINING)
    machine.begin(message("a@b.c"))
    machine.receive(b"250 ok\r\n250 ok\r\n354 go\r\n")
    machine.content(b"x")
    events = machine.receive(b"421 4.4.2 too slow\r\n")
    assert kinds(events) == ["deferred"]
    assert machine.content(b"y") == machine.end() == b""


def test_421_between_messages() -> None:
    machine = connected(*PIPELINING)
    (event,) = machine.receive(b"421 4.4.2 idle\r\n")
    assert isinstance(event, Closed)
    with pytest.raises(RuntimeError):
        machine.begin(message("a@b.c"))


@pytest.mark.parametrize(("reply", "kind"), [(b"552 5.3.4 big\r\n", "failed"), (b"451 4.3.0 x\r\n", "deferred")])
def test_refused_while_content_streams(reply: bytes, kind: str) -> None:
    machine = connected(*PIPELINING)
    machine.begin(message("a@b.c"))
    machine.receive(b"250 ok\r\n250 ok\r\n354 go\r\n")
    machine.content(b"x")
    events = machine.receive(reply)
    assert kinds(events) == [kind]
    assert not finished(events).reusable, "the server may still take what comes for content"


def test_accepted_while_content_streams_is_no_delivery() -> None:
    machine = connected(*PIPELINING)
    machine.begin(message("a@b.c"))
    machine.receive(b"250 ok\r\n250 ok\r\n354 go\r\n")
    machine.content(b"half of it")
    events = machine.receive(b"250 2.0.0 taken\r\n")
    assert kinds(events) == ["deferred"]
    assert not finished(events).results[0].unknown
    assert isinstance(events[-1], Closed)


def test_one_reply_too_many_ends_the_session() -> None:
    machine = connected(*PIPELINING)
    machine.begin(message("a@b.c"), b"x\r\n")
    machine.receive(b"250 ok\r\n250 ok\r\n354 go\r\n")
    events = machine.receive(b"250 ok\r\n250 and another\r\n")
    assert kinds(events) == ["delivered"]
    assert isinstance(events[-1], Closed)


@pytest.mark.parametrize(
    ("before", "wire"),
    [
        ((), b"250 ok\r\n250 ok\r\n"),  # to MAIL, and to RCPT, which was not sent yet
        ((b"250 ok\r\n",), b"250 ok\r\n354 go\r\n"),
        ((b"250 ok\r\n",), b"250 ok\r\n35"),
        ((b"250 ok\r\n", b"250 ok\r\n"), b"354 go\r\n250 kept\r\n"),
    ],
)
def test_d3_an_answer_that_came_before_its_command_is_none(before: tuple[bytes, ...], wire: bytes) -> None:
    """A message that nobody has read yet is never delivered."""
    machine = connected()
    machine.begin(message("a@b.c"), b"x\r\n")
    for reply in before:
        machine.receive(reply)
    events = machine.receive(wire)
    assert kinds(events) == ["deferred"] and isinstance(events[-1], Closed)
    assert "a reply that nobody asked for" in events[-1].text
    assert not [event for event in events if isinstance(event, Write)]


def test_a_farewell_behind_an_answer_is_a_farewell() -> None:
    machine = connected()
    machine.begin(message("a@b.c"), b"x\r\n")
    events = machine.receive(b"250 ok\r\n421 4.3.2 going down\r\n")
    assert isinstance(events[-1], Closed) and events[-1].text == "421 4.3.2 going down"


@pytest.mark.parametrize(
    ("wire", "phase", "command", "unknown"),
    [
        (b"", "sending MAIL FROM", "MAIL FROM", False),
        (b"250 ok\r\n", "sending RCPT TO", "RCPT TO", False),
        (b"250 ok\r\n250 ok\r\n", "sending DATA command", "DATA", False),
        (b"250 ok\r\n250 ok\r\n354 go\r\n", "sending message body", "DATA", False),
    ],
)
def test_lost_connection(wire: bytes, phase: str, command: str, unknown: bool) -> None:
    machine = connected(*PIPELINING)
    machine.begin(message("a@b.c"))
    machine.receive(wire)
    machine.content(b"some")
    assert machine.waiting_for == phase
    events = machine.eof()
    text = f"lost connection while {phase}"
    assert events == [Finished((Result("deferred", 0, "4.4.2", text, command, unknown),), False), Closed(text)]


@pytest.mark.parametrize("features", [PIPELINING, FULL])
def test_lost_behind_the_end_may_have_been_delivered(features: tuple[str, ...]) -> None:
    machine = connected(*features)
    machine.begin(message("a@b.c"), b"x\r\n")
    machine.receive(b"250 ok\r\n250 ok\r\n" + (b"" if features is FULL else b"354 go\r\n"))
    (result,) = finished(machine.eof("conversation timed out")).results
    assert (result.kind, result.unknown) == ("deferred", True)
    assert "may be sent more than once" in result.text


def test_rubbish_in_a_transaction() -> None:
    machine = connected(*PIPELINING)
    machine.begin(message("a@b.c", "d@e.f"), b"x\r\n")
    events = machine.receive(b"250 ok\r\n550 5.1.1 no\r\nwhat is this\r\n250 ok\r\n")
    assert kinds(events) == ["failed", "deferred"]
    assert not finished(events).reusable
    assert isinstance(events[-1], Closed)


def test_quit() -> None:
    machine = connected(*PIPELINING)
    assert machine.quit() == [Write(b"QUIT\r\n")]
    (event,) = machine.receive(b"221 2.0.0 Bye\r\n")
    assert event == Closed("221 2.0.0 Bye", event.reply)  # type: ignore[union-attr]
    machine = connected(*PIPELINING)
    machine.quit()
    assert machine.eof() == [Closed("lost connection while sending QUIT command")]


def test_calls_out_of_turn_are_our_mistake() -> None:
    machine = ClientMachine("mx.example.com")
    for call in (machine.starttls, machine.tls_started, machine.quit, lambda: machine.begin(message("a@b.c"))):
        with pytest.raises(RuntimeError):
            call()


CONVERSATION = (
    b"220 inner\r\n250-inner\r\n250-PIPELINING\r\n250 DSN\r\n"
    b"250-2.1.0 a\r\n250 2.1.0 b\r\n250 2.1.5 ok\r\n550 5.1.1 no\r\n354 go\r\n250 2.0.0 queued\r\n"
)


def conversation(chunks: list[bytes]) -> list[Event]:
    machine, events, begun = ClientMachine("mx.example.com"), [], False
    for chunk in chunks:
        got = machine.receive(chunk)
        if any(isinstance(event, Ready) for event in got) and not begun:
            begun = True
            got += machine.begin(message("a@b.c", "d@e.f"), b"x\r\n")
        events += got
    return events


def test_replies_at_every_split() -> None:
    """Any split of what the server says gives the same events; it answers nothing before it was asked."""
    borders = {CONVERSATION.index(word) + len(word) for word in (b"220 inner\r\n", b"DSN\r\n", b"354 go\r\n")}
    edges = [0, *sorted(borders), len(CONVERSATION)]
    whole = conversation([CONVERSATION[a:b] for a, b in itertools.pairwise(edges)])
    assert kinds(whole) == ["delivered", "failed"]
    for cut in range(1, len(CONVERSATION)):
        edges = [0, *sorted({cut, *borders}), len(CONVERSATION)]
        assert conversation([CONVERSATION[a:b] for a, b in itertools.pairwise(edges)]) == whole
    assert conversation([CONVERSATION[i : i + 1] for i in range(len(CONVERSATION))]) == whole


# All or nobody


@pytest.mark.parametrize("features", [(), ("PIPELINING",), ("PIPELINING", "CHUNKING")])
@pytest.mark.parametrize(
    ("replies", "wanted"),
    [
        ((250, 250, 250), ["delivered", "delivered", "delivered"]),
        ((550, 250, 550), ["failed", "delivered", "failed"]),
        ((550, 550, 550), ["failed", "failed", "failed"]),
        ((550, 450, 250), ["failed", "deferred", "deferred"]),
        ((450, 250, 250), ["deferred", "deferred", "deferred"]),
        ((250, 250, 552), ["deferred", "deferred", "deferred"]),
    ],
)
def test_together_nobody_gets_what_one_of_them_is_put_off_for(
    features: tuple[str, ...], replies: tuple[int, ...], wanted: list[str]
) -> None:
    """Content goes only to a server that put nobody off; what it refused for good does not matter to the others."""
    machine = connected(*features)
    events = machine.begin(message("a@x", "b@x", "c@x", together=True), b"hello\r\n")
    out, answers = written(events), iter((250, *replies))
    asked = 0
    while not any(isinstance(event, Finished) for event in events):
        lines = out.count(b"\r\n") - asked
        assert lines > 0, out
        said = b""
        for line in out.split(b"\r\n")[asked : asked + lines]:
            if line.startswith((b"MAIL", b"RCPT")):
                said += b"%d said\r\n" % next(answers)
            elif line == b"DATA":
                said += b"354 go\r\n"
            elif line in (b".", b"hello") or line.startswith(b"BDAT"):
                said += b"250 taken\r\n" if line != b"hello" else b""
        asked += lines
        events = machine.receive(said)
        out += written(events)
    assert kinds(events) == wanted and finished(events).reusable
    assert (b"hello" in out) == ("delivered" in wanted)
    assert (b"DATA" in out or b"BDAT" in out) == (b"hello" in out)
    if b"hello" not in out:  # the server may not keep what it took of it
        assert written(machine.begin(message("d@x"))).startswith(b"RSET\r\n")
