"""Any aiosmtpd handler class as a content filter: its hook contract over our session (hook_loading.HOOKS; hook_verbs has
the commands that are no part of a transaction).

Contract: hooks get aiosmtpd's own Session and Envelope; they are asked about what our engine has accepted, and may
refuse it. What handle_DATA leaves in envelope.content, mail_from and rcpt_tos is what goes on (edits; the content as
received stays on disk). They run in threads of their own (hook_room), plain functions too, each call within a time.
Unlike aiosmtpd: the null sender is "", parameters keep their case, the Session and its PROXY facts survive STARTTLS, no
timer runs meanwhile, a client that goes away cancels nothing, and the texts of exceptions stay in our log. handle_DATA
needs the whole message in RAM, by that contract.
What failure means for the mail: a hook that raises, hangs, or returns or leaves what makes no sense is 451, unless its
handle_exception says otherwise.
"""

import asyncio
from copy import copy
from functools import cache
from types import SimpleNamespace
from typing import TYPE_CHECKING, Any, cast

from aiosmtpd.proxy_protocol import ProxyData, get_proxy
from aiosmtpd.smtp import Envelope
from aiosmtpd.smtp import Session as HookSession

from appliance.daemons.smtpd import commands, hook_edits, hook_loading, hook_replies, record
from appliance.daemons.smtpd.hook_room import Late
from appliance.daemons.smtpd.hooked import Asking, Hooked
from appliance.mail.context import Context
from appliance.mail.edits import Edit
from appliance.mail.verdict import Decision
from appliance.protocol.smtp.reply import Reply

if TYPE_CHECKING:
    from appliance.daemons.smtpd.session import Session

#: Seconds for a hook where nothing is said.
SECONDS = 60.0


class Begin:
    """Makes a conversation with a handler for each session (Front.plug)."""

    def __init__(self, hooked: Hooked) -> None:
        self.hooked = hooked

    def __call__(self, session: "Session") -> "Plug":
        return Plug(self.hooked, session)


def plug(handler: object, name: str = "", seconds: float = SECONDS) -> Begin:
    """What Front.plug wants: a conversation with `handler` for each session."""
    return Begin(Hooked(handler, name or type(handler).__name__, seconds))


@cache
def load(spec: str, arguments: tuple[str | int, ...] = (), seconds: float = SECONDS) -> Begin:
    """The same for "module:Class" or an entry point, one object a worker. Raises ValueError with what is wrong."""
    for text in hook_loading.uncalled(hook_loading.find(spec)):
        record.log.warning("a hook of a handler is never called", handler=spec, hook=text)
    return plug(hook_loading.make(spec, arguments), spec, seconds)


class Plug:
    """One session's conversation with a handler (questions.Plug)."""

    def __init__(self, hooked: Hooked, session: "Session") -> None:
        self._hooked, self._handler, self._session = hooked, hooked.handler, session
        self.verbs = hooked.verbs
        self._facts = HookSession(session.loop)
        self._envelope = Envelope()
        #: What was in it before the recipient that was asked about last, and how many were taken then.
        self._asked: tuple[list[str], list[str], int] | None = None
        self._asking = Asking(hooked, session)
        self._server = SimpleNamespace(
            hostname=session.rules.hostname,
            loop=session.loop,
            event_handler=hooked.handler,
            session=self._facts,
            envelope=None,
        )

    async def ask(self, ctx: Context) -> Decision | None:
        """Its objection to what the engine has accepted, or what it changed (it accepts then), or None."""
        match ctx.stage:
            case "mail":
                with self._asking.hook("MAIL"):
                    return await self._mail(ctx)
            case "rcpt":
                with self._asking.hook("RCPT"):
                    return await self._rcpt(ctx)
            case "message":
                with self._asking.hook("DATA"):
                    return await self._data(ctx)
        return None

    async def hello(self, session: "Session") -> None:
        """Answer EHLO or HELO. A handle_EHLO with a parameter `responses` gives the whole answer, else its last line."""
        self._know()
        self._renew()
        verb = "EHLO" if session.esmtp else "HELO"
        self._facts.host_name, self._facts.extended_smtp = session.helo, session.esmtp
        hook = getattr(self._handler, f"handle_{verb}", None)
        if hook is None:
            commands.greet(session)
            return
        offered = commands.offer(session).decode("ascii").splitlines() if session.esmtp else []
        with self._asking.hook(verb):
            if verb == "EHLO" and hook_loading.takes(hook, 5):
                session.ok(await self._call(verb, session.helo, offered, read=hook_replies.lines))
                return
            reply = await self._call(verb, session.helo)
            if self._objects(reply):
                session.helo = ""
            else:
                session.ok(hook_replies.greeting(reply, offered))

    async def outside(self, verb: str, *arguments: object) -> None:
        """Answer a command that is no part of a transaction as its hook says."""
        self._know()
        self._settle()
        if verb == "RSET":
            self._renew()
        with self._asking.hook(verb):
            reply = await self._call(verb, *arguments)
            if not self._objects(reply):
                self._session.ok(hook_replies.good(reply))

    async def quit(self) -> None:
        """Answer QUIT as the hook says."""
        self._know()
        self._settle()
        with self._asking.hook("QUIT"):
            reply = hook_replies.parting(await self._call("QUIT"))
        commands.goodbye(self._session, reply)

    async def secured(self) -> bool:
        """Is TLS, which has just begun, good enough? Raises what the hook raises."""
        self._know()
        self._renew()
        return await self._consents("STARTTLS")

    async def proxied(self, header: bytes) -> bool:
        """May the connection come in that a load balancer hands over with this header? Raises what the hook raises."""
        self._know()
        self._facts.proxy_data = data = await _proxy_data(header)
        return not hasattr(self._handler, "handle_PROXY") or (bool(data) and await self._consents("PROXY", data))

    async def _consents(self, name: str, *arguments: object) -> bool:
        """Hooks that return no status; what they raise is no matter of handle_exception."""
        with self._asking.hook(name):
            return bool(await self._asking.call(name, self._server, self._facts, self._envelope, *arguments))

    def _objects(self, reply: Reply) -> bool:
        """Does it refuse? Then that is said."""
        objection = hook_replies.objection(reply, self._session.id)
        if objection is None:
            return False
        if objection.verb == "disconnect":
            self._session.dismiss(objection.reply, "policy")
        else:
            self._session.reject(objection.reply)
        return True

    def _renew(self) -> None:
        """The transaction is over."""
        self._envelope, self._asked = Envelope(), None
        self._server.envelope = self._envelope

    def _know(self) -> None:
        """What the connection is now: XCLIENT and STARTTLS change it, the Session stays the same."""
        session = self._session
        self._facts.peer = cast(Any, (session.client.address, session.client.port))
        tls, transport = session.client.tls, session.transport
        if tls is None or transport is None:
            self._facts.ssl = None
            return
        known = {name: transport.get_extra_info(name) for name in ("peername", "cipher", "compression", "peercert")}
        self._facts.ssl = {"version": tls.version, **known}

    async def _mail(self, ctx: Context) -> Decision | None:
        self._know()
        self._renew()
        transaction, sender = self._session.transaction, ctx.sender.text if ctx.sender else ""
        options = list(transaction.options) if transaction is not None else []
        self._envelope.smtp_utf8 = ctx.smtputf8
        objection = await self._hook("MAIL", sender, options)
        if objection is None and self._envelope.mail_from is None:  # else it has put the options there, too
            self._envelope.mail_from = sender
            self._envelope.mail_options.extend(options)
        return objection

    async def _rcpt(self, ctx: Context) -> Decision | None:
        assert ctx.recipient is not None
        recipient, address = ctx.recipient, ctx.recipient.address.text
        options = [f"NOTIFY={recipient.notify}"] if recipient.notify else []
        options += [f"ORCPT={recipient.orcpt}"] if recipient.orcpt else []
        self._settle()
        before = list(self._envelope.rcpt_tos)
        self._asked = list(before), list(self._envelope.rcpt_options), len(ctx.recipients)
        objection = await self._hook("RCPT", address, options)
        if objection is None and self._envelope.rcpt_tos == before and address not in before:
            self._envelope.rcpt_tos.append(address)
            self._envelope.rcpt_options.extend(options)
        return objection

    def _settle(self) -> None:
        """Who was refused, by the hook that was asked about him or behind it, is none of the envelope's."""
        transaction = self._session.transaction
        if self._asked is not None and (transaction is None or len(transaction.recipients) == self._asked[2]):
            self._envelope.rcpt_tos, self._envelope.rcpt_options, _ = self._asked
        self._asked = None

    async def _data(self, ctx: Context) -> Decision | None:
        if ctx.content is None:
            return None
        self._settle()
        envelope, self._envelope = self._envelope, Envelope()
        edits: tuple[Edit, ...] = ()
        if hasattr(self._handler, "handle_DATA"):
            whole = envelope.content = envelope.original_content = await hook_edits.whole(ctx.content)
            objection = await self._hook("DATA", envelope=envelope)
            if objection is not None:
                return objection
            edits = await hook_edits.of_content(whole, envelope.content)
        edits = (*hook_edits.of_envelope(ctx, envelope), *edits)
        return Decision(verb="accept", edits=edits) if edits else None

    async def _hook(self, name: str, *arguments: object, envelope: Envelope | None = None) -> Decision | None:
        if not hasattr(self._handler, f"handle_{name}"):
            return None
        reply = await self._call(name, *arguments, envelope=envelope)
        return hook_replies.objection(reply, self._session.id)

    async def _call(
        self, name: str, *arguments: object, envelope: Envelope | None = None, read: Any = hook_replies.read
    ) -> Any:
        """Call handle_`name` and `read` what it returns; what either raises goes to its handle_exception, else up."""
        given = (self._server, self._facts, envelope or self._envelope)
        try:
            return read(await self._asking.call(name, *given, *arguments))
        except Exception as error:
            if isinstance(error, Late):  # it may run on, with the envelope that it has
                self._envelope = self._server.envelope = copy(self._envelope)
                raise RuntimeError(f"handler {self._hooked.name}: handle_{name}: {error}") from error
            if not hasattr(self._handler, "handle_exception"):
                raise
            record.internal(self._session, error)
            self._asking.fails(error)
            status = await self._hooked.call("exception", error)
            if not str(status).startswith(("4", "5")):
                raise
            return read(status)


async def _proxy_data(header: bytes) -> ProxyData:
    """A header that we have read, as aiosmtpd tells it."""
    reader = asyncio.StreamReader()
    reader.feed_data(header)
    reader.feed_eof()
    return await get_proxy(reader)
