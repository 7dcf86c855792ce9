"""A whole gateway with milters that a test plays: what they say is done, what fails is bounded, logged and told of."""

import re
import smtplib
from collections.abc import Callable
from typing import Any

import pytest

from tests.peers.gateway import Gateway
from tests.peers.inner import Inner
from tests.peers.milter_server import MilterServer, header
from tests.peers.played import Played
from tests.peers.policies import RECIPIENTS
from tests.peers.ports import wait_for

STAGES = """\
[inbound]
connect = ["milters"]
helo = ["milters"]
mail = ["size", "milters"]
rcpt = ["relay", "recipient", "milters"]
data = ["milters"]
message = ["size", "loop", "milters"]
"""
MAIL = b"From: a@example.org\r\nX-Mine: old\r\nSubject: one\r\n\r\nhello\r\n"


def policies(*entries: str, **files: str) -> dict[str, str]:
    listed = "".join(f"    {{ {entry} }},\n" for entry in entries)
    made = {"stages.toml": STAGES, "recipient.toml": RECIPIENTS, "recipients": "@example.com known\n"}
    return made | {"milters.toml": f"milters = [\n{listed}]\n"} | {f"{name}.toml": text for name, text in files.items()}


def entry(name: str, server: MilterServer, more: str = "", seconds: int = 20) -> str:
    timeouts = ", ".join(f'{what}_timeout = "{seconds}s"' for what in ("connect", "command", "content"))
    return f'name = "{name}", address = "{server.address}", {timeouts}{", " if more else ""}{more}'


def send(
    port: int, *recipients: str, content: bytes = MAIL, sender: str = "s@example.org", host: str = "127.0.0.1"
) -> list[tuple[int, str]]:
    """The replies to MAIL, each RCPT, and the content."""
    replies = []
    with smtplib.SMTP(host, port, local_hostname="client.example.org", timeout=30) as client:
        client.ehlo()
        replies.append(client.mail(sender))
        if replies[0][0] != 250:
            return [(code, text.decode()) for code, text in replies]
        replies += [client.rcpt(recipient) for recipient in recipients]
        if any(code == 250 for code, _ in replies[1:]):
            replies.append(client.data(content))
    return [(code, text.decode()) for code, text in replies]


def test_two_milters_change_a_message_one_after_the_other(
    gateway: Callable[..., Gateway], inner: Inner, played: Played
) -> None:
    one = played.milter(
        {
            b"E": [
                header(b"i", "X-One", "top", 1),
                header(b"m", "X-Mine", "", 1),
                (b"b", b"new \xe9 body\r\n"),
                (b"e", b"<changed@example.org>\0"),
                (b"+", b"<more@example.com>\0"),
                (b"-", b"<gone@example.com>\0"),
                (b"a", b""),
            ]
        }
    )
    two = played.milter({b"E": [header(b"m", "X-One", "changed", 1), (b"c", b"")]})
    made = gateway(policies=policies(entry("one", one), entry("two", two)))
    replies = send(made.port, "user@example.com", "gone@example.com")
    assert [code for code, _ in replies] == [250, 250, 250, 250]
    [kept] = inner.wait(1)
    assert (kept.sender, sorted(kept.recipients)) == ("changed@example.org", ["more@example.com", "user@example.com"])
    assert re.match(
        rb"Received: [^\r]*\r\n(?:[ \t][^\n]*\n)*X-One: changed\r\nFrom: a@example.org\r\nSubject: one\r\n", kept.content
    )
    assert kept.content.endswith(b"\r\n\r\nnew \xe9 body\r\n")
    assert [name for name, _ in two.texts(b"L")] == [b"X-One", b"From", b"Subject"]
    wait_for(lambda: not one.open and not two.open, 10, "both to be told the end")
    assert one.letters() == two.letters() == b"OCHMRRTLLLNBEQ"
    assert one.macros(b"M")["i"] in replies[-1][1]


def test_a_milter_hears_the_parameters_of_mail_and_rcpt(gateway: Callable[..., Gateway], played: Played) -> None:
    one = played.milter()
    made = gateway(policies=policies(entry("one", one)))
    with smtplib.SMTP("127.0.0.1", made.port, timeout=30) as client:
        client.ehlo()
        assert client.mail("s@example.org", ["BODY=8BITMIME", "SIZE=77", "RET=HDRS", "ENVID=x"])[0] == 250
        assert client.rcpt("a@example.com", ["NOTIFY=FAILURE", "ORCPT=rfc822;b@example.com"])[0] == 250
    assert one.texts(b"M") == [[b"<s@example.org>", b"BODY=8BITMIME", b"SIZE=77", b"RET=HDRS", b"ENVID=x"]]
    assert one.texts(b"R") == [[b"<a@example.com>", b"NOTIFY=FAILURE", b"ORCPT=rfc822;b@example.com"]]


def test_refusals_reach_the_client_in_the_milters_words(
    gateway: Callable[..., Gateway], inner: Inner, played: Played
) -> None:
    def choose(data: bytes) -> Any:
        return [(b"y", b"550 5.7.1 not her\0")] if data.startswith(b"<no@") else [(b"c", b"")]

    def judge(data: bytes) -> Any:
        return [(b"y", b"451 4.7.1 come again\0")]

    one = played.milter({b"R": choose, b"E": judge})
    made = gateway(policies=policies(entry("one", one)))
    replies = send(made.port, "no@example.com", "yes@example.com", "nobody@elsewhere.example")
    assert replies[1][0] == 550 and "not her" in replies[1][1]
    assert [code for code, _ in replies[2:]] == [250, 550, 451] and "come again" in replies[4][1]
    assert one.texts(b"R") == [[b"<no@example.com>"], [b"<yes@example.com>"]]  # not of whom we refuse ourselves
    assert not inner.messages


@pytest.mark.parametrize(("event", "outcome"), [(b"M", 250), (b"R", 250), (b"E", 250)])
def test_discard_throws_the_whole_message_away(
    gateway: Callable[..., Gateway], inner: Inner, played: Played, event: bytes, outcome: int
) -> None:
    def first(data: bytes) -> Any:
        return [(b"c", b"")] if event == b"R" and not data.startswith(b"<b@") else [(b"d", b"")]

    one = played.milter({event: first})
    made = gateway(policies=policies(entry("one", one)))
    assert [code for code, _ in send(made.port, "a@example.com", "b@example.com")] == [250, 250, 250, outcome]
    one.says = {}
    assert send(made.port, "c@example.com")[-1][0] == 250
    [kept] = inner.wait(1)
    assert kept.recipients == ["c@example.com"]


def test_quarantine_keeps_it(gateway: Callable[..., Gateway], inner: Inner, played: Played) -> None:
    one = played.milter({b"E": [(b"q", b"looks odd\0"), (b"a", b"")]})
    made = gateway(policies=policies(entry("one", one)))
    assert send(made.port, "a@example.com")[-1][0] == 250
    wait_for(lambda: "looks odd" in made.cli("quarantine", "list", "--json", check=False).stdout, 15, "the quarantine")
    assert not inner.messages


DEFAULTS = [("accept", 250), ("reject", 550), ("tempfail", 451), ("quarantine", 250), ("shutdown", 421)]


@pytest.mark.parametrize(("default", "code"), DEFAULTS)
def test_one_that_is_away_or_hangs_has_its_default_and_comes_back(
    gateway: Callable[..., Gateway], inner: Inner, played: Played, default: str, code: int
) -> None:
    one, other = played.milter(), played.milter({b"E": [header(b"h", "X-Other", "1"), (b"c", b"")]})
    listed = policies(entry("one", one, f'default = "{default}"', seconds=2), entry("other", other))
    made = gateway(policies=listed, workers=1)
    one.says = {b"M": []}  # hangs
    replies = send(made.port, "a@example.com")
    assert replies[-1][0] == code
    made.wait_log("milter failed")
    failed = re.search(r"milter failed: milter=one address=inet:\S+ step=MAIL seconds=([0-9.]+) why=", made.log())
    assert failed and 2 <= float(failed[1]) < 20
    told = " ".join(made.status()["degraded"])
    assert "milter one fails" in told and "at MAIL" in told
    played.stop(one)
    assert send(made.port, "b@example.com")[-1][0] == code
    one.says = {}
    played.start(one)
    wait_for(lambda: send(made.port, "c@example.com")[-1][0] == 250, 20, "mail to be taken")
    wait_for(lambda: not any("milter" in why for why in made.status()["degraded"]), 10, "well again")
    got = inner.wait(3 if default == "accept" else 1)
    assert b"X-Other: 1" in got[-1].content
    if default == "accept":
        assert b"X-Postgate-Mark: milters=unfiltered" in got[0].content


def test_conditions_and_stages_that_nobody_needs(gateway: Callable[..., Gateway], inner: Inner, played: Played) -> None:
    one = played.milter({b"E": [(b"r", b"")]})
    made = gateway(policies=policies(entry("one", one, 'not_clients = ["127.0.0.0/8"]')))
    assert send(made.port, "a@example.com")[-1][0] == 250
    assert not one.heard


def test_a_client_that_goes_away_leaves_no_connection(gateway: Callable[..., Gateway], played: Played) -> None:
    one = played.milter({b"R": []})
    made = gateway(policies=policies(entry("one", one, seconds=5)))
    with smtplib.SMTP("127.0.0.1", made.port, timeout=30) as client:
        client.ehlo()
        client.mail("s@example.org")
        client.putcmd("RCPT TO:<a@example.com>")
        wait_for(lambda: b"R" in (one.letters() if one.heard else b""), 10, "the question")
        client.close()
    wait_for(lambda: not one.open, 30, "no connection is left")
    one.says = {}
    with smtplib.SMTP("127.0.0.1", made.port, timeout=30) as client:
        client.ehlo()
        assert client.mail("s@example.org")[0] == 250 and one.open == 1
        client.close()
    wait_for(lambda: not one.open, 10, "none is left here, either")
    assert one.letters() == b"OCHMAQ"
