"""One message of an MTA, from MAIL to the answer to its end: envelope, what was found, and what is put together of it.

Contract: a message keeps the rules it began with. `drop` gives back memory and file, at any time. What failure means for
the mail: `answer` (the refusal of the whole message) stands for every event that still comes.
"""

from typing import TYPE_CHECKING, Any

from appliance.daemons.fronts import trace
from appliance.daemons.milterd.collector import Collector
from appliance.mail.context import Context, Recipient, Stage
from appliance.mail.identity import Identity
from appliance.mail.verdict import Verdict
from appliance.protocol.milter.packets import Reply
from appliance.protocol.smtp.command import Command, MailParameters

if TYPE_CHECKING:
    from appliance.daemons.milterd.session import Session


class Message:
    """The state of a message."""

    def __init__(self, session: "Session", command: Command, parameters: MailParameters) -> None:
        assert command.address is not None
        self.session, self.rules = session, session.rules
        self.id = next(session.front.ids)
        self.role = session.role_of_mail()
        self.login = session.login()
        self.sender, self.parameters, self.options = command.address, parameters, command.parameters
        self.utf8 = parameters.smtputf8
        self.recipients: list[Recipient] = []
        #: The same as the MTA wrote them, and those whose copy is thrown away.
        self.written: list[bytes] = []
        self.thrown: list[bytes] = []
        self.discard = False
        #: What stands at DATA was asked.
        self.at_data = False
        #: The recipient that is being asked about, as it is judged and as the MTA wrote it.
        self.asking: tuple[Recipient, bytes] | None = None
        self.refused = 0
        self.trail: tuple[Verdict, ...] = ()
        self.identity: Identity | None = None
        self.collector: Collector | None = None
        #: What status calls it, once a decision about it came too late.
        self.late_as = ""
        #: The refusal that ended it.
        self.answer: Reply | None = None

    def context(self, stage: Stage, **more: Any) -> Context:
        """The question for a stage from MAIL on."""
        session = self.session
        return Context(
            stage=stage,
            role=self.role,
            listener=session.door.name,
            transaction=self.id,
            client=session.client,
            helo=session.helo,
            esmtp=True,
            sender=self.sender,
            smtputf8=self.utf8,
            declared_size=self.parameters.size,
            parameters=self.options,
            recipients=tuple(self.recipients),
            signs=session.signs,
            now=session.front.clock(),
            trail=session.trail + self.trail,
            identity=self.identity,
            login=self.login,
            mta_id=session.machine.macro("i"),
            **more,
        )

    def take(self, discard: bool = False) -> None:
        """The recipient that is being asked about is one of the message's; with `discard` its copy is thrown away."""
        if self.asking is None:
            return
        (recipient, written), self.asking = self.asking, None
        if discard or self.discard:
            self.thrown.append(written)
        else:
            self.recipients.append(recipient)
            self.written.append(written)

    def collect(self) -> Collector:
        """What gathers the content; begun at the first piece."""
        if self.collector is None:
            session, rules, front = self.session, self.rules, self.session.front
            top = trace.received(
                hostname=rules.hostname,
                client=session.client,
                helo=session.helo,
                with_=trace.protocol(True, session.client.tls, self.utf8),
                transaction=self.id,
                recipient=self.recipients[0].address.text if len(self.recipients) == 1 else "",
                now=front.clock(),
            )
            self.collector = Collector(top, rules.smtp.size_limit, rules.limits.header_size, front.memory, front.folder)
        return self.collector

    def drop(self) -> None:
        """Give back what the content holds."""
        if self.collector is not None:
            self.collector.drop()
            self.collector = None
