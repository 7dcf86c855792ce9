"""One SMTP session: what is known of its client, and the way from a command to its reply (RFC 5321).

Contract: commands run in order; questions to the engine are answered at once where no IO is needed, else awaited. No
reply tells more than its class; refusals end with the transaction id. What failure means for the mail: an error in here
is answered 451 4.3.0 with the id, its trace goes to the log only, and nothing was promised.
"""

import asyncio
from typing import TYPE_CHECKING, Any

import msgspec

from appliance.daemons.smtpd import commands, content, finish, patience, record
from appliance.daemons.smtpd.body import BdatReceiver, DataReceiver
from appliance.daemons.smtpd.limits import PSEUDO_END_WAIT, hit
from appliance.daemons.smtpd.wire import Step, Wire
from appliance.mail.context import Client, Context, Stage
from appliance.mail.replies import MAX_REPLY
from appliance.mail.verdict import Verdict
from appliance.net.client_name import ClientName
from appliance.protocol.errors import ProtocolError
from appliance.protocol.smtp.command import parse, wrong_protocol
from appliance.protocol.smtp.reply import from_text

if TYPE_CHECKING:
    from appliance.daemons.smtpd.front import Front
    from appliance.daemons.smtpd.rules import Door, Rules
    from appliance.daemons.smtpd.transaction import Transaction

GOODBYE = "554 5.7.0 Error: I can break rules, too. Goodbye."
TOO_LONG = "500 5.5.2 Error: line too long"


class Session(Wire):
    """A client's session, from accept to its end."""

    def __init__(self, front: "Front", rules: "Rules", door: "Door", client: Client) -> None:
        super().__init__(front.loop)
        self.front, self.rules, self.door = front, rules, door
        self.peer_address, self.client = client.address, client
        self.facts = door.facts(client.address)
        #: The question for the client's name, as long as it is open.
        self.naming: asyncio.Task[ClientName] | None = None
        #: The address that limits count this session under; "" before it is counted.
        self.counted = ""
        self.counted_by_state = False
        #: The conversation with an aiosmtpd handler, if one is plugged in.
        plug = door.plug or front.plug
        self.plugged = plug(self) if plug is not None else None
        self.verbs = commands.VERBS if self.plugged is None else self.plugged.verbs
        #: Conversations of checks (milters), if any check has some.
        self.talks = rules.engine.talks(door.role)
        self.id = next(front.ids)
        self.helo, self.esmtp = "", False
        self.signs: frozenset[str] = frozenset()
        self.trail: tuple[Verdict, ...] = ()
        #: Stages before MAIL that the engine was asked about.
        self.asked: frozenset[Stage] = frozenset()
        self.forwarded: dict[str, str] = {}
        self.transaction: Transaction | None = None
        self.life = self.loop.time() + rules.limits.session_life
        self.errors = self.junk = self.junk_judged = self.messages = 0
        #: Answers come slowly because of errors.
        self.slowed = False
        #: When content came last.
        self.heard = 0.0
        #: verb -> [accepted, asked], in the order of first use.
        self.counts: dict[str, list[int]] = {}
        self.verb = "CONNECT"
        #: Why the session ends, if not by QUIT: lost, timeout, or a limit's name.
        self.end = "lost"
        self._count = [0, 0]

    @property
    def who(self) -> str:
        """The client as logs show it."""
        return f"{self.client.name}[{self.client.address}]"

    # ------------------------------------------------------------------ replies

    def ok(self, reply: bytes) -> None:
        """A good answer; `reply` is complete with its CRLF."""
        self._count[0] += 1
        self.out.append(reply)

    def refuse(self, text: str) -> None:
        """An answer of class 4 or 5: "550 5.1.1 Text". A 5 counts as an error of the client."""
        self.out.append(from_text(self._softened(text)).encode())
        if text[0] == "5":
            self.errors += 1

    def _softened(self, text: str) -> str:
        """With `soft_bounce` no answer is final."""
        if text[0] == "5" and self.rules.soft_bounce:
            return f"4{text[1:4]}4{text[5:]}" if text[4:6] == "5." else f"4{text[1:]}"
        return text

    def reject(self, text: str) -> None:
        """As `refuse`, with the id at its end if it is not there."""
        tail = f" [{self.id}]"
        self.refuse(text if text.endswith(tail) else text[: MAX_REPLY - len(tail)] + tail)

    def dismiss(self, text: str, end: str, linger: bool = True) -> None:
        """Say `text` ("" = nothing more) and end the session; `end` is the reason in the log."""
        self.end = end
        self.reset()
        if text:
            self.out.append(from_text(self._softened(text)).encode())
        self.hang_up(linger)

    def count(self, verb: str) -> None:
        """One more command."""
        self.verb = verb
        self._count = self.counts.setdefault(verb, [0, 0])
        self._count[1] += 1

    # ------------------------------------------------------------------ from the wire

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        super().connection_made(transport)
        self.front.entered(self)

    def on_line(self, line: bytes) -> Step:
        command = commands.PLAIN.get(line)
        if command is None:
            if len(line) > self.rules.limits.command_line and self._over_length(line):
                return None
            utf8 = self.rules.utf8 if self.transaction is None else self.transaction.utf8
            try:
                command = parse(line, utf8=utf8, strict=self.rules.smtp.strict, origin=self.rules.hostname)
            except ProtocolError as error:
                return self._misspelt(line, error)
        run = self.verbs.get(command.verb)
        if run is None:
            return self._misspelt(line, ProtocolError("unknown", "500 5.5.2 Error: command not recognized"))
        self.count(command.verb)
        if command.lenient:
            self.signs |= {"lenient_syntax"}
        if self.more and (not self.esmtp or command.verb in commands.LAST_OF_GROUP):
            self._pipelined()
        step = run(self, command)
        return self.judge_client() if step is None else patience.behind(self, step)

    def _over_length(self, line: bytes) -> bool:
        """Longer than a line may be without parameters: is it too long?"""
        if len(line) <= self.rules.limits.command_line_parameters and line[:4].upper() in (b"MAIL", b"RCPT"):
            return False
        self._too_long()
        return True

    def _pipelined(self) -> None:
        """RFC 2920 3.1: behind some commands, and behind all without EHLO, a client waits for our answer."""
        if "pipelining" not in self.signs:
            record.pipelined(self)
            self.signs |= {"pipelining"}

    def _misspelt(self, line: bytes, error: ProtocolError) -> Step:
        if kind := wrong_protocol(line):
            self._wrong_protocol(kind)
            return None
        verb = line[:8].split(b" ", 1)[0].strip().upper().decode("ascii", "replace")
        self.count(verb if verb in commands.VERBS else "UNKNOWN")
        record.protocol_error(self, str(error), line)
        self.refuse(error.reply)
        if error.reply.startswith("521"):
            self.dismiss("", "protocol")
        return self.judge_client()

    def judge_client(self) -> Step:
        """Behind each answer."""
        return patience.erring(self)

    def on_bare(self, line: bytes) -> None:
        if kind := wrong_protocol(line):
            self._wrong_protocol(kind)
            return
        record.protocol_error(self, "bare LF in a command", line)
        self.dismiss("500 5.5.2 Error: bare <LF> received", "bare_lf")

    def on_part(self, part: bytes) -> bool:
        if not self.counts and len(part) > 2 and (kind := wrong_protocol(part)) in ("tls", "binary"):
            self._wrong_protocol(kind)
            return True
        if len(part) > self.rules.limits.command_line_parameters:
            self._too_long()
            return True
        return False

    def _too_long(self) -> None:
        hit("command_line", f"{self.who} after {self.verb}")
        self.refuse(TOO_LONG)

    def _wrong_protocol(self, kind: str) -> None:
        hit("wrong_protocol", f"{self.who} speaks {kind} after {self.verb}")
        self.dismiss(GOODBYE, "protocol")

    def on_received(self, receiver: Any) -> Step:
        if (body := content.unplaced(self)) is not None:
            return content.placed(self, body, receiver)
        if isinstance(receiver, BdatReceiver) and not (receiver.last and receiver.transaction is not None):
            return content.chunk(self, receiver)
        return finish.finish(self, receiver)

    def on_error(self, error: Exception) -> None:
        record.internal(self, error)
        self.receiving = None
        if self.verb == "CONNECT" or content.unread(self):  # no greeting was given, or what comes is no command
            self.dismiss(f"421 4.3.0 {self.rules.hostname} Server local data error", "error")
            return
        if self.verb != "RCPT":  # that recipient is not taken; a 503 to the next ones would be final
            self.reset()
        self.reject("451 4.3.0 Error: internal error, please try again later")

    def on_end(self) -> None:
        if not self.busy:
            self.reset()
        if self.talks is not None:
            self.talks.close()
        self.front.left(self)
        record.disconnected(self)

    async def drive(self, step: Step) -> None:
        await super().drive(step)
        if self.lost:  # meanwhile
            self.reset()

    # ------------------------------------------------------------------ time

    def on_idle(self) -> None:
        if self.front.draining and self.transaction is None:
            self.shut_down()
            return
        self.deadline = min(self.loop.time() + self.front.patience(), self.life)

    def on_choked(self) -> None:
        self.deadline = self.loop.time() + self.rules.limits.timeout_write

    def on_progress(self) -> Step:
        """Silence is bounded, and so is the time that an octet may take on the whole."""
        now = self.heard = self.loop.time()
        if isinstance(self.receiving, DataReceiver) and self.receiving.pseudo_end:
            self.deadline = now + PSEUDO_END_WAIT
            return None
        silence = now + self.front.patience(self.rules.limits.timeout_data)
        self.deadline = min(silence, patience.latest(self), self.life)
        return content.placed(self, body) if (body := content.unplaced(self)) is not None else None

    def expired(self, now: float) -> None:
        """The watch found the deadline passed."""
        patience.expired(self, now)

    def wind_down(self, now: bool = False) -> None:
        """The worker ends: so does the session, between transactions, or `now` unless something is being awaited."""
        if not self.busy and not self.closing and (now or self.transaction is None):
            self.shut_down()

    def shut_down(self) -> None:
        """Say that the worker ends."""
        self.dismiss(f"421 4.3.2 {self.rules.hostname} Service is going down, please try again", "drain")

    @property
    def stage(self) -> str:
        """The last verb; behind 354 "DATA content"."""
        return "DATA content" if self.receiving is not None else self.verb

    def renew(self) -> None:
        """Between transactions: take the rules that are in force now."""
        rules = self.front.rules
        if rules is not self.rules and self.transaction is None and self.door.name in rules.doors:
            self.rules, self.door = rules, rules.doors[self.door.name]
            if self.talks is None:
                self.talks = rules.engine.talks(self.door.role)

    def named(self, found: ClientName) -> None:
        """The client's name is known."""
        self.client = msgspec.structs.replace(self.client, name=found.name, reverse_name=found.reverse, proof=found.proof)

    def reset(self) -> None:
        """Forget the transaction (RSET, EHLO, its end)."""
        if self.transaction is not None:
            self.transaction.drop()
            self.transaction = None
            if self.talks is not None:
                self.talks.reset()

    def context(self, stage: Stage, **more: Any) -> Context:
        """The question for a stage before MAIL."""
        return Context(
            stage=stage,
            role=self.door.role,
            listener=self.door.name,
            transaction=self.id,
            client=self.client,
            helo=self.helo,
            esmtp=self.esmtp,
            signs=self.signs,
            now=self.front.clock(),
            trail=self.trail,
            **more,
        )
