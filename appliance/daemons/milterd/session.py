"""What is known of one SMTP connection that an MTA tells us of, and the way from a question to a reply.

Contract: questions to the engine are those that the SMTP server would ask at the same commands, in the same order; they
are answered at once where no IO is needed, else awaited. No reply tells more than its class; refusals end with the id.
What failure means for the mail: an exception is the connection's: a deferral.
"""

import asyncio
from collections.abc import Awaitable, Callable, Sequence
from typing import TYPE_CHECKING

import msgspec

from appliance.daemons.milterd import record
from appliance.daemons.milterd.message import Message
from appliance.daemons.milterd.outcome import CANNOT, CONTINUE, refusal
from appliance.engine.talks import Talks
from appliance.mail.context import Client, Context, Role, Stage, Tls
from appliance.mail.login import Login
from appliance.mail.replies import MAX_REPLY
from appliance.mail.verdict import ACCEPT, Decision, Verdict
from appliance.net.client_name import ClientName
from appliance.protocol.milter.filter import FilterMachine
from appliance.protocol.milter.packets import Modification, Reply

if TYPE_CHECKING:
    from appliance.daemons.milterd.front import Front
    from appliance.daemons.milterd.rules import Door, Rules

Answer = Reply | Awaitable[Reply]


class Session:
    """One connection of an MTA. What it tells of an SMTP client is forgotten with CONNECT and QUIT_NC."""

    def __init__(self, front: "Front", rules: "Rules", door: "Door", machine: FilterMachine) -> None:
        self.front, self.rules, self.door, self.machine = front, rules, door, machine
        self.message: Message | None = None
        #: Edits that stand before the answer to the end of the message.
        self.asked_for: list[Modification] = []
        self.naming: asyncio.Task[ClientName] | None = None
        #: In this message more came before an answer that the MTA has to wait for.
        self.rushed = False
        #: Conversations of checks (milters of others), if any check has some.
        self.talks: Talks | None = None
        self.forget()

    def forget(self) -> None:
        """No client is known."""
        self.drop()
        if self.talks is not None:
            self.talks.close()
            self.talks = None
        self.client = Client(address="local")
        self.role: Role = self.door.front.role
        self.helo = ""
        self.signs: frozenset[str] = frozenset()
        self.trail: tuple[Verdict, ...] = ()
        self.asked: frozenset[Stage] = frozenset()
        if self.naming is not None:
            self.naming.cancel()
            self.naming = None
        self.id = next(self.front.ids)

    def drop(self) -> None:
        """The message is over."""
        if self.message is not None:
            self.message.drop()
            self.message = None
            if self.talks is not None:
                self.talks.reset()

    @property
    def who(self) -> str:
        """The client as logs show it."""
        return f"{self.client.name}[{self.client.address}]"

    def role_of_mail(self) -> Role:
        """Whose mail it is: known when MAIL comes, for the client may have authenticated itself."""
        if self.role == "inbound" and self.door.front.authenticated == "outbound" and self.machine.macro("auth_authen"):
            return "outbound"
        return self.role

    def login(self) -> Login | None:
        """Who has logged in, as the MTA says with MAIL."""
        macro = self.machine.macro
        user = macro("auth_authen")
        return Login(user, macro("auth_type"), macro("auth_author"), macro("auth_ssf")) if user else None

    def look_at_tls(self) -> None:
        """What the MTA says of the client's encryption."""
        macro = self.machine.macro
        if version := macro("tls_version"):
            bits = macro("cipher_bits")
            length, subject = int(bits) if bits.isdecimal() and len(bits) < 6 else 0, macro("cert_subject")
            tls = Tls(version, macro("cipher"), length, subject, macro("cert_issuer"))
            self.client = msgspec.structs.replace(self.client, tls=tls)

    # ------------------------------------------------------------------ questions

    def ask(
        self,
        stages: Sequence[Stage],
        make: Callable[[Stage], Context],
        then: Callable[[Decision], Reply],
        role: Role | None = None,
    ) -> Answer:
        """Put the questions of `stages`; `then` makes the reply of the first decision that does not accept, or the
        last."""
        decision, standing = ACCEPT, self.door.standing[role or self.role]
        wanted = [stage for stage in stages if stage in standing]
        for index, stage in enumerate(wanted):
            if self.naming is not None:
                return self._ask_all(wanted[index:], make, then)
            answer = self.rules.engine.ask(make(stage), self.talks)
            if not isinstance(answer, Decision):
                return self._ask_all(wanted[index:], make, then, answer)
            decision = self._answered(stage, answer)
            if decision.verb != "accept":
                break
        return then(decision)

    async def _ask_all(
        self,
        stages: Sequence[Stage],
        make: Callable[[Stage], Context],
        then: Callable[[Decision], Reply],
        first: Awaitable[Decision] | None = None,
    ) -> Reply:
        decision = ACCEPT
        for stage in stages:
            await self.named()
            answer = first if first is not None else self.rules.engine.ask(make(stage), self.talks)
            first = None
            decision = self._answered(stage, answer if isinstance(answer, Decision) else await answer)
            if decision.verb != "accept":
                break
        return then(decision)

    async def named(self) -> None:
        """Wait for the client's name."""
        if self.naming is not None:
            naming, self.naming = self.naming, None
            self.name(await naming)

    def name(self, found: ClientName) -> None:
        """The client's name is known."""
        self.client = msgspec.structs.replace(self.client, name=found.name, reverse_name=found.reverse, proof=found.proof)

    def _answered(self, stage: Stage, decision: Decision) -> Decision:
        """Keep what was found."""
        record.notes(self, stage, decision)
        if stage in ("connect", "helo"):
            self.asked |= {stage}
            self.trail += decision.verdicts
        elif self.message is not None:
            self.message.trail += decision.verdicts
            self.message.identity = decision.identity or self.message.identity
        return decision

    def stage_reply(self, decision: Decision, stage: str, recipient: str = "") -> Reply:
        """The reply that a decision before the end of the message is."""
        if decision.verb in ("accept", "discard"):
            return CONTINUE
        record.decided(self, decision)
        return self.refuse(stage, decision.reply or CANNOT, recipient)

    def refuse(self, stage: str, words: str, recipient: str = "") -> Reply:
        """A refusal, logged; it ends with the id."""
        tail = f" [{self.message.id if self.message is not None else self.id}]"
        words = words if words.endswith(tail) else words[: MAX_REPLY - len(tail)] + tail
        record.rejected(self, stage, words, recipient)
        return refusal(words)

    def context(self, stage: Stage, role: Role | None = None) -> Context:
        """The question for a stage before MAIL."""
        return Context(
            stage=stage,
            role=role or self.role,
            listener=self.door.name,
            transaction=self.message.id if self.message is not None else self.id,
            client=self.client,
            helo=self.helo,
            signs=self.signs,
            now=self.front.clock(),
            trail=self.trail,
        )

    @property
    def stale(self) -> bool:
        """Other rules are in force, and what was agreed on with this MTA is not enough for them."""
        door = self.front.rules.doors.get(self.door.name)
        return self.front.rules is not self.rules and (door is None or door.want != self.door.want)

    def renew(self, anew: bool = False) -> None:
        """Between messages: take the rules in force, as far as what was agreed on with this MTA is enough for them
        (`anew`: nothing is agreed on yet)."""
        rules = self.front.rules
        door = rules.doors.get(self.door.name)
        if rules is not self.rules and door is not None and (anew or door.want == self.door.want):
            self.rules, self.door = rules, door
        if self.talks is None and not anew:
            made = (self.rules.engine.talks(role) for role in self.door.roles())
            self.talks = next((talks for talks in made if talks is not None), None)
