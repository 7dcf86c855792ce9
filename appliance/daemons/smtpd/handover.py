"""The channel to delivery: files are granted over it, committed entries are announced over it.

Contract: it connects by itself, again and again; while delivery is away the worker goes on with the files it has.
What failure means for the mail: none that was accepted depends on this channel: an unannounced entry is found by
delivery's scan.
"""

import asyncio
import os
import random
from collections.abc import Callable

import msgspec

from appliance.net.channel import Channel, connect
from appliance.observe import oplog
from appliance.queue.envelope import Grant, Space, decode_notice
from appliance.queue.intake import IntakeLog

log = oplog.get("smtpd")
#: Seconds between attempts to connect: from, growing to, each with jitter.
RETRY_MIN, RETRY_MAX = 0.05, 2.0
#: Seconds until it connects anew where a granted file was lost on its way.
AGAIN = 1.0


class Handover:
    """One a worker; `intake` is fed with what comes."""

    def __init__(self, path: str, intake: IntakeLog, told: Callable[[Space], None]) -> None:
        self.path, self.intake, self._told = path, intake, told
        self._loop = asyncio.get_running_loop()
        self._channel: Channel | None = None
        self._retry: asyncio.TimerHandle | None = None
        self._pause = RETRY_MIN
        self._stopped = False
        #: Set when the first file was granted.
        self.ready = asyncio.Event()

    def start(self) -> None:
        """Begin to connect."""
        self._dial()

    @property
    def connected(self) -> bool:
        return self._channel is not None

    def _dial(self) -> None:
        self._retry = None
        try:
            channel = connect(self.path)
        except OSError:
            self._later()
            return
        self._channel, self._pause = channel, RETRY_MIN
        channel.attach(self._loop, self._on_frame, lambda: self._lost(channel))
        self.intake.resend(channel)

    def _later(self) -> None:
        if not self._stopped:
            self._retry = self._loop.call_later(self._pause * random.uniform(0.5, 1.0), self._dial)
            self._pause = min(RETRY_MAX, self._pause * 2)

    def _lost(self, channel: Channel) -> None:
        if channel is self._channel:
            self._channel = None
            self.intake.disconnected()
            if not self._stopped:
                log.warning("delivery is away; mail is taken as long as there are granted files")
            self._later()

    def _on_frame(self, payload: bytes, fds: list[int]) -> None:
        try:
            notice = decode_notice(payload)
        except (msgspec.DecodeError, msgspec.ValidationError) as error:
            log.error("unreadable notice from delivery", why=error)
            notice = None
        if isinstance(notice, Grant) and fds:
            self.intake.on_grant(notice, fds.pop(0))
            self.ready.set()
        elif isinstance(notice, Grant) and self._channel is not None:
            # No descriptor was left for it. It would count as asked for; a new connection settles who has which file.
            self._loop.call_later(AGAIN, self._channel.close)
        elif isinstance(notice, Space):
            self._told(notice)
        for fd in fds:
            os.close(fd)

    def close(self) -> None:
        """The worker ends; call it when the intake is closed."""
        self._stopped = True
        if self._retry is not None:
            self._retry.cancel()
        if self._channel is not None:
            self._channel.close()
