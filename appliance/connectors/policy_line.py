"""One connection to a policy service.

Contract: one question is outstanding on it; after Failed, or octets behind an answer, it is worth nothing any more. What
failure means for the mail: the next place or try, in the end the service's default (connectors/policy.py).
"""

import asyncio

from appliance.mail.policy_service import Place, Service
from appliance.observe.text import in_words
from appliance.protocol.policy import Answer, AnswerReader, PolicyError


class Failed(Exception):
    """An attempt failed; the text says at which step and why."""


class Line:
    """One connection. `born` and `idle_since` are loop times."""

    def __init__(self, place: Place, reader: asyncio.StreamReader, writer: asyncio.StreamWriter, now: float) -> None:
        self.place, self._reader, self._writer = place, reader, writer
        self.born = self.idle_since = now
        self.uses = 0

    def fresh(self, service: Service, now: float) -> bool:
        """May it be used again?"""
        if self._reader.at_eof() or self._writer.is_closing() or self._reader._buffer:  # type: ignore[attr-defined]
            return False
        worn = service.requests and self.uses >= service.requests
        return not worn and now - self.idle_since < service.idle and now - self.born < service.ttl

    async def ask(self, request: bytes) -> tuple[Answer, bool]:
        """The answer, and whether the connection is still worth something."""
        answers = AnswerReader()
        step = "sending the request to"
        try:
            self._writer.write(request)
            await self._writer.drain()
            step = "waiting for the answer of"
            while True:
                data = await self._reader.read(16384)
                if not data:
                    raise Failed(f"{step} {self.place}: it hung up")
                if (answer := answers.feed(data)) is not None:
                    self.uses += 1
                    return answer, not answers.surplus
        except OSError as error:
            raise Failed(f"{step} {self.place}: {in_words(error)}") from None
        except PolicyError as error:
            raise Failed(f"{step} {self.place}: {error}") from None

    def close(self) -> None:
        self._writer.transport.abort()
