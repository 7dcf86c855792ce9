"""`postgate selftest --live`: harmless questions to the running gateway, on the listeners of its configuration.

Contract: the null sender is used, which is neither greylisted nor counted as a sender, no content is sent at all, and the
default recipient is postmaster, whom nobody has to ask for inside: nothing is delivered. What the store did not know
before (what call-ahead found of a recipient that was named, that this client waited for the greeting) is forgotten again.
What failure means for the mail: none.
"""

import asyncio
import time
from collections.abc import Awaitable, Callable

import click

from appliance.cli import common
from appliance.cli.selftest import notes
from appliance.cli.selftest.play import Result, unlike
from appliance.cli.selftest.relaying import ATTEMPTS, is_refusal
from appliance.cli.selftest.stranger import Reply, Stranger
from appliance.cli.selftest.table import Shown
from appliance.config import blob as files
from appliance.config.mistakes import ConfigError
from appliance.config.model import Listen
from appliance.config.snapshot import Snapshot, build
from appliance.config.values import parse_listen_address

_NEAR = {"0.0.0.0": "127.0.0.1", "::": "::1"}
#: Of the attempts to relay: those whose domain is not perhaps one of theirs.
_TRIED = 5
_KEYWORDS = ("8BITMIME", "ENHANCEDSTATUSCODES")


class Live:
    """Questions to one listener."""

    def __init__(self, config: str | None, snapshot: Snapshot, listen: Listen, recipient: str) -> None:
        self.config, self.snapshot, self.listen, self.recipient = config, snapshot, listen, recipient
        place = parse_listen_address(listen.address)
        self.host, self._port = _NEAR.get(place.host, place.host), place.port

    def stranger(self) -> Stranger:
        return Stranger(self.host, self._port)

    async def status(self) -> Result:
        facts = common.ask(self.config, {"op": "status"})
        degraded = [str(text) for text in facts["degraded"]]
        return unlike(degraded, "running, nothing degraded", f"{facts['state']}, nothing degraded", "postgate status")

    async def greeting(self) -> Result:
        async with self.stranger() as stranger:
            answer = stranger.greeting if stranger.greeting.code != 220 else await stranger.hello()
            wanted = [*_KEYWORDS, *(["STARTTLS"] if self.listen.tls.certificate else [])]
            missing = [word for word in wanted if word not in stranger.features] if answer.code == 250 else [answer.short]
        return unlike(missing, f"220, 250 {' '.join(wanted)}", "as expected", f"{self.host}:{self._port}")

    async def starttls(self) -> Result:
        if not self.listen.tls.certificate:
            return Result("skipped", "-", "-", "the listener has no certificate")
        async with self.stranger() as stranger:
            await stranger.hello()
            answer = await stranger.starttls()
            if answer.code == 220:
                answer = await stranger.hello()
        return Result("ok" if answer.code == 250 else "miss", "a handshake, then 250", answer.short.split("|")[0])

    async def taken(self) -> Result:
        answer = await self._recipient(self.recipient)
        return Result(
            "ok" if answer.code == 250 else "miss", f"250 for <{self.recipient}>", answer.short, "RSET behind it"
        )

    async def relay(self) -> Result:
        domain = self.recipient.rpartition("@")[2]
        tried = [(one, await self._recipient(one.at(domain))) for one in ATTEMPTS[:_TRIED]]
        gateway, policies = self.snapshot.wiring.gateway, self.snapshot.policies
        problems = [
            f"<{one.at(domain)}> got {reply.short}"
            for one, reply in tried
            if not is_refusal(policies, one.finding, reply, gateway.soft_bounce)
        ]
        why = "to others' domains, plain and by tricks"
        return unlike(problems, "refused by relay, each", f"{len(tried)} refused", why)

    async def _recipient(self, recipient: str) -> Reply:
        async with self.stranger() as stranger:
            await stranger.hello()
            answer = await stranger.envelope("", recipient)
            await stranger.say("RSET")
            await stranger.raw(b"QUIT\r\n")
        return answer

    async def oversize(self) -> Result:
        limit = self.snapshot.wiring.smtp.size_limit
        if not limit:
            return Result("skipped", "-", "-", "size_limit = 0")
        async with self.stranger() as stranger:
            await stranger.hello()
            answer = await stranger.say(f"MAIL FROM:<> SIZE={limit + 1}")
        return Result("ok" if answer.code == 552 else "miss", "552 at MAIL", answer.short, f"limit {limit}")

    async def bare_lf(self) -> Result:
        async with self.stranger() as stranger:
            await stranger.hello()
            await stranger.raw(b"NOOP\nNOOP\r\n")
            answer = await stranger.reply()
        return Result("miss" if answer.code in (0, 250) else "ok", "a bare LF ends no command", answer.short)

    def scenarios(self) -> list[tuple[str, Callable[[], Awaitable[Result]]]]:
        return [
            ("greeting", self.greeting),
            ("STARTTLS", self.starttls),
            ("test recipient", self.taken),
            ("relay attempts", self.relay),
            ("oversize, announced", self.oversize),
            ("bare LF in a command", self.bare_lf),
        ]


async def play(config: str | None, recipient: str | None, only: tuple[str, ...], shown: Shown) -> int:
    """How many scenarios missed. Raises ClickException if there is nothing to talk to."""
    try:
        snapshot = build(files.read(config))
    except (OSError, ConfigError) as error:
        raise click.ClickException(str(error)) from None
    domains = [name for name in snapshot.wiring.relay.domains if ":" not in name]
    if recipient is None and not domains:
        raise click.ClickException("name a mailbox of yours: --recipient ADDRESS")
    lives = [
        Live(config, snapshot, listen, recipient or f"postmaster@{domains[0]}")
        for listen in snapshot.wiring.listen
        if listen.role == "inbound" and listen.protocol == "smtp" and not listen.proxy
    ]
    if not lives:
        raise click.ClickException("no inbound listener takes connections without a PROXY header")
    left = [
        *(notes.of_recipient(recipient) if recipient else ()),
        *notes.of_clients(snapshot, {one.host for one in lives}),
    ]
    fresh = notes.unknown(config, left)
    scenarios = [("status", lives[0].status)] + [
        (f"{name}, {live.listen.name}", run) for live in lives for name, run in live.scenarios()
    ]
    for number, (name, run) in enumerate(scenarios, 1):
        if only and not any(text.lower() in name.lower() for text in only):
            continue
        shown.doing(name, number, len(scenarios))
        began = time.monotonic()
        try:
            result = await run()
        except ConnectionError as error:
            result = Result("miss", "somebody answers", str(error))
        shown.row(name, result, time.monotonic() - began)
    if fresh:
        await asyncio.to_thread(notes.forget, config, fresh)
    return shown.end("the running gateway")
