r"""Plays *.smtp scripts against a real session over loopback.

A script is lines: `C: text` the client sends text and CRLF (lines in a row go out in one write); `B: text` it sends
octets with Python escapes and no CRLF; `S: text` the server answers this line (`...` stands for anything); `X:` the
server ends the connection; `F:` the client half-closes; `K: n` so many messages are kept by now; `=: section.key = value`
a setting (TOML), before the first word; `E: stage reply` the engine answers so at a stage ("discard" is a reply, too);
`#` is a remark. At the end nothing more may be said.
"""

import asyncio
import re
import tomllib
from pathlib import Path
from typing import Any, NamedTuple

from appliance.engine.pipeline import Group
from appliance.mail.context import Context
from appliance.mail.verdict import Decision, Verb
from tests.daemons.smtpd.stage import Client, Stage

SCRIPTS = sorted(Path(__file__).parent.glob("*.smtp"))


class Line(NamedTuple):
    number: int
    kind: str
    text: str


def read(path: Path) -> list[Line]:
    lines = []
    for number, text in enumerate(path.read_text().splitlines(), 1):
        if text.strip() and not text.startswith("#"):
            assert text[1] == ":", f"{path.name}:{number}: {text}"
            lines.append(Line(number, text[0], text[3:]))
    return lines


def settings(lines: list[Line]) -> dict[str, Any]:
    return tomllib.loads("\n".join(line.text for line in lines if line.kind == "="))


def decision(reply: str, ctx: Context) -> Decision:
    if reply == "discard":
        return Decision(verb="discard")
    verb: Verb = "disconnect" if reply.startswith("421") else "reject" if reply.startswith("5") else "defer"
    return Decision(verb=verb, reply=f"{reply} [{ctx.transaction}]")


def engine(stage: Stage, lines: list[Line]) -> None:
    for line in lines:
        if line.kind == "E":
            at, _, reply = line.text.partition(" ")
            if at == "message":
                stage.engine_.rules[at] = lambda ctx, reply=reply: [
                    Group(tuple(range(len(ctx.recipients))), decision(reply, ctx))
                ]
            else:
                stage.engine_.rules[at] = lambda ctx, reply=reply: decision(reply, ctx)


class Player:
    """`slow`: octet by octet, so that every command is split everywhere."""

    def __init__(self, stage: Stage, client: Client, name: str, slow: bool) -> None:
        self.stage, self.client, self.name, self.slow = stage, client, name, slow

    async def play(self, lines: list[Line]) -> None:
        out = b""
        for line in lines:
            if line.kind == "C":
                out += line.text.encode() + b"\r\n"
            elif line.kind == "B":
                out += line.text.encode().decode("unicode_escape").encode("latin-1")
            elif line.kind not in "=E":
                await self.send(out)
                out = b""
                await self.meet(line)
        await self.send(out)
        if not self.client.reader.at_eof():
            self.client.writer.write_eof()
            rest = await self.client.ended()
            assert not rest, f"{self.name}: the server also says {rest!r}"

    async def send(self, data: bytes) -> None:
        if data and not self.slow:
            self.client.send(data)
            return
        for octet in data:
            self.client.send(bytes((octet,)))
            await asyncio.sleep(0)

    async def meet(self, line: Line) -> None:
        where = f"{self.name}:{line.number}"
        if line.kind == "S":
            said = (await asyncio.wait_for(self.client.reader.readline(), 10)).decode()
            assert said.endswith("\r\n"), f"{where}: {line.text!r} expected, the end came: {said!r}"
            pattern = ".*".join(map(re.escape, line.text.split("...")))
            assert re.fullmatch(pattern, said[:-2]), f"{where}: {line.text!r} expected, not {said!r}"
        elif line.kind == "X":
            rest = await self.client.ended()
            assert not rest, f"{where}: the end expected, not {rest!r}"
        elif line.kind == "F":
            self.client.writer.write_eof()
        elif line.kind == "K":
            assert len(self.stage.intake.kept) == int(line.text), f"{where}: {len(self.stage.intake.kept)} kept"
        else:
            raise AssertionError(f"{where}: unknown kind of line")


async def play(path: Path, slow: bool) -> Stage:
    lines = read(path)
    stage = Stage(**settings(lines))
    engine(stage, lines)
    async with stage:
        client = await stage.connect(banner=False)
        await Player(stage, client, path.name, slow).play(lines)
    return stage
