"""Every decoder of what a peer says, fed with real conversations that were damaged: octets changed, taken out, doubled,
put in from elsewhere, cut at random places. It gives a value or the error of its protocol, in bounded time."""

import random
import time
from collections.abc import Callable
from typing import Any, NamedTuple

import pytest

from appliance.protocol import ampdp, clamd, icap, policy, proxy, resp, rspamd, socketmap, spamd, tcp_table
from appliance.protocol.errors import ProtocolError
from appliance.protocol.milter import packets as p
from appliance.protocol.milter.encoding import encode
from appliance.protocol.milter.filter import FilterMachine
from appliance.protocol.milter.mta import MtaMachine
from appliance.protocol.milter.negotiation import Want, offer
from appliance.protocol.milter.words import Word
from appliance.protocol.smtp.client import ClientMachine
from appliance.protocol.smtp.outgoing import Outgoing, OutgoingRecipient
from appliance.protocol.smtp.reply import ReplyReader
from tests.peers import good_scanners
from tests.peers.icap import Service, blocked
from tests.peers.policy import RCPT

ROUNDS = 400
Pieces = list[bytes]


class Kind(NamedTuple):
    """`said`: well-said octets, several of them; `decode` takes pieces of what came, and gives what it makes of them."""

    said: tuple[bytes, ...]
    decode: Callable[[Pieces], Any]
    errors: tuple[type[Exception], ...] = (ProtocolError,)


def fed(make: Callable[[], Any], then: Callable[[Any], Any] = lambda reader: reader.end()) -> Callable[[Pieces], Any]:
    """A reader that is fed until it is complete, or the peer hangs up."""

    def decode(pieces: Pieces) -> Any:
        reader = make()
        for piece in pieces:
            reader.feed(piece)
            if getattr(reader, "complete", False):
                break
        return then(reader)

    return decode


def milter_filter(pieces: Pieces) -> list[Any]:
    machine, found = FilterMachine(), []
    for piece in pieces:
        machine.push(piece)
        while (event := machine.next()) is not None:
            found.append(event)
            if isinstance(event, p.Negotiate):
                machine.negotiate(Want())
            elif machine.wants_answer:
                machine.answer(p.Reply(Word.CONTINUE))
    return found


def milter_mta(pieces: Pieces) -> list[Any]:
    machine = MtaMachine(offer())
    machine.negotiate()
    found: list[Any] = []
    for piece in pieces:
        found += machine.receive(piece)
    return found


def smtp_client(pieces: Pieces) -> list[Any]:
    """It raises nothing at all: what is no reply ends the session."""
    machine, found, begun = ClientMachine("mx.example.com"), [], False
    for piece in pieces:
        found += machine.receive(piece)
        if machine.state == "ready" and not begun:
            begun = True
            found += machine.begin(Outgoing("s@example.org", (OutgoingRecipient("a@example.com"),)), b"x\r\n")
    return found + machine.eof()


def policy_requests(pieces: Pieces) -> list[Any]:
    reader, found = policy.RequestReader(), []
    for piece in pieces:
        reader.feed(piece, found)
    return found


def policy_answer(pieces: Pieces) -> Any:
    reader = policy.AnswerReader()
    for piece in pieces:
        if (answer := reader.feed(piece)) is not None:
            return answer
    return None


TALK = (
    p.Connect(b"x", "4", 1, b"192.0.2.1"),
    p.Helo(b"x"),
    p.Mail(b"<a@b.example>"),
    p.Rcpt(b"<c@example.com>"),
    p.Data(),
)
MESSAGE = (p.Header(b"Subject", b" x"), p.EndOfHeader(), p.Body(b"x" * 100), p.EndOfMessage())
MTA = b"".join(map(encode, (offer(), *TALK, *MESSAGE)))
SMTP = (
    b"220 x ESMTP\r\n250-x\r\n250-SIZE 100\r\n250 8BITMIME\r\n",
    b"250 ok\r\n",
    b"250 2.1.5 ok\r\n",
    b"354 go\r\n",
    b"250 kept\r\n",
)
REQUESTS = policy.encode_request(RCPT), policy.encode_request({})
KINDS: dict[str, Kind] = {
    "clamd": Kind((good_scanners.CLEAN, b"stream: Evil FOUND\0"), fed(clamd.ReplyReader)),
    "spamd": Kind((good_scanners.HAM,), fed(spamd.ReplyReader)),
    "icap": Kind((Service(preview=None).said(), blocked()), fed(lambda: icap.AnswerReader(1 << 20))),
    "ampdp": Kind((good_scanners.CONTINUE,), fed(ampdp.Reader)),
    "policy requests": Kind(
        (policy.encode_request(RCPT), policy.encode_request({})), policy_requests, (policy.PolicyError,)
    ),
    "policy answers": Kind((policy.encode_answer("PREPEND X-A: b"),), policy_answer, (policy.PolicyError,)),
    "milter, what an MTA says": Kind((MTA,), milter_filter),
    "milter, what a filter says": Kind((encode(offer()), b"\0\0\0\1c" * 5), milter_mta),
    "socketmap": Kind(
        (socketmap.answer("OK", "inside"),),
        fed(socketmap.NetstringReader, lambda reader: socketmap.read_answer(reader.end())),
    ),
    "tcp table": Kind(
        (tcp_table.answer("200", "in side"),), fed(tcp_table.LineReader, lambda r: tcp_table.read_answer(r.end()))
    ),
    "redis": Kind((resp.reply(b"inside"), b"-ERR no\r\n", b"*2\r\n$1\r\na\r\n:5\r\n"), fed(resp.ReplyReader)),
    "smtp replies": Kind(SMTP, lambda pieces: [ReplyReader().feed(piece) for piece in pieces]),
    "smtp client": Kind(SMTP, smtp_client, ()),
    "proxy": Kind((b"PROXY TCP4 192.0.2.1 192.0.2.2 1 25\r\n",), lambda pieces: proxy.parse(b"".join(pieces))),
}


def damaged(octets: bytes, rng: random.Random) -> bytes:
    """A few of the things that happen."""
    data = bytearray(octets)
    for _ in range(rng.randrange(1, 6)):
        at, end = sorted((rng.randrange(len(data) + 1), rng.randrange(len(data) + 1)))
        what = rng.randrange(6)
        if what == 0 and data:
            data[rng.randrange(len(data))] = rng.randrange(256)
        elif what == 1:
            del data[at : min(end, at + 20)]
        elif what == 2:
            data[at:at] = data[at:end][:200]
        elif what == 3:
            data[at:at] = rng.choice((b"\0", b"\r\n", b"\n\n", b":", b"%", b"\xff" * 4, b"9" * 30, b"-1", b" " * 50))
        elif what == 4:
            data[at:at] = rng.randbytes(rng.randrange(1, 40))
        else:
            del data[rng.randrange(len(data) + 1) :]
    return bytes(data)


def cut(octets: bytes, rng: random.Random) -> Pieces:
    places = sorted(rng.randrange(len(octets) + 1) for _ in range(rng.randrange(5)))
    return [octets[a:b] for a, b in zip([0, *places], [*places, len(octets)], strict=True)]


@pytest.mark.parametrize("name", KINDS)
def test_d1_damage_is_a_value_or_the_protocols_own_error(name: str) -> None:
    kind, rng, errors = KINDS[name], random.Random(name), 0
    began = time.process_time()
    for _ in range(ROUNDS):
        octets = damaged(b"".join(rng.choices(kind.said, k=rng.randrange(1, 4))), rng)
        try:
            kind.decode(cut(octets, rng))
        except kind.errors:
            errors += 1
        except Exception as error:
            raise AssertionError(f"{name}: {octets!r}") from error
    assert time.process_time() - began < 10.0
    assert errors or not kind.errors, "damage that nobody notices was no damage"


@pytest.mark.parametrize("name", KINDS)
def test_what_is_well_said_is_read_at_every_split(name: str) -> None:
    kind, rng = KINDS[name], random.Random(name)
    if kind.said is SMTP:
        return  # its answers are answers to something: test_smtp_client.py
    whole = repr(kind.decode([kind.said[0]]))
    for _ in range(50):
        assert repr(kind.decode(cut(kind.said[0], rng))) == whole


def test_d2_a_damaged_answer_of_clamd_is_clean_only_by_its_words() -> None:
    rng = random.Random(2)
    for _ in range(3000):
        octets = damaged(good_scanners.CLEAN, rng)
        try:
            answer = KINDS["clamd"].decode([octets])
        except ProtocolError:
            continue
        assert answer.kind != "clean" or octets.startswith(b"stream: OK\0"), octets


def test_rspamd_and_http() -> None:
    """Heads and bodies of HTTP, and what stands in rspamd's."""
    rng, well = random.Random(3), good_scanners.rspamd_answer()
    body = well.partition(b"\r\n\r\n")[2]
    for _ in range(ROUNDS):
        for octets in (damaged(body, rng), damaged(well, rng)):
            try:
                rspamd.parse(200, octets)
            except ProtocolError:
                continue
