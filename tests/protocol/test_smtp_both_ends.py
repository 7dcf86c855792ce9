"""Client machine and the server's half of the codec, glued: whatever is sent arrives, however the octets are split."""

import random
from itertools import pairwise

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from appliance.protocol.errors import ProtocolError
from appliance.protocol.smtp import ehlo
from appliance.protocol.smtp.client import ClientMachine
from appliance.protocol.smtp.command import Command, bdat_chunk, mail_parameters, parse, rcpt_parameters
from appliance.protocol.smtp.data import BdatDecoder, DataDecoder, normalized
from appliance.protocol.smtp.outgoing import (
    Closed,
    Event,
    Finished,
    Outgoing,
    OutgoingRecipient,
    Ready,
    SendContent,
    Write,
)
from appliance.protocol.smtp.reply import Reply, from_text

OK = "250 2.0.0 Ok"


class Server:
    """The least SMTP or LMTP server that the codec allows. Local parts that begin with "no" are refused."""

    def __init__(self, features: list[str], *, lmtp: bool = False) -> None:
        self.features, self.lmtp = features, lmtp
        self.sender: str | None = None
        self.recipients: list[str] = []
        self.stored: list[tuple[str, list[str], bytes]] = []
        self._input = b""
        self._data: DataDecoder | None = None
        self._bdat = BdatDecoder()
        self._content: list[bytes] = []
        self._chunk, self._last = 0, False

    def feed(self, data: bytes) -> bytes:
        self._input += data
        out = []
        while self._input:
            if self._data is not None:
                replies = self._take_data()
            elif self._chunk:
                replies = self._take_chunk()
            else:
                line, end, rest = self._input.partition(b"\r\n")
                if not end:
                    break
                self._input = rest
                replies = self._command(line)
            out += replies
        return b"".join(from_text(reply).encode() if isinstance(reply, str) else reply for reply in out)

    def _command(self, line: bytes) -> list[str | bytes]:
        try:
            command = parse(line, strict=True)
            return self._answer(command)
        except ProtocolError as error:
            return [error.reply]

    def _answer(self, command: Command) -> list[str | bytes]:
        match command.verb:
            case "EHLO" | "LHLO":
                return [ehlo.offer("inner.example", self.features)]
            case "RSET":
                self._forget()
            case "MAIL":
                assert self.sender is None, "nested MAIL"
                assert command.address is not None
                mail_parameters(command)
                self.sender = command.address.text
            case "RCPT":
                assert command.address is not None
                rcpt_parameters(command)
                if command.address.text.startswith("no"):
                    return ["550 5.1.1 unknown"]
                self.recipients.append(command.address.text)
            case "DATA":
                if not self.recipients:
                    return ["554 5.5.1 Error: no valid recipients"]
                self._data = DataDecoder("reject")
                return ["354 go"]
            case "BDAT":
                self._chunk, self._last = bdat_chunk(command)
                return self._take_chunk() if not self._chunk else []
            case _:
                return ["502 5.5.1 no"]
        return [OK]

    def _take_data(self) -> list[str | bytes]:
        assert self._data is not None
        self._content.append(self._data.feed(self._input))
        self._input = self._data.rest
        if not self._data.done:
            return []
        assert not self._data.refused
        self._data = None
        return self._store()

    def _take_chunk(self) -> list[str | bytes]:
        piece, self._input = self._input[: self._chunk], self._input[self._chunk :]
        self._chunk -= len(piece)
        self._content.append(self._bdat.feed(piece))
        if self._chunk:
            return []
        if not self._last:
            return [OK]
        self._content.append(self._bdat.finish())
        assert not self._bdat.signs - {"nul"}
        return self._store()

    def _store(self) -> list[str | bytes]:
        assert self.sender is not None
        self.stored.append((self.sender, self.recipients, b"".join(self._content)))
        count = len(self.recipients) if self.lmtp else 1
        self._forget()
        return [Reply(250, "2.0.0", ("queued", "as 1")).encode()] * count

    def _forget(self) -> None:
        self.sender, self.recipients, self._content, self._bdat = None, [], [], BdatDecoder()


def split(data: bytes, rng: random.Random, most: int = 9) -> list[bytes]:
    edges = [0]
    while edges[-1] < len(data):
        edges.append(edges[-1] + rng.randint(1, most if rng.random() < 0.9 else 2000))
    return [data[a:b] for a, b in pairwise(edges)]


class Wire:
    """Carries octets both ways in random pieces, and streams content when the machine asks."""

    def __init__(self, server: Server, machine: ClientMachine, seed: int) -> None:
        self.server, self.machine, self.rng = server, machine, random.Random(seed)
        self.seen: list[Event] = []
        self.content = b""

    def run(self, events: list[Event]) -> None:
        queue = list(events)
        while queue:
            event = queue.pop(0)
            self.seen.append(event)
            if isinstance(event, Write):
                queue += self.send(event.data)
            elif isinstance(event, SendContent):
                for chunk in split(self.content, self.rng):
                    queue += self.send(self.machine.content(chunk))
                queue += self.send(self.machine.end())

    def send(self, data: bytes) -> list[Event]:
        events = []
        for piece in split(data, self.rng):
            for answer in split(self.server.feed(piece), self.rng):
                events += self.machine.receive(answer)
        return events

    def deliver(self, message: Outgoing, content: bytes, *, streamed: bool) -> Finished:
        self.content = content
        self.run(self.machine.begin(message, None if streamed else content))
        finished = self.seen[-1]
        assert isinstance(finished, Finished)
        return finished


CONTENT = st.lists(
    st.sampled_from([b"\r\n", b".", b"\r\n.\r\n", b"\n.\n", b"\r", b"\n", b"Subject: x", b"\0", b"QUIT\r\n", b"\xff"])
    | st.binary(max_size=9),
    max_size=25,
).map(b"".join)
RECIPIENTS = st.lists(st.sampled_from(["a@b.c", '"x y"@b.c', "no1@b.c", "d@e.f"]), min_size=1, max_size=4)
FEATURES = st.sets(st.sampled_from(["PIPELINING", "CHUNKING", "8BITMIME", "SIZE 100000", "DSN"])).map(sorted)


@settings(deadline=None)
@given(
    st.lists(st.tuples(RECIPIENTS, CONTENT, st.booleans()), min_size=1, max_size=3),
    FEATURES,
    st.booleans(),
    st.integers(0, 2**32),
)
def test_what_is_sent_arrives(
    mails: list[tuple[list[str], bytes, bool]], features: list[str], lmtp: bool, seed: int
) -> None:
    server, machine = Server(features, lmtp=lmtp), ClientMachine("mx.example.com", lmtp=lmtp)
    wire = Wire(server, machine, seed)
    wire.run(machine.receive(b"220 inner.example\r\n"))
    assert isinstance(wire.seen[-1], Ready)
    expected = []
    for number, (recipients, content, streamed) in enumerate(mails):
        sender = f"s{number}@x.example" if number else ""
        recipient_values = tuple(OutgoingRecipient(r, "FAILURE", "rfc822;o@b.c") for r in recipients)
        message = Outgoing(sender, recipient_values, len(content), "8BITMIME", ret="HDRS", envid="e+2B")
        results = wire.deliver(message, content, streamed=streamed).results
        assert [r.kind for r in results] == ["failed" if r.startswith("no") else "delivered" for r in recipients]
        taken = [r for r in recipients if not r.startswith("no")]
        arrives = normalized(content)
        if arrives and not arrives.endswith(b"\n"):
            arrives += b"\r\n"
        if taken:
            expected.append((sender, taken, arrives))
    assert server.stored == expected
    assert not any(isinstance(event, Closed) for event in wire.seen)


@pytest.mark.parametrize("features", [["PIPELINING"], ["PIPELINING", "CHUNKING"], []])
def test_a_thousand_recipients(features: list[str]) -> None:
    server, machine = Server(features), ClientMachine("mx.example.com")
    wire = Wire(server, machine, 1)
    wire.run(machine.receive(b"220 inner.example\r\n"))
    names = [f"{'no' if n % 3 else 'r'}{n}@b.c" for n in range(1000)]
    finished = wire.deliver(Outgoing("s@x.example", tuple(map(OutgoingRecipient, names))), b"x\r\n", streamed=True)
    assert [r.kind for r in finished.results] == ["failed" if name.startswith("no") else "delivered" for name in names]
    assert server.stored == [("s@x.example", [name for name in names if name.startswith("r")], b"x\r\n")]
