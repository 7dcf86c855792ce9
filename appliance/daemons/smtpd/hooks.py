"""Any aiosmtpd handler class as a content filter: its hook contract over our session (handle_HELO, handle_EHLO,
handle_MAIL, handle_RCPT, handle_DATA, handle_QUIT, handle_exception).

Contract: hooks get aiosmtpd's own Session and Envelope; they are asked about what our engine has accepted, and may
refuse it; what they change in content is theirs alone. Unlike aiosmtpd: the null sender is "", parameters keep their
case, the Session and its PROXY facts survive STARTTLS, no timer runs meanwhile, a client that goes away cancels nothing,
and the texts of exceptions stay in our log. handle_DATA needs the whole message in RAM, by that contract.
What failure means for the mail: a hook that raises is 451, unless its handle_exception says otherwise.
"""

import asyncio
import importlib
from collections.abc import Callable
from functools import cache
from types import SimpleNamespace
from typing import TYPE_CHECKING, Any, cast

from aiosmtpd.smtp import Envelope
from aiosmtpd.smtp import Session as HookSession

from appliance.daemons.smtpd import commands, record
from appliance.mail.context import Context
from appliance.mail.ports import Content
from appliance.mail.replies import MAX_REPLY
from appliance.mail.verdict import Decision, Verb
from appliance.protocol.smtp.reply import Reply, from_text

if TYPE_CHECKING:
    from appliance.daemons.smtpd.session import Session

#: Octets of content that are put together on the event loop; more goes to a thread.
_AT_ONCE = 262144


def plug(handler: object) -> "Callable[[Session], Plug]":
    """What Front.plug wants: a conversation with `handler` for each session."""
    return lambda session: Plug(handler, session)


@cache
def load(spec: str) -> "Callable[[Session], Plug]":
    """The same for "module:Class", one object a worker. Raises ValueError with what is wrong."""
    module, _, name = spec.partition(":")
    try:
        handler = getattr(importlib.import_module(module), name)()
    except Exception as error:
        raise ValueError(f"handler {spec}: {type(error).__name__}: {error}") from error
    return plug(handler)


class Plug:
    """One session's conversation with a handler (questions.Plug)."""

    def __init__(self, handler: object, session: "Session") -> None:
        self._handler, self._session = handler, session
        self._facts = HookSession(session.loop)
        self._envelope = Envelope()
        self._server = SimpleNamespace(
            hostname=session.rules.hostname, loop=session.loop, event_handler=handler, session=self._facts, envelope=None
        )

    async def ask(self, ctx: Context) -> Decision | None:
        """Its objection to what the engine has accepted, or None."""
        match ctx.stage:
            case "mail":
                return await self._mail(ctx)
            case "rcpt":
                return await self._rcpt(ctx)
            case "message":
                return await self._data(ctx)
        return None

    async def hello(self, session: "Session") -> None:
        """Answer EHLO or HELO. A handle_EHLO with a parameter `responses` gives the whole answer."""
        self._know()
        verb = "EHLO" if session.esmtp else "HELO"
        self._facts.host_name, self._facts.extended_smtp = session.helo, session.esmtp
        hook = getattr(self._handler, f"handle_{verb}", None)
        if hook is None:
            commands.greet(session)
            return
        if verb == "EHLO" and hook.__code__.co_argcount > 5:
            offered = commands.offer(session).decode("ascii").splitlines()
            lines = await self._call(verb, session.helo, offered)
            session.ok("".join(f"{line}\r\n" for line in lines).encode("ascii", "replace"))
            return
        objection = self._decision(await self._call(verb, session.helo))
        if objection is None:
            commands.greet(session)
        else:
            session.helo = ""
            session.reject(objection.reply)

    async def quit(self, session: "Session") -> None:
        """Answer QUIT."""
        if hasattr(self._handler, "handle_QUIT"):
            await self._call("QUIT")
        commands.goodbye(session)

    def _know(self) -> None:
        """What the connection is now: XCLIENT and STARTTLS change it, the Session stays the same."""
        session = self._session
        self._facts.peer = cast(Any, (session.client.address, session.client.port))
        tls = session.client.tls
        self._facts.ssl = {"version": tls.version, "cipher": tls.cipher} if tls else None

    async def _mail(self, ctx: Context) -> Decision | None:
        self._know()
        self._envelope = self._server.envelope = Envelope()
        transaction, sender = self._session.transaction, ctx.sender.text if ctx.sender else ""
        options = transaction.options if transaction is not None else []
        self._envelope.mail_options, self._envelope.smtp_utf8 = options, ctx.smtputf8
        objection = await self._hook("MAIL", sender, options)
        if objection is None and self._envelope.mail_from is None:
            self._envelope.mail_from = sender
        return objection

    async def _rcpt(self, ctx: Context) -> Decision | None:
        assert ctx.recipient is not None
        recipient = ctx.recipient
        address = recipient.address.text
        options = [f"NOTIFY={recipient.notify}"] if recipient.notify else []
        options += [f"ORCPT={recipient.orcpt}"] if recipient.orcpt else []
        objection = await self._hook("RCPT", address, options)
        if objection is None and address not in self._envelope.rcpt_tos:
            self._envelope.rcpt_tos.append(address)
            self._envelope.rcpt_options.extend(options)
        return objection

    async def _data(self, ctx: Context) -> Decision | None:
        if ctx.content is None or not hasattr(self._handler, "handle_DATA"):
            return None
        self._envelope.content = self._envelope.original_content = await _whole(ctx.content)
        objection = await self._hook("DATA")
        self._envelope = Envelope()
        return objection

    async def _hook(self, name: str, *arguments: object) -> Decision | None:
        if not hasattr(self._handler, f"handle_{name}"):
            return None
        return self._decision(await self._call(name, *arguments))

    async def _call(self, name: str, *arguments: object) -> Any:
        """Call handle_`name`; what it raises goes to its handle_exception, else up."""
        try:
            return await getattr(self._handler, f"handle_{name}")(self._server, self._facts, self._envelope, *arguments)
        except Exception as error:
            if not hasattr(self._handler, "handle_exception"):
                raise
            record.internal(self._session, error)
            status = await self._handler.handle_exception(error)
            if not str(status).startswith(("4", "5")):
                raise
            return status

    def _decision(self, status: object) -> Decision | None:
        """What a hook's status means; None: go on. Raises ValueError on one that is no reply."""
        reply = from_text(str(status))
        if reply.code < 400:
            return None
        verb: Verb = "disconnect" if reply.code in (421, 521) else "defer" if reply.code < 500 else "reject"
        return Decision(verb=verb, reply=self._finished(reply))

    def _finished(self, reply: Reply) -> str:
        enhanced = reply.enhanced or f"{reply.code // 100}.7.1"
        tail = f" [{self._session.id}]"
        return f"{reply.code} {enhanced} {' '.join(reply.lines)}"[: MAX_REPLY - len(tail)] + tail


async def _whole(content: Content) -> bytes:
    if content.size <= _AT_ONCE:
        return b"".join(content.chunks())
    return await asyncio.to_thread(lambda: b"".join(content.chunks()))
