"""The milter client: one milter's side of one SMTP session, over one connection to it, as Postfix does it.

Contract (mail.milter): a session has one connection to each milter, over all its messages; a milter that hung up between
two of them is connected anew. Each step has a deadline, which progress begins anew, and so has all that a milter may take
of one transaction, which nothing extends. What a milter says when nobody asked, late answers and second ones among it,
ends the connection: no answer is taken for that of another question. What failure means for the mail: `Said.failed`, for
the rest of the transaction; the next one begins with a new connection.
"""

import asyncio
import contextlib
from collections.abc import AsyncIterator, Mapping, Sequence

from appliance.connectors import milter_content, milter_macros, milter_wire
from appliance.connectors.milter_answers import GO_ON, meaning, octets, path
from appliance.connectors.milter_health import Health
from appliance.connectors.milter_wire import Wire
from appliance.mail.context import Context, Recipient
from appliance.mail.edits import Edit
from appliance.mail.milter import Said
from appliance.observe.text import in_words
from appliance.protocol.errors import ProtocolError
from appliance.protocol.milter.mta import Heard, Limits, MtaMachine, Sent
from appliance.protocol.milter.negotiation import offer
from appliance.protocol.milter.words import MAX_CHUNK, Event
from appliance.protocol.milter.words import Word as Letter

_OF_SESSION = (Event.CONNECT, Event.HELO)


class Link:
    """mail.milter.Link."""

    def __init__(self, health: Health, hostname: str, most: int) -> None:
        self._health, self._milter = health, health.milter
        self._hostname, self._limits = hostname, Limits(octets=most)
        self._wire: Wire | None = None
        self._machine = MtaMachine()
        self._closed = False
        self._timer: asyncio.Timeout | None = None
        self._step, self._patience, self._end = "", 0.0, 0.0
        #: What it heard of the session, and what ends its part in it.
        self._helo = ""
        self._of_session: Said | None = None
        self.reset()

    def reset(self) -> None:
        """The transaction is over."""
        #: What it heard of the transaction, and what ends its part in it.
        self._mail = self._data = False
        self._rcpts: set[str] = set()
        self._of_message: Said | None = None
        #: It has answered about it: what it said of the session long ago is no sign that it is well.
        self._answered = False
        self._failed: Said | None = None
        self._spent = 0.0
        #: Octets of the longest header field that it was to hear of.
        self._longest = 0
        if self._wire is not None:
            if self._machine.waiting is not None or self._wire.lost or self._leaves:
                self._hang_up()
            elif abort := self._machine.abort().octets:
                self._wire.post(abort)

    def close(self) -> None:
        """The session is over."""
        self._closed = True
        self._hang_up()

    def _hang_up(self) -> None:
        wire, self._wire = self._wire, None
        if wire is not None:
            self._health.connections -= 1
            wire.close(b"" if self._machine.waiting is not None else self._machine.quit().octets)
        self._machine = MtaMachine(offer(self._milter.protocol), self._limits)
        self._helo, self._of_session = "", None
        self._mail = self._data = False
        self._rcpts = set()

    # ------------------------------------------------------------------ a stage

    async def ask(self, ctx: Context, edits: Sequence[Edit]) -> Said:
        """What it says at this stage."""
        if self._failed is not None:
            return self._failed
        clock = asyncio.get_running_loop().time
        began = clock()
        self._end = began + self._milter.total_timeout - self._spent
        self._step = "connecting"
        try:
            said = await self._stage(ctx, edits)
        except TimeoutError:
            return self._fail(ctx, "no answer in time", clock() - began, late=True)
        except OSError as error:
            return self._fail(ctx, in_words(error), clock() - began)
        except ProtocolError as error:
            return self._fail(ctx, str(error), clock() - began)
        except BaseException:  # cancelled: nobody knows what its next answer would belong to
            self._hang_up()
            raise
        finally:
            self._spent += clock() - began
        self._health.took(ctx.stage, clock() - began)
        if said.word != "continue" or ctx.stage == "message":
            self._health.said("quarantine" if said.quarantine else said.word)
            if self._answered:
                self._health.well()
        return said

    def _fail(self, ctx: Context, why: str, seconds: float, late: bool = False) -> Said:
        self._hang_up()
        if self._longest > MAX_CHUNK:
            why += f", a header field has {self._longest} octets (libmilter takes {MAX_CHUNK})"
        why = f"{why} at {self._step}"
        self._failed = Said(word="failed", why=why)
        if not self._closed:
            self._health.failed(self._step, seconds, why.removesuffix(f" at {self._step}"), ctx.transaction, late)
        return self._failed

    async def _stage(self, ctx: Context, edits: Sequence[Edit]) -> Said:
        """All that it has not heard yet, up to this stage."""
        stage = ctx.stage
        if self._wire is not None and (stage == "connect" or ((self._wire.lost or self._leaves) and not self._mail)):
            self._hang_up()  # another client (XCLIENT), or it was tired of waiting
        told = milter_macros.macros(ctx, self._hostname, self._milter.daemon_name)
        if self._wire is None:
            await self._connect(ctx, told)
        if stage == "connect":
            return self._ended or GO_ON
        if ctx.helo and (stage == "helo" or ctx.helo != self._helo):
            self._helo = ctx.helo
            await self._say("HELO", self._machine.helo(octets(ctx.helo), told))
        if stage == "helo" or self._ended is not None:
            return self._ended or GO_ON
        if not self._mail:
            await self._say_mail(ctx, told)
        if stage == "mail" or self._ended is not None:
            return self._ended or GO_ON
        return await self._about_recipients(ctx, edits, told)

    @property
    def _leaves(self) -> bool:
        """It said so, with another answer or by itself: nothing more is sent to it."""
        return self._of_session is None and (self._machine.done or (self._wire is not None and self._wire.leaves))

    @property
    def _ended(self) -> Said | None:
        """What it said that ends its part, in the session or in this message."""
        return self._of_session or self._of_message

    async def _about_recipients(self, ctx: Context, edits: Sequence[Edit], told: Mapping[str, str]) -> Said:
        """From RCPT on."""
        # Those of which it was not asked: it may end the message, they are taken already.
        for recipient in ctx.recipients:
            if recipient.address.text not in self._rcpts and self._ended is None:
                await self._say_rcpt(recipient, told)
        if self._ended is not None:
            return self._ended
        if ctx.stage == "rcpt":
            assert ctx.recipient is not None
            return self._ended or await self._say_rcpt(ctx.recipient, told)
        if not self._data:
            self._data = True
            await self._say("DATA", self._machine.data(told))
        if ctx.stage == "data" or self._ended is not None or ctx.content is None:
            return self._ended or GO_ON
        return await self._content(ctx, edits, told)

    # ------------------------------------------------------------------ steps

    async def _connect(self, ctx: Context, told: Mapping[str, str]) -> None:
        if why := self._health.left_alone:
            raise ConnectionError(why)
        machine = self._machine = MtaMachine(offer(self._milter.protocol), self._limits)
        async with self._within("connecting", self._milter.connect_timeout):
            wire = await milter_wire.connect(self._milter.place)
            if self._closed:
                wire.close()
                raise ConnectionError("the session is over")
            self._wire = wire
            self._health.connections += 1
            self._step = "negotiation"
            await self._exchange(machine.negotiate())
        self._health.there()
        await self._say("CONNECT", machine.connect(milter_macros.connection(ctx.client), told))

    async def _say_mail(self, ctx: Context, told: Mapping[str, str]) -> None:
        assert ctx.sender is not None
        parameters = [octets(f"{name}={value}" if value else name) for name, value in ctx.parameters]
        self._mail = True
        await self._say("MAIL", self._machine.mail(path(ctx.sender.text), parameters, told))

    async def _say_rcpt(self, recipient: Recipient, told: Mapping[str, str]) -> Said:
        address = recipient.address
        parameters = [b"NOTIFY=" + recipient.notify.encode()] if recipient.notify else []
        parameters += [b"ORCPT=" + recipient.orcpt.encode()] if recipient.orcpt else []
        macros = milter_macros.of_recipient(dict(told), address)
        said = await self._say("RCPT", self._machine.rcpt(path(address.text), parameters, macros))
        if said.word == "continue":
            self._rcpts.add(address.text)
        return said

    async def _say(self, step: str, sent: Sent) -> Said:
        """One event of the envelope, and what is said to it."""
        async with self._within(step, self._milter.command_timeout):
            heard = await self._exchange(sent)
        return self._understood(heard) if heard is not None else GO_ON

    async def _content(self, ctx: Context, edits: Sequence[Edit], told: Mapping[str, str]) -> Said:
        """Header, body and the end of the message: one step."""
        assert ctx.content is not None
        async with self._within("header", self._milter.content_timeout):
            seen = milter_content.seen(ctx.content, edits)
            self._longest = max((len(field.name) + len(field.value) for field in seen.fields), default=0)
            said = await self._all_of(seen, told)
            if said is not None:
                return said
            self._step = "END-OF-MESSAGE"
            heard = await self._exchange(self._machine.end_of_message(told))
        if heard is None:
            return GO_ON
        said = self._understood(heard)
        if said.word != "continue":
            return said
        spaced = self._machine.agreement is not None and self._machine.agreement.leading_space
        wanted = milter_content.wanted(heard.edits, seen, leading_space=spaced, utf8=ctx.smtputf8)
        return Said(edits=wanted.edits, quarantine=wanted.quarantine)

    async def _all_of(self, seen: milter_content.Seen, told: Mapping[str, str]) -> Said | None:
        """What it wants to have of the content; not None: it has heard enough."""
        machine = self._machine
        for field in seen.fields if machine.wants(Event.HEADER) else ():
            if (said := await self._piece(machine.header(*field))) is not None:
                return said
        if (said := await self._piece(machine.end_of_header(told))) is not None:
            return said
        self._step = "body"
        for piece in seen.body:
            if not machine.wants(Event.BODY):
                break
            if (said := await self._piece(machine.body(piece))) is not None:
                return said
        return None

    async def _piece(self, sent: Sent) -> Said | None:
        heard = await self._exchange(sent)
        if heard is not None:
            self._understood(heard)
        if self._ended is not None:
            return self._ended
        return GO_ON if self._machine.message_done else None

    # ------------------------------------------------------------------ octets and time

    @contextlib.asynccontextmanager
    async def _within(self, step: str, seconds: float) -> AsyncIterator[None]:
        """A step with its deadline, and that of all steps."""
        self._step, self._patience = step, seconds
        now = asyncio.get_running_loop().time()
        async with asyncio.timeout_at(min(now + seconds, self._end)) as self._timer:
            yield

    async def _exchange(self, sent: Sent) -> Heard | None:
        """Send, and wait for the answer if there is one. Raises OSError, ProtocolError."""
        wire = self._wire
        if wire is None:
            raise ConnectionError("the session is over")
        if self._leaves:
            raise ConnectionError("it said that it goes away")
        if sent.waits and wire.unasked and self._machine.agreement is not None:
            raise ProtocolError("it spoke although nobody had asked")
        if sent.octets:
            await wire.send(sent.octets)
        while sent.waits:
            for heard in self._machine.receive(await wire.hear()):
                if not heard.progress:
                    return heard
                self._goes_on()
        return None

    def _goes_on(self) -> None:
        """It asks for more time."""
        if self._timer is not None:
            now = asyncio.get_running_loop().time()
            self._timer.reschedule(min(now + self._patience, self._end))

    # ------------------------------------------------------------------ answers

    def _understood(self, heard: Heard) -> Said:
        """What an answer means, and for how long. Raises ProtocolError."""
        if heard.odd:
            self._health.puzzled(heard.odd)
        said = meaning(heard.reply)
        ends = said.word != "continue" or heard.reply.word == Letter.ACCEPT
        self._answered |= said.word != "continue" or heard.step not in _OF_SESSION
        if said.word == "shutdown" or (ends and heard.step in _OF_SESSION):
            self._of_session = said
        elif ends and (heard.step is not Event.RCPT or heard.reply.word in (Letter.ACCEPT, Letter.DISCARD)):
            self._of_message = said
        return said
