"""Getting an SMTP or LMTP session: connect, greeting, EHLO, TLS as the level demands.

Contract: `connect` gives a session that is ready for a message, or raises ConnectFailed; nothing of a message was
sent then, so another place may be tried at once. What failure means for the mail: it stays in the queue.
"""

import asyncio
import ssl

from appliance.connectors.session import SmtpSession
from appliance.connectors.target import ConnectFailed, Target, Timeouts
from appliance.net import tls
from appliance.observe.text import in_words

_TIMEOUTS = Timeouts()


async def connect(
    target: Target,
    hostname: str,
    level: tls.Level = "none",
    context: ssl.SSLContext | None = None,
    timeouts: Timeouts = _TIMEOUTS,
    *,
    chunking: bool = True,
    pipelining: bool = True,
) -> SmtpSession:
    """A session that is ready for `send`. Raises ConnectFailed. With `level` "may" TLS that fails is given up for the
    clear, on a new connection; nothing of a message was sent then."""
    try:
        return await _open(target, hostname, level, context, timeouts, chunking, pipelining)
    except ConnectFailed as error:
        if level != "may" or not error.tls:
            raise
    return await _open(target, hostname, "none", None, timeouts, chunking, pipelining)


async def _open(
    target: Target,
    hostname: str,
    level: tls.Level,
    context: ssl.SSLContext | None,
    timeouts: Timeouts,
    chunking: bool,
    pipelining: bool,
) -> SmtpSession:
    loop = asyncio.get_running_loop()
    session = SmtpSession(target, hostname, timeouts, chunking=chunking, pipelining=pipelining)
    try:
        async with asyncio.timeout(timeouts.connect):
            if target.path:
                await loop.create_unix_connection(lambda: session, target.path)
            else:
                await loop.create_connection(lambda: session, target.address, target.port)
    except TimeoutError as error:
        raise ConnectFailed(f"connect to {target}: Connection timed out") from error
    except OSError as error:
        raise ConnectFailed(f"connect to {target}: {in_words(error)}") from error
    try:
        await session.handshake(level, context)
    except BaseException:
        session.close()
        raise
    return session
