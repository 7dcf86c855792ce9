"""BDAT and DSN parameters through the gateway to a real Postfix: chunks come in (Postfix's own client never sends any),
chunks go out (its server offers CHUNKING), and what the sender asked about notices arrives (RFC 3030, RFC 3461)."""

import random
import re
from collections.abc import Callable, Iterator

import pytest

from tests.faults.senders import digest, message
from tests.peers.dialogue import Dialogue
from tests.peers.gateway import Gateway
from tests.peers.inner import Inner
from tests.peers.policies import plain
from tests.peers.ports import wait_for
from tests.peers.postfix import Postfix

pytestmark = pytest.mark.peer
_VERBS = ("mail", "bdat", "data")


@pytest.fixture
def behind(make_postfix: Callable[..., Postfix], inner: Inner) -> Postfix:
    """The inner Postfix, which passes on to a server that keeps all."""
    return make_postfix(hostname="inner.example.com", relay=f"[127.0.0.1]:{inner.port}", relay_domains="example.com")


@pytest.fixture
def client(gateway: Callable[..., Gateway], behind: Postfix) -> Iterator[Dialogue]:
    made = Dialogue(gateway(inner=behind.port, policies=plain(), workers=1).port)
    assert "CHUNKING" in made.say("EHLO mail.example.org")
    yield made
    made.close()


def chunks(content: bytes, seed: int) -> list[bytes]:
    """Cut anywhere, also within CRLF and before a dot."""
    cut = random.Random(seed)
    parts, at = [], 0
    while at < len(content):
        size = cut.choice((1, 2, 77, 4096, 70_000))
        parts.append(content[at : at + size])
        at += size
    return parts


def test_chunks_in_and_chunks_out_carry_every_octet(client: Dialogue, behind: Postfix, inner: Inner) -> None:
    contents = [message(number, size) for number, size in enumerate((300, 5000, 70_000, 700_000))]
    contents.append(b"Subject: dots\r\n\r\n.\r\n..\r\n.x\r\n" + (b"y" * 900 + b"\r\n") * 6 + b".\r\n")
    for number, content in enumerate(contents):
        replies = client.all("MAIL FROM:<a@example.org> BODY=8BITMIME", f"RCPT TO:<u{number}@example.com>")
        assert all(reply.startswith("250") for reply in replies)
        parts = chunks(content, number)
        for at, part in enumerate(parts):
            last = b" LAST" if at == len(parts) - 1 else b""
            client.send(b"BDAT %d%b\r\n%b" % (len(part), last, part))
            assert client.reply().startswith("250 2.0.0 Ok: ")
    kept = {one.recipients[0]: one.content for one in inner.wait(len(contents), 60)}
    for number, content in enumerate(contents):
        assert digest(kept[f"u{number}@example.com"]) == digest(content)
        assert kept[f"u{number}@example.com"].endswith(content[-200:])
    # Postfix counts the commands of each session: ours sent BDAT and no DATA.
    wait_for(lambda: sum(commands(behind)["mail"]) >= len(contents), 60, "the end of our sessions with Postfix")
    counts = commands(behind)
    assert sum(counts["bdat"]) >= len(contents) and not counts["data"]


def commands(server: Postfix) -> dict[str, list[int]]:
    """How often each command stands in the lines about ended sessions."""
    lines = [line for line in server.log().splitlines() if ": disconnect from" in line]
    return {verb: [int(n) for line in lines for n in re.findall(rf" {verb}=(\d+)", line)] for verb in _VERBS}


def test_what_the_sender_asked_about_notices_reaches_postfix(client: Dialogue, behind: Postfix, inner: Inner) -> None:
    replies = client.all(
        "MAIL FROM:<a@example.org> RET=HDRS ENVID=QQ+2B314",
        "RCPT TO:<u@example.com> NOTIFY=FAILURE,DELAY ORCPT=rfc822;Orig+2B1@example.com",
        "RCPT TO:<v@example.com> NOTIFY=SUCCESS",
    )
    assert all(reply.startswith("250") for reply in replies)
    inner.refuse["u@example.com"] = "550 5.1.1 no such user behind"
    assert client.say("DATA").startswith("354")
    client.send(b"Subject: x\r\n\r\nbody\r\n.\r\n")
    assert client.reply().startswith("250")
    # Postfix reports to the sender by what it was told: headers only, our envelope id, the original recipient.
    wait_for(lambda: [kept for kept in inner.messages if kept.sender == ""], 60, "the report of Postfix")
    (report,) = [kept.content for kept in inner.messages if kept.sender == ""]
    assert b"Original-Envelope-Id: QQ+314" in report
    assert b"Original-Recipient: rfc822;Orig+1@example.com" in report
    assert b"text/rfc822-headers" in report and b"\r\nbody\r\n" not in report
    assert [kept.recipients for kept in inner.messages if kept.sender] == [["v@example.com"]]
