"""An SMTP server that is well until a step of its session, for tests in which it is not from there on (hostile.py): an
inner server, a server that is asked for recipients, a content filter."""

import asyncio
import re
from collections.abc import Awaitable, Callable

from tests.peers.hostile import FAULTS, Act, Question, Reader, Writer

STEPS = ("CONNECT", "EHLO", "MAIL", "RCPT", "DATA", "DOT")
_WORDS = b"PIPELINING|SIZE 100000000|8BITMIME|ENHANCEDSTATUSCODES|SMTPUTF8".split(b"|")
GOOD = {
    "CONNECT": b"220 inner.example.net ESMTP\r\n",
    "EHLO": b"250-inner.example.net\r\n" + b"".join(b"250-%s\r\n" % word for word in _WORDS[1:]) + b"250 PIPELINING\r\n",
    "MAIL": b"250 2.1.0 Ok\r\n",
    "RCPT": b"250 2.1.5 Ok\r\n",
    "DATA": b"354 go\r\n",
    "DOT": b"250 2.0.0 Ok: kept\r\n",
    "QUIT": b"221 2.0.0 Bye\r\n",
}
#: What is said to a line at a step, given the line (of DOT the content): by default what is good.
Judge = Callable[[str, bytes], bytes | Awaitable[bytes]]


async def another_protocol(question: Question, reader: Reader, writer: Writer) -> None:
    """The word of hostile.py is SMTP, and here an answer."""
    await question.read(reader, writer)
    writer.write(b"HTTP/1.1 400 Bad Request\r\n\r\n")


SMTP_FAULTS: dict[str, Act | None] = {**FAULTS, "another_protocol": another_protocol}


def well(step: str, _said: bytes) -> bytes:
    return GOOD.get(step, b"250 2.0.0 Ok\r\n")


class SmtpQuestion:
    """One connection. The question is the first line at `step`; behind it the next one is the first at any step (goes_on
    is a whole server)."""

    def __init__(self, step: str = "CONNECT", judge: Judge = well) -> None:
        self.step, self.judge = step, judge
        self.answer = b""
        self._begun = self._content = False

    async def read(self, reader: Reader, writer: Writer) -> None:
        while True:
            step, line = await self._next(reader)
            said = self.judge(step, line)
            self.answer = said if isinstance(said, bytes) else await said
            self._content = step == "DATA" and self.answer.startswith(b"354")
            if self.step in (step, ""):
                self.step = ""
                return
            writer.write(self.answer)
            if step == "QUIT":
                raise ConnectionResetError

    async def _next(self, reader: Reader) -> tuple[str, bytes]:
        if not self._begun:
            self._begun = True
            return "CONNECT", b""
        if self._content:
            content = await reader.readuntil(b"\r\n.\r\n")
            return "DOT", content.removesuffix(b".\r\n").replace(b"\r\n..", b"\r\n.")
        line = await reader.readuntil(b"\r\n")
        verb = re.split(rb"[ :\r]", line, maxsplit=1)[0].decode("latin-1").upper()
        return {"LHLO": "EHLO"}.get(verb, verb), line


async def send(port: int, sender: str, recipients: list[str], content: bytes, seconds: float = 30) -> tuple[str, str]:
    """(kind, last reply) of one message over one connection; kind: accepted, refused, unsent or unknown
    (senders.Outcome)."""
    sent_dot, reply = False, b""
    try:
        async with asyncio.timeout(seconds):
            reader, writer = await asyncio.open_connection("127.0.0.1", port)
            try:
                to = (f"RCPT TO:<{recipient}>" for recipient in recipients)
                commands = ["EHLO soak.example.org", f"MAIL FROM:<{sender}>", *to, "DATA"]
                reply = await _reply(reader)
                for command in commands:
                    if reply[:1] != b"2":
                        break
                    writer.write(command.encode() + b"\r\n")
                    reply = await _reply(reader)
                if not reply.startswith(b"354"):
                    return "unsent", reply.decode("latin-1")
                writer.write(re.sub(rb"(?m)^\.", b"..", content))
                await writer.drain()
                sent_dot = True
                writer.write(b".\r\n")
                reply = await _reply(reader)
                return ("accepted" if reply[:1] == b"2" else "refused"), reply.decode("latin-1")
            finally:
                writer.close()
    except (OSError, asyncio.IncompleteReadError, TimeoutError) as error:
        return ("unknown" if sent_dot else "unsent"), f"{type(error).__name__} behind {reply!r}"


async def _reply(reader: Reader) -> bytes:
    while (line := await reader.readuntil(b"\n"))[3:4] == b"-":
        pass
    return line.strip()
