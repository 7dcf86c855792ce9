"""One mail transaction, from MAIL to its end: envelope, verdicts so far, and the body while it comes in (RFC 5321 3.3).

Contract: a transaction keeps the rules (snapshot, engine) it began with. Its id is the one that replies, log and queue
share. `drop` gives back memory and files, at any time. What failure means for the mail: a dropped transaction was never
answered with 250.
"""

from typing import TYPE_CHECKING, Any

from appliance.addresses import Expansion, Step
from appliance.daemons.fronts import trace
from appliance.daemons.smtpd.body import Body
from appliance.mail.context import Context, Recipient, Stage
from appliance.mail.identity import Identity
from appliance.mail.verdict import Verdict
from appliance.protocol.smtp.command import Command
from appliance.protocol.smtp.data import BdatDecoder, DataDecoder
from appliance.protocol.smtp.parameters import MailParameters

if TYPE_CHECKING:
    from appliance.daemons.smtpd.session import Session


class Transaction:
    """The state between MAIL and the end of data."""

    def __init__(self, session: "Session", command: Command, parameters: MailParameters) -> None:
        assert command.address is not None
        self.session, self.rules = session, session.rules
        session.front.transactions.add(self)
        self.id = session.id
        self.command, self.parameters = command, parameters
        self.sender = command.address
        self.utf8 = parameters.smtputf8
        self.recipients: list[Recipient] = []
        #: Recipients that got 250 and whose copy is thrown away (an operator's discard); `discard`: all of them.
        self.discarded: list[Recipient] = []
        self.discard = False
        self.refused = self.overshoot = 0
        #: What becomes of recipients (by the address that was named), and what was rewritten in all.
        self.expansions: dict[str, Expansion] = {}
        self.expanded = 0
        self.rewritten: list[Step] = []
        #: What was found in this transaction; it stands behind what the session found.
        self.trail: tuple[Verdict, ...] = ()
        #: Who sends, once a check has found out.
        self.identity: Identity | None = None
        self.forwarded, session.forwarded = session.forwarded, {}
        self.decoder: DataDecoder | BdatDecoder | None = None
        self.body: Body | None = None
        self.data_since = session.loop.time()
        #: What a filter before the queue said of it, for the event.
        self.filtered: dict[str, Any] = {}
        #: A BDAT chunk failed: what follows is refused until RSET.
        self.failed = False

    @property
    def options(self) -> list[str]:
        """The parameters of MAIL as they were sent: "SIZE=1000", "SMTPUTF8"."""
        return [f"{name}={value}" if value else name for name, value in self.command.parameters]

    def octets(self) -> int:
        """Content so far."""
        return self.decoder.size if self.decoder is not None else 0

    def context(self, stage: Stage, **more: Any) -> Context:
        """The question for a stage from MAIL on."""
        session = self.session
        return Context(
            stage=stage,
            role=session.door.role,
            listener=session.door.name,
            transaction=self.id,
            client=session.client,
            helo=session.helo,
            esmtp=session.esmtp,
            sender=self.sender,
            smtputf8=self.utf8,
            declared_size=self.parameters.size,
            parameters=self.command.parameters,
            recipients=tuple(self.recipients),
            signs=session.signs,
            now=session.front.clock(),
            trail=session.trail + self.trail,
            identity=self.identity,
            **more,
        )

    def open_body(self, decoder: DataDecoder | BdatDecoder) -> Body:
        """Content begins: our Received field goes on top of it."""
        session = self.session
        top = trace.received(
            hostname=self.rules.hostname,
            client=session.client,
            helo=session.helo,
            with_=self.protocol,
            transaction=self.id,
            recipient=self.recipients[0].address.text if len(self.recipients) == 1 else "",
            now=session.front.clock(),
        )
        self.decoder = decoder
        rules, front = self.rules, session.front
        self.body = Body(top, rules.smtp.size_limit, front.memory, front.intake, rules.limits.header_size)
        self.data_since = session.loop.time()
        return self.body

    @property
    def protocol(self) -> str:
        """SMTP, ESMTP, ESMTPS, UTF8SMTP, UTF8SMTPS."""
        return trace.protocol(self.session.esmtp, self.session.client.tls, self.utf8)

    def drop(self) -> None:
        """Give back what the body holds."""
        self.session.front.transactions.discard(self)
        if self.body is not None:
            self.body.drop()
            self.body = None
